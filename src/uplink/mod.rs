//! Drains the queue into Kafka. stub
use crate::metrics::Metrics;
use crate::queue::Queue;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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

/// A running uplink: one OS thread.
pub struct Uplink {}

#[allow(unused_variables, clippy::missing_errors_doc, missing_docs)]
impl Uplink {
    /// Starts the drain thread; fails only where the client cannot be made (bad property).
    pub fn start(
        settings: Settings,
        queue: Queue,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        todo!()
    }
    pub fn status(&self) -> UplinkStatus {
        todo!()
    }
    /// After `stop`: waits for the bounded last flush and the thread's end. Blocks.
    pub fn join(self) {
        todo!()
    }
}
