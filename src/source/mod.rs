//! Sources: each owns its port or connection, one task each, and knows nothing of what follows it.
//!
//! A source opens, reads, notices that what it reads from is gone, backs off and opens again; what the bytes mean is
//! for [`crate::decode`] to say.

mod gnss;
pub mod modbus;
pub(crate) mod mqtt;
pub(crate) mod port;
mod serial;
pub mod simulated;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{self, SourceKind};
use crate::decode::Trouble;
use crate::metrics::{BySourceAndKind, Metrics};
use crate::reading::{Envelope, Field, Name, Reading};

/// What every source is given.
#[derive(Clone)]
pub struct Context {
    /// The way to the hub (bounded).
    pub hub: mpsc::Sender<Envelope>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// When cancelled the source closes its port and ends.
    pub stop: CancellationToken,
    /// The queue, for MQTT sources: durability and group-commit requests.
    pub queue: crate::queue::Queue,
    /// `[mqtt]`, for MQTT sources.
    pub mqtt: Option<crate::config::Mqtt>,
    /// The gateway id, for client ids.
    pub gateway: crate::reading::Name,
}

/// Starts a source's task. The task ends only when `context.stop` is cancelled.
pub fn spawn(source: config::Source, context: Context) -> JoinHandle<()> {
    let config::Source { name, stream, kind } = source;
    match kind {
        SourceKind::Gnss(gnss) => {
            let outlet = Outlet::new(name, stream, gnss.device.clone(), &context);
            tokio::spawn(gnss::run(gnss, outlet))
        }
        SourceKind::Serial(serial) => {
            let outlet = Outlet::new(name, stream, serial.device.clone(), &context);
            tokio::spawn(serial::run(serial, outlet))
        }
        SourceKind::Modbus(modbus) => {
            let Context { hub, metrics, stop, .. } = context;
            tokio::spawn(modbus::run(name, modbus, modbus::LATE_ANSWER_MAX, hub, metrics, stop))
        }
        SourceKind::Mqtt(mqtt) => tokio::spawn(async move { mqtt::run(name, stream, mqtt, &context).await }),
        SourceKind::Simulated(simulated) => {
            let Context { hub, metrics, stop, .. } = context;
            tokio::spawn(simulated::run(name, stream, simulated, hub, metrics, stop))
        }
    }
}

/// The agent is stopping: the source closes its port and ends.
#[derive(Debug)]
pub(crate) struct Stopped;

/// A source of one device seen from inside: its names, and the ways out for readings and counts.
#[derive(Clone)]
pub(crate) struct Outlet {
    source: Name,
    stream: Name,
    device: Name,
    hub: mpsc::Sender<Envelope>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Outlet {
    fn new(source: Name, stream: Name, device: Name, context: &Context) -> Self {
        let (hub, metrics, stop) = (context.hub.clone(), context.metrics.clone(), context.stop.clone());
        Self { source, stream, device, hub, metrics, stop }
    }

    /// Hands a reading to the hub, waiting where the hub is slow, but never past the stop.
    async fn send(&self, boot_ns: u64, measured_us: Option<i64>, fields: Vec<Field>) -> Result<(), Stopped> {
        let (source, device, stream) = (self.source.clone(), self.device.clone(), self.stream.clone());
        let reading = Reading { source, device, stream, boot_ns, measured_us, from_mqtt: false, fields };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stopped),
            sent = self.hub.send(reading.into()) => sent.map_err(|_| Stopped),
        }
    }

    fn count(&self, trouble: &Trouble) {
        for (kind, count) in trouble.by_kind().into_iter().filter(|(_, count)| *count > 0) {
            let labels = BySourceAndKind { source: self.source.to_string(), kind };
            self.metrics.source_errors.get_or_create(&labels).inc_by(count);
        }
    }
}
