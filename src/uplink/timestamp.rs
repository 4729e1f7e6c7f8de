//! The Kafka timestamp of a record: the time of measurement, unless Kafka cannot have it.
//!
//! A gateway without a clock chip boots in the past; such a timestamp would let a topic's time retention delete the
//! record at once. A clock that is ahead makes the broker refuse it (`message.timestamp.after.max.ms`). In both cases
//! the record goes out with the last time Kafka accepted, or the present where it has none yet. A record that waited longer than the topic allows
//! (`message.timestamp.before.max.ms`) goes out with the present time. The value still carries the time of
//! measurement, marked by `clock`.

use crate::clock::BUILD_FLOOR_MS;
use crate::reading::{Stamp, Trust};

/// How long a refused timestamp says that later ones would be refused as well; the broker's limit moves with its clock.
const REFUSED_FOR_NS: u64 = 60_000_000_000;
/// What is younger than a record that was too old by no more than this part of its age is taken to be too old as well: to
/// find out costs a refusal each time.
const TOO_OLD_PART: i64 = 16;
/// Nor by more than this.
const TOO_OLD_STEP_MAX_MS: i64 = 3_600_000;

/// Which timestamps of a record Kafka has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refused {
    /// None so far.
    #[default]
    Nothing,
    /// Its own.
    Own,
    /// Its own, and the one it had instead.
    Replacement,
}

/// What is known of a stream's timestamps.
#[derive(Debug, Default)]
pub struct Timestamps {
    accepted_ms: Option<i64>,
    /// The lowest that was refused lately as it is ahead, and when that was, boot time in ns.
    ahead: Option<(i64, u64)>,
    /// What is older than this is too old.
    too_old_before_ms: Option<i64>,
}

impl Timestamps {
    /// The timestamp in milliseconds since 1970 UTC for a record measured at `stamp`, of which Kafka has refused
    /// `refused` so far; `wall_us` is the present time.
    pub fn of(&mut self, stamp: Stamp, refused: Refused, now_ns: u64, wall_us: impl Fn() -> i64) -> i64 {
        let own_ms = stamp.wall_us.div_euclid(1_000);
        let known_ms = self.accepted_ms.unwrap_or(BUILD_FLOOR_MS);
        // A clock that is behind knows no better present than what Kafka has.
        let present_ms = || wall_us().div_euclid(1_000).max(known_ms);
        match refused {
            Refused::Own if own_ms > known_ms => {
                self.ahead = Some((own_ms, now_ns));
                known_ms
            }
            // Kafka took a later one before, or refuses what it took: it is not ahead.
            Refused::Own | Refused::Replacement => {
                self.ahead = None;
                let present_ms = present_ms();
                let step_ms = (present_ms.saturating_sub(own_ms) / TOO_OLD_PART).clamp(1, TOO_OLD_STEP_MAX_MS);
                self.too_old_before_ms = self.too_old_before_ms.max(Some(own_ms.saturating_add(step_ms)));
                present_ms
            }
            Refused::Nothing if self.too_old_before_ms.is_some_and(|limit_ms| own_ms < limit_ms) => present_ms(),
            Refused::Nothing => {
                let ahead = self.ahead.is_some_and(|(limit_ms, at_ns)| {
                    own_ms >= limit_ms && now_ns.saturating_sub(at_ns) < REFUSED_FOR_NS
                });
                let is_guess = stamp.trust <= Trust::Estimated;
                match self.accepted_ms {
                    _ if ahead => known_ms,
                    Some(accepted_ms) if is_guess && own_ms < accepted_ms => accepted_ms,
                    // It is older than the software: all that is known is that it is not later than now.
                    None if is_guess && own_ms <= BUILD_FLOOR_MS => present_ms(),
                    _ => own_ms,
                }
            }
        }
    }

