//! Sources: each owns its port or connection, one task each. stub
pub mod modbus;
pub(crate) mod port;
pub mod simulated;
use crate::metrics::Metrics;
use crate::reading::Envelope;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

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
#[allow(unused_variables)]
pub fn spawn(config: crate::config::Source, context: Context) -> JoinHandle<()> {
    todo!()
}
