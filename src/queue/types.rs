//! What goes into the queue and comes out of it: settings, records, batches, states, errors.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::reading::{Field, Lineage, Name, Position, Record, Stamp};

/// What the queue needs to know, from `[queue]`, `[[stream]]` and `[gateway]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The state directory; everything of the queue is below `<dir>/queue`.
    pub dir: PathBuf,
    /// The gateway id that new records bear.
    pub gateway: Name,
    /// `[queue]`
    pub queue: crate::config::Queue,
    /// `[[stream]]`; the order gives [`StreamIndex`].
    pub streams: Vec<crate::config::Stream>,
}

/// A record on its way in.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// When.
    pub stamp: Stamp,
    /// Which source.
    pub source: Name,
    /// About what.
    pub device: Name,
    /// Named values.
    pub fields: Vec<Field>,
}

/// Index of a stream in [`Settings::streams`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamIndex(pub usize);

/// What became of a pushed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the tail.
    Queued(Position),
    /// Larger than `record_bytes_max`, or of too many fields: counted and set aside.
    SetAside,
}

/// Why a record was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The tail budget is used up (the store is stalled or the disk is full).
    #[error("tail is full: {used} bytes, limit is {limit}")]
    TailFull {
        /// Bytes in the tail.
        used: usize,
        /// The limit.
        limit: usize,
    },
    /// The stream's own size is used up, and its rule is to refuse new records.
    #[error("stream {stream:?} is full: {used_bytes} bytes, retention.size is {limit_bytes}")]
    StreamFull {
        /// Its name.
        stream: Name,
        /// Bytes of it on disk and in memory.
        used_bytes: u64,
        /// Its size.
        limit_bytes: u64,
    },
    /// Too many records that no block can hold wait for the dead-letter file.
    #[error("{waiting} oversized records wait to be set aside, limit is {limit}")]
    SetAsideFull {
        /// Records waiting.
        waiting: usize,
        /// The limit.
        limit: usize,
    },
    /// There is no such stream.
    #[error("stream number {stream} does not exist, there are {streams}")]
    NoSuchStream {
        /// The index given.
        stream: usize,
        /// How many there are.
        streams: usize,
    },
    /// The queue is shut down.
    #[error("queue is closed")]
    Closed,
}

/// Records of one lineage, ascending.
#[derive(Debug, Clone)]
pub struct Batch {
    /// What they have in common.
    pub lineage: Arc<Lineage>,
    /// The records; shared with the queue, which keeps them for the next reads.
    pub records: Vec<Arc<Record>>,
}

/// How much to peek.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Most records.
    pub records: usize,
    /// Most bytes (of encoded records), at least one record is given.
    pub bytes: usize,
}

/// A stream as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamStatus {
    /// Its name.
    pub name: Name,
    /// Records not acknowledged.
    pub records: u64,
    /// Bytes.
    pub bytes: u64,
    /// Age of the oldest.
    pub oldest_age: Option<Duration>,
    /// Highest durable position.
    pub durable: Option<Position>,
    /// Highest contiguously acknowledged position.
    pub acknowledged: Option<Position>,
    /// In how many parts what waits is delivered: more than one where the newest went first, or where records wait for a
    /// newer agent.
    pub lanes: usize,
    /// Of the records, those in blocks of a newer version that have been met: they wait for a newer agent.
    pub newer_records: u64,
}

/// The queue as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueStatus {
    /// The queue's uuid.
    pub queue: uuid::Uuid,
    /// The run.
    pub run: u32,
    /// Whether the blocks of earlier runs have been looked through. Until then they are not in `streams`.
    pub recovered: bool,
    /// Streams in configured order.
    pub streams: Vec<StreamStatus>,
    /// Disk used.
    pub disk_bytes: u64,
    /// Quota.
    pub quota_bytes: u64,
    /// The durability window that holds for what is in memory: that of every day, or that of an outage.
    pub window: Duration,
    /// Largest age a record reached in memory before it was durable or acknowledged.
    pub undurable_age_max: Duration,
    /// Present age of the oldest record that is neither.
    pub undurable_age: Duration,
}

/// How often it is looked whether a block can be opened by now.
const BLOCK_LOOK: Duration = Duration::from_secs(5);
/// How often it is looked whether the clock is set by now.
const CLOCK_LOOK: Duration = Duration::from_secs(1);

/// Errors of reading, flushing and closing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeekError {
    /// The block store could not do it; what is in memory stays there.
    #[error("block store: {reason}")]
    Store {
        /// Why.
        reason: String,
    },
    /// The next block is encrypted with a key that is not configured.
    #[error("records {first} to {last} are encrypted with key {key}: add it to queue.old-keys")]
    KeyMissing {
        /// The id of the key.
        key: String,
        /// First position of the block.
        first: Position,
        /// Last position of the block.
        last: Position,
    },
    /// The next block is of a version that only a newer agent can open, and nothing may be read before it is delivered.
    #[error("records {first} to {last} are of version {version} and wait for a newer forebay: {why}")]
    NewerVersion {
        /// The version.
        version: u16,
        /// First position of the block.
        first: Position,
        /// Last position of the block.
        last: Position,
        /// Why they cannot be read over.
        why: &'static str,
    },
    /// The clock of this boot is not set yet, and the next records would get a better time once it is.
    #[error("records wait for the clock to be set, at most until {hold_s} s after boot (clock.hold)")]
    ClockUnset {
        /// How long after boot they wait at most.
        hold_s: u64,
    },
    /// The store thread did not answer.
    #[error("block store did not answer within {waited_s} s")]
    Stalled {
        /// How long was waited.
        waited_s: u64,
    },
    /// Too many reads wait already.
    #[error("{waiting} reads wait for the block store, limit is {limit}")]
    Busy {
        /// Reads waiting.
        waiting: usize,
        /// The limit.
        limit: usize,
    },
    /// There is no such stream.
    #[error("stream number {stream} does not exist, there are {streams}")]
    NoSuchStream {
        /// The index given.
        stream: usize,
        /// How many there are.
        streams: usize,
    },
    /// The queue is shut down.
    #[error("queue is closed")]
    Closed,
}

impl PeekError {
    /// Where the next records wait for something and others need not: how long until it is worth another look.
    pub fn look_again_after(&self) -> Option<Duration> {
        match self {
            Self::KeyMissing { .. } | Self::NewerVersion { .. } => Some(BLOCK_LOOK),
            Self::ClockUnset { .. } => Some(CLOCK_LOOK),
            _ => None,
        }
    }
}
