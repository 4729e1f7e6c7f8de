//! The store thread: the only one that touches the block store. A thin driver: it waits for work under the lock, does
//! it without the lock, and puts the result back under the lock. Every call of the store is fenced, as the engine below may panic.

mod control;
mod fence;
mod opening;
mod sealing;
mod setting_aside;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::PeekError;
use super::admin::AdminRequest;
use super::dead_letter::DeadLetter;
use super::engine::{DeadLetterRequest, Inner, Phase, ReadReply, ReadRequest, Shared};
use super::filling::Fill;
use super::retention;
use super::seal::Due;
use super::store::{BlockStore, StoreError};
use super::tail::StreamControl;
use crate::metrics::ByKind;
use crate::reading::{Position, Record};
pub(super) use fence::error_text;
use fence::{failed, panic_text};

/// First and longest wait after a failure of the store.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// Tries of the last seal at close.
const CLOSE_TRIES: u32 = 3;

/// The block store, once its recovery is done.
pub struct OpenedStore {
    /// The store.
    pub store: Box<dyn BlockStore>,
    /// Most disk it may take.
    pub quota_bytes: u64,
    /// Records found missing that nothing explains, per stream.
    pub lost: Vec<(crate::reading::Name, u64)>,
}

/// Opens the block store.
pub type OpenStore = Box<dyn FnMut() -> anyhow::Result<OpenedStore> + Send>;
/// Makes the control state durable: the streams, and when this boot began where that is known.
pub type SaveControl = Box<dyn FnMut(&[StreamControl], Option<i64>) -> anyhow::Result<()> + Send>;

/// What the queue stands on. Everything in here runs on the store thread and is dropped when it ends.
pub struct Backend {
    /// Sweeps, recovers and opens the blocks; called again once after the store panicked.
    pub open: OpenStore,
    /// Makes lanes, marks and doubts of all streams durable, and when this boot began (microseconds since 1970 UTC).
    pub save: SaveControl,
}

/// What there is to do.
enum Work {
    Open,
    SetAside(usize, Record),
    DeadLetter(DeadLetterRequest),
    Seal(Due),
    Flush(u64),
    Read(ReadRequest),
    Administer(AdminRequest),
    SaveControl,
    SaveCursors,
    Expire,
    Thin,
    Close,
    Stop,
}

/// The thread's own state.
pub(super) struct Driver {
    inner: Arc<Inner>,
    /// Dropped before the backend, which holds the directory's lock.
    pub(super) store: Option<Box<dyn BlockStore>>,
    backend: Backend,
    dead_letter: DeadLetter,
    /// How full the next block of each stream is to be made.
    fills: Vec<Fill>,
    /// The store cannot take blocks before this time, ns.
    retry_at_ns: u64,
    retry_after: Duration,
    failing: bool,
    panics: u32,
    /// When ages are looked at next, ns.
    pub(super) expire_at_ns: u64,
    /// Old records are to be thinned when there is nothing else to do; and what is under way of that.
    pub(super) thin_wanted: bool,
    pub(super) thinning: Option<retention::thin::Job>,
}

/// Runs until the queue is closed or abandoned, then lets go of everything before it says so.
pub(super) fn run(inner: Arc<Inner>, backend: Backend, dead_letter: DeadLetter) {
    let mut driver = Driver {
        inner: Arc::clone(&inner),
        backend,
        store: None,
        dead_letter,
        fills: vec![Fill::default(); inner.settings.streams.len()],
        retry_at_ns: 0,
        retry_after: RETRY_FIRST,
        failing: false,
        panics: 0,
        expire_at_ns: 0,
        thin_wanted: false,
        thinning: None,
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| driver.work())).unwrap_or_else(|panic| {
        inner.store_failed.store(true, Ordering::Release);
        Some(format!("store thread panicked: {}", panic_text(&*panic)))
    });
    // Dropping a failed engine may panic as well.
    if catch_unwind(AssertUnwindSafe(|| drop(driver))).is_err() {
        tracing::warn!("block store panicked while it was closed");
    }
    let mut shared = inner.lock();
    shared.phase = Phase::Stopped(outcome);
    // Whoever waits for one finds its channel closed.
    shared.dead_letters.clear();
    shared.tasks.clear();
    for read in std::mem::take(&mut shared.reads) {
        let _ = read.reply.try_send(ReadReply { block: Err(PeekError::Closed), disk_last: None });
    }
    drop(shared);
    inner.progress.notify_all();
    inner.pushed.notify_all();
}

