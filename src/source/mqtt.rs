//! Topics of the local broker as a source. A message is acknowledged only once its reading is durable here or
//! acknowledged by Kafka, so its publisher may forget it then.
//!
//! MQTT 3.1.1, as the publisher: one client code for both, and every broker speaks it. What is in flight is bounded by
//! the broker's `max_inflight_messages` (Mosquitto: 20), and by [`WITHHELD_MAX`] against one that sets no bound. QoS 2 is
//! asked for as QoS 1: redelivery makes a new reading either way.

#[cfg(test)]
#[cfg(feature = "demo")]
mod tests;
mod withheld;

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::withheld::{Outcome, Withheld};
use super::Context;
use crate::config::{Mqtt, MqttSource, Payload};
use crate::decode::payload;
use crate::metrics::Metrics;
use crate::mqtt::session::{self, Driver, Event, Handle, Message, Options, SessionError};
use crate::mqtt::topics;
use crate::queue::{Dropped, StreamIndex};
use crate::reading::{Envelope, Name, Position, Reading};

/// Most messages whose acknowledgement is withheld, and most readings waiting for the hub.
const WITHHELD_MAX: usize = 1_000;
/// Half the in-flight allowance of a broker as it comes: so many withheld acknowledgements ask for a group commit.
const WITHHELD_MANY: usize = 10;
/// After this long, where Kafka has not acknowledged them meanwhile.
const COMMIT_AFTER: Duration = Duration::from_millis(200);
/// Smallest limit of a packet, so that a payload somewhat over its own limit needs no session of its own. What is larger
/// ends the session; the next one gets it cut, sees that it is too large, and acknowledges it.
const PACKET_BYTES_MIN: usize = 1 << 20;
/// Between two log lines of bad payloads.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// How long saying goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_millis(500);
/// A connection that lasted this long counts as good.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("cannot listen on loopback: {0}")]
    Relay(#[from] std::io::Error),
    #[error("queue refused a reading; the broker is to deliver it again later")]
    Refused,
    #[error(
        "broker sent more than {WITHHELD_MAX} messages without waiting for acknowledgements; it is to send the rest again"
    )]
    TooMany,
    #[error("hub is gone")]
    HubGone,
}

/// Runs the source until `context.stop`.
pub(crate) async fn run(name: Name, stream: Name, config: MqttSource, context: &Context) {
    let Some(mqtt) = &context.mqtt else {
        tracing::error!(source = %name, "source of type mqtt needs [mqtt], which is not configured");
        context.stop.cancelled().await;
        return;
    };
    let Some(index) = context.queue.status().streams.iter().position(|known| known.name == stream) else {
        tracing::error!(source = %name, %stream, "stream is not configured");
        context.stop.cancelled().await;
        return;
    };
    let index = StreamIndex(index);
    let around = Around {
        hub: &context.hub,
        metrics: &context.metrics,
        stop: &context.stop,
        gateway: &context.gateway,
        safe_through: context.queue.safe_through(index),
        dropped: context.queue.dropped(index),
        request_commit: &|| context.queue.request_flush(),
    };
    Source { name, stream, config, context: around, quiet_until: None, cut_larger: false }.serve(mqtt).await;
}

/// What the source uses of what is around it.
struct Around<'a> {
    hub: &'a mpsc::Sender<Envelope>,
    metrics: &'a Metrics,
    stop: &'a CancellationToken,
    gateway: &'a Name,
    safe_through: watch::Receiver<Option<Position>>,
    dropped: watch::Receiver<Dropped>,
    /// Asks the queue for an early group commit.
    request_commit: &'a (dyn Fn() + Sync),
}

