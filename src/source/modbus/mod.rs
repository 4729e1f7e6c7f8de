//! stub
use crate::config;
use crate::metrics::Metrics;
use crate::reading::{Envelope, Name};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
/// stub
pub const LATE_ANSWER_MAX: std::time::Duration = std::time::Duration::from_secs(2);
/// stub
pub async fn run(
    _name: Name,
    _config: config::Modbus,
    _late_answer_max: std::time::Duration,
    _hub: mpsc::Sender<Envelope>,
    _metrics: Arc<Metrics>,
    _stop: CancellationToken,
) {
    todo!()
}
