//! The drain thread: which stream sends next, and what becomes of reports.
//!
//! The thread that sends is the only one that polls.

mod encoding;
mod letter;
mod limits;
mod outlet;
mod reports;
mod sending;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::backoff::Attempts;
use super::delivery::Tokens;
use super::health::Health;
use super::lane::Backoff;
use super::metering::{Metering, clock_of};
use super::schemas::Schemas;
use super::tls::TlsWatch;
use super::watchdog::{Watchdog, stall};
use super::{Pace, Settings};
use crate::clock::boot_ns;
use crate::kafka::{Notice, Producer, Refusal, Report, socket_timeout};
use crate::metrics::{ByKind, Metrics};
use crate::queue::Queue;
use letter::Letters;
use outlet::Outlet;

/// Longest wait for reports while something is in flight and the link is up; down, there is less to hurry for.
const POLL_UP_MAX: Duration = Duration::from_millis(50);
const POLL_DOWN_MAX: Duration = Duration::from_millis(200);
/// Longest wait for a push while nothing is in flight.
const IDLE_MAX: Duration = Duration::from_millis(200);
/// How long what is in flight may take to arrive before a client with renewed TLS files takes over.
const WIND_DOWN_MAX_NS: u64 = 10_000_000_000;
/// How long a client that stops is listened to.
const LAST_REPORTS_MAX: Duration = Duration::from_secs(1);
/// How long the last flush may take.
const FLUSH_MAX: Duration = Duration::from_secs(3);

struct Drain<'a> {
    settings: Settings,
    queue: Queue,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    health: &'a Mutex<Health>,
    outlets: Vec<Outlet>,
    tokens: Tokens,
    reports: Vec<Report>,
    notices: Vec<Notice>,
    schemas: Schemas,
    letters: Letters,
    rebuild: Option<String>,
    /// Clients built since the last that delivered something.
    rebuilds: Attempts,
    watchdog: Watchdog,
    metering: Metering,
    tls: TlsWatch,
    /// The TLS files were renewed at this time, and the client is to be changed.
    renewed_ns: Option<u64>,
}

/// Runs until `stop`.
pub fn run(
    settings: Settings,
    pace: Pace,
    queue: Queue,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    health: &Mutex<Health>,
) {
    let backoff = Backoff { first_ns: as_ns(pace.backoff_first), max_ns: as_ns(pace.backoff_max) };
    let outlets = outlet::all(&settings, backoff);
    let stall = pace.stall.unwrap_or_else(|| stall(socket_timeout(&settings.kafka)));
    let topics = settings.streams.iter().map(|stream| &*stream.topic);
    let watchdog = Watchdog::new(topics, as_ns(stall), as_ns(pace.stall_interval));
    let tls = TlsWatch::new(settings.kafka.tls.as_ref());
    let schemas = Schemas::start(&settings, &stop);
    let kafka = &settings.kafka;
    let (clock, is_tls) = (clock_of(&queue), kafka.tls.is_some());
    let metering = Metering::new(kafka.rate, kafka.budget, is_tls, &settings.gateway.state_dir, clock);
    let mut drain = Drain {
        settings,
        queue,
        metrics,
        stop,
        health,
        outlets,
        tokens: Tokens::default(),
        reports: Vec::new(),
        notices: Vec::new(),
        schemas,
        letters: Letters::default(),
        rebuild: None,
        rebuilds: Attempts::new(Backoff { first_ns: as_ns(pace.rebuild_first), ..backoff }),
        watchdog,
        metering,
        tls,
        renewed_ns: None,
    };
    drain.metering.show(&drain.metrics);
    drain.metrics.uplink_fenced.set(0);
    drain.load_schemas();
    drain.pause(pace.first_delay_max.mul_f64(fastrand::f64()));
    while !drain.stop.is_cancelled() {
        let refusal = drain.refusal();
        match Producer::new(&drain.settings.kafka, drain.outlets.len(), refusal) {
            Ok(client) => drain.with_client(&client, refusal),
            Err(error) => {
                tracing::warn!(error = %error, "kafka client cannot be made");
                drain.health().error(error.to_string());
            }
        }
        drain.client_lost();
        if !drain.stop.is_cancelled() {
            drain.metrics.uplink_client_rebuilds.inc();
            // The other kind of client is a step forward; the same kind again may meet the same error.
            let renewed = drain.renewed_ns.take().is_some();
            if renewed {
                drain.letters.renew();
            }
            if drain.refusal() == refusal && !renewed {
                let pause_ns = drain.rebuilds.next_ns(fastrand::f64());
                drain.pause(Duration::from_nanos(pause_ns));
            }
        }
    }
    drain.metering.close();
    drain.health().stopped();
    drain.metrics.uplink_up.set(0);
    drain.queue.set_uplink_up(false);
}

