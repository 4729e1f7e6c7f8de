//! Warns where the settings together keep the agent from sparing flash: what Kafka acknowledges within half the window
//! is never written, so that half must leave time for an acknowledgement.

use std::time::Duration;

use super::reader::Table;

/// A round trip to a broker that is not far, with its replication; over a mobile network it may take several times that.
const ROUND_TRIP: Duration = Duration::from_millis(40);
/// Round trips of one transaction: partitions, records, offsets' group, offsets, commit.
const TRANSACTION_ROUND_TRIPS: u32 = 5;

/// What decides how soon records are acknowledged, and where it is written.
pub(super) struct Uplink<'a> {
    /// `[kafka]`.
    pub(super) table: &'a Table<'a>,
    pub(super) linger: Duration,
    pub(super) exactly_once: bool,
}

/// Warns once, at the setting that is most to blame; `queue` is `[queue]`.
pub(super) fn warn(queue: &Table<'_>, window: Duration, uplink: &Uplink<'_>) {
    let table = uplink.table;
    let warning = |table: &Table<'_>, key: &str, message: String| {
        table.report.warning(&table.place_of(key), table.path_of(key), message);
    };
    if uplink.linger >= window / 2 {
        let message =
            "is half of queue.window or more; every record will be written to flash while the uplink is healthy";
        return warning(table, "linger", message.to_owned());
    }
    if uplink.linger > window / 10 {
        let message =
            "is more than a tenth of queue.window; records will be written to flash while the uplink is healthy";
        return warning(table, "linger", message.to_owned());
    }
    let needed = acknowledged_after(uplink.linger, uplink.exactly_once);
    if needed > window / 2 {
        let why = if uplink.exactly_once { " of a transaction" } else { "" };
        let message = format!(
            "{} ms leave half of it for an acknowledgement{why}, which takes {} ms even from a broker that is not far; records will \
             be written to flash while the uplink is healthy",
            window.as_millis(),
            needed.as_millis()
        );
        warning(queue, "window", message);
    }
}

/// How long an acknowledgement takes at best. A record that misses a transaction waits for the whole of it, and then for
/// its own.
fn acknowledged_after(linger: Duration, exactly_once: bool) -> Duration {
    let round_trips = if exactly_once { 2 * TRANSACTION_ROUND_TRIPS } else { 1 };
    linger + ROUND_TRIP * round_trips
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_takes_its_round_trips_twice() {
        let linger = Duration::from_millis(50);
        assert_eq!(acknowledged_after(linger, false), Duration::from_millis(90));
        assert_eq!(acknowledged_after(linger, true), Duration::from_millis(450));
    }
}
