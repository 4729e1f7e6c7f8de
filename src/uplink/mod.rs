//! Drains the queue into Kafka: one OS thread that peeks, encodes, sends, follows delivery reports and acknowledges.
//!
//! `drain` is the thread, `transaction` the one that delivers exactly once; `lane` decides per stream what may be sent and what follows from a failure, `delivery`
//! how far reports reach without a gap, `health` what status shows. The queue is the retry store: a record stays
//! there until Kafka has reported it delivered, so the client may be destroyed at any time.

mod backoff;
mod budget;
mod delivery;
mod drain;
pub mod encode;
mod gate;
mod health;
mod inquiry;
mod lane;
mod letter;
mod metering;
pub mod preflight;
mod rate;
mod reader;
mod registrar;
mod schema_cache;
mod schemas;
mod timestamp;
mod tls;
mod transaction;
mod watchdog;
mod window;

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::config::Delivery;
use crate::kafka::Producer;
use crate::metrics::Metrics;
use crate::queue::Queue;
use health::Health;

/// What the uplink needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[kafka]`
    pub kafka: crate::config::Kafka,
    /// `[[stream]]`, in the queue's order.
    pub streams: Vec<crate::config::Stream>,
    /// `[gateway]`: tags for records.
    pub gateway: crate::config::Gateway,
}

/// How patient the uplink is. The default is for fleets; tests are in more of a hurry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The first connection waits a random part of this, so that a fleet does not come back at once.
    pub first_delay_max: Duration,
    /// First delay before a failed stream sends again; doubles up to `backoff_max`.
    pub backoff_first: Duration,
    /// Longest such delay.
    pub backoff_max: Duration,
    /// Pause before the client is built anew; doubles up to `backoff_max` until something is delivered.
    pub rebuild_first: Duration,
    /// With records in flight that are neither reported nor sent for so long, the client may be stuck. `None`: three
    /// socket timeouts, and at least a minute.
    pub stall: Option<Duration>,
    /// Least time between two rebuilds of a client that is stuck.
    pub stall_interval: Duration,
    /// With exactly once: how long an agent waits, give or take a fifth, when another has its transactional id.
    pub fenced_wait: Duration,
    /// With exactly once: a cursor is committed anew after so long, so that Kafka does not forget it.
    pub cursor_refresh: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_delay_max: Duration::from_secs(1),
            backoff_first: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            rebuild_first: Duration::from_secs(5),
            stall: None,
            stall_interval: Duration::from_secs(300),
            fenced_wait: Duration::from_secs(600),
            cursor_refresh: Duration::from_secs(24 * 3600),
        }
    }
}

/// The uplink's state, as status shows it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UplinkStatus {
    /// `connecting`, `up`, `down`, `held`, `stopped`.
    pub state: &'static str,
    /// Since when, boot time in ns.
    pub since_boot_ns: u64,
    /// The last error, in words.
    pub last_error: Option<String>,
    /// Streams held and why.
    pub held: Vec<(String, String)>,
}

/// Longest [`Uplink::join`]: a flush of 3 s, and a second for the client to end.
const JOIN_MAX: Duration = Duration::from_secs(4);

/// A running uplink: one OS thread.
pub struct Uplink {
    health: Arc<Mutex<Health>>,
    thread: JoinHandle<()>,
    finished: Receiver<()>,
}

impl Uplink {
    /// Starts the drain thread.
    ///
    /// # Errors
    /// The client cannot be made: a property or a certificate is wrong. Brokers that cannot be reached are no error.
    pub fn start(
        settings: Settings,
        queue: Queue,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        Self::start_paced(settings, Pace::default(), queue, metrics, stop)
    }

    /// As [`Uplink::start`], at another pace.
    ///
    /// # Errors
    /// As [`Uplink::start`].
    pub fn start_paced(
        settings: Settings,
        pace: Pace,
        queue: Queue,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        Producer::check(&settings.kafka, settings.streams.len()).context("uplink")?;
        let health = Arc::new(Mutex::new(Health::new()));
        let (finish, finished) = sync_channel(1);
        let shared = Arc::clone(&health);
        let thread = std::thread::Builder::new()
            .name("uplink".into())
            .spawn(move || {
                match settings.kafka.delivery.clone() {
                    Delivery::AtLeastOnce => drain::run(settings, pace, queue, metrics, stop, &shared),
                    Delivery::ExactlyOnce(how) => {
                        transaction::run(settings, how, pace, queue, metrics, stop, &shared);
                    }
                }
                // Nobody waits any more where the join was given up.
                let _ = finish.send(());
            })
            .context("uplink: cannot start its thread")?;
        Ok(Self { health, thread, finished })
    }

    /// The state now.
    pub fn status(&self) -> UplinkStatus {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).status()
    }

    /// After `stop`: waits for the bounded last flush and the thread's end, at most 4 s. Blocks.
    pub fn join(self) {
        use std::sync::mpsc::RecvTimeoutError;
        match self.finished.recv_timeout(JOIN_MAX) {
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(limit_s = JOIN_MAX.as_secs(), "uplink did not end in time and is left behind");
            }
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                if self.thread.join().is_err() {
                    tracing::error!("uplink thread panicked; what it had not acknowledged is still queued");
                }
            }
        }
    }
}
