//! The Kafka timestamp of a record: the time of measurement, unless it cannot be true.
//!
//! A gateway without a clock chip boots in the past; such a timestamp would let a topic's time retention delete the
//! record at once. The value still carries the estimate, marked by `clock`.

use crate::reading::{Stamp, Trust};

/// No record can be older than this software: 2026-11-22T00:00:00Z.
pub const BUILD_FLOOR_MS: i64 = 1_795_305_600_000;

/// The timestamp in milliseconds since 1970 UTC. `last_ms` is the last one that Kafka accepted for the stream;
/// `refused`: the broker refused the record's own time before.
pub fn timestamp_ms(stamp: Stamp, last_ms: Option<i64>, refused: bool) -> i64 {
    let own_ms = stamp.wall_us.div_euclid(1_000);
    let impossible = stamp.trust == Trust::Unknown && own_ms < BUILD_FLOOR_MS;
    if impossible || refused { last_ms.unwrap_or(BUILD_FLOOR_MS) } else { own_ms }
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
    fn a_time_before_the_software_existed_is_not_believed_unless_vouched_for() {
        assert_eq!(timestamp_ms(stamp(1_000, Trust::Unknown), None, false), BUILD_FLOOR_MS);
        assert_eq!(timestamp_ms(stamp(1_000, Trust::Unknown), Some(7), false), 7);
        assert_eq!(timestamp_ms(stamp(1_000, Trust::Gnss), Some(7), false), 1_000);
        let later = BUILD_FLOOR_MS + 5;
        assert_eq!(timestamp_ms(stamp(later, Trust::Unknown), Some(7), false), later);
        assert_eq!(timestamp_ms(stamp(later, Trust::Ntp), Some(7), true), 7);
    }
}
