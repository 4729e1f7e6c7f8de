//! The thread that delivers exactly once: does what the session says, and takes what came of it to the queue.
//!
//! It alone polls the client. Every call that waits for Kafka does so in slices, so that a stop is noticed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::names::transactional_id;
use super::outlet::{Open, Outlet, Size};
use super::session::{Event as Turn, Loss, Patience, Session, Step};
use super::stalls::Stalls;
use crate::clock::boot_ns;
use crate::config::Transactions;
use crate::kafka::{Failure, Notice, Producer, Report, Window, stream_window};
use crate::metrics::Metrics;
use crate::queue::{Lives, Queue};
use crate::uplink::encode::Encoded;
use crate::uplink::health::Health;
use crate::uplink::lane::Backoff;
use crate::uplink::metering::{Metering, clock_of};
use crate::uplink::schemas::{Schemas, Writer};
use crate::uplink::tls::TlsWatch;
use crate::uplink::{Pace, Settings};

/// Longest wait of one call of the client.
pub(super) const SLICE: Duration = Duration::from_millis(500);
/// Longest wait for a topic's metadata.
pub(super) const TOPIC_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a push.
const IDLE_MAX: Duration = Duration::from_millis(200);
/// Longest pause between two tries to read the cursors, and before a client that was lost has a successor: the agent has
/// none then that would notice the link.
const LOOK_NS_MAX: u64 = 15_000_000_000;
/// How long the open transaction may take at the end, with a link and without.
const FINISH_UP_NS: u64 = 2_500_000_000;
const FINISH_DOWN_NS: u64 = 300_000_000;

pub(super) struct Exactly<'a> {
    pub(super) settings: Settings,
    pub(super) queue: Queue,
    pub(super) metrics: Arc<Metrics>,
    pub(super) session: Session,
    pub(super) outlets: Vec<Outlet>,
    pub(super) open: Option<Open>,
    pub(super) next_token: usize,
    pub(super) size: Size,
    /// What the client holds at most.
    pub(super) window: Window,
    pub(super) encoded: Encoded,
    pub(super) schemas: Schemas,
    pub(super) metering: Metering,
    pub(super) stop: CancellationToken,
    pub(super) health: &'a Mutex<Health>,
    pub(super) how: Transactions,
    pub(super) id: String,
    pub(super) lives: Lives,
    is_alive: bool,
    cursor_refresh_ns: u64,
    pub(super) reports: Vec<Report>,
    pub(super) notices: Vec<Notice>,
    /// Waited for reports without any, so long the last time.
    pub(super) waited: Duration,
    pushes_seen: u64,
    tls: TlsWatch,
    pub(super) renew: bool,
    pub(super) stalls: Stalls,
}

/// Runs until `stop`.
pub(in crate::uplink) fn run(
    settings: Settings,
    how: Transactions,
    pace: Pace,
    queue: Queue,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    health: &Mutex<Health>,
) {
    let backoff = Backoff { first_ns: as_ns(pace.backoff_first), max_ns: as_ns(pace.backoff_max) };
    let streams = settings.streams.iter().enumerate();
    let mut outlets: Vec<Outlet> = streams
        .map(|(index, stream)| Outlet::new(index, stream, Writer::new(stream, &settings, backoff), backoff))
        .collect();
    outlets.sort_by_key(|outlet| std::cmp::Reverse(outlet.priority));
    let kafka = &settings.kafka;
    let (clock, is_tls) = (clock_of(&queue), kafka.tls.is_some());
    let metering = Metering::new(kafka.rate, kafka.budget, is_tls, &settings.gateway.state_dir, clock);
    let backoff = Backoff { max_ns: backoff.max_ns.min(LOOK_NS_MAX), ..backoff };
    let patience = Patience {
        backoff,
        rebuild: Backoff { first_ns: as_ns(pace.rebuild_first), ..backoff },
        fenced_ns: as_ns(pace.fenced_wait),
        transaction_ns: as_ns(how.timeout),
    };
    let id = transactional_id(&how, &settings.gateway.id, queue.id());
    let schemas = Schemas::start(&settings, &stop);
    let tls = TlsWatch::new(settings.kafka.tls.as_ref());
    let window = stream_window(&settings.kafka, outlets.len());
    let stalls = Stalls::new(outlets.len(), as_ns(pace.stall_interval));
    let mut thread = Exactly {
        lives: queue.lives(),
        settings,
        queue,
        metrics,
        session: Session::new(patience),
        outlets,
        open: None,
        next_token: 0,
        size: Size::new(),
        window,
        encoded: Encoded::default(),
        schemas,
        metering,
        stop,
        health,
        how,
        id,
        is_alive: false,
        cursor_refresh_ns: as_ns(pace.cursor_refresh),
        reports: Vec::new(),
        notices: Vec::new(),
        waited: Duration::ZERO,
        pushes_seen: 0,
        tls,
        renew: false,
        stalls,
    };
    thread.metering.show(&thread.metrics);
    thread.metrics.uplink_fenced.set(0);
    thread.load_schemas();
    thread.pause(as_ns(pace.first_delay_max.mul_f64(fastrand::f64())).saturating_add(boot_ns()));
    thread.work();
    thread.metering.client_gone(&thread.metrics);
    thread.metering.close();
    thread.health().stopped();
    thread.metrics.uplink_up.set(0);
    thread.queue.set_uplink_up(false);
}

