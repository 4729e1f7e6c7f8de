//! The block store on sled: one sequence of epochs, each a small sled database that is deleted or rewritten whole.
//!
//! One growing sled database writes everything several times, never gives space back and loses all that follows a bad
//! byte. An epoch of a few MiB with trees of eight blocks writes each block once, is deleted by removing a directory,
//! and bounds what any damage can reach. See `docs/queue-format.md`.

mod ahead;
mod change;
pub(crate) mod database;
mod reader;
mod reclaim;
mod rescue;
mod room;
mod thinning;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::admin::Step;
use super::block::{BLOCK_BYTES_MAX, SEGMENT_BYTES, SealedBlock};
use super::cipher::Keyring;
use super::disk::{self, Ballast};
use super::lane::Lanes;
use super::lock::Lock;
use super::recovery::Lost;
use super::store::{BlockStore, Change, Held, OldestBlocks, Replacement, StoreError, StreamEpochs};
use super::summary::{self, Entry};
use crate::metrics::{ByKind, Metrics};
use crate::reading::{Name, Position};
use database::Database;
use reader::Reader;
pub(crate) use writer::parse_name;
use writer::{EPOCH_PREFIX, Writer, epoch_name};

/// Blocks of one epoch: 64 trees of eight.
const EPOCH_BLOCKS_MAX: u64 = 512;
/// What an append may take beside its blocks: sled's page headers, a new epoch's first pages, a summary.
const APPEND_SLACK_BYTES: u64 = 256 * 1024;

/// One epoch as it is kept in memory: sums only, so that memory does not grow with the backlog.
struct Epoch {
    generation: u32,
    dir: PathBuf,
    totals: Vec<Held>,
    blocks: u32,
    courses: Vec<thinning::Course>,
    disk_bytes: u64,
    /// Its database was compared with its raw bytes in this life of the agent.
    checked: bool,
    /// A look at its bytes has shown blocks that only a newer agent can open: it is not thinned.
    holds_newer: bool,
}

/// What stands where an index says that a block is.
enum Got {
    /// A whole block, maybe one that only a newer agent can open.
    Block(SealedBlock),
    /// A frame for a newer agent that does not say what it is; its epoch is kept.
    Newer,
    Damaged,
}

/// Sealed blocks in epochs below `<state dir>/queue`. See [`BlockStore`].
pub struct EpochStore {
    state_dir: PathBuf,
    queue_dir: PathBuf,
    quota_bytes: u64,
    epoch_bytes: u64,
    ballast: Ballast,
    epochs: BTreeMap<u64, Epoch>,
    writer: Option<Writer>,
    readers: Vec<(u64, Reader)>,
    /// The block index of the closed epoch read last.
    index: Option<(u64, Vec<Entry>)>,
    next_number: u64,
    metrics: Arc<Metrics>,
    lock: Option<Lock>,
    /// What opens the blocks.
    keys: Arc<Keyring>,
}

impl EpochStore {
    /// Opens the epochs below `state_dir`, bringing back what a crash or damage left.
    pub(crate) fn open(
        state_dir: &Path,
        quota_bytes: u64,
        metrics: Arc<Metrics>,
        lock: Option<Lock>,
    ) -> Result<Self, StoreError> {
        let queue_dir = state_dir.join("queue");
        let failed = |what| failure(what, &queue_dir);
        std::fs::create_dir_all(&queue_dir).map_err(|error| failed("create")(error.into()))?;
        disk::sync_dir(state_dir).map_err(|error| failed("fsync")(error.into()))?;
        disk::sweep_dead(&queue_dir).map_err(|error| failed("sweep")(error.into()))?;
        let mut store = Self {
            state_dir: state_dir.to_owned(),
            ballast: Ballast::new(&queue_dir, disk::ballast_bytes(quota_bytes)),
            quota_bytes,
            epoch_bytes: disk::epoch_bytes(quota_bytes),
            epochs: BTreeMap::new(),
            writer: None,
            readers: Vec::new(),
            index: None,
            next_number: 1,
            metrics,
            lock,
            keys: Arc::default(),
            queue_dir: queue_dir.clone(),
        };
        store.load().map_err(failed("recover epochs"))?;
        // Without the lock this is only a look, before the quota is known.
        if store.lock.is_some()
            && let Err(error) = store.ballast.ensure()
        {
            tracing::warn!(error = %error, "ballast cannot be made; a full disk will be harder to survive");
        }
        store.metrics.queue_quota_bytes.set(i64::try_from(quota_bytes).unwrap_or(i64::MAX));
        Ok(store)
    }

    /// With keys to open blocks; nothing of opening the epochs needs them.
    pub(crate) fn with_keys(self, keys: Arc<Keyring>) -> Self {
        Self { keys, ..self }
    }

