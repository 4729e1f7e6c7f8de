//! Tells the queue when this boot began, as soon as a clock says that can be trusted, and again where it is put right.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::clock::{Clock, wall_at};
use crate::metrics::Metrics;
use crate::queue::Queue;

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until it is aborted; it holds nothing that has to be let go of in order.
pub(super) fn spawn(clock: Arc<Clock>, queue: Queue, metrics: Arc<Metrics>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let began_us = clock.began_us();
            if let Some(began_us) = began_us {
                queue.boot_began(began_us);
            }
            let is_set = i64::from(began_us.is_some());
            if metrics.clock_set.set(is_set) != is_set {
                told(began_us);
            }
            tokio::time::sleep(LOOK).await;
        }
    })
}

fn told(began_us: Option<i64>) {
    match began_us {
        Some(began_us) => {
            let mut time = Vec::new();
            crate::reading::json::write_time(&mut time, wall_at(began_us, 0));
            tracing::info!(boot_began = %String::from_utf8_lossy(&time), "clock is set; what was recorded before gets its time");
        }
        None => tracing::warn!("clock is no longer synchronised"),
    }
}
