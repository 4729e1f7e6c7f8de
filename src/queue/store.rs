//! The block store: what keeps sealed blocks, behind the one trait of the queue.
//!
//! `EpochStore` is the real one, on sled. The trait is here because the tests and benchmarks run the
//! queue on a plain append-only file as well, as oracle and yardstick.

use std::time::Duration;

use super::block::SealedBlock;
use super::lane::Lanes;
use crate::reading::{Name, Position};

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full, or the quota would be passed.
    #[error("no room for {needed_bytes} bytes in {path}: {free_bytes} bytes are left")]
    Full {
        /// What the append needs.
        needed_bytes: u64,
        /// What is left by quota and reserve.
        free_bytes: u64,
        /// The queue's directory.
        path: String,
        /// Others have filled the file system, the reserve included: to drop blocks would hardly make room.
        outside: bool,
    },
    /// The engine or the file system failed; what was not reported durable is still the caller's.
    #[error("{what} failed in {path}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: anyhow::Error,
    },
}

/// The oldest blocks of a stream, all of one epoch: what a retention rule removes in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldestBlocks {
    /// Number of the epoch that holds them; older epochs have smaller ones.
    pub epoch: u64,
    /// First position that is not done.
    pub first: Position,
    /// Last position of the last of them.
    pub last: Position,
    /// Records that are not done.
    pub records: u64,
    /// Bytes of the blocks.
    pub bytes: u64,
}

/// What the store holds of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The stream.
    pub stream: Name,
    /// First position of the oldest block.
    pub first: Position,
    /// Last position of the newest block.
    pub last: Position,
    /// Records in all its blocks, done ones included.
    pub records: u64,
    /// Bytes of all its blocks.
    pub bytes: u64,
    /// Boot index and boot time of the oldest record.
    pub oldest: (u32, Duration),
}

/// Keeps sealed blocks of all streams. Driven by one thread.
pub trait BlockStore: Send {
    /// Appends blocks and makes them durable, all in one group: when this returns, a power cut does not take them.
    ///
    /// # Errors
    /// On any error nothing of the group counts as durable (parts may be on disk all the same; a block that appears
    /// twice is harmless). [`StoreError::Full`] when quota or reserve do not allow it.
    fn append(&mut self, blocks: &[SealedBlock]) -> Result<(), StoreError>;

    /// The first block of `stream` that holds positions at or after `at`; never removes.
    ///
    /// # Errors
    /// When the engine fails. A damaged block is skipped and counted, not an error.
    fn read(&mut self, stream: &str, at: Position) -> Result<Option<SealedBlock>, StoreError>;

    /// Deletes every epoch all of whose blocks are wholly done by their stream's lanes. The caller has made those lanes
    /// durable before.
    ///
    /// # Errors
    /// When the file system fails; what could not be deleted is tried again next time.
    fn remove_done(&mut self, lanes: &[(Name, Lanes)]) -> Result<(), StoreError>;

    /// The oldest blocks of `stream` that are not wholly done, of one epoch: so many that they have `bytes` bytes, at
    /// least one. `None`: there are none.
    ///
    /// # Errors
    /// When the epoch cannot be read to count its records.
    fn oldest_of(&mut self, stream: &str, lanes: &Lanes, bytes: u64) -> Result<Option<OldestBlocks>, StoreError>;

    /// Gives back disk that blocks wholly done take between others: rewrites the epoch that has most of them, where
    /// they are at least `percent` of it. The caller has made the lanes durable before. Says whether disk was gained.
    ///
    /// # Errors
    /// When the engine or the file system fails; the epoch is then as it was.
    fn reclaim(&mut self, lanes: &[(Name, Lanes)], percent: u64) -> Result<bool, StoreError>;

    /// What is held, per stream.
    fn held(&self) -> Vec<Held>;

    /// Bytes of disk in use, as the file system counts them.
    fn disk_bytes(&self) -> u64;

    /// Leaves everything as a quick start wants it. Nothing durable depends on it.
    ///
    /// # Errors
    /// When the file system fails.
    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
