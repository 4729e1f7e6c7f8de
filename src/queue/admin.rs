//! What an operator may ask of a queue: purge a stream, change the key, check the epochs. In bounded steps, each at most
//! one epoch, so that a store that is asked beside its work goes on sealing in between.
//!
//! The same tasks run on an open queue (here, on its store thread) and on a closed one ([`super::closed`]).

use std::collections::HashSet;
use std::sync::{Arc, mpsc};

use serde::{Deserialize, Serialize};

use super::engine::{Inner, Phase};
use super::lane::Lanes;
use super::store::{BlockStore, Change, OldestBlocks, StoreError};
use super::store_thread::{Driver, error_text};
use super::{PeekError, Queue, STORE_WAIT_MAX, block, retention};
use crate::queue::cipher::Keyring;
use crate::reading::{Name, Position};

/// Most requests waiting for the store thread.
const WAITING_MAX: usize = 4;

/// One step of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Remove the oldest waiting blocks of a stream, of one epoch, and no record after `through`. They are done from
    /// then on, counted and marked; the disk comes back with [`Task::Scrub`].
    Purge {
        /// The stream.
        stream: Name,
        /// The last position that may go.
        through: Position,
    },
    /// Write the next epoch after `after` anew without blocks of a stream that are done.
    Scrub {
        /// The stream.
        stream: Name,
        /// The epoch before.
        after: Option<u64>,
    },
    /// Write the next epoch after `after` anew under the current key.
    Rekey {
        /// The epoch before.
        after: Option<u64>,
    },
    /// Compare the next epoch after `after` with its raw bytes; rescue it where it is damaged.
    Check {
        /// The epoch before.
        after: Option<u64>,
    },
    /// Put the dead-letter file under the current key.
    RekeyDeadLetters,
    /// Take lines out of the dead-letter file.
    ForgetDeadLetters(HashSet<Vec<u8>>),
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// The epoch dealt with; `None`: there is none left, all is done.
    pub epoch: Option<u64>,
    /// Epochs after it.
    pub epochs_left: u64,
    /// Records removed.
    pub records: u64,
    /// Blocks (or lines) removed, encrypted anew, or brought back from damage.
    pub blocks: u64,
    /// Blocks (or lines) left as they are, for want of their key.
    pub held: u64,
    /// Blocks found to be damaged beyond rescue.
    pub lost: u64,
}

impl Step {
    /// Adds up what steps did.
    pub fn add(&mut self, other: &Self) {
        (self.epoch, self.epochs_left) = (other.epoch, other.epochs_left);
        self.records += other.records;
        self.blocks += other.blocks;
        self.held += other.held;
        self.lost += other.lost;
    }
}

/// Why a step was not done. Nothing is lost by that; it may be asked for again.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The queue is closed, or its store does not answer.
    #[error(transparent)]
    Queue(#[from] PeekError),
    /// The store failed.
    #[error("{0}")]
    Store(String),
    /// The queue does not know the stream.
    #[error("stream {stream:?} is not in the queue; it has {known}")]
    NoSuchStream {
        /// The name given.
        stream: String,
        /// Those there are.
        known: String,
    },
    /// The dead-letter file cannot be read or written.
    #[error("dead-letter file: {source}")]
    File {
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A task on its way to the store thread.
pub(super) struct AdminRequest {
    task: Task,
    reply: mpsc::SyncSender<Result<Step, AdminError>>,
}

impl Queue {
    /// Has the store thread do one step. Blocks, so not for async threads.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub fn administer(&self, task: Task) -> Result<Step, AdminError> {
        let inner = self.inner();
        let (reply, answer) = mpsc::sync_channel(1);
        {
            let mut shared = inner.lock();
            if matches!(shared.phase, Phase::Stopped(_) | Phase::Abandoned) {
                return Err(PeekError::Closed.into());
            }
            let waiting = shared.tasks.len();
            if waiting >= WAITING_MAX {
                return Err(PeekError::Busy { waiting, limit: WAITING_MAX }.into());
            }
            shared.tasks.push_back(AdminRequest { task, reply });
            inner.store_wake.notify_one();
        }
        answer.recv_timeout(STORE_WAIT_MAX).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => PeekError::Stalled { waited_s: STORE_WAIT_MAX.as_secs() },
            mpsc::RecvTimeoutError::Disconnected => PeekError::Closed,
        })?
    }

    /// The last position a stream has given, in memory or on disk.
    ///
    /// # Errors
    /// When there is no such stream.
    pub fn newest(&self, stream: &str) -> Result<Position, AdminError> {
        let shared = self.inner().lock();
        if let Some(known) = shared.streams.iter().find(|known| &*known.name == stream) {
            return Ok(Position::from_packed(known.next_position().packed().saturating_sub(1)));
        }
        if shared.unconfigured.iter().any(|known| &*known.stream == stream) {
            return Ok(before_end());
        }
        let names = shared.streams.iter().map(|known| &*known.name);
        let known: Vec<&str> = names.chain(shared.unconfigured.iter().map(|known| &*known.stream)).collect();
        Err(AdminError::NoSuchStream { stream: stream.to_owned(), known: known.join(", ") })
    }

    /// The id of the key that new blocks are encrypted with.
    pub fn key_id(&self) -> Option<super::cipher::KeyId> {
        self.inner().keys.current_id()
    }

    /// The state directory.
    pub fn dir(&self) -> &std::path::Path {
        &self.inner().settings.dir
    }
}

