//! Rewriting for thinning: a stream's blocks in some neighbouring epochs are replaced, and the epochs become one.
//!
//! The new generation of the lowest epoch names those that it replaces in its mark, which is durable before the summary
//! that puts it in force. So a crash in between leaves either all old epochs or the new one: a start deletes what a
//! complete generation says it replaces.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::rescue::{self, Frames};
use super::writer::{epoch_name, parse_name};
use super::{Epoch, EpochStore};
use crate::queue::block::SealedBlock;
use crate::queue::disk;
use crate::queue::lane::Lanes;
use crate::queue::store::{Replacement, StreamEpoch, StreamEpochs};
use crate::queue::summary::{self, Entry};
use crate::reading::Name;

/// A rewrite has to gain this part of what the epochs take: flash is not worn for less.
const GAIN_PART: u64 = 8;
/// What sled takes for a database beside the blocks.
const DATABASE_BYTES: u64 = 32 * 1024;
const MAGIC: [u8; 8] = *b"FbyThin1";
const FILE: &str = "thinned";
/// Far more than 16 streams and 512 replaced epochs need.
const MARK_BYTES_MAX: u64 = 64 * 1024;

/// What a rewritten generation says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The last pass of thinning that each stream has seen here.
    passes: Vec<(Name, u32)>,
    /// Numbers of epochs that this one replaces.
    pub(super) replaced: Vec<u64>,
}

impl Mark {
    /// Writes it, unless it says nothing; fsyncs it and its name.
    pub(super) fn write(&self, epoch_dir: &Path) -> io::Result<()> {
        if *self == Self::default() {
            return Ok(());
        }
        let body = postcard::to_stdvec(self).map_err(io::Error::other)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        disk::write_atomically(&epoch_dir.join(FILE), &bytes)
    }

    /// Reads it; one that is missing or not whole says nothing.
    pub(super) fn read(epoch_dir: &Path) -> Self {
        read(epoch_dir).unwrap_or_default()
    }

    fn pass(&self, stream: &str) -> u32 {
        self.passes.iter().find(|(name, _)| &**name == stream).map_or(0, |(_, pass)| *pass)
    }
}

