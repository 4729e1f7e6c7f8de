//! What the callers' threads and the store thread share, and the work that is done under its lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;

use super::admin::AdminRequest;
use super::block::SealedBlock;
use super::boots::BootTimes;
use super::cipher::Keyring;
use super::outage::Outage;
use super::seal::Policy;
use super::tail::{StreamControl, StreamState};
use super::{PeekError, SetAsideError, Settings};
use crate::config::WhenFull;
use crate::metrics::{ByStream, ByStreamAndReason, Metrics};
use crate::reading::{Lineage, Name, Position, Record};

/// A store call that takes longer makes the store count as failed: sled may hang after an I/O error.
pub(super) const STORE_CALL_MAX: Duration = Duration::from_secs(30);
/// The cursor is made durable after this many bytes of acknowledged blocks...
pub(super) const CURSOR_BYTES: u64 = 1024 * 1024;
/// ...or after this time.
pub(super) const CURSOR_AGE: Duration = Duration::from_secs(5);
/// Most reads waiting for the store thread.
pub(super) const READS_MAX: usize = 32;
/// Most oversized records waiting to be written to the dead-letter file.
pub(super) const SET_ASIDE_MAX: usize = 8;

/// The clock of the queue: nanoseconds since boot. Tests bring their own.
pub type QueueClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Where the queue is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// `close` was called: seal what is left and stop.
    Closing,
    /// The last handle is gone: stop without writing.
    Abandoned,
    /// The store thread has ended; what went wrong last.
    Stopped(Option<String>),
}

/// A read that waits for the store thread.
pub(super) struct ReadRequest {
    pub(super) stream: usize,
    pub(super) at: Position,
    pub(super) reply: mpsc::SyncSender<ReadReply>,
}

/// The block, if there is one, and the end of the disk part when it was read.
pub(super) struct ReadReply {
    pub(super) block: Result<Option<SealedBlock>, PeekError>,
    pub(super) disk_last: Option<Position>,
}

/// A record that Kafka will never take, on its way into the dead-letter file.
pub(super) struct DeadLetterRequest {
    pub(super) stream: usize,
    pub(super) lineage: Arc<Lineage>,
    pub(super) record: Arc<Record>,
    pub(super) error: String,
    pub(super) reply: mpsc::SyncSender<Result<(), SetAsideError>>,
}

/// Everything below the lock.
pub(super) struct Shared {
    pub(super) phase: Phase,
    pub(super) streams: Vec<StreamState>,
    /// Streams that are not configured any more and may have blocks on disk: kept while there is room.
    pub(super) unconfigured: Vec<StreamControl>,
    pub(super) tail_bytes: usize,
    pub(super) reads: VecDeque<ReadRequest>,
    pub(super) set_aside: VecDeque<(usize, Record)>,
    pub(super) dead_letters: VecDeque<DeadLetterRequest>,
    /// What operators ask for.
    pub(super) tasks: VecDeque<AdminRequest>,
    /// Saves of the control state that somebody waits for.
    pub(super) saves: super::transaction::Saves,
    /// Flushes asked for, and done with what result.
    pub(super) flush_wanted: u64,
    pub(super) flush_done: u64,
    pub(super) flush_error: Option<(u64, String)>,
    /// The blocks on disk are known.
    pub(super) recovered: bool,
    /// Acknowledged block bytes since the cursor was last made durable, and since when there are any.
    pub(super) progress_bytes: u64,
    pub(super) progress_since_ns: Option<u64>,
    pub(super) pushes: u64,
    pub(super) outage: Outage,
    pub(super) undurable_age_max_ns: u64,
    pub(super) disk_bytes: u64,
    pub(super) quota_bytes: u64,
    pub(super) boot_times: BootTimes,
}

/// Counters of one stream, looked up once.
pub(super) struct StreamCounters {
    pub(super) pushed: Counter,
    pub(super) acknowledged: Counter,
    pub(super) dropped_tail_full: Counter,
    pub(super) dropped_quota: Counter,
    pub(super) dropped_size: Counter,
    pub(super) dropped_age: Counter,
    pub(super) thinned: Counter,
    pub(super) dropped_purge: Counter,
}

pub(super) struct Inner {
    shared: Mutex<Shared>,
    /// Wakes the store thread.
    pub(super) store_wake: Condvar,
    /// Wakes those who wait for the store thread.
    pub(super) progress: Condvar,
    /// Wakes the uplink's `wait_pushed`.
    pub(super) pushed: Condvar,
    pub(super) pushed_watch: watch::Sender<u64>,
    pub(super) settings: Settings,
    pub(super) policy: Policy,
    pub(super) keys: Arc<Keyring>,
    pub(super) lineage: Arc<Lineage>,
    pub(super) run: u32,
    pub(super) clock: QueueClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) counters: Vec<StreamCounters>,
    /// When the store call under way began, ns; 0: none is.
    pub(super) store_busy_since_ns: AtomicU64,
    pub(super) store_failed: AtomicBool,
}

