//! The status listener: `/metrics`, `/healthz`, `/readyz`, `/status` and a page for people at `/`.
//!
//! It renders what others know and owns no state. It listens on loopback unless told otherwise, answers GET only, and
//! holds few connections for a short time, so that whoever looks cannot slow the agent.

mod health;
mod http;
mod report;

use std::sync::Arc;
use std::time::Instant;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::reading::Name;
use crate::uplink::UplinkStatus;

/// What the listener may look at.
pub struct View {
    /// The gateway id.
    pub gateway: Name,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Their exposition.
    pub registry: Registry,
    /// The queue.
    pub queue: Queue,
    /// Names of streams in the queue's order are in its status; topics are here for people, in the same order.
    pub topics: Vec<String>,
    /// Asks the uplink how it is; `None` where no uplink is configured.
    pub uplink: Box<dyn Fn() -> Option<UplinkStatus> + Send + Sync>,
    /// Names of the sources now configured.
    pub sources: watch::Receiver<Vec<Name>>,
    /// When the agent started.
    pub started: Instant,
}

/// Serves until `stop` is cancelled.
pub fn spawn(listener: TcpListener, view: Arc<View>, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(http::serve(listener, view, stop))
}