fn read(epoch_dir: &Path) -> Option<Mark> {
    let mut bytes = Vec::new();
    File::open(epoch_dir.join(FILE)).ok()?.take(MARK_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (crc, body) = rest.split_first_chunk::<4>()?;
    let whole = *magic == MAGIC && u32::from_le_bytes(*crc) == crc32c::crc32c(body);
    if whole { postcard::from_bytes(body).ok() } else { None }
}

/// How a stream goes through an epoch.
pub(super) struct Course {
    stream: Name,
    newest: (u32, Duration),
    covered: Duration,
    pass: u32,
}

/// Of each stream of the entries, which are in the order of positions within a stream.
fn courses(entries: &[Entry], mark: &Mark) -> Vec<Course> {
    let mut courses: Vec<Course> = Vec::new();
    for entry in entries {
        let at = (entry.boot_index, Duration::from_nanos(entry.boot_first_ns));
        match courses.iter_mut().find(|course| course.stream == entry.stream) {
            Some(course) => {
                if course.newest.0 == at.0 {
                    course.covered += at.1.saturating_sub(course.newest.1);
                }
                course.newest = at;
            }
            None => {
                let (stream, pass) = (Name::clone(&entry.stream), mark.pass(&entry.stream));
                courses.push(Course { stream, newest: at, covered: Duration::ZERO, pass });
            }
        }
    }
    courses
}

impl Epoch {
    /// The epoch of these blocks in this directory.
    pub(super) fn new(generation: u32, dir: &Path, entries: &[Entry], checked: bool) -> Self {
        Self {
            generation,
            totals: summary::totals(entries),
            blocks: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            courses: courses(entries, &Mark::read(dir)),
            disk_bytes: disk::used_bytes(dir, &|_| false),
            dir: dir.to_owned(),
            checked,
            holds_newer: false,
        }
    }

    fn of_stream(&self, number: u64, stream: &str, rewritable: bool) -> Option<StreamEpoch> {
        let held = self.totals.iter().find(|held| &*held.stream == stream)?;
        // There is none of what is being written; its positions are to be known all the same.
        let course = self.courses.iter().find(|course| &*course.stream == stream);
        Some(StreamEpoch {
            number,
            first: held.first,
            last: held.last,
            records: held.records,
            oldest: held.oldest,
            newest: course.map_or(held.oldest, |course| course.newest),
            covered: course.map_or(Duration::ZERO, |course| course.covered),
            pass: course.map_or(0, |course| course.pass),
            epoch_bytes: self.totals.iter().map(|held| held.bytes).sum(),
            epoch_blocks: self.blocks,
            rewritable: rewritable && course.is_some() && !self.holds_newer && !rescue::has_newer(&self.dir),
        })
    }
}

impl EpochStore {
    /// See [`crate::queue::store::BlockStore::epochs_of`].
    pub(super) fn stream_epochs(&self, stream: &str) -> StreamEpochs {
        let writing = self.writer.as_ref().map(|writer| writer.number);
        let epochs = self.epochs.iter();
        StreamEpochs {
            epochs: epochs.filter_map(|(n, epoch)| epoch.of_stream(*n, stream, Some(*n) != writing)).collect(),
            bytes_max: self.epoch_bytes,
        }
    }

    /// See [`crate::queue::store::BlockStore::blocks_of`].
    pub(super) fn stream_blocks(
        &mut self,
        stream: &str,
        numbers: &[u64],
        lanes: &[(Name, Lanes)],
    ) -> anyhow::Result<Vec<SealedBlock>> {
        let bytes = numbers.iter().filter_map(|number| self.epochs.get(number)).map(|epoch| epoch.disk_bytes).sum();
        self.ensure_room(bytes)?;
        Ok(self.blocks_to_rewrite(stream, numbers, lanes)?.0)
    }

    /// Nothing is begun that could not be put in place, with the ballast's space.
    fn ensure_room(&self, bytes: u64) -> anyhow::Result<()> {
        let free = disk::free_bytes(&self.queue_dir)? + self.ballast.held_bytes();
        ensure!(bytes <= free, "a rewrite may need {bytes} bytes, {free} are free");
        Ok(())
    }

    /// See [`crate::queue::store::BlockStore::replace`].
    pub(super) fn replace_blocks(&mut self, replacement: Replacement, lanes: &[(Name, Lanes)]) -> anyhow::Result<bool> {
        let Replacement { stream, epochs: numbers, pass, records_before, blocks: new } = replacement;
        let target = *numbers.iter().min().context("no epoch")?;
        let (old, mut blocks) = self.blocks_to_rewrite(&stream, &numbers, lanes)?;
        let last = |blocks: &[SealedBlock]| blocks.iter().map(|block| block.header.last).max();
        let records: u64 = old.iter().map(|block| u64::from(block.header.count)).sum();
        ensure!(records == records_before && last(&old) == last(&new), "the stream's blocks are not what they were");
        drop(old);
        blocks.extend(new);
        blocks.sort_by(|a, b| (&a.header.stream, a.header.first).cmp(&(&b.header.stream, b.header.first)));
        let before: u64 = numbers.iter().filter_map(|number| self.epochs.get(number)).map(|e| e.disk_bytes).sum();
        let after = blocks.iter().map(|block| block.bytes.len() as u64).sum::<u64>() + DATABASE_BYTES;
        if before.saturating_sub(after) < before / GAIN_PART {
            self.note_pass(&stream, &numbers, pass);
            return Ok(false);
        }
        let mark = self.mark(&stream, pass, target, &numbers)?;
        // The survivors take the place of the ballast until the old ones are gone: the quota holds meanwhile.
        self.ballast.give_up();
        let written = self.put_in_place(target, &numbers, blocks, &mark);
        self.make_ballast();
        written.map(|()| true)
    }

    /// Blocks of the stream by position, and the others that stay, of epochs that are as they should be.
    fn blocks_to_rewrite(
        &mut self,
        stream: &str,
        numbers: &[u64],
        lanes: &[(Name, Lanes)],
    ) -> anyhow::Result<(Vec<SealedBlock>, Vec<SealedBlock>)> {
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        for number in numbers {
            ensure!(self.writer.as_ref().is_none_or(|writer| writer.number != *number), "epoch is being written");
            // An epoch that is damaged is rescued first, and what it lost is counted there.
            self.check(*number)?;
            self.readers.retain(|(of, _)| of != number);
            let frames = self.scan_epoch(*number)?;
            ensure!(frames.is_complete(), "epoch holds what cannot be rewritten");
            if frames.blocks.iter().any(|block| block.header.newer.is_some()) {
                // From now on it is left out.
                if let Some(epoch) = self.epochs.get_mut(number) {
                    epoch.holds_newer = true;
                }
            }
            for block in frames.blocks {
                let header = &block.header;
                let lanes = lanes.iter().find(|(name, _)| *name == header.stream);
                if lanes.is_some_and(|(_, lanes)| lanes.is_range_done(header.first, header.last)) {
                    continue;
                }
                if &*header.stream == stream { mine.push(block) } else { others.push(block) }
            }
        }
        self.index = None;
        mine.sort_by_key(|block| (block.header.first, block.header.last));
        Ok((mine, others))
    }

    fn note_pass(&mut self, stream: &str, numbers: &[u64], pass: u32) {
        for number in numbers {
            let courses = self.epochs.get_mut(number).map(|epoch| epoch.courses.iter_mut());
            for course in courses.into_iter().flatten().filter(|course| &*course.stream == stream) {
                course.pass = pass;
            }
        }
    }

    fn mark(&self, stream: &str, pass: u32, target: u64, numbers: &[u64]) -> anyhow::Result<Mark> {
        let mut passes: Vec<(Name, u32)> = Vec::new();
        for course in numbers.iter().filter_map(|number| self.epochs.get(number)).flat_map(|epoch| &epoch.courses) {
            let seen = if &*course.stream == stream { pass } else { course.pass };
            match passes.iter_mut().find(|(name, _)| *name == course.stream) {
                Some((_, known)) => *known = seen.min(*known),
                None => passes.push((Name::clone(&course.stream), seen)),
            }
        }
        // Of those that were replaced before, those whose removal has failed.
        let mut on_disk = BTreeSet::new();
        for entry in std::fs::read_dir(&self.queue_dir)? {
            on_disk.extend(parse_name(&entry?.file_name().to_string_lossy()).map(|(number, _)| number));
        }
        let marks = numbers.iter().filter_map(|number| self.epochs.get(number)).map(|epoch| Mark::read(&epoch.dir));
        let mut replaced: BTreeSet<u64> =
            marks.flat_map(|mark| mark.replaced).filter(|n| on_disk.contains(n)).collect();
        replaced.extend(numbers);
        replaced.remove(&target);
        Ok(Mark { passes, replaced: replaced.into_iter().collect() })
    }

    fn put_in_place(
        &mut self,
        target: u64,
        numbers: &[u64],
        blocks: Vec<SealedBlock>,
        mark: &Mark,
    ) -> anyhow::Result<()> {
        let generation = self.epochs.get(&target).context("no such epoch")?.generation + 1;
        let dir = self.queue_dir.join(epoch_name(target, generation));
        if dir.exists() {
            disk::bury(&dir)?;
        }
        let entries = rescue::write_generation(&dir, &Frames::of(blocks), mark).inspect_err(|_| {
            // Its lack of a summary says that it is incomplete; the old generations stay in force.
            let _ = disk::bury(&dir);
        })?;
        // From here on the new one is in force, whatever becomes of the old ones.
        let replaced = numbers.iter().filter_map(|number| self.epochs.remove(number)).collect::<Vec<_>>();
        self.epochs.insert(target, Epoch::new(generation, &dir, &entries, true));
        for old in replaced {
            if let Err(error) = disk::bury(&old.dir) {
                tracing::warn!(dir = %old.dir.display(), %error, "replaced epoch is removed at the next start");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