impl Driver {
    fn work(&mut self) -> Option<String> {
        loop {
            match self.next_work() {
                Work::Open => self.open(),
                Work::SetAside(stream, record) => self.set_aside(stream, &record, "too_large"),
                Work::DeadLetter(request) => self.dead_letter(&request),
                Work::Seal(due) => {
                    let _ = self.seal_group(due);
                    self.others_in_turn();
                }
                Work::Flush(ticket) => {
                    self.flush(ticket);
                    self.others_in_turn();
                }
                Work::Read(request) => self.read(request),
                Work::Administer(request) => self.administer(request),
                Work::SaveControl => drop(self.save_control()),
                Work::SaveCursors => {
                    let _ = self.save_cursors();
                }
                Work::Expire => self.expire(),
                Work::Thin => self.thin(),
                Work::Close => return self.close(),
                Work::Stop => return None,
            }
        }
    }

    /// Waits until there is something to do.
    fn next_work(&self) -> Work {
        let inner = &*self.inner;
        let mut shared = inner.lock();
        loop {
            let now_ns = inner.now_ns();
            match self.ready(&mut shared, now_ns) {
                Ok(work) => return work,
                Err(wait) => shared = Inner::wait(&inner.store_wake, shared, wait),
            }
        }
    }

    /// The most urgent work, or how long there is none.
    fn ready(&self, shared: &mut Shared, now_ns: u64) -> Result<Work, Option<Duration>> {
        let resting = now_ns < self.retry_at_ns;
        if shared.phase == Phase::Abandoned {
            return Ok(Work::Stop);
        }
        if self.store.is_none() && !resting {
            return Ok(Work::Open);
        }
        if let Some((stream, record)) = shared.set_aside.pop_front() {
            return Ok(Work::SetAside(stream, record));
        }
        if let Some(request) = shared.dead_letters.pop_front() {
            return Ok(Work::DeadLetter(request));
        }
        if shared.saves.is_wanted() {
            return Ok(Work::SaveControl);
        }
        if shared.flush_wanted > shared.flush_done {
            // Without a store it fails at once and leaves the rest as it is.
            return Ok(Work::Flush(shared.flush_wanted));
        }
        let policy = self.inner.policy.now(&shared.outage, now_ns);
        let due = policy.due(&shared.streams, shared.tail_bytes, now_ns);
        if matches!(due, Due::EveryRecord | Due::All) && !resting {
            return Ok(Work::Seal(due));
        }
        if let Some(read) = shared.reads.pop_front() {
            return Ok(Work::Read(read));
        }
        if let Some(request) = shared.tasks.pop_front() {
            return Ok(Work::Administer(request));
        }
        if shared.phase == Phase::Closing {
            return Ok(Work::Close);
        }
        let cursor_due_ns = shared.cursor_due_ns();
        if cursor_due_ns.is_some_and(|at| at <= now_ns) && !resting {
            return Ok(Work::SaveCursors);
        }
        let expire_due_ns = retention::expire_due_ns(shared, self.expire_at_ns);
        if expire_due_ns.is_some_and(|at| at <= now_ns) && !resting {
            return Ok(Work::Expire);
        }
        if self.thin_wanted && !resting {
            return Ok(Work::Thin);
        }
        let seal_at = if let Due::At(at) = due { Some(at) } else { None };
        let rest_until = resting.then_some(self.retry_at_ns);
        // While the store rests nothing but its end matters.
        let until = rest_until.or_else(|| [seal_at, cursor_due_ns, expire_due_ns].into_iter().flatten().min());
        Err(until.map(|at| Duration::from_nanos(at.saturating_sub(now_ns).max(1))))
    }

    /// One waiting read, one of an operator's tasks, and cursors and ages that are due: sealing that never pauses must not keep them waiting.
    fn others_in_turn(&mut self) {
        let now_ns = self.inner.now_ns();
        let is_due = |at: Option<u64>| at.is_some_and(|at| at <= now_ns) && now_ns >= self.retry_at_ns;
        let (read, task, save_due, expire_due) = {
            let mut shared = self.inner.lock();
            if shared.phase == Phase::Abandoned || self.store.is_none() {
                return;
            }
            let expire_due_ns = retention::expire_due_ns(&shared, self.expire_at_ns);
            let task = shared.tasks.pop_front();
            (shared.reads.pop_front(), task, is_due(shared.cursor_due_ns()), is_due(expire_due_ns))
        };
        if let Some(request) = read {
            self.read(request);
        }
        if let Some(request) = task {
            self.administer(request);
        }
        if save_due {
            let _ = self.save_cursors();
        }
        if expire_due {
            self.expire();
        }
        if self.thin_wanted && now_ns >= self.retry_at_ns {
            self.thin();
        }
    }

