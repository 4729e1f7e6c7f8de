//! The store-and-forward queue on sled. (interface fixed; see below)
use crate::metrics::Metrics;
use crate::reading::{Field, Lineage, Name, Position, Record, Stamp};
use std::path::PathBuf;
pub mod block;
mod disk;
pub mod epoch;
pub mod error;
mod lock;
pub mod recovery;
pub mod scan;
pub mod state;
pub mod store;
mod summary;

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

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
    /// Larger than `record_bytes_max`: counted and set aside.
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
    /// The queue is shut down.
    #[error("queue is closed")]
    Closed,
}

/// Records of one lineage, ascending.
#[derive(Debug, Clone)]
pub struct Batch {
    /// What they have in common.
    pub lineage: Arc<Lineage>,
    /// The records.
    pub records: Vec<Record>,
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
}

/// The queue as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueStatus {
    /// The queue's uuid.
    pub queue: uuid::Uuid,
    /// The run.
    pub run: u32,
    /// Streams in configured order.
    pub streams: Vec<StreamStatus>,
    /// Disk used.
    pub disk_bytes: u64,
    /// Quota.
    pub quota_bytes: u64,
    /// Largest age a record reached in memory before it was durable or acknowledged.
    pub undurable_age_max: Duration,
    /// Present age of the oldest record that is neither.
    pub undurable_age: Duration,
}

/// Errors of opening a queue.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// placeholder
    #[error("{0}")]
    Other(String),
}

/// Errors of reading.
#[derive(Debug, thiserror::Error)]
pub enum PeekError {
    /// placeholder
    #[error("{0}")]
    Other(String),
}

/// The queue: cheap to clone, plain and synchronous.
#[derive(Clone)]
pub struct Queue {}

#[allow(unused_variables, clippy::missing_errors_doc, missing_docs)]
impl Queue {
    pub fn open(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        todo!()
    }
    /// No I/O, short lock.
    pub fn push(&self, stream: StreamIndex, record: NewRecord) -> Result<Pushed, PushError> {
        todo!()
    }
    /// Records after `after` (or from the cursor), not removed. May wait for the store thread; not for async threads.
    pub fn peek(&self, stream: StreamIndex, after: Option<Position>, limit: Limit) -> Result<Option<Batch>, PeekError> {
        todo!()
    }
    /// Everything of the lane from its present start through `through` is delivered. Idempotent. No I/O.
    pub fn ack(&self, stream: StreamIndex, through: Position) {
        todo!()
    }
    /// Seals and fsyncs now; blocks; what is durable after.
    pub fn flush(&self) -> Result<(), PeekError> {
        todo!()
    }
    /// Changes whenever more of the stream became durable or acknowledged: the highest position below which nothing can be lost.
    pub fn safe_through(&self, stream: StreamIndex) -> watch::Receiver<Option<Position>> {
        todo!()
    }
    /// Asks for an early group commit (MQTT sources whose acknowledgements are withheld).
    pub fn request_flush(&self) {
        todo!()
    }
    /// Changes at each push, to wake the uplink: a count of pushes.
    pub fn pushed(&self) -> watch::Receiver<u64> {
        todo!()
    }
    /// Blocks the calling thread until something was pushed since `seen`, or the timeout.
    pub fn wait_pushed(&self, seen: u64, timeout: Duration) -> u64 {
        todo!()
    }
    /// The uplink says whether it delivers (for `sealed while up`).
    pub fn set_uplink_up(&self, up: bool) {
        todo!()
    }
    pub fn status(&self) -> QueueStatus {
        todo!()
    }
    /// Seals and fsyncs what is left, writes the cursor, stops the store thread. Blocks.
    pub fn close(&self) -> Result<(), PeekError> {
        todo!()
    }
}
