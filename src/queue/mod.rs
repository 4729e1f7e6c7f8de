//! The store-and-forward queue: records go in, are read without being removed, and leave when they are acknowledged.
//!
//! `push` enters a stream's tail in memory under a short lock. One store thread seals what is not acknowledged within
//! half the durability window into blocks on disk; what Kafka acknowledges in time is never written. Reading gives blocks
//! first, then the tail. Plain and synchronous, so that tests drive it without a runtime.
//!
//! # Invariants
//!
//! 1. A position is never given twice (`run` counts the lives of the queue; model test).
//! 2. What was reported safe is on disk, acknowledged, or marked as removed, after any crash (model test).
//! 3. Positions are read in ascending order, those done are not read (model test).
//! 4. `push` does no I/O, and a stalled store costs the oldest unsealed records, counted (`a_stalled_store_...`).
//! 5. A healthy uplink writes nothing (`what_is_acknowledged_in_time_is_never_written`).
//! 6. What a rule removes is counted and marked once, lowest priority first; a stream that rejects loses nothing
//!    (`every_rule_accounts_for_everything`, `at_the_quota_the_lower_priority_goes_...`).
//! 7. Memory is bounded: the tail by its budget, reads and set-aside records by their counts, one decoded block a stream.

pub mod admin;
pub mod block;
mod boots;
pub mod cipher;
pub mod closed;
mod dead_letter;
mod disk;
mod dropped;
mod engine;
pub mod epoch;
pub mod error;
pub mod filling;
mod flush;
pub mod inspect;
mod key_check;
pub mod lane;
mod lives;
mod lock;
mod newest_first;
mod open;
mod outage;
mod peek;
pub mod recovery;
mod retention;
pub mod scan;
mod seal;
pub mod state;
mod status;
pub mod store;
mod store_thread;
mod summary;
mod tail;
mod thin;
mod transaction;
mod types;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::boots::{BootTimes, Boots};
pub use self::dead_letter::{LetterChoice, Requeued, SetAsideError, letters};
pub(crate) use self::disk::write_atomically;
pub use self::dropped::Dropped;
pub use self::engine::QueueClock;
use self::engine::{Inner, Phase, SET_ASIDE_MAX};
pub use self::error::OpenError;
pub use self::lives::Lives;
pub use self::newest_first::Newest;
pub use self::store_thread::{Backend, OpenStore, OpenedStore, SaveControl};
pub use self::tail::StreamControl;
use self::tail::StreamState;
pub use self::types::{
    Batch, Limit, NewRecord, PeekError, PushError, Pushed, QueueStatus, Settings, StreamIndex, StreamStatus,
};
use crate::metrics::Metrics;
use crate::reading::{FIELDS_MAX, Lineage, Name, Position, Record};

/// How long [`Queue::close`] waits for the last seal.
const CLOSE_MAX: Duration = Duration::from_secs(8);
/// How long a caller waits for the store thread: longer than the watchdog allows a call.
const STORE_WAIT_MAX: Duration = Duration::from_secs(40);

/// Where a queue takes up its life: what the control state said, after the run was counted up durably.
pub struct Start {
    /// Identity of new records.
    pub lineage: Lineage,
    /// This life.
    pub run: u32,
    /// Which boots of the machine began when: index, and microseconds since 1970 UTC.
    pub boots: Vec<(u32, i64)>,
    /// What is known of streams; those not named start empty.
    pub streams: Vec<StreamControl>,
    /// The block store and the control state.
    pub backend: Backend,
    /// Nanoseconds since boot.
    pub clock: QueueClock,
}

/// The queue: cheap to clone, plain and synchronous.
///
/// When the last clone is dropped without [`Queue::close`], the store thread ends without writing, as in a crash.
#[derive(Clone)]
pub struct Queue {
    handle: Arc<Handle>,
}

/// Ends the store thread with the last clone.
struct Handle {
    inner: Arc<Inner>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut shared = self.inner.lock();
        if shared.phase == Phase::Running {
            shared.phase = Phase::Abandoned;
        }
        drop(shared);
        self.inner.store_wake.notify_all();
    }
}

impl Queue {
    /// Opens the queue below the state directory: takes the lock, reads the state, counts the run up durably. Records
    /// are taken from then on, while the store thread sweeps and recovers the blocks.
    ///
    /// # Errors
    /// When another agent holds the directory, it cannot be read or written, or its format is another version's.
    pub fn open(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        open::open(settings, metrics)
    }