    /// Closes the epoch that is written, so that the next start need not recover it.
    ///
    /// # Errors
    /// When it cannot be synced; nothing that was durable before is lost by that.
    pub fn close(&mut self) -> Result<(), StoreError> {
        self.readers.clear();
        let queue_dir = self.queue_dir.clone();
        self.close_writer().map_err(failure("close epoch", &queue_dir))
    }

    /// Ranges that the blocks' chain proves to be missing, given each stream's durable lanes, and the cursor of the others.
    pub(crate) fn lost(&mut self, lanes: &[(Name, Lanes)], unnamed: Option<Position>) -> Vec<Lost> {
        let mut chain = super::recovery::Chain::new(lanes, unnamed);
        let numbers: Vec<u64> = self.epochs.keys().copied().collect();
        for number in numbers {
            for entry in self.read_entries(number) {
                chain.follow(&entry);
            }
        }
        chain.lost
    }

    /// The highest run of any block, for a state directory whose run counter was lost.
    pub(crate) fn run_max(&self) -> Option<u32> {
        self.held().iter().map(|held| held.last.run()).max()
    }

    fn read_entries(&self, number: u64) -> Vec<Entry> {
        if let Some(writer) = self.writer.as_ref().filter(|writer| writer.number == number) {
            return writer.entries.clone();
        }
        self.epochs.get(&number).and_then(|epoch| summary::read(&epoch.dir)).unwrap_or_default()
    }

    fn entries(&mut self, number: u64) -> &[Entry] {
        if self.writer.as_ref().is_some_and(|writer| writer.number == number) {
            return self.writer.as_ref().map(|writer| writer.entries.as_slice()).unwrap_or_default();
        }
        if self.index.as_ref().is_none_or(|(of, _)| *of != number) {
            self.index = Some((number, self.read_entries(number)));
        }
        self.index.as_ref().map(|(_, entries)| entries.as_slice()).unwrap_or_default()
    }

    fn open_writer(&mut self) -> anyhow::Result<()> {
        let number = self.next_number;
        let dir = self.queue_dir.join(epoch_name(number, 0));
        let database = Database::open(&dir, SEGMENT_BYTES)?;
        // Never used again, also if the first append fails.
        self.next_number += 1;
        self.epochs.insert(number, Epoch::new(0, &dir, &[], true));
        self.writer = Some(Writer { number, database, entries: Vec::new(), bytes: 0, new: true });
        Ok(())
    }

    /// Syncs and summarises the written epoch and lets go of it.
    fn close_writer(&mut self) -> anyhow::Result<()> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let number = writer.number;
        let closed = writer.sync().and_then(|()| {
            let dir = &self.epochs[&number].dir;
            Ok(summary::write(dir, &writer.entries)?)
        });
        if let Some(epoch) = self.epochs.get_mut(&number) {
            *epoch = Epoch::new(epoch.generation, &epoch.dir, &writer.entries, true);
        }
        if closed.is_err() {
            self.writer = Some(writer);
        }
        closed
    }

    fn try_append(&mut self, blocks: &[SealedBlock]) -> anyhow::Result<()> {
        for block in blocks {
            let size = block.bytes.len();
            anyhow::ensure!(size <= BLOCK_BYTES_MAX, "block of {size} bytes, limit is {BLOCK_BYTES_MAX}");
            let full = |writer: &Writer| {
                writer.bytes + size as u64 > self.epoch_bytes || writer.entries.len() as u64 >= EPOCH_BLOCKS_MAX
            };
            if self.writer.as_ref().is_some_and(full) {
                self.close_writer()?;
            }
            if self.writer.is_none() {
                self.open_writer()?;
            }
            if let Some(writer) = &mut self.writer {
                writer.insert(block)?;
            }
        }
        self.writer.as_mut().map_or(Ok(()), Writer::sync)?;
        if let Some(writer) = &self.writer
            && let Some(epoch) = self.epochs.get_mut(&writer.number)
        {
            epoch.totals = summary::totals(&writer.entries);
        }
        Ok(())
    }

    /// After a failed append the handle is dead: let go of it, make room if the disk is full after all, and bring the
    /// epoch back from its raw bytes. The next append begins a new epoch.
    fn give_up_writer(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        let number = writer.number;
        drop(writer);
        self.index = None;
        if let Some(epoch) = self.epochs.get_mut(&number) {
            epoch.checked = false;
        }
        self.metrics.queue_store_failures.get_or_create(&ByKind { kind: "append" }).inc();
        if self.is_disk_full() {
            self.ballast.give_up();
        }
        if let Err(error) = self.rescue(number) {
            tracing::error!(error = format!("{error:#}"), epoch = number, "epoch cannot be brought back now");
        }
    }

    fn remove_epoch(&mut self, number: u64) -> Result<(), StoreError> {
        self.readers.retain(|(of, _)| *of != number);
        if self.writer.as_ref().is_some_and(|writer| writer.number == number) {
            self.writer = None;
        }
        if self.index.as_ref().is_some_and(|(of, _)| *of == number) {
            self.index = None;
        }
        let Some(epoch) = self.epochs.get(&number) else { return Ok(()) };
        match disk::bury(&epoch.dir) {
            Err(error) if epoch.dir.exists() => return Err(failure("remove epoch", &epoch.dir)(error.into())),
            // Under its dead name it is swept at the next start, if not now.
            Ok(()) | Err(_) => {}
        }
        self.epochs.remove(&number);
        self.make_ballast();
        Ok(())
    }
}

