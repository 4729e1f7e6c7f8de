//! stub
use crate::config;
use crate::metrics::Metrics;
use crate::reading::{Envelope, Name};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
/// stub
pub async fn run(
    _name: Name,
    _stream: Name,
    _config: config::Simulated,
    _hub: mpsc::Sender<Envelope>,
    _metrics: Arc<Metrics>,
    _stop: CancellationToken,
) {
    todo!()
}
