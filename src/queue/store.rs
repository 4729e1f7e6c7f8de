//! The block store: what keeps sealed blocks, behind the one trait of the queue.
//!
//! `EpochStore` is the real one, on sled. The trait is here because the tests and benchmarks run the
//! queue on a plain append-only file as well, as oracle and yardstick.

use std::time::Duration;

use super::admin::Step;
use super::block::{Header, SealedBlock};
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

/// What an operator wants done to every epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Every block under the current key, or in clear where there is none.
    Rekey,
    /// Compare with the raw bytes, and rescue what is whole.
    Check,
    /// Leave out the blocks of a stream that lie wholly below a position; the caller has made durable that they are
    /// done.
    Remove {
        /// The stream.
        stream: Name,
        /// The first position that stays.
        below: Position,
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
    /// Records that are gone already, as these tell.
    pub skipped: u64,
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
    /// How long each boot ran at least.
    pub ran: Ran,
}

/// How long boots ran at least: by their index, the boot time at the beginning of the last block of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ran(Vec<(u32, Duration)>);

impl Ran {
    /// One boot.
    pub fn of(boot_index: u32, ran: Duration) -> Self {
        Self(vec![(boot_index, ran)])
    }

    /// Adds what else is known.
    pub fn add(&mut self, more: &Self) {
        for (boot_index, ran) in &more.0 {
            match self.0.iter_mut().find(|(known, _)| known == boot_index) {
                Some((_, known)) => *known = (*known).max(*ran),
                None => self.0.push((*boot_index, *ran)),
            }
        }
    }

    /// Of this boot; nothing where it is not known.
    pub fn least(&self, boot_index: u32) -> Duration {
        self.0.iter().find(|(known, _)| *known == boot_index).map_or(Duration::ZERO, |(_, ran)| *ran)
    }
}

impl Held {
    /// One block of so many bytes.
    pub fn of(header: &Header, bytes: u64) -> Self {
        let oldest = (header.lineage.boot_index, Duration::from_nanos(header.boot_ns.0));
        Self {
            stream: header.stream.clone(),
            first: header.first,
            last: header.last,
            records: u64::from(header.count),
            bytes,
            oldest,
            ran: Ran::of(oldest.0, oldest.1),
        }
    }

    /// Adds more of the same stream.
    pub fn add(&mut self, more: &Self) {
        self.records += more.records;
        self.bytes += more.bytes;
        self.first = self.first.min(more.first);
        self.last = self.last.max(more.last);
        self.oldest = self.oldest.min(more.oldest);
        self.ran.add(&more.ran);
    }
}

/// What one epoch holds of a stream, as the planning of a rewrite needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEpoch {
    /// Number of the epoch.
    pub number: u64,
    /// First position of the stream in it.
    pub first: Position,
    /// Last position of the stream in it.
    pub last: Position,
    /// Records of the stream.
    pub records: u64,
    /// Boot index and boot time of its oldest record.
    pub oldest: (u32, Duration),
    /// Boot index and boot time of the oldest record of its newest block.
    pub newest: (u32, Duration),
    /// Boot time from block to block, where both are of one boot, added up.
    pub covered: Duration,
    /// The last pass of thinning that the stream has seen here; 0: none.
    pub pass: u32,
    /// Bytes of all blocks of the epoch, of whatever stream.
    pub epoch_bytes: u64,
    /// Blocks of the epoch, of whatever stream.
    pub epoch_blocks: u32,
    /// It is not being written, and all that is in it can be read.
    pub rewritable: bool,
}

/// The epochs that hold something of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamEpochs {
    /// In the order of their numbers.
    pub epochs: Vec<StreamEpoch>,
    /// Most bytes of blocks that are put into one epoch.
    pub bytes_max: u64,
}

/// What takes the place of a stream's blocks in some epochs.
#[derive(Debug, Clone)]
pub struct Replacement {
    /// The stream.
    pub stream: Name,
    /// Numbers of the epochs; none that holds the stream is left out between two of them.
    pub epochs: Vec<u64>,
    /// The pass of thinning that the blocks have seen now.
    pub pass: u32,
    /// Records that the stream's blocks in the epochs had when they were read.
    pub records_before: u64,
    /// The blocks, to the last position that was there before.
    pub blocks: Vec<SealedBlock>,
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

    /// What each epoch holds of `stream`; nothing where the store cannot rewrite.
    fn epochs_of(&self, stream: &str) -> StreamEpochs {
        let _ = stream;
        StreamEpochs::default()
    }

    /// The blocks of `stream` in these epochs, ordered by their first positions, but for those wholly done.
    ///
    /// # Errors
    /// When the epochs cannot be read, or hold what may not be rewritten.
    fn blocks_of(
        &mut self,
        stream: &str,
        epochs: &[u64],
        lanes: &[(Name, Lanes)],
    ) -> Result<Vec<SealedBlock>, StoreError> {
        let _ = (stream, epochs, lanes);
        Ok(Vec::new())
    }

    /// Puts other blocks in the place of a stream's blocks in some epochs, and the epochs into the one with the lowest
    /// number; the other streams' blocks stay as they are, but for those wholly done by their stream's lanes. All of that
    /// or nothing, also after a crash. Says whether it was done: where too little would be gained, only the pass is kept
    /// in mind.
    ///
    /// # Errors
    /// When the stream's blocks are not what they were, the engine or the file system fails; the epochs are then as they
    /// were.
    fn replace(&mut self, replacement: Replacement, lanes: &[(Name, Lanes)]) -> Result<bool, StoreError> {
        let _ = (replacement, lanes);
        Ok(false)
    }

    /// Changes the first epoch after `after`; `None`: there is none.
    ///
    /// # Errors
    /// When the engine or the file system fails; the epoch is then as it was.
    fn change(&mut self, _change: &Change, _after: Option<u64>) -> Result<Option<Step>, StoreError> {
        Ok(None)
    }

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
