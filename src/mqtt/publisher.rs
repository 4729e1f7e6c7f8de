//! Publishes readings on the local broker, best effort, and says whether the gateway is online.
//!
//! The hub's end puts publications into the outbox and never waits. One task owns the connection; a publication leaves
//! the outbox only when the broker has acknowledged it.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::outbox::{Limits, Outbox, Publication};
use super::session::{self, Driver, Event, Handle, Options, SessionError};
use super::{payloads, topics};
use crate::config::Mqtt;
use crate::metrics::{ByKind, Metrics};
use crate::reading::{Name, Position, Reading, Stamp};

/// Most bytes of topics and payloads waiting for the broker.
const OUTBOX_BYTES_MAX: usize = 2 << 20;
/// Publications in flight: Mosquitto's `max_inflight_messages` unless configured there.
const IN_FLIGHT_MAX: usize = 20;
/// Largest publication; beyond it is dropped and counted.
const PUBLICATION_BYTES_MAX: usize = 128 << 10;
/// Largest packet of the session: a publication and its header.
const PACKET_BYTES_MAX: usize = PUBLICATION_BYTES_MAX + 1_024;
/// A connection that lasted this long counts as good, and the next delay begins small again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);
/// How long readings may still be flushed at a stop, and when all must be over.
const FLUSH_MAX: Duration = Duration::from_millis(1_200);
const STOP_MAX: Duration = Duration::from_millis(1_900);

/// The hub's end: cheap to clone, never waits.
#[derive(Clone, Debug)]
pub struct Publisher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    gateway: Name,
    template: String,
    status_topic: String,
    qos: u8,
    retain: bool,
    metrics: Arc<Metrics>,
    outbox: Mutex<Outbox>,
    /// What the retained status says while the gateway is online.
    status: Mutex<String>,
    wake: Notify,
}

impl Publisher {
    /// Puts a reading into the outbox. Never waits: when full, the oldest makes room, counted.
    pub fn publish(&self, reading: &Reading, stamp: Stamp, position: Option<Position>) {
        let shared = &*self.0;
        let mut topic = topics::expand(
            &shared.template,
            topics::Parts {
                gateway: &shared.gateway,
                source: &reading.source,
                stream: &reading.stream,
                device: &reading.device,
            },
        );
        if topic == shared.status_topic {
            // A device named `status` must not overwrite the gateway's own.
            topic.push('_');
        }
        let payload = payloads::reading(&shared.gateway, reading, stamp, position);
        if topic.len() > topics::TOPIC_BYTES_MAX || topic.len() + payload.len() > PUBLICATION_BYTES_MAX {
            return shared.dropped("too_large", 1);
        }
        let publication = Publication { topic, payload, qos: shared.qos, retain: shared.retain, is_status: false };
        let mut outbox = shared.outbox();
        let dropped = outbox.push(publication);
        shared.count(&outbox);
        drop(outbox);
        if dropped > 0 {
            shared.dropped("outbox_full", dropped);
        }
        shared.wake.notify_one();
    }

    /// Payload of the retained status topic; republished when it changes.
    pub fn set_status(&self, json: String) {
        let shared = &*self.0;
        {
            let mut status = shared.status.lock().unwrap_or_else(PoisonError::into_inner);
            if *status == json {
                return;
            }
            status.clone_from(&json);
        }
        shared.say(json);
        shared.wake.notify_one();
    }
}

impl Shared {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        // A panic elsewhere cannot leave the outbox half changed in a way that matters more than going on.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, outbox: &Outbox) {
        self.metrics.mqtt_outbox_records.set(i64::try_from(outbox.len()).unwrap_or(i64::MAX));
    }

    fn dropped(&self, kind: &'static str, number: u64) {
        self.metrics.mqtt_dropped.get_or_create(&ByKind { kind }).inc_by(number);
    }

    fn say(&self, json: String) {
        self.outbox().set_status(Publication {
            topic: self.status_topic.clone(),
            payload: json.into_bytes(),
            qos: 1,
            retain: true,
            is_status: true,
        });
    }

    fn status(&self) -> String {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Hands the session as much as may be in flight.
    fn feed(&self, handle: &Handle) -> Result<(), SessionError> {
        let mut outbox = self.outbox();
        while let Some(next) = outbox.hand_over() {
            handle.publish(&next.topic, &next.payload, next.qos, next.retain)?;
        }
        Ok(())
    }

    fn account(&self, event: &Event) {
        let mut outbox = self.outbox();
        let done = match event {
            Event::Sent(packet_id) => outbox.sent(*packet_id),
            Event::Acknowledged(packet_id) => outbox.acknowledged(*packet_id),
            _ => return,
        };
        if done {
            self.metrics.mqtt_published.inc();
            self.count(&outbox);
        }
    }
}

