//! Bringing epochs back: at a start, after a failed append, and when a closed epoch is read for the first time.
//!
//! sled cuts its log at the first bad byte when it opens it, and overwrites what follows. So an epoch that was not
//! closed in order is never opened: its blocks are found by raw scan and written into a new generation, and only when
//! that is durable does the old one go. An epoch that was closed is read as it is only if the raw scan finds every block
//! of its summary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::Context as _;

use super::database::Database;
use super::reader::Reader;
use super::thinning::Mark;
use super::writer::{epoch_name, parse_name, tree_of};
use super::{Epoch, EpochStore};
use crate::metrics::ByKind;
use crate::queue::block::{SEGMENT_BYTES, SealedBlock};
use crate::queue::disk;
use crate::queue::scan::{self, Found, PastBadSectors};
use crate::queue::summary::{self, Entry};

/// Old generations kept for a look at what happened.
const QUARANTINE_EPOCHS_MAX: usize = 2;
/// Most bytes of blocks that a rescue holds in memory: an epoch with room for what a crash may have doubled.
const RESCUE_BYTES_MAX: usize = 16 << 20;
/// Marks an epoch that holds frames of a newer version that do not say whose they are; it is not deleted as done. What
/// is known by its header needs no mark: it is not done before it is delivered or removed.
const NEWER_MARK: &str = "newer-blocks";

/// What a raw scan of an epoch found.
#[derive(Default)]
pub(super) struct Frames {
    pub(super) blocks: Vec<SealedBlock>,
    /// Of a newer version, and not saying whose they are.
    nameless: Vec<Vec<u8>>,
    /// Frames beyond [`RESCUE_BYTES_MAX`].
    left_out: u64,
}

impl Frames {
    pub(super) fn of(blocks: Vec<SealedBlock>) -> Self {
        Self { blocks, nameless: Vec::new(), left_out: 0 }
    }

    /// Whether `blocks` are all there is.
    pub(super) fn is_complete(&self) -> bool {
        self.nameless.is_empty() && !self.is_cut_off()
    }

    /// Whether there were more than one look holds.
    pub(super) fn is_cut_off(&self) -> bool {
        self.left_out > 0
    }
}

pub(super) fn has_newer(epoch_dir: &Path) -> bool {
    epoch_dir.join(NEWER_MARK).exists()
}

impl EpochStore {
    /// Reads what epochs there are; those without a summary are rescued.
    pub(super) fn load(&mut self) -> anyhow::Result<()> {
        let mut generations = BTreeMap::<u64, Vec<u32>>::new();
        for entry in std::fs::read_dir(&self.queue_dir)? {
            let entry = entry?;
            // A file of such a name is not ours and stays where it is.
            if let Some((number, generation)) = parse_name(&entry.file_name().to_string_lossy())
                && entry.path().is_dir()
            {
                generations.entry(number).or_default().push(generation);
            }
        }
        generations.values_mut().for_each(|found| found.sort_unstable());
        let replaced = self.replaced(&generations);
        for (number, found) in generations {
            let dir_of = |generation: &u32| self.queue_dir.join(epoch_name(number, *generation));
            // A rewritten generation has its summary last: the highest with one is whole, a higher one is not.
            let keep = self.complete(number, &found).unwrap_or(found[0]);
            let is_replaced = replaced.contains(&number);
            for generation in found.iter().filter(|generation| is_replaced || **generation != keep) {
                disk::bury(&dir_of(generation)).context("remove incomplete or replaced generation")?;
            }
            self.next_number = number + 1;
            if is_replaced {
                continue;
            }
            let dir = dir_of(&keep);
            let entries = summary::read(&dir);
            self.epochs.insert(number, Epoch::new(keep, &dir, entries.as_deref().unwrap_or_default(), false));
            // Marked by an older agent: what this one can read of it joins the index, and the mark goes.
            let upgraded = entries.is_some() && has_newer(&self.epochs[&number].dir) && {
                self.scan_epoch(number).is_ok_and(|frames| frames.nameless.is_empty())
            };
            if entries.is_none() || upgraded {
                self.rescue_with_ballast(number).with_context(|| format!("rescue epoch {number}"))?;
            }
        }
        // A number that a mark names is not given again, or the mark would tell of another epoch.
        let named_last = replaced.last().map_or(0, |number| number + 1);
        self.next_number = self.next_number.max(named_last);
        Ok(())
    }

    /// The highest generation with a summary.
    fn complete(&self, number: u64, generations: &[u32]) -> Option<u32> {
        let is_complete =
            |generation: &&u32| summary::read(&self.queue_dir.join(epoch_name(number, **generation))).is_some();
        generations.iter().rev().find(is_complete).copied()
    }

