//! A queue that no agent holds, opened to be changed: its lock is taken, its identity and its run stay as they are, and
//! nothing can be pushed. The same tasks as on an open queue ([`super::admin`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::admin::{Step, Task, next_to_purge};
use super::cipher::Keyring;
use super::dead_letter::DeadLetter;
use super::dead_letter::letters;
use super::epoch::EpochStore;
use super::error::OpenError;
use super::lane::Lanes;
use super::lock::Lock;
use super::state::{State, StateStore, StreamState};
use super::store::{BlockStore, Change, OldestBlocks};
use super::{disk, key_check};
use crate::metrics::Metrics;
use crate::reading::Position;

/// A closed queue under its lock, until it is dropped.
pub struct ClosedQueue {
    dir: PathBuf,
    keys: Arc<Keyring>,
    store: EpochStore,
    state_store: StateStore,
    state: Option<State>,
    dead_letter: DeadLetter,
    metrics: Arc<Metrics>,
    _lock: Lock,
}

/// What opening alone has brought back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salvaged {
    /// Blocks written anew, of epochs that were not closed in order.
    pub blocks: u64,
    /// Durable state is there and whole.
    pub state: bool,
}

impl ClosedQueue {
    /// Locks the queue below `dir`, which must be one ([`super::inspect::Inspection::open`]), and opens its epochs,
    /// those rescued that were not closed in order. With a current key in `keys` what is written is encrypted with it.
    ///
    /// # Errors
    /// When an agent holds it, the key is not its key, or it cannot be read or written.
    pub fn open(dir: &Path, keys: Arc<Keyring>) -> Result<Self, OpenError> {
        let lock = Lock::take(dir)?;
        let (state_store, state) = StateStore::as_found(dir)?;
        let quota_bytes = state.as_ref().map_or(0, |state| state.quota_bytes).max(disk::QUOTA_BYTES_MIN);
        let metrics = Metrics::new().0;
        let store = EpochStore::open(dir, quota_bytes, Arc::clone(&metrics), Some(lock.clone()))?;
        let store = store.with_keys(Arc::clone(&keys));
        let dead_letter = DeadLetter::new(letters::path_in(dir), Arc::clone(&keys));
        Ok(Self { dir: dir.to_owned(), keys, store, state_store, state, dead_letter, metrics, _lock: lock })
    }

    /// What opening has brought back.
    pub fn salvaged(&self) -> Salvaged {
        Salvaged { blocks: self.metrics.queue_blocks_salvaged.get(), state: self.state.is_some() }
    }

    /// Makes the current key the one that the next start of an agent must have. Before [`Task::Rekey`].
    ///
    /// # Errors
    /// When the key before is not at hand, or the record cannot be written.
    pub fn begin_rekey(&self) -> Result<(), OpenError> {
        key_check::settle(&self.dir, &self.keys)
    }

    /// Does one step.
    ///
    /// # Errors
    /// When the file system or the store fails; nothing is lost by that.
    pub fn administer(&mut self, task: Task) -> anyhow::Result<Step> {
        match task {
            Task::Purge { stream, through } => self.purge(&stream, through),
            Task::Scrub { stream, after } => {
                let lanes = self.state.iter().flat_map(State::lanes).find(|(name, _)| *name == stream);
                let below = lanes.map(|(_, lanes)| lanes.cursor()).unwrap_or_default();
                self.change(&Change::Remove { stream, below }, after)
            }
            Task::Rekey { after } => self.change(&Change::Rekey, after),
            Task::Check { after } => self.change(&Change::Check, after),
            Task::RekeyDeadLetters => {
                let (blocks, held) = self.dead_letter.rekey()?;
                Ok(Step { blocks, held, ..Step::default() })
            }
            Task::ForgetDeadLetters(gone) => {
                self.dead_letter.forget(&gone)?;
                Ok(Step::default())
            }
        }
    }

    /// Leaves everything as a quick start wants it.
    ///
    /// # Errors
    /// When it cannot be synced; nothing durable is lost by that.
    pub fn close(mut self) -> anyhow::Result<()> {
        Ok(EpochStore::close(&mut self.store)?)
    }

    fn change(&mut self, change: &Change, after: Option<u64>) -> anyhow::Result<Step> {
        Ok(self.store.change(change, after)?.unwrap_or_default())
    }

    fn purge(&mut self, name: &str, through: Position) -> anyhow::Result<Step> {
        let state = self.state.as_mut().ok_or_else(|| {
            anyhow::anyhow!(
                "no durable state is whole, so what was delivered is not known: start the agent once, then purge"
            )
        })?;
        let at = state.streams.iter().position(|stream| *stream.name == *name).unwrap_or_else(|| {
            // Of a stream that the state does not name nothing was delivered.
            let lanes = Lanes::from_cursor(Position::ZERO);
            state.streams.push(StreamState {
                name: name.into(),
                lanes: packed(&lanes),
                skipped: Vec::new(),
                in_doubt: None,
            });
            state.streams.len() - 1
        });
        let mut lanes = state.streams[at].lanes();
        let blocks = next_to_purge(&mut self.store, &self.keys, name, &lanes, through)?;
        let Some(blocks) = blocks else { return Ok(Step::default()) };
        lanes.remove_through(blocks.last);
        mark(&mut state.streams[at], &lanes, &blocks);
        // Durable before anything goes.
        self.state_store.save(state)?;
        self.store.remove_done(&state.lanes())?;
        Ok(Step { epoch: Some(blocks.epoch), records: blocks.records, ..Step::default() })
    }
}

fn packed(lanes: &Lanes) -> Vec<(u64, u64)> {
    lanes.pairs().iter().map(|(next, end)| (next.packed(), end.packed())).collect()
}

/// The first record that stays says how many are gone: marks before it have lost their bearer and are added up.
fn mark(stream: &mut StreamState, lanes: &Lanes, removed: &OldestBlocks) {
    let at = removed.last.next().packed();
    // What the removed ones told of is told on.
    let mut records = removed.records.saturating_add(removed.skipped);
    stream.skipped.retain(|(earlier, count)| {
        let orphan = *earlier <= at;
        records += if orphan { *count } else { 0 };
        !orphan
    });
    stream.skipped.insert(0, (at, records));
    stream.lanes = packed(lanes);
}
