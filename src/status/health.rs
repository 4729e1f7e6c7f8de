//! Whether the agent is alive, and whether it does its job.

use std::time::Duration;

use super::View;

/// Alive: the store works. A supervisor may restart the agent when this fails.
pub(super) fn healthy(view: &View) -> Result<(), String> {
    alive(view.queue.store_failed())
}

/// Ready: alive, and readings are taken and become durable in time. A dead uplink does not make a gateway unready:
/// waiting for it is what the queue is for.
pub(super) fn ready(view: &View) -> Result<(), String> {
    healthy(view)?;
    let queue = view.queue.status();
    in_time(queue.undurable_age, queue.window, view.queue.window())
}

/// Windows of every day by which a record may be late before the agent calls itself unready.
const LATE_WINDOWS: u32 = 9;

fn alive(store_failed: bool) -> Result<(), String> {
    if store_failed { Err("the queue's store has failed".into()) } else { Ok(()) }
}

/// Judges the age of the oldest record that is neither durable nor acknowledged: by the window that holds, which an
/// outage makes longer, and a lateness that no outage excuses.
fn in_time(age: Duration, window: Duration, everyday_window: Duration) -> Result<(), String> {
    let age_max = window + LATE_WINDOWS * everyday_window;
    if age > age_max {
        return Err(format!(
            "records have waited {:.1} s to become durable, the limit is {:.1} s",
            age.as_secs_f64(),
            age_max.as_secs_f64()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failed_store_is_not_alive() {
        assert_eq!(alive(false), Ok(()));
        assert!(alive(true).unwrap_err().contains("store has failed"));
    }

    #[test]
    fn ten_windows_are_in_time_and_more_are_not() {
        assert_eq!(in_time(10 * SECOND, SECOND, SECOND), Ok(()));
        let late = in_time(10 * SECOND + Duration::from_millis(100), SECOND, SECOND).unwrap_err();
        assert_eq!(late, "records have waited 10.1 s to become durable, the limit is 10.0 s");
    }

    #[test]
    fn records_that_wait_for_the_window_of_an_outage_are_in_time() {
        let window = 60 * SECOND;
        // Half of it passes before they are written.
        assert_eq!(in_time(31 * SECOND, window, SECOND), Ok(()));
        assert_eq!(in_time(69 * SECOND, window, SECOND), Ok(()));
        assert!(in_time(70 * SECOND, window, SECOND).is_err(), "a store that does not write is no outage");
    }
}