impl Inner {
    pub(super) fn new(
        settings: Settings,
        metrics: Arc<Metrics>,
        clock: QueueClock,
        lineage: Arc<Lineage>,
        run: u32,
        streams: Vec<StreamState>,
        boot_times: BootTimes,
    ) -> Self {
        let counters = streams.iter().map(|stream| StreamCounters::new(&metrics, &stream.name)).collect();
        let shared = Shared {
            phase: Phase::Running,
            streams,
            unconfigured: Vec::new(),
            tail_bytes: 0,
            reads: VecDeque::new(),
            set_aside: VecDeque::new(),
            dead_letters: VecDeque::new(),
            tasks: VecDeque::new(),
            saves: super::transaction::Saves::default(),
            flush_wanted: 0,
            flush_done: 0,
            flush_error: None,
            recovered: false,
            progress_bytes: 0,
            progress_since_ns: None,
            pushes: 0,
            outage: Outage::from_start(clock()),
            undurable_age_max_ns: 0,
            disk_bytes: 0,
            quota_bytes: settings.queue.quota_bytes.unwrap_or_default(),
            boot_times,
        };
        Self {
            shared: Mutex::new(shared),
            store_wake: Condvar::new(),
            progress: Condvar::new(),
            pushed: Condvar::new(),
            pushed_watch: watch::Sender::new(0),
            policy: Policy::new(settings.queue.window, settings.queue.window_outage, settings.queue.tail_bytes_max),
            keys: Keyring::new(&settings.queue.keys),
            settings,
            lineage,
            run,
            clock,
            metrics,
            counters,
            store_busy_since_ns: AtomicU64::new(0),
            store_failed: AtomicBool::new(false),
        }
    }

    /// The lock. A panic while it was held cannot leave half a change that matters more than going on.
    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits at a condition variable of this lock.
    pub(super) fn wait<'a>(
        condition: &Condvar,
        shared: MutexGuard<'a, Shared>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, Shared> {
        match timeout {
            Some(timeout) => condition.wait_timeout(shared, timeout).unwrap_or_else(PoisonError::into_inner).0,
            None => condition.wait(shared).unwrap_or_else(PoisonError::into_inner),
        }
    }

    pub(super) fn now_ns(&self) -> u64 {
        (self.clock)()
    }

    /// The store failed for good, or a call of it has not come back.
    pub(super) fn store_failed(&self) -> bool {
        let since = self.store_busy_since_ns.load(Ordering::Acquire);
        let hangs = since != 0 && self.now_ns().saturating_sub(since) > STORE_CALL_MAX.as_nanos() as u64;
        hangs || self.store_failed.load(Ordering::Acquire)
    }
}

impl Shared {
    /// Makes room for `bytes` in the tail by dropping the oldest unsealed records: of this stream first, else of the
    /// stream that holds most. False where nothing can be dropped.
    pub(super) fn make_room(&mut self, stream: usize, bytes: usize, limit: usize, counters: &[StreamCounters]) -> bool {
        while self.tail_bytes + bytes > limit {
            let own = if self.keeps(stream) { None } else { self.streams[stream].drop_oldest() };
            let victim = match own {
                Some(entry) => Some((stream, entry)),
                None => self.drop_from_largest(),
            };
            let Some((index, entry)) = victim else { return false };
            self.tail_bytes -= entry.bytes;
            counters[index].dropped_tail_full.inc();
        }
        true
    }

    /// Whether nothing of the stream may be dropped to make room.
    pub(super) fn keeps(&self, stream: usize) -> bool {
        self.streams[stream].retention.when_full == WhenFull::RejectNewest
    }

    fn drop_from_largest(&mut self) -> Option<(usize, super::tail::Entry)> {
        let mut by_size: Vec<usize> = (0..self.streams.len()).filter(|index| !self.keeps(*index)).collect();
        by_size.sort_by_key(|index| std::cmp::Reverse(self.streams[*index].tail_bytes));
        by_size.into_iter().find_map(|index| Some((index, self.streams[index].drop_oldest()?)))
    }

    /// Whether, or when, the cursors have to be made durable.
    pub(super) fn cursor_due_ns(&self) -> Option<u64> {
        let since = self.progress_since_ns?;
        Some(if self.progress_bytes >= CURSOR_BYTES { since } else { since + CURSOR_AGE.as_nanos() as u64 })
    }

    /// Notes that acknowledgements passed blocks.
    pub(super) fn note_progress(&mut self, bytes: u64, now_ns: u64) {
        if self.streams.iter().any(StreamState::cursor_is_due) {
            self.progress_bytes += bytes;
            self.progress_since_ns.get_or_insert(now_ns);
        }
    }

    /// Remembers the largest age a record reached while only in memory.
    pub(super) fn note_age(&mut self, pushed_ns: Option<u64>, now_ns: u64, metrics: &Metrics) {
        let Some(pushed_ns) = pushed_ns else { return };
        let age_ns = now_ns.saturating_sub(pushed_ns);
        if age_ns > self.undurable_age_max_ns {
            self.undurable_age_max_ns = age_ns;
            metrics.queue_undurable_age_seconds_max.set(Duration::from_nanos(age_ns).as_secs_f64());
        }
    }
}

impl StreamCounters {
    fn new(metrics: &Metrics, stream: &Name) -> Self {
        let by_stream = ByStream { stream: stream.to_string() };
        let dropped = |reason| {
            let label = ByStreamAndReason { stream: stream.to_string(), reason };
            metrics.records_dropped.get_or_create(&label).clone()
        };
        Self {
            pushed: metrics.records_pushed.get_or_create(&by_stream).clone(),
            acknowledged: metrics.records_acknowledged.get_or_create(&by_stream).clone(),
            dropped_tail_full: dropped("tail_full"),
            dropped_quota: dropped("quota"),
            dropped_size: dropped("size"),
            dropped_age: dropped("age"),
            thinned: metrics.records_thinned.get_or_create(&by_stream).clone(),
            dropped_purge: dropped("purge"),
        }
    }
}
