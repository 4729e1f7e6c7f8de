//! The Kafka timestamp of a record: the time of measurement, unless it cannot be true.
//!
//! A gateway without a clock chip boots in the past; such a timestamp would let a topic's time retention delete the
//! record at once. A clock that is ahead makes the broker refuse it (`message.timestamp.after.max.ms`). In both cases
//! the record goes out with the last time Kafka accepted; the value still carries the estimate, marked by `clock`.

use crate::reading::{Stamp, Trust};

/// No record can be older than this software: 2026-11-22T00:00:00Z.
pub const BUILD_FLOOR_MS: i64 = 1_795_305_600_000;

/// How long a refused timestamp says that later ones would be refused as well; the broker's limit moves with its clock.
const REFUSED_FOR_NS: u64 = 60_000_000_000;

/// What is known of a stream's timestamps.
#[derive(Debug, Default)]
pub struct Timestamps {
    accepted_ms: Option<i64>,
    /// The lowest that was refused lately, and when that was, boot time in ns.
    refused: Option<(i64, u64)>,
}

impl Timestamps {
    /// The timestamp in milliseconds since 1970 UTC for a record measured at `stamp`. `refused`: the broker refused
    /// the record's own time.
    pub fn of(&mut self, stamp: Stamp, refused: bool, now_ns: u64) -> i64 {
        let own_ms = stamp.wall_us.div_euclid(1_000);
        let known_ms = self.accepted_ms.unwrap_or(BUILD_FLOOR_MS);
        if refused {
            self.refused = Some((own_ms, now_ns));
            return known_ms;
        }
        let ahead = self
            .refused
            .is_some_and(|(limit_ms, at_ns)| own_ms >= limit_ms && now_ns.saturating_sub(at_ns) < REFUSED_FOR_NS);
        let behind = stamp.trust == Trust::Unknown && own_ms < known_ms;
        if ahead || behind { known_ms } else { own_ms }
    }

    /// Kafka accepted a record with this timestamp.
    pub fn accepted(&mut self, timestamp_ms: i64) {
        self.accepted_ms = Some(timestamp_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(wall_ms: i64, trust: Trust) -> Stamp {
        Stamp { boot_ns: 0, wall_us: wall_ms * 1_000, trust }
    }

    #[test]
    fn the_floor_is_the_day_it_says() {
        let mut text = Vec::new();
        crate::reading::json::write_time(&mut text, BUILD_FLOOR_MS * 1_000);
        assert_eq!(text, b"2026-11-22T00:00:00.000Z");
    }

    #[test]
    fn an_unknown_clock_is_not_believed_when_it_is_behind_what_kafka_has() {
        let mut timestamps = Timestamps::default();
        assert_eq!(timestamps.of(stamp(1_000, Trust::Unknown), false, 0), BUILD_FLOOR_MS);
        let last = BUILD_FLOOR_MS + 100;
        timestamps.accepted(last);
        assert_eq!(timestamps.of(stamp(1_000, Trust::Unknown), false, 0), last);
        assert_eq!(timestamps.of(stamp(last - 1, Trust::Unknown), false, 0), last);
        assert_eq!(timestamps.of(stamp(last + 1, Trust::Unknown), false, 0), last + 1);
        assert_eq!(timestamps.of(stamp(1_000, Trust::Gnss), false, 0), 1_000, "a trusted time is believed");
    }

    #[test]
    fn what_was_refused_is_replaced_and_so_are_later_times_for_a_minute() {
        let mut timestamps = Timestamps::default();
        let (known, ahead) = (BUILD_FLOOR_MS + 5, BUILD_FLOOR_MS + 1_000_000);
        timestamps.accepted(known);
        assert_eq!(timestamps.of(stamp(ahead, Trust::Rtc), false, 0), ahead, "not refused yet");
        assert_eq!(timestamps.of(stamp(ahead, Trust::Rtc), true, 0), known);
        assert_eq!(timestamps.of(stamp(ahead + 1, Trust::Rtc), false, 1), known);
        assert_eq!(timestamps.of(stamp(ahead - 1, Trust::Rtc), false, 1), ahead - 1);
        assert_eq!(timestamps.of(stamp(ahead + 1, Trust::Rtc), false, REFUSED_FOR_NS), ahead + 1, "tried again");
    }
}
