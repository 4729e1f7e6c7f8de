//! Modbus units behind one connection, TCP or RTU, polled into readings. The only module that names tokio-modbus.
//!
//! `plan` decides which requests read a unit's registers, `unit` when it is asked and whether it is alive,
//! `session` carries one request and its answer, and makes sure that a late answer is never taken for the next
//! one's; `bus` is the task that binds them.

mod bus;
mod plan;
mod session;
mod unit;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::metrics::Metrics;
use crate::reading::{Envelope, Name};

/// How long after a request on a serial line its answer may still come in.
pub const LATE_ANSWER_MAX: Duration = Duration::from_secs(2);

/// Polls the units of one bus until `stop` is cancelled. Readings go to `hub`; trouble is counted in `metrics` under
/// `name` by kind: `open`, `lost`, `timeout`, `frame` (bytes that are no answer to the request), `exception`.
///
/// `late_answer_max` is [`LATE_ANSWER_MAX`] unless the units are known to be quicker.
pub async fn run(
    name: Name,
    config: config::Modbus,
    late_answer_max: Duration,
    hub: mpsc::Sender<Envelope>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let bus = bus::Bus::new(name, config, late_answer_max, hub, metrics);
    // Every await of the bus may be dropped: a request cut short here is never followed by another.
    let _ = stop.run_until_cancelled(bus.poll_forever()).await;
}
