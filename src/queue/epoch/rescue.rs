//! Bringing epochs back: at a start, after a failed append, and when a closed epoch is read for the first time.
//!
//! sled cuts its log at the first bad byte when it opens it, and overwrites what follows. So an epoch that was not
//! closed in order is never opened: its blocks are found by raw scan and written into a new generation, and only when
//! that is durable does the old one go. An epoch that was closed is opened only if the raw scan finds every block of
//! its summary.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::Context as _;

use super::database::Database;
use super::writer::{epoch_name, get_block, parse_name, tree_of};
use super::{Epoch, EpochStore};
use crate::metrics::ByKind;
use crate::queue::block::{self, SEGMENT_BYTES, SealedBlock};
use crate::queue::disk;
use crate::queue::scan::{self, Found, PastBadSectors};
use crate::queue::summary::{self, Entry};

/// Old generations kept for a look at what happened.
const QUARANTINE_EPOCHS_MAX: usize = 2;
/// Most bytes of blocks that a rescue holds in memory: an epoch with room for what a crash may have doubled.
const RESCUE_BYTES_MAX: usize = 16 << 20;
/// Marks an epoch that holds blocks of a newer version; it is not deleted as done.
const NEWER_MARK: &str = "newer-blocks";

/// What a raw scan of an epoch found.
#[derive(Default)]
pub(super) struct Frames {
    pub(super) blocks: Vec<SealedBlock>,
    newer: Vec<Vec<u8>>,
    /// Frames beyond [`RESCUE_BYTES_MAX`].
    left_out: u64,
}

impl Frames {
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
        for (number, mut found) in generations {
            found.sort_unstable();
            let dir_of = |generation: &u32| self.queue_dir.join(epoch_name(number, *generation));
            // A rewritten generation has its summary last: the highest with one is whole, a higher one is not.
            let complete = found.iter().rev().find(|generation| summary::read(&dir_of(generation)).is_some());
            let keep = *complete.unwrap_or(&found[0]);
            for generation in found.iter().filter(|generation| **generation != keep) {
                disk::bury(&dir_of(generation)).context("remove incomplete generation")?;
            }
            let dir = dir_of(&keep);
            let entries = summary::read(&dir);
            let totals = summary::totals(entries.as_deref().unwrap_or_default());
            let disk_bytes = disk::used_bytes(&dir, &|_| false);
            self.epochs.insert(number, Epoch { generation: keep, dir, totals, disk_bytes, checked: false });
            self.next_number = number + 1;
            // Marked by an older agent: what this one can read of it joins the index, and the mark goes.
            let upgraded = entries.is_some() && has_newer(&self.epochs[&number].dir) && {
                self.scan_epoch(number).is_ok_and(|frames| frames.newer.is_empty())
            };
            if entries.is_none() || upgraded {
                self.rescue_with_ballast(number).with_context(|| format!("rescue epoch {number}"))?;
            }
        }
        Ok(())
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
                Found::Block { header, bytes } => frames.blocks.push(SealedBlock { header, bytes: bytes.to_vec() }),
                Found::Newer { bytes, .. } => frames.newer.push(bytes.to_vec()),
            }
        })
        .context("raw scan")?;
        if past.unreadable > 0 {
            tracing::error!(epoch = number, pieces = past.unreadable, "the device cannot read parts of an epoch");
            self.metrics.queue_store_failures.get_or_create(&ByKind { kind: "unreadable" }).inc_by(past.unreadable);
        }
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
        if frames.blocks.is_empty() && frames.newer.is_empty() {
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
        let entries = write_generation(&dir, &frames).inspect_err(|_| {
            // Its lack of a summary says that it is incomplete; the old generation stays in force.
            let _ = disk::bury(&dir);
        })?;
        if quarantine {
            self.quarantine(&old_dir)?
        } else {
            disk::bury(&old_dir)?
        }
        let disk_bytes = disk::used_bytes(&dir, &|_| false);
        let totals = summary::totals(&entries);
        self.epochs.insert(number, Epoch { generation, dir, totals, disk_bytes, checked: true });
        self.index = None;
        Ok(())
    }

    /// Opens a closed epoch for reading, once its raw bytes are known to hold what its summary names.
    pub(super) fn open_checked(&mut self, number: u64) -> anyhow::Result<Database> {
        let epoch = self.epochs.get(&number).context("no such epoch")?;
        let dir = epoch.dir.clone();
        if epoch.checked {
            return Database::open(&dir, SEGMENT_BYTES);
        }
        let frames = self.scan_epoch(number)?;
        let Some(expected) = summary::read(&dir) else {
            // It was given up after a failed append and could not be rescued at once.
            self.rewrite(number, frames, false)?;
            self.count_salvaged(number);
            let epoch = self.epochs.get(&number).context("epoch holds no block")?;
            return Database::open(&epoch.dir, SEGMENT_BYTES);
        };
        if !frames.newer.is_empty() {
            self.mark_newer(number)?;
        }
        if frames.blocks.len() + frames.newer.len() >= expected.len()
            && let Ok(mut database) = Database::open(&dir, SEGMENT_BYTES)
            && expected.iter().all(|entry| is_whole(&mut database, entry))
        {
            if let Some(epoch) = self.epochs.get_mut(&number) {
                epoch.checked = true;
            }
            return Ok(database);
        }
        let missing = expected.len().saturating_sub(frames.blocks.len() + frames.newer.len());
        tracing::warn!(epoch = number, blocks_lost = missing, "epoch is damaged, its whole blocks are being rescued");
        self.metrics.queue_blocks_lost.inc_by(missing as u64);
        self.rewrite(number, frames, true)?;
        self.count_salvaged(number);
        let epoch = self.epochs.get(&number).context("no block of the epoch is whole")?;
        Database::open(&epoch.dir, SEGMENT_BYTES)
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

fn is_whole(database: &mut Database, entry: &Entry) -> bool {
    let value = get_block(database, entry.key).ok().flatten();
    value.is_some_and(
        |bytes| !matches!(block::parse(&bytes), Err(ref error) if !matches!(error, block::FrameError::Newer { .. })),
    )
}

/// A generation with everything durable; the summary, which says that it is complete, comes last.
fn write_generation(dir: &Path, frames: &Frames) -> anyhow::Result<Vec<Entry>> {
    let mut database = Database::open(dir, SEGMENT_BYTES)?;
    let mut entries = Vec::with_capacity(frames.blocks.len());
    for (key, block) in (0u64..).zip(&frames.blocks) {
        database.insert(&tree_of(key), &key.to_be_bytes(), &block.bytes)?;
        entries.push(Entry::new(key, &block.header, block.bytes.len()));
    }
    for (key, frame) in (entries.len() as u64..).zip(&frames.newer) {
        database.insert(&tree_of(key), &key.to_be_bytes(), frame)?;
    }
    database.sync_new()?;
    drop(database);
    if !frames.newer.is_empty() {
        File::create(dir.join(NEWER_MARK))?.sync_all()?;
    }
    summary::write(dir, &entries)?;
    Ok(entries)
}
