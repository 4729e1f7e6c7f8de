//! Whether the agent is alive, and whether it does its job.

use super::View;

/// Alive: the store works. A supervisor may restart the agent when this fails.
pub(super) fn healthy(view: &View) -> Result<(), String> {
    if view.queue.store_failed() {
        return Err("the queue's store has failed".into());
    }
    Ok(())
}

/// Ready: alive, and readings are taken and become durable in time. A dead uplink does not make a gateway unready:
/// waiting for it is what the queue is for.
pub(super) fn ready(view: &View) -> Result<(), String> {
    healthy(view)?;
    let late = view.queue.status().undurable_age;
    let late_max = LATE_FACTOR * view.queue.window();
    if late > late_max {
        return Err(format!(
            "records have waited {:.1} s to become durable, the limit is {:.1} s",
            late.as_secs_f64(),
            late_max.as_secs_f64()
        ));
    }
    Ok(())
}

/// Windows a record may wait before the agent calls itself unready.
const LATE_FACTOR: u32 = 10;