    fn expire(&mut self) {
        if let Err(error) = retention::expire(self) {
            self.failed(&error);
        }
    }

    fn thin(&mut self) {
        if let Err(error) = retention::thin::turn_of_thinning(self) {
            self.failed(&error);
        }
    }

    fn dir(&self) -> String {
        self.inner.settings.dir.display().to_string()
    }

    fn open(&mut self) {
        let dir = self.dir();
        let opened = self.fenced(|driver| (driver.backend.open)().map_err(|error| failed("open", error, dir)));
        match opened {
            Ok(opened) => {
                self.store = Some(opened.store);
                self.recovered(opened.quota_bytes, &opened.lost);
                self.works_again();
            }
            Err(error) => self.failed(&error),
        }
    }

    fn read(&mut self, request: ReadRequest) {
        let (stream, disk_last) = {
            let shared = self.inner.lock();
            let stream = &shared.streams[request.stream];
            (Arc::clone(&stream.name), stream.disk.last)
        };
        let block = if self.store.is_some() {
            let block = self.with_store(|store| store.read(&stream, request.at));
            if let Ok(Some(block)) = &block {
                self.inner.lock().streams[request.stream].fetched(block.header.first, block.header.last);
            }
            // Only counted: an uplink that goes on asking must not keep the store from sealing or from being opened anew.
            if let Err(error) = &block {
                self.count_failure(error);
            }
            block
        } else {
            Err(self.not_open())
        };
        let block = block.map_err(|error| PeekError::Store { reason: error_text(&error) });
        // The reader may have given up waiting.
        let _ = request.reply.try_send(ReadReply { block, disk_last });
    }

    /// Makes lanes and marks durable, then deletes what they say is done.
    pub(super) fn save_cursors(&mut self) -> Result<(), StoreError> {
        let controls = self.save_control()?;
        let lanes: Vec<_> = controls.into_iter().map(|control| (control.stream, control.lanes)).collect();
        if self.store.is_none() {
            // The cursors are durable all the same.
            return Ok(());
        }
        let removed = self.with_store(|store| {
            store.remove_done(&lanes)?;
            Ok(store.disk_bytes())
        });
        match removed {
            Ok(disk_bytes) => self.inner.lock().disk_bytes = disk_bytes,
            // The cursors are durable all the same; what is left is deleted the next time.
            Err(error) => self.failed(&error),
        }
        Ok(())
    }

    /// The last seal and cursor. Gives what went wrong.
    fn close(&mut self) -> Option<String> {
        let mut outcome = Ok(());
        for _ in 0..CLOSE_TRIES {
            outcome = self.seal_below(&[Position::END; crate::config::STREAMS_MAX]);
            if outcome.is_ok() {
                break;
            }
        }
        let due = self.inner.lock().streams.iter().any(|stream| stream.cursor_is_due() || stream.has_new_marks());
        let saved = if due { self.save_cursors() } else { Ok(()) };
        let closed = self.with_store(|store| store.close());
        outcome.and(saved).and(closed).err().map(|error| error_text(&error))
    }

    /// Counts a failure; says so once until the store works again.
    fn failed(&mut self, error: &StoreError) {
        self.count_failure(error);
        self.retry_at_ns = self.inner.now_ns().saturating_add(self.retry_after.as_nanos() as u64);
        self.retry_after = (self.retry_after * 2).min(RETRY_LAST);
        if !self.failing {
            self.failing = true;
            tracing::error!(error = %error_text(error), "block store failed, records stay in memory");
        }
    }

    fn count_failure(&self, error: &StoreError) {
        let kind = if matches!(error, StoreError::Full { .. }) { "full" } else { "failed" };
        self.inner.metrics.queue_store_failures.get_or_create(&ByKind { kind }).inc();
    }

    fn works_again(&mut self) {
        (self.retry_at_ns, self.retry_after) = (0, RETRY_FIRST);
        if std::mem::take(&mut self.failing) {
            tracing::info!("block store works again");
        }
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

/// Starts the thread.
pub(super) fn start(inner: Arc<Inner>, backend: Backend, dead_letter: DeadLetter) -> std::io::Result<()> {
    std::thread::Builder::new().name("queue-store".to_owned()).spawn(move || run(inner, backend, dead_letter)).map(drop)
}