    /// Numbers of epochs that others say they replace.
    fn replaced(&self, generations: &BTreeMap<u64, Vec<u32>>) -> BTreeSet<u64> {
        // Only a generation that was written anew can say so.
        let rewritten = generations.iter().filter(|(_, found)| found.last().is_some_and(|generation| *generation > 0));
        let complete = rewritten.filter_map(|(number, found)| Some((*number, self.complete(*number, found)?)));
        let dirs = complete.map(|(number, generation)| self.queue_dir.join(epoch_name(number, generation)));
        dirs.flat_map(|dir| Mark::read(&dir).replaced).collect()
    }

    /// Writes an epoch's whole blocks, by raw scan, into its next generation; an empty epoch is removed.
    pub(super) fn rescue(&mut self, number: u64) -> anyhow::Result<()> {
        let frames = self.scan_epoch(number)?;
        self.rewrite(number, frames, false)?;
        self.count_salvaged(number);
        Ok(())
    }

    fn count_salvaged(&self, number: u64) {
        let Some(epoch) = self.epochs.get(&number) else { return };
        let blocks = summary::read(&epoch.dir).map_or(0, |entries| entries.len());
        self.metrics.queue_blocks_salvaged.inc_by(blocks as u64);
        tracing::info!(epoch = number, blocks, "epoch brought back from its raw bytes");
    }

    /// [`Self::rescue`], a second time without the ballast where the disk was full.
    fn rescue_with_ballast(&mut self, number: u64) -> anyhow::Result<()> {
        match self.rescue(number) {
            Err(_) if self.is_disk_full() => {
                self.ballast.give_up();
                self.rescue(number)
            }
            result => result,
        }
    }

    pub(super) fn scan_epoch(&self, number: u64) -> anyhow::Result<Frames> {
        let epoch = self.epochs.get(&number).context("no such epoch")?;
        let mut frames = Frames::default();
        let mut bytes = 0;
        let mut seen = std::collections::HashSet::new();
        let file = match File::open(epoch.dir.join("db")) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(frames),
            Err(error) => return Err(error).context("open for raw scan"),
        };
        let end = file.metadata().context("open for raw scan")?.len();
        let mut past = PastBadSectors::new(|buffer: &mut [u8], at| file.read_at(buffer, at), end);
        scan::scan_file(&mut past, |_, found| {
            let (Found::Block { bytes: frame, .. } | Found::Newer { bytes: frame, .. }) = &found;
            if !seen.insert(frame_id(&found)) {
                return;
            }
            if bytes + frame.len() > RESCUE_BYTES_MAX {
                frames.left_out += 1;
                return;
            }
            bytes += frame.len();
            match found {
                Found::Block { header, bytes } | Found::Newer { header: Some(header), bytes, .. } => {
                    frames.blocks.push(SealedBlock { header, bytes: bytes.to_vec() });
                }
                Found::Newer { bytes, .. } => frames.nameless.push(bytes.to_vec()),
            }
        })
        .context("raw scan")?;
        let unreadable = past.unreadable;
        self.count_unreadable(number, unreadable);
        // sled writes a log in order, but reuses segments: the order of blocks is by position.
        frames.blocks.sort_by(|a, b| (&a.header.stream, a.header.first).cmp(&(&b.header.stream, b.header.first)));
        Ok(frames)
    }

    /// Puts `frames` in the place of what the epoch was.
    pub(super) fn rewrite(&mut self, number: u64, frames: Frames, quarantine: bool) -> anyhow::Result<()> {
        let (old_dir, generation) = match self.epochs.get(&number) {
            Some(epoch) => (epoch.dir.clone(), epoch.generation + 1),
            None => return Ok(()),
        };
        if frames.left_out > 0 {
            let limit_bytes = RESCUE_BYTES_MAX;
            tracing::error!(
                epoch = number,
                blocks = frames.left_out,
                limit_bytes,
                "epoch is too large to be rescued whole, it is set aside"
            );
            self.metrics.queue_blocks_lost.inc_by(frames.left_out);
        }
        let quarantine = quarantine || frames.left_out > 0;
        if frames.blocks.is_empty() && frames.nameless.is_empty() {
            self.epochs.remove(&number);
            return if quarantine || holds_foreign_files(&old_dir)? {
                self.quarantine(&old_dir)
            } else {
                Ok(disk::bury(&old_dir)?)
            };
        }
        let dir = self.queue_dir.join(epoch_name(number, generation));
        if dir.exists() {
            disk::bury(&dir)?;
        }
        let entries = write_generation(&dir, &frames, &Mark::read(&old_dir)).inspect_err(|_| {
            // Its lack of a summary says that it is incomplete; the old generation stays in force.
            let _ = disk::bury(&dir);
        })?;
        if quarantine {
            self.quarantine(&old_dir)?
        } else {
            disk::bury(&old_dir)?
        }
        self.epochs.insert(number, Epoch::new(generation, &dir, &entries, true));
        self.index = None;
        Ok(())
    }

    /// Opens a closed epoch for reading, once its raw bytes are known to hold what its summary names.
    pub(super) fn open_checked(&mut self, number: u64) -> anyhow::Result<Reader> {
        let epoch = self.epochs.get(&number).context("no such epoch")?;
        let dir = epoch.dir.clone();
        if epoch.checked {
            return Reader::open(&dir);
        }
        let Some(expected) = summary::read(&dir) else {
            // It was given up after a failed append and could not be rescued at once.
            let frames = self.scan_epoch(number)?;
            self.rewrite(number, frames, false)?;
            self.count_salvaged(number);
            let epoch = self.epochs.get(&number).context("epoch holds no block")?;
            return Reader::open(&epoch.dir);
        };
        let reader = Reader::open(&dir)?;
        if reader.nameless > 0 {
            self.mark_newer(number)?;
        }
        let missing = expected.iter().filter(|entry| !reader.holds(entry)).count().saturating_sub(reader.nameless);
        if missing == 0 {
            self.count_unreadable(number, reader.unreadable);
            if let Some(epoch) = self.epochs.get_mut(&number) {
                epoch.checked = true;
            }
            return Ok(reader);
        }
        drop(reader);
        tracing::warn!(epoch = number, blocks_lost = missing, "epoch is damaged, its whole blocks are being rescued");
        self.metrics.queue_blocks_lost.inc_by(missing as u64);
        let frames = self.scan_epoch(number)?;
        self.rewrite(number, frames, true)?;
        self.count_salvaged(number);
        let epoch = self.epochs.get(&number).context("no block of the epoch is whole")?;
        Reader::open(&epoch.dir)
    }

    fn count_unreadable(&self, number: u64, pieces: u64) {
        if pieces > 0 {
            tracing::error!(epoch = number, pieces, "the device cannot read parts of an epoch");
            self.metrics.queue_store_failures.get_or_create(&ByKind { kind: "unreadable" }).inc_by(pieces);
        }
    }

    /// Marks an epoch as one that a newer agent has to read, so that it is not deleted as done.
    pub(super) fn mark_newer(&self, number: u64) -> anyhow::Result<()> {
        let Some(epoch) = self.epochs.get(&number).filter(|epoch| !has_newer(&epoch.dir)) else { return Ok(()) };
        File::create(epoch.dir.join(NEWER_MARK)).and_then(|mark| mark.sync_all()).context("mark newer blocks")?;
        disk::sync_dir(&epoch.dir).context("mark newer blocks")?;
        tracing::warn!(epoch = number, "epoch holds blocks of a newer version, it is kept for a newer agent");
        Ok(())
    }

    /// Sets a damaged generation aside, where at most [`QUARANTINE_EPOCHS_MAX`] are kept.
    pub(super) fn quarantine(&self, dir: &Path) -> anyhow::Result<()> {
        let quarantine = self.queue_dir.join("quarantine");
        std::fs::create_dir_all(&quarantine)?;
        let mut kept: Vec<_> = std::fs::read_dir(&quarantine)?.flatten().map(|entry| entry.path()).collect();
        kept.sort_unstable();
        for old in kept.iter().take((kept.len() + 1).saturating_sub(QUARANTINE_EPOCHS_MAX)) {
            std::fs::remove_dir_all(old)?;
        }
        let target = quarantine.join(dir.file_name().context("epoch without a name")?);
        // A number may come again after a state directory was emptied in part; the later damage is of more interest.
        if target.exists() {
            std::fs::remove_dir_all(&target)?;
        }
        std::fs::rename(dir, target)?;
        disk::sync_dir(&quarantine)?;
        Ok(disk::sync_dir(&self.queue_dir)?)
    }
}