    /// Kafka accepted a record with this timestamp.
    pub fn accepted(&mut self, timestamp_ms: i64) {
        self.accepted_ms = Some(timestamp_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The present of these tests.
    const PRESENT_MS: i64 = BUILD_FLOOR_MS + 40 * DAY_MS;
    const DAY_MS: i64 = 86_400_000;

    fn stamp(wall_ms: i64, trust: Trust) -> Stamp {
        Stamp { boot_ns: 0, wall_us: wall_ms * 1_000, trust }
    }

    /// What is given for a record that is sent for the first time.
    fn first(timestamps: &mut Timestamps, stamp: Stamp, now_ns: u64) -> i64 {
        timestamps.of(stamp, Refused::Nothing, now_ns, || PRESENT_MS * 1_000)
    }

    /// What is given for one of which Kafka has refused this.
    fn again(timestamps: &mut Timestamps, stamp: Stamp, refused: Refused) -> i64 {
        timestamps.of(stamp, refused, 0, || PRESENT_MS * 1_000)
    }

    #[test]
    fn an_unknown_clock_is_not_believed_when_it_is_behind_what_kafka_has() {
        let mut timestamps = Timestamps::default();
        let unset = timestamps.of(stamp(1_000, Trust::Unknown), Refused::Nothing, 0, || 2_000_000);
        assert_eq!(unset, BUILD_FLOOR_MS, "the machine knows no better");
        assert_eq!(first(&mut timestamps, stamp(1_000, Trust::Unknown), 0), PRESENT_MS, "its clock was set meanwhile");
        let estimate = stamp(BUILD_FLOOR_MS, Trust::Estimated);
        assert_eq!(first(&mut timestamps, estimate, 0), PRESENT_MS, "no topic deletes it at once");
        let last = BUILD_FLOOR_MS + 100;
        timestamps.accepted(last);
        for (wall_ms, trust, expected_ms) in [
            (1_000, Trust::Unknown, last),
            (last - 1, Trust::Unknown, last),
            (last + 1, Trust::Unknown, last + 1),
            (last - 1, Trust::Estimated, last),
            (last + 1, Trust::Estimated, last + 1),
            // A trusted time is believed.
            (1_000, Trust::Gnss, 1_000),
        ] {
            assert_eq!(first(&mut timestamps, stamp(wall_ms, trust), 0), expected_ms);
        }
    }

    #[test]
    fn what_is_ahead_is_replaced_and_so_are_later_times_for_a_minute() {
        let mut timestamps = Timestamps::default();
        let (known, ahead) = (BUILD_FLOOR_MS + 5, BUILD_FLOOR_MS + 1_000_000);
        timestamps.accepted(known);
        assert_eq!(first(&mut timestamps, stamp(ahead, Trust::Rtc), 0), ahead, "not refused yet");
        assert_eq!(again(&mut timestamps, stamp(ahead, Trust::Rtc), Refused::Own), known);
        assert_eq!(first(&mut timestamps, stamp(ahead + 1, Trust::Rtc), 1), known);
        assert_eq!(first(&mut timestamps, stamp(ahead - 1, Trust::Rtc), 1), ahead - 1);
        assert_eq!(first(&mut timestamps, stamp(ahead + 1, Trust::Rtc), REFUSED_FOR_NS), ahead + 1, "tried again");
    }

    #[test]
    fn what_is_too_old_gets_the_present_time_and_what_is_hardly_younger_too() {
        let mut timestamps = Timestamps::default();
        // Ten days of outage, and the topic takes seven: the last that was accepted is too old as well.
        let (accepted, own) = (PRESENT_MS - 10 * DAY_MS, PRESENT_MS - 9 * DAY_MS);
        timestamps.accepted(accepted);
        assert_eq!(first(&mut timestamps, stamp(own, Trust::Ntp), 0), own);
        assert_eq!(again(&mut timestamps, stamp(own, Trust::Ntp), Refused::Own), accepted, "it may be ahead");
        assert_eq!(again(&mut timestamps, stamp(own, Trust::Ntp), Refused::Replacement), PRESENT_MS);
        timestamps.accepted(PRESENT_MS);
        assert_eq!(first(&mut timestamps, stamp(own + 1_000, Trust::Ntp), 1), PRESENT_MS);
        let later = own + TOO_OLD_STEP_MAX_MS;
        assert_eq!(first(&mut timestamps, stamp(later, Trust::Ntp), 1), later, "it may be young enough");
        assert_eq!(again(&mut timestamps, stamp(later, Trust::Ntp), Refused::Own), PRESENT_MS, "Kafka has later ones");
        assert_eq!(first(&mut timestamps, stamp(PRESENT_MS, Trust::Ntp), 1), PRESENT_MS);
    }

    #[test]
    fn where_little_is_too_old_little_more_is_taken_to_be() {
        let mut timestamps = Timestamps::default();
        timestamps.accepted(PRESENT_MS);
        let own = PRESENT_MS - 32_000;
        assert_eq!(again(&mut timestamps, stamp(own, Trust::Ntp), Refused::Own), PRESENT_MS);
        assert_eq!(first(&mut timestamps, stamp(own + 1_999, Trust::Ntp), 0), PRESENT_MS);
        assert_eq!(first(&mut timestamps, stamp(own + 2_000, Trust::Ntp), 0), own + 2_000);
    }

    #[test]
    fn a_clock_in_the_past_offers_no_present_before_what_kafka_has() {
        let mut timestamps = Timestamps::default();
        timestamps.accepted(PRESENT_MS);
        let given = timestamps.of(stamp(1_000, Trust::Unknown), Refused::Own, 0, || 2_000);
        assert_eq!(given, PRESENT_MS);
    }
}