impl Source<'_> {
    async fn serve(&mut self, mqtt: &Mqtt) {
        let mut backoff = session::backoff();
        let mut reported = false;
        while !self.context.stop.is_cancelled() {
            let mut since = None;
            let outcome = self.connection(mqtt, &mut since).await;
            self.context.metrics.source_is_up(&self.name, false);
            let Err(error) = outcome else { break };
            self.cut_larger = matches!(error, Lost::Session(SessionError::TooLarge { .. }));
            // A connection that was overrun took and acknowledged a thousand messages.
            if since.is_some_and(|since: Instant| since.elapsed() >= GOOD_CONNECTION) || matches!(error, Lost::TooMany)
            {
                backoff.reset();
            }
            self.context.metrics.source_error(&self.name, "connection");
            if since.is_some() || !reported {
                tracing::warn!(source = %self.name, %error, "subscription lost");
                reported = true;
            }
            tokio::select! {
                () = sleep(backoff.next()) => {}
                () = self.context.stop.cancelled() => {}
            }
        }
    }
}

struct Source<'a> {
    name: Name,
    stream: Name,
    config: MqttSource,
    context: Around<'a>,
    /// Bad payloads are counted, not logged, until then.
    quiet_until: Option<Instant>,
    /// The last connection met a packet that was too large: on the next one such arrive cut.
    cut_larger: bool,
}