impl Drain<'_> {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, unless the agent ends.
    fn pause(&self, length: Duration) {
        let end_ns = boot_ns().saturating_add(as_ns(length));
        while !self.stop.is_cancelled() {
            let left = Duration::from_nanos(end_ns.saturating_sub(boot_ns()));
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left.min(IDLE_MAX));
        }
    }

    /// Drains until the agent ends or the client must be built anew.
    fn with_client(&mut self, client: &Producer, refusal: Refusal) {
        self.watchdog.new_client(boot_ns());
        let mut wait = Duration::ZERO;
        let mut pushes_seen = 0;
        while !self.stop.is_cancelled() && self.rebuild.is_none() {
            // Before the client is changed, what is in flight may arrive.
            self.look_at_tls_files();
            self.look_at_registry();
            self.post_letters();
            let care_is_over = refusal == Refusal::Careful && self.refusal() == Refusal::Stops;
            let winds_down = care_is_over || self.renewed_ns.is_some();
            let sent = if winds_down { 0 } else { self.fill(client) };
            let in_flight = self.tokens.taken();
            let waited_out = self.renewed_ns.is_some_and(|at_ns| boot_ns() > at_ns.saturating_add(WIND_DOWN_MAX_NS));
            if winds_down && (in_flight == 0 || waited_out) {
                tracing::debug!(in_flight, "kafka client is changed");
                return;
            }
            if sent > 0 {
                wait = Duration::ZERO;
            } else if in_flight == 0 {
                pushes_seen = self.queue.wait_pushed(pushes_seen, self.idle_wait());
            }
            let reported = self.poll(client, if sent == 0 && in_flight > 0 { wait } else { Duration::ZERO });
            wait = if reported > 0 { Duration::ZERO } else { self.longer(wait) };
            self.watch(client);
            self.metrics.uplink_in_flight_records.set(i64::try_from(self.tokens.taken()).unwrap_or(i64::MAX));
        }
        if self.stop.is_cancelled() {
            self.finish(client);
        } else if let Some(reason) = self.rebuild.take() {
            tracing::warn!(reason, "kafka client is built anew; sending starts again at the cursor");
            self.last_reports(client);
        }
    }

    /// Gives up a client that is stuck; the queue has all that it held.
    fn watch(&mut self, client: &Producer) {
        let now_ns = boot_ns();
        for outlet in &self.outlets {
            self.watchdog.in_flight(outlet.index.0, outlet.lane.in_flight().0, now_ns);
        }
        if let Some(topic) = self.watchdog.look(&self.settings.kafka, now_ns) {
            self.metrics.uplink_watchdog_rebuilds.inc();
            let reason = format!("it is stuck: no headway with topic {topic}, although the cluster takes records");
            self.rebuild = Some(reason);
            client.purge();
        }
    }

    /// What the stopping client still has to say: which batch was refused, and what arrived.
    fn last_reports(&mut self, client: &Producer) {
        let end_ns = boot_ns().saturating_add(as_ns(LAST_REPORTS_MAX));
        while self.tokens.taken() > 0 && boot_ns() < end_ns && !self.stop.is_cancelled() {
            self.poll(client, Duration::from_millis(10));
        }
    }

    /// The kind of client that the streams need now.
    fn refusal(&self) -> Refusal {
        let careful = self.outlets.iter().any(|outlet| outlet.lane.is_careful());
        if careful { Refusal::Careful } else { Refusal::Stops }
    }

    fn longer(&self, wait: Duration) -> Duration {
        let most = if self.health().is_up() { POLL_UP_MAX } else { POLL_DOWN_MAX };
        (wait * 2).clamp(Duration::from_millis(1), most)
    }

    /// Takes up TLS files that were renewed once a client can be made of them.
    fn look_at_tls_files(&mut self) {
        if self.tls.look(&self.settings.kafka, self.outlets.len(), &self.metrics) {
            tracing::info!("tls files were renewed, kafka client is changed");
            self.renewed_ns = Some(boot_ns());
        }
    }

    fn idle_wait(&self) -> Duration {
        let now_ns = boot_ns();
        let wakes =
            |outlet: &Outlet| outlet.lane.wakes_at_ns().into_iter().chain(self.rate_closed_until_ns(outlet, now_ns));
        // A pause that is over and what is not sent all the same, as the budget is used up, must not keep the thread busy.
        let wake = self.outlets.iter().flat_map(wakes).filter(|at_ns| *at_ns > now_ns).min();
        let most = if self.letters.are_posted() { POLL_UP_MAX } else { IDLE_MAX };
        wake.map_or(most, |at_ns| Duration::from_nanos(at_ns.saturating_sub(now_ns)).min(most))
    }

    /// Serves the client's callbacks. Gives how many reports came.
    fn poll(&mut self, client: &Producer, wait: Duration) -> usize {
        client.poll(wait, &mut self.reports, &mut self.notices);
        for notice in std::mem::take(&mut self.notices) {
            match notice {
                Notice::Connected => self.connected(),
                Notice::AllBrokersDown => self.disconnected(),
                Notice::Progress(progress) => self.watchdog.progressed(&progress, boot_ns()),
                Notice::Traffic(traffic) => self.metering.counted(traffic, self.in_flight_bytes(), &self.metrics),
                Notice::Trouble(failure) => {
                    let kind = failure.class.as_str();
                    self.metrics.uplink_errors.get_or_create(&ByKind { kind }).inc();
                    tracing::debug!(error = %failure, class = kind, "kafka client");
                    self.health().error(failure.text);
                }
            }
        }
        if let Some(reason) = client.fatal_error() {
            self.rebuild = Some(reason);
        }
        self.take_reports()
    }

    fn connected(&mut self) {
        let mut health = self.health();
        if health.is_up() {
            return;
        }
        let again = health.connected();
        drop(health);
        if again {
            self.metrics.uplink_reconnects.inc();
        }
        self.outlets.iter_mut().for_each(|outlet| outlet.reader.link_is_back());
        self.metrics.uplink_up.set(1);
        self.queue.set_uplink_up(true);
    }

    fn disconnected(&mut self) {
        self.health().disconnected();
        self.metrics.uplink_up.set(0);
        self.queue.set_uplink_up(false);
    }

    /// The last chance of what is in flight; what is not reported by then stays queued.
    fn finish(&mut self, client: &Producer) {
        let up = self.health().is_up();
        let end_ns = boot_ns().saturating_add(as_ns(if up { FLUSH_MAX } else { FLUSH_MAX / 10 }));
        while self.tokens.taken() > 0 && boot_ns() < end_ns {
            client.flush(Duration::from_millis(100));
            self.poll(client, Duration::ZERO);
        }
        tracing::debug!(unreported = self.tokens.taken(), "uplink flushed");
    }

    fn client_lost(&mut self) {
        self.tokens.clear();
        self.metrics.uplink_in_flight_records.set(0);
        self.metering.client_gone(&self.metrics);
        self.rebuild = None;
        for place in 0..self.outlets.len() {
            let events = self.outlets[place].lane.client_lost(boot_ns(), fastrand::f64());
            self.follow(place, events);
        }
    }
}

fn as_ns(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}