/// The highest position that can be given.
pub(super) fn before_end() -> Position {
    Position::from_packed(Position::END.packed() - 1)
}

impl Driver {
    /// Does a step, whoever waits for it.
    pub(super) fn administer(&mut self, request: AdminRequest) {
        let AdminRequest { task, reply } = request;
        let outcome = match task {
            Task::Purge { stream, through } => self.purge(&stream, through).map_err(stored),
            Task::Scrub { stream, after } => {
                let lanes = retention::durable_lanes(self.inner());
                let cursor = lanes.into_iter().find(|(name, _)| *name == stream).map(|(_, lanes)| lanes.cursor());
                self.change(&Change::Remove { stream, below: cursor.unwrap_or_default() }, after)
            }
            Task::Rekey { after } => self.change(&Change::Rekey, after),
            Task::Check { after } => self.change(&Change::Check, after),
            Task::RekeyDeadLetters => self
                .dead_letters()
                .rekey()
                .map_err(|error| AdminError::Store(format!("{error:#}")))
                .map(|(blocks, held)| Step { blocks, held, ..Step::default() }),
            Task::ForgetDeadLetters(gone) => {
                let forgotten = self.dead_letters().forget(&gone);
                forgotten.map(|()| Step::default()).map_err(|source| AdminError::File { source })
            }
        };
        // Whoever asked may have given up waiting.
        let _ = reply.try_send(outcome);
    }

    fn change(&mut self, change: &Change, after: Option<u64>) -> Result<Step, AdminError> {
        let changed = self.with_store(|store| Ok((store.change(change, after)?, store.disk_bytes())));
        let (step, disk_bytes) = changed.map_err(stored)?;
        self.inner().lock().disk_bytes = disk_bytes;
        Ok(step.unwrap_or_default())
    }

    fn purge(&mut self, name: &Name, through: Position) -> Result<Step, StoreError> {
        // What is in memory only has to be in a block first, to be removed like one.
        let ends: Vec<Position> =
            self.inner().lock().streams.iter().map(super::tail::StreamState::next_position).collect();
        self.seal_below(&ends)?;
        let inner = Arc::clone(self.inner());
        let Some((index, lanes)) = lanes_of(&inner, name) else { return Ok(Step::default()) };
        let blocks = self.with_store(|store| next_to_purge(store, &inner.keys, name, &lanes, through))?;
        let Some(blocks) = blocks else { return Ok(Step::default()) };
        match index {
            Some(index) => retention::remove(&inner, index, &blocks, retention::Rule::Purge),
            None => retention::remove_unconfigured(&inner, name, &blocks, "purge"),
        }
        self.save_cursors()?;
        Ok(Step { epoch: Some(blocks.epoch), records: blocks.records, ..Step::default() })
    }
}

fn stored(error: StoreError) -> AdminError {
    AdminError::Store(error_text(&error))
}

/// The index of a stream, `None` where it is not configured any more, and its lanes.
fn lanes_of(inner: &Inner, name: &Name) -> Option<(Option<usize>, Lanes)> {
    let shared = inner.lock();
    let configured = shared.streams.iter().position(|stream| stream.name == *name);
    if let Some(index) = configured {
        return Some((Some(index), shared.streams[index].lanes.clone()));
    }
    let known = shared.unconfigured.iter().find(|control| control.stream == *name)?;
    Some((None, known.lanes.clone()))
}

/// The next blocks of a stream that a purge removes: those of one epoch; of the last block the records through
/// `through`, or none of them where it cannot be opened to count them.
pub(super) fn next_to_purge(
    store: &mut dyn BlockStore,
    keys: &Keyring,
    stream: &str,
    lanes: &Lanes,
    through: Position,
) -> Result<Option<OldestBlocks>, StoreError> {
    if through < lanes.cursor() {
        return Ok(None);
    }
    let all = store.oldest_of(stream, lanes, u64::MAX)?;
    if all.as_ref().is_none_or(|blocks| blocks.last <= through) {
        return Ok(all);
    }
    let Some(mut oldest) = store.oldest_of(stream, lanes, 1)?.filter(|blocks| blocks.first <= through) else {
        return Ok(None);
    };
    if oldest.last <= through {
        return Ok(Some(oldest));
    }
    let Some(records) = store.read(stream, oldest.first)?.and_then(|block| block::open(&block, keys).ok()) else {
        return Ok(None);
    };
    let is_open = |position: Position| position <= through && !lanes.is_done(position);
    let wanted = records.iter().filter(|record| is_open(record.position));
    let Some(last) = wanted.clone().map(|record| record.position).max() else { return Ok(None) };
    let skipped = wanted.clone().map(|record| record.skipped).sum();
    (oldest.last, oldest.records, oldest.skipped) = (last, wanted.count() as u64, skipped);
    Ok(Some(oldest))
}
