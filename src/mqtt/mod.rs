//! The local MQTT broker: publishing every reading, and (for sources) subscribing. stub
pub mod topics;
use crate::metrics::Metrics;
use crate::reading::{Name, Position, Reading, Stamp};
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The hub's end: cheap to clone, never waits.
#[derive(Clone, Debug)]
pub struct Publisher {}

#[allow(unused_variables, missing_docs)]
impl Publisher {
    /// Puts a reading into the outbox. Never waits: when full, the oldest makes room, counted.
    pub fn publish(&self, reading: &Reading, stamp: Stamp, position: Option<Position>) {
        todo!()
    }
    /// Payload of the retained status topic; republished when it changes.
    pub fn set_status(&self, json: String) {
        todo!()
    }
}

/// Starts the publisher task. When `stop` is cancelled it publishes "offline", disconnects and ends (within 2 s).
#[allow(unused_variables)]
pub fn spawn(
    config: &crate::config::Mqtt,
    gateway: &Name,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> (Publisher, JoinHandle<()>) {
    todo!()
}