impl BlockStore for EpochStore {
    fn append(&mut self, blocks: &[SealedBlock]) -> Result<(), StoreError> {
        if blocks.is_empty() {
            return Ok(());
        }
        let block_bytes: u64 = blocks.iter().map(|block| block.bytes.len() as u64).sum();
        self.check_room(block_bytes + block_bytes / 16 + APPEND_SLACK_BYTES)?;
        let result = self.try_append(blocks);
        if result.is_err() {
            self.give_up_writer();
        }
        result.map_err(failure("append", &self.queue_dir))
    }

    fn read(&mut self, stream: &str, at: Position) -> Result<Option<SealedBlock>, StoreError> {
        self.read_next(stream, at).map_err(failure("read", &self.queue_dir))
    }

    fn remove_done(&mut self, lanes: &[(Name, Lanes)]) -> Result<(), StoreError> {
        let is_done = |held: &Held| {
            lanes.iter().any(|(name, of)| *name == held.stream && of.is_range_done(held.first, held.last))
        };
        let done = |epoch: &Epoch| epoch.totals.iter().all(is_done) && !rescue::has_newer(&epoch.dir);
        let numbers: Vec<u64> = self.epochs.iter().filter(|(_, epoch)| done(epoch)).map(|(n, _)| *n).collect();
        numbers.into_iter().try_for_each(|number| self.remove_epoch(number))
    }

    fn oldest_of(&mut self, stream: &str, lanes: &Lanes, bytes: u64) -> Result<Option<OldestBlocks>, StoreError> {
        self.oldest_blocks(stream, lanes, bytes).map_err(failure("read", &self.queue_dir))
    }

    fn reclaim(&mut self, lanes: &[(Name, Lanes)], percent: u64) -> Result<bool, StoreError> {
        self.reclaim_emptiest(lanes, percent).map_err(failure("rewrite epoch", &self.queue_dir))
    }

    fn epochs_of(&self, stream: &str) -> StreamEpochs {
        self.stream_epochs(stream)
    }

    fn blocks_of(
        &mut self,
        stream: &str,
        epochs: &[u64],
        lanes: &[(Name, Lanes)],
    ) -> Result<Vec<SealedBlock>, StoreError> {
        self.stream_blocks(stream, epochs, lanes).map_err(failure("read epochs", &self.queue_dir))
    }

    fn replace(&mut self, replacement: Replacement, lanes: &[(Name, Lanes)]) -> Result<bool, StoreError> {
        self.replace_blocks(replacement, lanes).map_err(failure("rewrite epochs", &self.queue_dir))
    }

    fn change(&mut self, change: &Change, after: Option<u64>) -> Result<Option<Step>, StoreError> {
        self.change_next(change, after).map_err(failure("change of an epoch", &self.queue_dir))
    }

    fn held(&self) -> Vec<Held> {
        let mut totals = Vec::new();
        for held in self.epochs.values().flat_map(|epoch| &epoch.totals) {
            summary::merge(&mut totals, held);
        }
        totals
    }

    fn close(&mut self) -> Result<(), StoreError> {
        EpochStore::close(self)
    }

    fn disk_bytes(&self) -> u64 {
        let writing = self.writer.as_ref().map(|writer| writer.number);
        let epochs = self.epochs.iter().map(|(number, epoch)| {
            if Some(*number) == writing { disk::used_bytes(&epoch.dir, &|_| false) } else { epoch.disk_bytes }
        });
        let outside = disk::used_bytes(&self.state_dir, &|name| name == "queue");
        let beside = disk::used_bytes(&self.queue_dir, &|name| name.starts_with(EPOCH_PREFIX));
        epochs.sum::<u64>() + outside + beside
    }
}

fn failure(what: &'static str, path: &Path) -> impl Fn(anyhow::Error) -> StoreError + use<> {
    let path = path.display().to_string();
    move |source| StoreError::Failed { what, path: path.clone(), source }
}

#[cfg(test)]
pub(crate) mod tests;