impl Source<'_> {
    /// One connection, until it is lost or `stop` (then `Ok`).
    async fn connection(&mut self, mqtt: &Mqtt, since: &mut Option<Instant>) -> Result<(), Lost> {
        let packet_bytes_max = self.config.payload_bytes_max.saturating_mul(2).max(PACKET_BYTES_MIN);
        let through = if self.cut_larger { Some(session::relay(mqtt, packet_bytes_max)?) } else { None };
        let options = Options {
            client_id: format!("forebay-{}-{}", self.context.gateway, self.name),
            clean: self.config.qos == 0,
            will: None,
            packet_bytes_max,
            through,
        };
        let (handle, mut driver): (Handle, Driver) = session::open(mqtt, options);
        let mut withheld = Withheld::new(self.context.safe_through.clone(), self.context.dropped.clone());
        let mut to_hub: VecDeque<Envelope> = VecDeque::new();
        let mut commit_at: Option<Instant> = None;
        // Once a message had to be passed over, all later ones are, so that they come again in their order.
        let mut overrun = false;
        loop {
            let event = {
                let mut next = pin!(driver.next());
                loop {
                    if overrun && withheld.len() == 0 {
                        break None;
                    }
                    if withheld.len() < WITHHELD_MANY {
                        commit_at = None;
                    } else if commit_at.is_none() {
                        commit_at = Some(Instant::now() + COMMIT_AFTER);
                    }
                    tokio::select! {
                        event = &mut next => break Some(event?),
                        permit = self.context.hub.reserve(), if !to_hub.is_empty() => {
                            let permit = permit.map_err(|_| Lost::HubGone)?;
                            if let Some(envelope) = to_hub.pop_front() {
                                permit.send(envelope);
                            }
                        }
                        outcome = withheld.next(), if withheld.len() > 0 => match outcome {
                            Outcome::Acknowledge(message) => handle.acknowledge(&message)?,
                            Outcome::Refused => return Err(Lost::Refused),
                        },
                        () = sleep_until(commit_at.unwrap_or_else(Instant::now)), if commit_at.is_some() => {
                            (self.context.request_commit)();
                            commit_at = None;
                        }
                        () = self.context.stop.cancelled() => break None,
                    }
                }
            };
            let Some(event) = event else {
                Self::goodbye(&handle, &mut driver, &mut withheld).await?;
                // What was passed over comes again on the next connection, now that all before it is acknowledged.
                return if overrun && !self.context.stop.is_cancelled() { Err(Lost::TooMany) } else { Ok(()) };
            };
            match event {
                Event::Connected => {
                    *since = Some(Instant::now());
                    handle.subscribe(&self.config.topics, self.config.qos.min(1))?;
                }
                Event::Subscribed { refused } => self.subscribed(refused),
                Event::Message(message) => {
                    let is_over = message.wants_acknowledgement() && (overrun || withheld.len() >= WITHHELD_MAX);
                    overrun |= is_over;
                    if !is_over {
                        self.take(message, &mut withheld, &mut to_hub);
                    }
                }
                _ => {}
            }
        }
    }

    /// Acknowledges what is safe by now, and disconnects. What is not acknowledged comes again at the next start.
    async fn goodbye(handle: &Handle, driver: &mut Driver, withheld: &mut Withheld<Message>) -> Result<(), Lost> {
        while let Ok(Outcome::Acknowledge(message)) = timeout(Duration::ZERO, withheld.next()).await {
            handle.acknowledge(&message)?;
        }
        handle.disconnect()?;
        // The broker closes the connection, which ends the driver with an error.
        let _ = timeout(GOODBYE_MAX, async { while driver.next().await.is_ok() {} }).await;
        Ok(())
    }

    fn subscribed(&self, refused: usize) {
        self.context.metrics.source_is_up(&self.name, refused < self.config.topics.len());
        if refused > 0 {
            self.context.metrics.source_error(&self.name, "subscription");
            tracing::error!(source = %self.name, refused, topics = ?self.config.topics, "broker refused topic filters");
        } else {
            tracing::info!(source = %self.name, topics = ?self.config.topics, "subscribed");
        }
    }

    /// Turns a message into a reading on its way to the hub; what can never be one is acknowledged in its turn.
    fn take(&mut self, message: Message, withheld: &mut Withheld<Message>, to_hub: &mut VecDeque<Envelope>) {
        let Some(reading) = self.reading(&message) else {
            if message.wants_acknowledgement() {
                withheld.settled(message);
            }
            return;
        };
        if !message.wants_acknowledgement() {
            if to_hub.len() >= WITHHELD_MAX {
                self.context.metrics.source_error(&self.name, "overrun");
            } else {
                to_hub.push_back(reading.into());
            }
            return;
        }
        let (receipt, told) = oneshot::channel();
        to_hub.push_back(Envelope { reading, receipt: Some(receipt) });
        withheld.handed(message, told);
    }

    fn reading(&mut self, message: &Message) -> Option<Reading> {
        let metrics = self.context.metrics;
        // The broker keeps the subscriptions of a persistent session: those of an earlier configuration as well.
        if !self.config.topics.iter().any(|filter| topics::matches(filter, message.topic())) {
            metrics.source_error(&self.name, "foreign_topic");
            return None;
        }
        if message.retained() {
            metrics.source_error(&self.name, "retained");
            return None;
        }
        let bytes = message.payload().len();
        if bytes > self.config.payload_bytes_max {
            metrics.source_error(&self.name, "too_large");
            let limit = self.config.payload_bytes_max;
            self.complain(message.topic(), &format_args!("payload has {bytes} bytes, limit is {limit}"));
            return None;
        }
        let fields = match self.config.payload {
            Payload::Json => payload::json(message.payload()),
            Payload::Raw => payload::raw(message.payload()),
        };
        match fields {
            Ok(fields) => Some(Reading {
                source: self.name.clone(),
                device: self.device(message.topic()),
                stream: self.stream.clone(),
                boot_ns: crate::clock::boot_ns(),
                measured_us: None,
                from_mqtt: true,
                fields,
            }),
            Err(error) => {
                metrics.source_error(&self.name, "payload");
                self.complain(message.topic(), &error);
                None
            }
        }
    }

    /// A topic without the level the template names gives the source's own name: a reading is always about something.
    fn device(&self, topic: &str) -> Name {
        match topics::device_of(&self.config.device, topic) {
            device if device.is_empty() => self.name.clone(),
            device => device.into(),
        }
    }

    fn complain(&mut self, topic: &str, error: &dyn std::fmt::Display) {
        let now = Instant::now();
        if self.quiet_until.is_none_or(|until| now >= until) {
            self.quiet_until = Some(now + LOG_EVERY);
            tracing::warn!(source = %self.name, topic, %error, "message is no reading; more within a minute are only counted");
        }
    }
}
