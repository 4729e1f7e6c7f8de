//! The hub: stamps readings, routes them to their stream, hands them to the queue and then to MQTT.
//!
//! One task that never waits for anything but its inbox: a push into the queue does no I/O and a publication only
//! enters an outbox, so a dead uplink does not slow the local broker, nor the reverse. The queue comes first: what is
//! published carries the position it was given.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::metrics::{BySource, Metrics};
use crate::mqtt::Publisher;
use crate::queue::{NewRecord, PushError, Pushed, Queue, StreamIndex};
use crate::reading::{Envelope, Name, Position, Receipt};

/// Most readings between the sources and the hub. Sources wait when it is full, which only a stalled machine causes:
/// the hub itself waits for nobody.
pub const INBOX_READINGS_MAX: usize = 1024;

/// Readings taken from the inbox at one go.
const BURST_READINGS_MAX: usize = 256;

/// The hub's connections.
#[derive(Debug)]
pub struct Hub {
    queue: Queue,
    streams: HashMap<Name, StreamIndex>,
    publisher: watch::Receiver<Option<Publisher>>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    /// Streams whose last reading was refused: each change is logged once.
    refusing: HashSet<Name>,
}

impl Hub {
    /// A hub that pushes into `queue`, whose streams are `streams` in their configured order, and publishes through
    /// whatever `publisher` holds at the time (a reload may change it).
    pub fn new(
        queue: Queue,
        streams: impl IntoIterator<Item = Name>,
        publisher: watch::Receiver<Option<Publisher>>,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let streams = streams.into_iter().enumerate().map(|(index, name)| (name, StreamIndex(index))).collect();
        Self { queue, streams, publisher, clock, metrics, refusing: HashSet::new() }
    }

    /// Runs until every sender of the inbox is gone and the inbox is empty.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Envelope>) {
        let mut burst = Vec::with_capacity(BURST_READINGS_MAX);
        while inbox.recv_many(&mut burst, BURST_READINGS_MAX).await > 0 {
            for envelope in burst.drain(..) {
                self.take(envelope);
            }
        }
    }

    fn take(&mut self, envelope: Envelope) {
        let Envelope { reading, receipt } = envelope;
        self.metrics.readings_in.get_or_create(&BySource { source: reading.source.to_string() }).inc();
        let stamp = self.clock.stamp(reading.boot_ns, reading.measured_us);
        let told = match self.streams.get(&reading.stream) {
            Some(&stream) => {
                let record = NewRecord {
                    stamp,
                    source: reading.source.clone(),
                    device: reading.device.clone(),
                    fields: reading.fields.clone(),
                };
                let pushed = self.queue.push(stream, record);
                self.receipt_of(pushed, &reading.stream, &reading.source)
            }
            // The configuration checks every stream a source names, so this is a source's own mistake.
            None => {
                self.metrics.source_error(&reading.source, "unknown_stream");
                Receipt::Refused
            }
        };
        if !reading.from_mqtt
            && let Some(publisher) = self.publisher.borrow().as_ref()
        {
            publisher.publish(&reading, stamp, position_of(&told));
        }
        if let Some(receipt) = receipt {
            // A source that stopped waiting (it is being reloaded) will be sent the message again by its broker.
            let _ = receipt.send(told);
        }
    }

    fn receipt_of(&mut self, pushed: Result<Pushed, PushError>, stream: &Name, source: &Name) -> Receipt {
        match pushed {
            Ok(Pushed::Queued(position)) => {
                if self.refusing.remove(stream) {
                    tracing::info!(stream = %stream, "the queue takes readings again");
                }
                Receipt::Queued { stream: stream.clone(), position }
            }
            Ok(Pushed::SetAside) => Receipt::SetAside,
            Err(error) => {
                self.metrics.readings_refused.get_or_create(&BySource { source: source.to_string() }).inc();
                if self.refusing.insert(stream.clone()) {
                    tracing::error!(stream = %stream, source = %source, error = %error, "reading refused by the queue");
                }
                Receipt::Refused
            }
        }
    }
}

fn position_of(receipt: &Receipt) -> Option<Position> {
    match receipt {
        Receipt::Queued { position, .. } => Some(*position),
        Receipt::SetAside | Receipt::Refused => None,
    }
}