/// Starts the publisher task. When `stop` is cancelled it flushes what it can, publishes "offline", disconnects and ends
/// (within 2 s).
pub fn spawn(
    config: &Mqtt,
    gateway: &Name,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> (Publisher, JoinHandle<()>) {
    let limits = Limits { records: config.outbox_records.max(1), bytes: OUTBOX_BYTES_MAX, in_flight: IN_FLIGHT_MAX };
    let shared = Arc::new(Shared {
        gateway: gateway.clone(),
        template: config.topic.clone(),
        status_topic: crate::config::status_topic(&config.topic, gateway),
        qos: config.qos,
        retain: config.retain,
        metrics,
        outbox: Mutex::new(Outbox::new(limits)),
        status: Mutex::new(payloads::status(gateway, "online")),
        wake: Notify::new(),
    });
    let task = tokio::spawn(run(config.clone(), shared.clone(), stop));
    (Publisher(shared), task)
}

async fn run(config: Mqtt, shared: Arc<Shared>, stop: CancellationToken) {
    let offline = payloads::status(&shared.gateway, "offline");
    let mut backoff = session::backoff();
    let mut connections = 0_u64;
    let mut reported = false;
    while !stop.is_cancelled() {
        let (handle, driver) = session::open(
            &config,
            Options {
                client_id: format!("forebay-{}", shared.gateway),
                clean: true,
                will: Some((shared.status_topic.clone(), offline.clone())),
                packet_bytes_max: PACKET_BYTES_MAX,
                through: None,
            },
        );
        let mut connection = Connection { shared: &shared, handle, driver, since: None };
        let outcome = connection.drive(&stop, &mut connections).await;
        if stop.is_cancelled() {
            if connection.since.is_some() && outcome.is_ok() {
                connection.finish(offline.clone()).await;
            }
            break;
        }
        let since = connection.since;
        shared.metrics.mqtt_up.set(0);
        shared.outbox().session_lost();
        if since.is_some_and(|since| since.elapsed() >= GOOD_CONNECTION) {
            backoff.reset();
        }
        if let Err(error) = outcome {
            shared.metrics.mqtt_errors.get_or_create(&ByKind { kind: error.kind() }).inc();
            // Logged once per change of state: further failed attempts are only counted.
            if since.is_some() || !reported {
                tracing::warn!(broker = ?config.broker, %error, "local mqtt broker is away");
                reported = true;
            }
        }
        tokio::select! {
            () = sleep(backoff.next()) => {}
            () = stop.cancelled() => {}
        }
    }
    shared.metrics.mqtt_up.set(0);
}

struct Connection<'a> {
    shared: &'a Shared,
    handle: Handle,
    driver: Driver,
    since: Option<Instant>,
}

impl Connection<'_> {
    /// Until the session fails, or `stop` (then `Ok`).
    async fn drive(&mut self, stop: &CancellationToken, connections: &mut u64) -> Result<(), SessionError> {
        loop {
            let event = {
                let mut next = pin!(self.driver.next());
                loop {
                    tokio::select! {
                        event = &mut next => break event?,
                        () = self.shared.wake.notified(), if self.since.is_some() => self.shared.feed(&self.handle)?,
                        () = stop.cancelled() => return Ok(()),
                    }
                }
            };
            if matches!(event, Event::Connected) {
                self.since = Some(Instant::now());
                if *connections > 0 {
                    self.shared.metrics.mqtt_reconnects.inc();
                }
                *connections += 1;
                self.shared.metrics.mqtt_up.set(1);
                tracing::info!(waiting = self.shared.outbox().len(), "local mqtt broker is connected");
                self.shared.say(self.shared.status());
            }
            self.shared.account(&event);
            if self.since.is_some() {
                self.shared.feed(&self.handle)?;
            }
        }
    }

    /// Flushes readings, says "offline", disconnects; gives up each when its time is over.
    async fn finish(&mut self, offline: String) {
        let start = Instant::now();
        let flushed = timeout_at(start + FLUSH_MAX, self.drain()).await;
        self.shared.say(offline);
        let said = timeout_at(start + STOP_MAX, self.drain()).await;
        let left = self.shared.outbox().len();
        if left > 0 || !matches!((&flushed, &said), (Ok(Ok(())), Ok(Ok(())))) {
            tracing::warn!(left, "stopped before the local mqtt broker had acknowledged everything");
        }
        if self.handle.disconnect().is_ok() {
            // The broker closes the connection at DISCONNECT, which ends the driver with an error.
            let _ = timeout_at(start + STOP_MAX, async { while self.driver.next().await.is_ok() {} }).await;
        }
    }

    async fn drain(&mut self) -> Result<(), SessionError> {
        loop {
            self.shared.feed(&self.handle)?;
            if self.shared.outbox().is_drained() {
                return Ok(());
            }
            let event = self.driver.next().await?;
            self.shared.account(&event);
        }
    }
}