/// Whether a directory holds what neither the agent nor sled puts into an epoch: then it is not deleted.
fn holds_foreign_files(epoch_dir: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(epoch_dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let known = ["db", "conf", "blobs", "summary", "summary.new", NEWER_MARK];
        if !known.contains(&&*name) && !name.starts_with("snap.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Identifies a frame among the copies that sled's log may hold of it.
fn frame_id(found: &Found<'_>) -> (u32, usize) {
    let (Found::Block { bytes, .. } | Found::Newer { bytes, .. }) = found;
    (crc32c::crc32c(bytes), bytes.len())
}

/// A generation with everything durable; the summary, which says that it is complete, comes last.
pub(super) fn write_generation(dir: &Path, frames: &Frames, mark: &Mark) -> anyhow::Result<Vec<Entry>> {
    let mut database = Database::open(dir, SEGMENT_BYTES)?;
    let mut entries = Vec::with_capacity(frames.blocks.len());
    for (key, block) in (0u64..).zip(&frames.blocks) {
        database.insert(&tree_of(key), &key.to_be_bytes(), &block.bytes)?;
        entries.push(Entry::new(key, &block.header, block.bytes.len()));
    }
    for (key, frame) in (entries.len() as u64..).zip(&frames.nameless) {
        database.insert(&tree_of(key), &key.to_be_bytes(), frame)?;
    }
    database.sync_new()?;
    drop(database);
    if !frames.nameless.is_empty() {
        File::create(dir.join(NEWER_MARK))?.sync_all()?;
    }
    mark.write(dir)?;
    summary::write(dir, &entries)?;
    Ok(entries)
}