impl Exactly<'_> {
    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until then, unless the agent ends.
    fn pause(&self, until_ns: u64) {
        while !self.stop.is_cancelled() {
            let left = Duration::from_nanos(until_ns.saturating_sub(boot_ns()));
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left.min(IDLE_MAX));
        }
    }

    fn work(&mut self) {
        let mut client = None;
        while !self.stop.is_cancelled() {
            self.go_on(&mut client);
        }
        let up = self.health().is_up();
        let end_ns = boot_ns().saturating_add(if up { FINISH_UP_NS } else { FINISH_DOWN_NS });
        while self.session.is_open() && boot_ns() < end_ns {
            self.go_on(&mut client);
        }
        if self.session.is_open()
            && let Some(client) = &client
        {
            // Spares readers the wait for the transaction's end by time; a commit that is under way is not harmed.
            let _ = client.abort_transaction(SLICE);
        }
    }

    /// One step.
    fn go_on(&mut self, client: &mut Option<Producer>) {
        // Without a client too: a certificate that has expired may be why there is none.
        self.renew |= self.tls.look(&self.settings.kafka, self.outlets.len(), &self.metrics);
        let step = self.session.step(boot_ns());
        let turn = match (step, &*client) {
            (Step::Wait(until_ns), _) => {
                self.pause(until_ns.min(boot_ns().saturating_add(as_ns(IDLE_MAX))));
                None
            }
            (Step::Look, _) => self.look(false),
            (Step::Read, _) => self.look(true),
            (Step::Initialise, None) => self.make(client),
            (Step::Initialise, Some(client)) => self.ended(client.init_transactions(SLICE)),
            (Step::Begin, Some(client)) => self.choose(client),
            (Step::Deliver, Some(client)) => self.deliver(client),
            (Step::Offset, Some(client)) => self.offset(client),
            (Step::Commit, Some(client)) => self.ended(client.commit_transaction(SLICE)),
            (Step::Abort, Some(client)) => self.ended(client.abort_transaction(SLICE)),
            // Cannot be: these steps follow one that has a client.
            (Step::Begin | Step::Deliver | Step::Offset | Step::Commit | Step::Abort, None) => {
                Some(self.session.lost_client(Loss::Broken, boot_ns(), fastrand::f64()))
            }
        };
        let turn = turn.or_else(|| client.as_ref().and_then(|client| self.poll(client, Duration::ZERO)));
        match turn {
            None => {}
            Some(Turn::Committed) => self.committed(),
            Some(Turn::Aborted) => self.aborted(),
            Some(turn @ (Turn::Lost | Turn::Fenced | Turn::Denied)) => {
                *client = None;
                self.metering.client_gone(&self.metrics);
                self.lost(turn);
            }
        }
        if self.renew && step == Step::Begin && !self.session.is_open() {
            tracing::info!("tls files were renewed, kafka client is changed");
            self.renew = false;
            self.metrics.uplink_client_rebuilds.inc();
            self.session.renewed();
            self.metering.client_gone(&self.metrics);
            *client = None;
        }
    }

    /// Makes the client; a life of the queue begins with its first.
    fn make(&mut self, client: &mut Option<Producer>) -> Option<Turn> {
        let made = if self.is_alive { Ok(self.lives.clone()) } else { self.queue.begin_life() };
        let made = made.map_err(|error| format!("life of the queue cannot be noted: {error}")).and_then(|lives| {
            self.lives = lives;
            self.is_alive = true;
            let made = Producer::transactional(&self.settings.kafka, self.outlets.len(), &self.id, self.how.timeout);
            made.map_err(|error| error.to_string())
        });
        match made {
            Ok(made) => {
                *client = Some(made);
                self.renew = false;
                self.stalls.new_client();
                None
            }
            Err(error) => {
                tracing::warn!(error, "kafka client cannot be made");
                self.health().error(error);
                Some(self.session.lost_client(Loss::Broken, boot_ns(), fastrand::f64()))
            }
        }
    }

    /// Begins the most urgent transaction, or waits for something to send.
    fn choose(&mut self, client: &Producer) -> Option<Turn> {
        self.look_at_registry();
        if self.renew {
            return None;
        }
        if let Some(turn) = self.look_for_stall() {
            return Some(turn);
        }
        for place in 0..self.outlets.len() {
            let outlet = &self.outlets[place];
            let now_ns = boot_ns();
            let is_due = outlet.committed_ns.is_none_or(|at| now_ns.saturating_sub(at) >= self.cursor_refresh_ns);
            if is_due {
                if self.outlets[place].lane.room(now_ns, 1, 1) > 0 {
                    return self.commit_cursor(client, place);
                }
            } else if self.outlets[place].letter.is_some() {
                if self.outlets[place].lane.room(now_ns, 1, 1) > 0 {
                    return self.send_letter(client, place);
                }
            } else if let Some(most) = self.gather(place)
                && self.can_be_written(place)
            {
                let turn = self.send_ready(client, place, most);
                self.step_back(place);
                return turn;
            }
        }
        let wait = self.idle_wait();
        let now_ns = boot_ns();
        if self.outlets.iter().any(|outlet| !outlet.ready.is_empty() && !outlet.writer.is_shut(now_ns)) {
            // What is gathered waits for its time, not for more of its kind.
            std::thread::park_timeout(wait);
        } else {
            self.pushes_seen = self.queue.wait_pushed(self.pushes_seen, wait);
        }
        None
    }

    /// Puts a stream behind its equals.
    fn step_back(&mut self, place: usize) {
        let priority = self.outlets[place].priority;
        let equals = self.outlets[place..].iter().take_while(|outlet| outlet.priority == priority).count();
        self.outlets[place..place + equals].rotate_left(1);
        if let Some(open) = &mut self.open {
            open.place = place + equals - 1;
        }
    }

    fn idle_wait(&self) -> Duration {
        let now_ns = boot_ns();
        let waits = self.outlets.iter().filter_map(|outlet| outlet.lane.wakes_at_ns());
        let gathers = self.outlets.iter().filter(|outlet| !outlet.ready.is_empty());
        let gathers = gathers.map(|outlet| outlet.ready_since_ns.saturating_add(self.gather_ns()));
        let rates = self.outlets.iter().filter_map(|outlet| self.metering.closed_until_ns(&outlet.rate, now_ns));
        let wake = waits.chain(gathers).chain(rates).filter(|at_ns| *at_ns > now_ns).min();
        wake.map_or(IDLE_MAX, |at_ns| Duration::from_nanos(at_ns - now_ns).min(IDLE_MAX))
    }

    /// Begins a transaction of the cursor alone.
    fn commit_cursor(&mut self, client: &Producer, place: usize) -> Option<Turn> {
        if self.outlets[place].group.is_none() {
            return self.read_cursor(place);
        }
        // Kafka's client would try for the whole time of a transaction.
        if let Err(failure) = client.find_topic(&self.outlets[place].topic, TOPIC_MAX) {
            let events = self.outlets[place].lane.put_off(failure, boot_ns(), fastrand::f64());
            self.follow(place, events);
            return None;
        }
        if let Some(turn) = self.begin(client, place) {
            return Some(turn);
        }
        self.open = Some(Open::of_cursor(place));
        self.session.begun(boot_ns());
        None
    }

    /// Begins a transaction with the client; gives what follows where it cannot.
    pub(super) fn begin(&mut self, client: &Producer, place: usize) -> Option<Turn> {
        let trouble = client.begin_transaction().err()?;
        tracing::warn!(stream = self.outlets[place].name, error = %trouble, "transaction cannot begin");
        Some(self.lost_by(trouble))
    }

    /// Ends a transaction that got no record.
    pub(super) fn give_up_empty(&mut self, client: &Producer) {
        // Nothing of it is known to Kafka; where it fails all the same, the next begin says so.
        let _ = client.abort_transaction(SLICE);
    }

    /// The open transaction cannot be completed. `times_out`: as nothing was reported in time.
    pub(super) fn fail_open(&mut self, failure: Failure, times_out: bool) {
        if let Some(open) = &mut self.open
            && open.failure.is_none()
        {
            open.failure = Some((None, failure));
        }
        self.session.failed(times_out);
    }
}

fn as_ns(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}