    /// Starts the queue on a block store and control state; [`Queue::open`] does it on disk. Pushes are taken at once,
    /// the store is opened by its own thread.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(settings: Settings, metrics: Arc<Metrics>, start: Start) -> Result<Self, OpenError> {
        let streams = settings.streams.iter().map(|stream| {
            let known = start.streams.iter().find(|control| control.stream == stream.name).cloned();
            let control = known.unwrap_or_else(|| StreamControl {
                stream: Arc::clone(&stream.name),
                lanes: lane::Lanes::from_cursor(Position::ZERO),
                skipped: Vec::new(),
                in_doubt: None,
            });
            StreamState::new(control, stream, start.run)
        });
        let streams: Vec<StreamState> = streams.collect();
        let is_configured = |name: &Name| settings.streams.iter().any(|stream| stream.name == *name);
        let unconfigured = start.streams.iter().filter(|known| !is_configured(&known.stream)).cloned().collect();
        let dir = settings.dir.clone();
        let dead_letter = dead_letter::letters::path_in(&settings.dir);
        let boot_times = BootTimes::new(Boots::new(&start.lineage, start.boots));
        let lineage = Arc::new(start.lineage);
        let inner = Arc::new(Inner::new(settings, metrics, start.clock, lineage, start.run, streams, boot_times));
        inner.lock().unconfigured = unconfigured;
        let dead_letter = dead_letter::DeadLetter::new(dead_letter, Arc::clone(&inner.keys));
        store_thread::start(Arc::clone(&inner), start.backend, dead_letter).map_err(|source| OpenError::Io {
            what: "start of the store thread",
            path: dir,
            source,
        })?;
        Ok(Self { handle: Arc::new(Handle { inner }) })
    }

    fn inner(&self) -> &Inner {
        &self.handle.inner
    }

    /// Takes a record into the tail. No I/O, a short lock.
    ///
    /// When the tail is full (the store is stalled or the disk is full), the oldest unsealed records make room, counted;
    /// those of a stream whose rule is `reject-newest` stay, and it refuses.
    ///
    /// # Errors
    /// When the queue is closed, nothing in the tail can make room, or the stream refuses what does not fit its size.
    pub fn push(&self, stream: StreamIndex, record: NewRecord) -> Result<Pushed, PushError> {
        let inner = self.inner();
        let record = Record {
            position: Position::ZERO,
            skipped: 0,
            thinned: 0,
            stamp: record.stamp,
            source: record.source,
            device: record.device,
            fields: record.fields,
        };
        let bytes = block::record_bytes(&record);
        let limit = inner.settings.queue.tail_bytes_max;
        let now_ns = inner.now_ns();
        let mut shared = inner.lock();
        if shared.phase != Phase::Running {
            return Err(PushError::Closed);
        }
        let streams = shared.streams.len();
        if stream.0 >= streams {
            return Err(PushError::NoSuchStream { stream: stream.0, streams });
        }
        // A block with more fields in a record would not be read.
        if bytes > block::RECORD_BYTES_MAX || record.fields.len() > FIELDS_MAX {
            let waiting = shared.set_aside.len();
            if waiting >= SET_ASIDE_MAX {
                return Err(PushError::SetAsideFull { waiting, limit: SET_ASIDE_MAX });
            }
            shared.set_aside.push_back((stream.0, record));
            inner.store_wake.notify_one();
            return Ok(Pushed::SetAside);
        }
        if let Err(refused) = retention::admit(&mut shared, stream.0, bytes, limit, &inner.counters) {
            inner.store_wake.notify_one();
            return Err(refused);
        }
        let was_empty = shared.tail_bytes == 0;
        shared.tail_bytes += bytes;
        let queue = &mut shared.streams[stream.0];
        let position = queue.push(record, bytes, now_ns);
        let every_record = queue.every_record;
        let crowded = shared.tail_bytes >= inner.policy.now(&shared.outage, now_ns).tail_bytes;
        shared.pushes += 1;
        let pushes = shared.pushes;
        drop(shared);
        inner.counters[stream.0].pushed.inc();
        if was_empty || every_record || crowded {
            inner.store_wake.notify_one();
        }
        inner.pushed.notify_all();
        inner.pushed_watch.send_replace(pushes);
        Ok(Pushed::Queued(position))
    }

    /// Records after `after` (or from the cursor on), ascending, not removed; of one lineage. `None`: there are none. Nothing
    /// is read behind a block that only a newer agent can open; [`Queue::peek_lane`] does.
    ///
    /// While there are blocks on disk this may wait for the store thread, so it is not for async threads.
    ///
    /// # Errors
    /// When the store fails or does not answer, the next block cannot be opened, or the queue is closed.
    pub fn peek(&self, stream: StreamIndex, after: Option<Position>, limit: Limit) -> Result<Option<Batch>, PeekError> {
        peek::peek(self.inner(), stream, peek::Span::after(after), limit)
    }

    /// As [`Queue::peek`] for who cannot wait long: a block that the store thread has not read in `wait_max` is an error.
    ///
    /// # Errors
    /// As [`Queue::peek`].
    pub fn peek_within(
        &self,
        stream: StreamIndex,
        after: Option<Position>,
        limit: Limit,
        wait_max: Duration,
    ) -> Result<Option<Batch>, PeekError> {
        peek::peek(self.inner(), stream, peek::Span { wait_max, ..peek::Span::after(after) }, limit)
    }

    /// Everything from the cursor through `through` is delivered, of whatever lane but those of a newer agent. Idempotent;
    /// positions that were removed or never given move nothing. No I/O.
    pub fn ack(&self, stream: StreamIndex, through: Position) {
        self.retire(stream, |queue| queue.ack_range(Position::ZERO, through));
    }

    /// Puts a record, the next of its lane, into the dead-letter file, as Kafka will never take it, and goes on
    /// behind it: the next record's `skipped` counts it. Blocks until the file is durable, so not for async threads. A
    /// position that is done already changes nothing. After a crash in between the record may be set aside twice.
    ///
    /// # Errors
    /// When the file is full or fails, the record is not the next of its stream, or the store does not answer. The
    /// record stays where it is then.
    pub fn set_aside(&self, stream: StreamIndex, position: Position, error: &str) -> Result<(), SetAsideError> {
        dead_letter::set_aside(self.inner(), stream, position, error)
    }

    /// Changes whenever more of the stream became durable or acknowledged: the highest position at and below which
    /// nothing can be lost any more, although it may be among the [dropped](Queue::dropped). A stream that does not
    /// exist has a channel that never changes.
    pub fn safe_through(&self, stream: StreamIndex) -> watch::Receiver<Option<Position>> {
        let shared = self.inner().lock();
        shared.streams.get(stream.0).map_or_else(|| watch::channel(None).1, |queue| queue.safe.subscribe())
    }

    /// What of the stream was dropped from memory before it was durable; a position that [`Queue::safe_through`] has
    /// passed is found here if it was.
    pub fn dropped(&self, stream: StreamIndex) -> watch::Receiver<Dropped> {
        let shared = self.inner().lock();
        shared.streams.get(stream.0).map_or_else(|| watch::channel(Dropped::default()).1, |q| q.dropped.subscribe())
    }

    /// Changes at each push: a count of pushes.
    pub fn pushed(&self) -> watch::Receiver<u64> {
        self.inner().pushed_watch.subscribe()
    }

    /// Blocks the calling thread until something was pushed since the count `seen`, the queue is closed, or the
    /// timeout. Gives the count now.
    pub fn wait_pushed(&self, seen: u64, timeout: Duration) -> u64 {
        let inner = self.inner();
        let deadline = Instant::now() + timeout;
        let mut shared = inner.lock();
        while shared.pushes == seen && shared.phase == Phase::Running {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            shared = Inner::wait(&inner.pushed, shared, Some(left));
        }
        shared.pushes
    }

    /// The uplink says whether it delivers: blocks sealed all the same are counted apart, and the window of an outage
    /// ends.
    pub fn set_uplink_up(&self, up: bool) {
        let inner = self.inner();
        let now_ns = inner.now_ns();
        inner.lock().outage.set_up(up, now_ns);
        // What waited for the longer window is due.
        inner.store_wake.notify_one();
    }

    /// Whether the store failed for good or hangs: then only a restart of the process helps.
    pub fn store_failed(&self) -> bool {
        self.inner().store_failed()
    }

    /// The queue as it stands; also refreshes its gauges.
    pub fn status(&self) -> QueueStatus {
        status::status(self.inner())
    }

    /// Looks at the clock again: for clocks that do not run by themselves.
    pub fn tick(&self) {
        self.inner().store_wake.notify_one();
    }

    /// Seals and fsyncs what is left, makes the cursors durable, stops the store thread. Blocks, at most 8 s.
    ///
    /// # Errors
    /// When the last seal failed or took too long: then records that were in memory only are lost with the process.
    pub fn close(&self) -> Result<(), PeekError> {
        self.stop(Phase::Closing)
    }

    /// Stops the store thread without writing anything, as a crash would, and waits for it: for tests.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn abandon(&self) -> Result<(), PeekError> {
        self.stop(Phase::Abandoned)
    }

    fn stop(&self, phase: Phase) -> Result<(), PeekError> {
        let inner = self.inner();
        let mut shared = inner.lock();
        if shared.phase == Phase::Running {
            shared.phase = phase;
        }
        inner.store_wake.notify_all();
        inner.pushed.notify_all();
        let deadline = Instant::now() + CLOSE_MAX;
        loop {
            if let Phase::Stopped(outcome) = &shared.phase {
                return outcome.clone().map_or(Ok(()), |reason| Err(PeekError::Store { reason }));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                inner.store_failed.store(true, Ordering::Release);
                return Err(PeekError::Stalled { waited_s: CLOSE_MAX.as_secs() });
            }
            shared = Inner::wait(&inner.progress, shared, Some(left));
        }
    }
}
