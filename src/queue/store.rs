//! The block store: what keeps sealed blocks, behind the one trait of the queue.
//!
//! `EpochStore` is the real one, on sled. The trait is here because the tests and benchmarks run the
//! queue on a plain append-only file as well, as oracle and yardstick.

use std::time::Duration;

use super::block::SealedBlock;
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

impl Held {
    /// How many of the records are at or after the cursor: exact where none is missing between them, else rather more than
    /// there are, and never none while the last one is left.
    pub(super) fn undelivered(&self, cursor: Position) -> u64 {
        if cursor > self.last {
            0
        } else if cursor.run() == self.last.run() {
            self.records.min(self.last.seq() - cursor.seq() + 1)
        } else if cursor.run() == self.first.run() {
            self.records.saturating_sub(cursor.seq().saturating_sub(self.first.seq())).max(1).min(self.records)
        } else {
            self.records
        }
    }
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

    /// Deletes every epoch all of whose blocks lie wholly below their stream's cursor (`next` of its first lane).
    /// The caller has made those cursors durable before.
    ///
    /// # Errors
    /// When the file system fails; what could not be deleted is tried again next time.
    fn remove_done(&mut self, cursors: &[(Name, Position)]) -> Result<(), StoreError>;

    /// The oldest blocks of `stream` at or after `cursor`, of one epoch: so many that they have `bytes` bytes, at least
    /// one. `None`: there are none.
    ///
    /// # Errors
    /// When the epoch cannot be read to count its records.
    fn oldest_of(&mut self, stream: &str, cursor: Position, bytes: u64) -> Result<Option<OldestBlocks>, StoreError>;

    /// Gives back disk that blocks wholly below their stream's cursor take between others: rewrites the epoch that has
    /// most of them, where they are at least `percent` of it. The caller has made the cursors durable before. Says
    /// whether disk was gained.
    ///
    /// # Errors
    /// When the engine or the file system fails; the epoch is then as it was.
    fn reclaim(&mut self, cursors: &[(Name, Position)], percent: u64) -> Result<bool, StoreError>;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_on_disk_is_never_told_as_nothing() {
        let held = |first, last, records| Held {
            stream: "telemetry".into(),
            first,
            last,
            records,
            bytes: 0,
            oldest: (0, std::time::Duration::ZERO),
        };
        let at = Position::new;
        let whole = held(at(1, 0), at(1, 99), 100);
        assert_eq!(whole.undelivered(at(1, 40)), 60);
        assert_eq!((whole.undelivered(at(1, 100)), whole.undelivered(at(0, 5))), (0, 100));
        // Most of it was delivered from memory and never written.
        let sparse = held(at(1, 0), at(1, 999), 40);
        assert_eq!(sparse.undelivered(at(1, 984)), 16);
        assert_eq!(held(at(1, 0), at(2, 9), 40).undelivered(at(1, 984)), 1, "those of the next run are left");
    }
}
