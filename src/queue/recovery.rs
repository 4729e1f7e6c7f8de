//! Opening a queue, in the one order that is safe: lock, state, run, epochs, and then what is missing.
//!
//! In two steps, because records may be accepted as soon as the run is bumped, while a damaged epoch is still rescued.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cipher::Keyring;
use super::disk;
use super::epoch::EpochStore;
use super::error::OpenError;
use super::lane::Lanes;
use super::lock::Lock;
use super::state::{State, StateStore};
use super::summary::Entry;
use crate::metrics::Metrics;
use crate::reading::{Name, Position};

/// A range of a stream that nothing explains: a block was there and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The stream.
    pub stream: Name,
    /// Last position before it that is present; `None`: none is.
    pub after: Option<Position>,
    /// Last position of the missing block.
    pub through: Position,
}

/// A queue that is locked, with its state read and its run bumped, but whose blocks have not been looked at.
pub struct Begun {
    /// The durable state's store.
    pub state: StateStore,
    /// The state, this run's number in it.
    pub state_value: State,
    dir: PathBuf,
    /// The state was there and is this queue's.
    continued: bool,
    lock: Lock,
    metrics: Arc<Metrics>,
    /// What opens the blocks; none unless set.
    pub(super) keys: Arc<Keyring>,
}

/// A queue ready for use.
pub struct Opened {
    /// The blocks.
    pub store: EpochStore,
    /// The durable state's store.
    pub state: StateStore,
    /// The state.
    pub state_value: State,
    /// What is missing, for the log and the counters.
    pub lost: Vec<Lost>,
}

/// First step: locks `dir`, reads the state, bumps the run and makes that durable. Records may be accepted after it.
///
/// # Errors
/// See [`OpenError`].
pub fn begin(dir: &Path, quota_bytes: Option<u64>, metrics: Arc<Metrics>) -> Result<Begun, OpenError> {
    let lock = Lock::take(dir)?;
    let queue_dir = dir.join("queue");
    std::fs::create_dir_all(&queue_dir).map_err(|error| OpenError::io("create", &queue_dir, error))?;
    let free = disk::free_bytes(dir).map_err(|error| OpenError::io("ask for free space", dir, error))?;
    disk::give_up_ballast_when_full(&queue_dir, free);
    let (mut state, mut state_value, continued) = StateStore::load(dir)?;
    let floor = if continued {
        0
    } else {
        // The run counter may be gone with the state, and no position may be given twice: ask the blocks themselves.
        let store = EpochStore::open(dir, disk::QUOTA_BYTES_MIN, metrics.clone(), None)?;
        store.run_max().map_or(0, |run| run + 1)
    };
    state_value.quota_bytes = match (quota_bytes, state_value.quota_bytes) {
        (Some(configured), _) => configured.max(disk::QUOTA_BYTES_MIN),
        (None, 0) => disk::default_quota_bytes(free),
        (None, chosen) => chosen,
    };
    state.begin_run(&mut state_value, floor)?;
    Ok(Begun { state, state_value, dir: dir.to_owned(), continued, lock, metrics, keys: Arc::default() })
}

impl Begun {
    /// Second step: sweeps, rescues what was not closed in order, and checks the chain of blocks.
    ///
    /// # Errors
    /// When an epoch cannot be brought back for lack of space or by an I/O error; nothing is deleted then.
    pub fn recover(self) -> Result<Opened, OpenError> {
        let (state, state_value, blocks) = self.split();
        let (store, lost) = blocks.recover()?;
        Ok(Opened { store, state, state_value, lost })
    }

    /// The state, usable at once, and the blocks, whose recovery may have to be tried more than once.
    pub(super) fn split(self) -> (StateStore, State, Blocks) {
        let Self { state, state_value, dir, continued, lock, metrics, keys } = self;
        let (quota_bytes, lanes) = (state_value.quota_bytes, state_value.lanes());
        let unnamed = continued.then_some(Position::ZERO);
        (state, state_value, Blocks { dir, quota_bytes, lanes, unnamed, lock, metrics, keys })
    }
}

/// The blocks of a queue, which stays locked as long as this lives, whatever becomes of a recovery.
pub(super) struct Blocks {
    dir: PathBuf,
    quota_bytes: u64,
    /// As the state had them at the start.
    lanes: Vec<(Name, Lanes)>,
    /// The cursor of a stream the state does not name, where the state is this queue's.
    unnamed: Option<Position>,
    lock: Lock,
    metrics: Arc<Metrics>,
    keys: Arc<Keyring>,
}

impl Blocks {
    /// See [`Begun::recover`].
    pub(super) fn recover(&self) -> Result<(EpochStore, Vec<Lost>), OpenError> {
        let mut store = self.open()?;
        let lost = store.lost(&self.lanes, self.unnamed);
        for range in &lost {
            tracing::error!(stream = %range.stream, after = ?range.after, through = %range.through, "records are lost");
        }
        Ok((store, lost))
    }

    /// Opens the blocks without looking for what is missing.
    pub(super) fn open(&self) -> Result<EpochStore, OpenError> {
        let lock = Some(self.lock.clone());
        let store = EpochStore::open(&self.dir, self.quota_bytes, Arc::clone(&self.metrics), lock)?;
        Ok(store.with_keys(Arc::clone(&self.keys)))
    }
}

/// Both steps at once.
///
/// # Errors
/// See [`OpenError`].
pub fn open(dir: &Path, quota_bytes: Option<u64>, metrics: Arc<Metrics>) -> Result<Opened, OpenError> {
    begin(dir, quota_bytes, metrics)?.recover()
}

/// Follows each stream's blocks by their `prev_last`.
pub(crate) struct Chain<'a> {
    lanes: &'a [(Name, Lanes)],
    unnamed: Option<Position>,
    present: Vec<(Name, Position)>,
    pub(crate) lost: Vec<Lost>,
}

impl<'a> Chain<'a> {
    /// `unnamed` is the cursor of streams that `lanes` does not name: the start where a state of this queue was
    /// there to name them, `None` where nothing is known.
    pub(crate) fn new(lanes: &'a [(Name, Lanes)], unnamed: Option<Position>) -> Self {
        Self { lanes, unnamed, present: Vec::new(), lost: Vec::new() }
    }

    /// The next block, in the order of the epochs.
    pub(crate) fn follow(&mut self, entry: &Entry) {
        let lanes = self.lanes.iter().find(|(stream, _)| *stream == entry.stream).map(|(_, lanes)| lanes);
        let is_open = |position: Position| match lanes {
            Some(lanes) => !lanes.is_done(position),
            None => self.unnamed.is_some_and(|cursor| position >= cursor),
        };
        let at = self.present.iter().position(|(stream, _)| *stream == entry.stream);
        let after = at.map(|at| self.present[at].1);
        if let Some(through) = entry.prev_last.map(Position::from_packed)
            && is_open(through)
            && after.is_none_or(|after| after < through)
        {
            self.lost.push(Lost { stream: entry.stream.clone(), after, through });
        }
        match at {
            Some(at) => self.present[at].1 = self.present[at].1.max(entry.last()),
            None => self.present.push((entry.stream.clone(), entry.last())),
        }
    }
}

#[cfg(test)]
mod tests;
