//! A budget of bytes a day and a month for metered links, a share of it kept for streams of high priority. Pure; time
//! comes as an argument.
//!
//! Days and months are those of UTC while the clock can be trusted. While it cannot, the last 24 hours of boot time count
//! instead, what an earlier boot used included, and the month never ends.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::config::Budget as Limits;

const HOUR_NS: u64 = 3_600_000_000_000;
const DAY_US: i64 = 86_400_000_000;
const DAY_NS: u64 = 24 * HOUR_NS;
/// What was used is made durable ahead of its use, by such a part of the smaller limit at a time.
const SAVE_PARTS: u64 = 100;
/// A day that was saved and lies so far ahead is that of a clock that was wrong; a day is what a small correction makes.
const DAYS_AHEAD_MIN: i64 = 2;
/// Where much less is used than is durable, as a day has ended without a clock, that is told after so long.
const SAVE_NS: u64 = 600_000_000_000;

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Nanoseconds since boot.
    pub boot_ns: u64,
    /// Microseconds since 1970 UTC, where the clock can be trusted.
    pub wall_us: Option<i64>,
}

/// What outlives a restart. The bytes are those that are used at most: rounded up, so that a crash forgets none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Used {
    /// Days since 1970 UTC; 0: not known.
    pub day: i64,
    /// Used in that day, or in the last 24 hours.
    pub day_bytes: u64,
    /// Months since 1970 UTC.
    pub month: i64,
    /// Used in that month.
    pub month_bytes: u64,
    /// The clock could be trusted: day and month are those in which the bytes were used.
    pub certain: bool,
}

/// The budget and what is used of it.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    used: Used,
    /// Bytes of this boot by hour of boot time, oldest first; at most a day.
    hours: VecDeque<(u64, u64)>,
    /// What earlier lives used of the day, as far as is known, and until when that counts while no clock is trusted.
    carried_bytes: u64,
    carried_until_ns: u64,
    /// The part of it that may belong to any day, as no clock was trusted.
    carried_undated_bytes: u64,
    /// Used without a trusted clock since one was last trusted.
    undated_month_bytes: u64,
    saved: Used,
    saved_ns: u64,
}

impl Budget {
    /// Takes up what earlier lives used.
    pub fn new(limits: Limits, used: Used, now: Now) -> Self {
        Self {
            limits,
            used,
            hours: VecDeque::new(),
            carried_bytes: used.day_bytes,
            carried_until_ns: now.boot_ns.saturating_add(DAY_NS),
            carried_undated_bytes: if used.certain { 0 } else { used.day_bytes },
            undated_month_bytes: if used.certain { 0 } else { used.month_bytes },
            saved: used,
            saved_ns: now.boot_ns,
        }
    }

    /// So many bytes went over the link.
    pub fn spend(&mut self, bytes: u64, now: Now) {
        self.turn(now);
        let hour = now.boot_ns / HOUR_NS;
        match self.hours.back_mut().filter(|(of, _)| *of == hour) {
            Some((_, used)) => *used = used.saturating_add(bytes),
            None => self.hours.push_back((hour, bytes)),
        }
        self.used.month_bytes = self.used.month_bytes.saturating_add(bytes);
        if now.wall_us.is_some() {
            self.used.day_bytes = self.used.day_bytes.saturating_add(bytes);
        } else {
            self.used.day_bytes = self.last_day(now);
            self.used.certain = false;
            self.undated_month_bytes = self.undated_month_bytes.saturating_add(bytes);
        }
    }

    /// Used of the day and of the month.
    pub fn used(&mut self, now: Now) -> Used {
        self.turn(now);
        self.used
    }

    /// What may still be used by a stream of this priority, before `pending_bytes` that are on their way.
    pub fn left(&mut self, priority: u8, pending_bytes: u64, now: Now) -> u64 {
        self.turn(now);
        let may_use = |limit: u64| {
            if priority >= self.limits.reserve_priority {
                return limit;
            }
            let reserve = u128::from(limit) * u128::from(self.limits.reserve_percent) / 100;
            limit - u64::try_from(reserve).unwrap_or(limit)
        };
        let day = self.limits.day_bytes.map(|limit| may_use(limit).saturating_sub(self.used.day_bytes));
        let month = self.limits.month_bytes.map(|limit| may_use(limit).saturating_sub(self.used.month_bytes));
        day.into_iter().chain(month).min().unwrap_or(u64::MAX).saturating_sub(pending_bytes)
    }

    /// What has to be made durable now, if something has: before more is used than was said the last time.
    pub fn take_unsaved(&mut self, now: Now) -> Option<Used> {
        self.turn(now);
        let step = self.step();
        let used = self.used;
        let same_period = (self.saved.day, self.saved.month) == (used.day, used.month);
        let covered = used.day_bytes <= self.saved.day_bytes && used.month_bytes <= self.saved.month_bytes;
        let far_off = self.saved.day_bytes > used.day_bytes.saturating_add(2 * step);
        let waited = now.boot_ns.saturating_sub(self.saved_ns) >= SAVE_NS;
        if same_period && covered && !(far_off && waited) {
            return None;
        }
        let ahead = Used {
            day_bytes: used.day_bytes.saturating_add(step),
            month_bytes: used.month_bytes.saturating_add(step),
            ..used
        };
        (self.saved, self.saved_ns) = (ahead, now.boot_ns);
        Some(ahead)
    }

    /// What was used to the byte, where something else was made durable: for an end after which nothing is used.
    pub fn take_exact(&mut self, now: Now) -> Option<Used> {
        self.turn(now);
        let used = self.used;
        (std::mem::replace(&mut self.saved, used) != used).then_some(used)
    }

    /// A part in a hundred of the smaller limit.
    fn step(&self) -> u64 {
        let limit = self.limits.day_bytes.into_iter().chain(self.limits.month_bytes).min().unwrap_or(u64::MAX);
        (limit / SAVE_PARTS).max(1)
    }

    /// Begins a new day or month where there is one.
    fn turn(&mut self, now: Now) {
        let oldest = (now.boot_ns / HOUR_NS).saturating_sub(24);
        while self.hours.front().is_some_and(|(hour, _)| *hour < oldest) {
            self.hours.pop_front();
        }
        let Some(wall_us) = now.wall_us else {
            if self.day_is_rolling() {
                self.used.day_bytes = self.last_day(now);
            }
            return;
        };
        let (day, month) = (wall_us.div_euclid(DAY_US), month_of(wall_us));
        if self.used.day - day >= DAYS_AHEAD_MIN {
            // That clock was wrong, not this one: waiting for its day could take years. What was used stays used.
            (self.used.day, self.used.month) = (day, self.used.month.min(month));
        }
        // A clock that goes back brings no budget back.
        if day > self.used.day {
            let since_midnight_ns = u64::try_from(wall_us.rem_euclid(DAY_US)).unwrap_or(0) * 1_000;
            let midnight = now.boot_ns.saturating_sub(since_midnight_ns) / HOUR_NS;
            self.used.day = day;
            let in_day = self.hours.iter().filter(|(hour, _)| *hour >= midnight).map(|(_, bytes)| bytes);
            self.used.day_bytes = in_day.sum::<u64>().saturating_add(self.carried_undated_bytes);
            (self.carried_bytes, self.carried_undated_bytes) = (0, 0);
        }
        if month > self.used.month {
            // What was used before the clock was trusted may belong to this month.
            (self.used.month, self.used.month_bytes) = (month, self.undated_month_bytes);
        }
        self.undated_month_bytes = 0;
        self.used.certain = true;
    }

    fn day_is_rolling(&self) -> bool {
        !self.hours.is_empty() || self.carried_bytes > 0
    }

    /// Used in the last 24 hours of boot time, to the hour.
    fn last_day(&self, now: Now) -> u64 {
        let carried = if now.boot_ns < self.carried_until_ns { self.carried_bytes } else { 0 };
        self.hours.iter().map(|(_, bytes)| bytes).sum::<u64>().saturating_add(carried)
    }
}

/// Months since 1970 of a time.
fn month_of(wall_us: i64) -> i64 {
    let Ok(time) = jiff::Timestamp::from_microsecond(wall_us) else { return 0 };
    let date = time.to_zoned(jiff::tz::TimeZone::UTC);
    (i64::from(date.year()) - 1970) * 12 + i64::from(date.month()) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-22T12:00:00Z.
    const NOON_US: i64 = 1_795_348_800_000_000;
    const LIMITS: Limits =
        Limits { day_bytes: Some(10_000), month_bytes: Some(100_000), reserve_percent: 20, reserve_priority: 5 };

    fn at(hours: u64) -> Now {
        Now { boot_ns: hours * HOUR_NS, wall_us: Some(NOON_US + i64::try_from(hours).unwrap() * DAY_US / 24) }
    }

    fn without_clock(hours: u64) -> Now {
        Now { wall_us: None, ..at(hours) }
    }

    #[test]
    fn a_day_ends_at_midnight_and_the_reserve_is_for_high_priority() {
        let mut budget = Budget::new(LIMITS, Used::default(), at(0));
        budget.spend(7_000, at(1));
        assert_eq!((budget.left(0, 0, at(1)), budget.left(5, 0, at(1))), (1_000, 3_000));
        assert_eq!((budget.left(0, 900, at(1)), budget.left(0, 1_100, at(1))), (100, 0));
        budget.spend(2_500, at(2));
        assert_eq!((budget.left(0, 0, at(11)), budget.left(9, 0, at(11))), (0, 500));
        assert_eq!((budget.left(0, 0, at(12)), budget.left(9, 0, at(12))), (8_000, 10_000), "a new day");
    }

    #[test]
    fn a_month_ends_with_the_month() {
        let mut budget = Budget::new(Limits { day_bytes: None, ..LIMITS }, Used::default(), at(0));
        budget.spend(99_000, at(1));
        assert_eq!(budget.left(9, 0, at(24)), 1_000);
        // December begins eight and a half days later.
        assert_eq!(budget.left(9, 0, at(8 * 24 + 11)), 1_000);
        assert_eq!(budget.left(9, 0, at(8 * 24 + 12)), 100_000);
    }

    #[test]
    fn a_clock_that_goes_back_brings_no_budget_back() {
        let mut budget = Budget::new(LIMITS, Used::default(), at(20));
        budget.spend(10_000, at(20));
        assert_eq!(budget.left(9, 0, at(0)), 0);
        assert_eq!(budget.left(9, 0, at(40)), 10_000);
    }

    #[test]
    fn a_clock_that_was_years_ahead_does_not_stop_the_budget_for_years() {
        let noon_of_2030 = Now { wall_us: Some(NOON_US + 4 * 365 * DAY_US), ..at(0) };
        let mut budget = Budget::new(LIMITS, Used::default(), noon_of_2030);
        budget.spend(9_000, noon_of_2030);
        let saved = budget.take_exact(noon_of_2030).unwrap();
        let mut budget = Budget::new(LIMITS, saved, at(1));
        assert_eq!(budget.left(9, 0, at(1)), 1_000, "what was used counts today");
        assert_eq!(budget.left(9, 0, at(12)), 10_000, "and no longer");
        assert_eq!(budget.used(at(12)).month_bytes, 9_000);
        assert_eq!(budget.used(at(8 * 24 + 12)).month_bytes, 0, "December");
    }

    #[test]
    fn without_a_clock_the_last_24_hours_count_those_of_an_earlier_boot_included() {
        let used = Used { day: 20_000, day_bytes: 4_000, month: 682, month_bytes: 50_000, certain: true };
        let mut budget = Budget::new(LIMITS, used, without_clock(1));
        budget.spend(5_000, without_clock(3));
        assert_eq!(budget.left(9, 0, without_clock(3)), 1_000);
        assert_eq!(budget.left(9, 0, without_clock(24)), 1_000);
        assert_eq!(budget.left(9, 0, without_clock(25)), 5_000, "that of the earlier boot is a day old");
        assert_eq!(budget.left(9, 0, without_clock(28)), 10_000);
        assert_eq!(budget.used(without_clock(28)).month_bytes, 55_000);
    }

    #[test]
    fn a_clock_that_becomes_trusted_counts_what_this_boot_used_since_midnight() {
        let used = Used { day: 20_000, day_bytes: 4_000, month: 600, month_bytes: 50_000, certain: true };
        let mut budget = Budget::new(LIMITS, used, without_clock(0));
        budget.spend(5_000, without_clock(3));
        assert_eq!(budget.left(9, 0, without_clock(3)), 1_000);
        // Noon plus four hours: midnight was before this boot.
        assert_eq!(budget.left(9, 0, at(4)), 5_000);
        assert_eq!(budget.used(at(4)).month_bytes, 5_000);
    }

    #[test]
    fn what_was_used_without_a_clock_counts_for_the_day_that_becomes_known_in_the_next_boot() {
        let mut budget = Budget::new(LIMITS, Used::default(), without_clock(0));
        budget.spend(5_000, without_clock(1));
        let saved = budget.take_unsaved(without_clock(1)).unwrap();
        let mut budget = Budget::new(LIMITS, saved, without_clock(0));
        assert_eq!(budget.left(9, 0, at(0)), 4_900);
        assert_eq!(budget.left(9, 0, at(12)), 10_000);
        assert_eq!(budget.used(at(12)).month_bytes, 5_100);
    }

    #[test]
    fn the_same_day_goes_on_after_a_restart() {
        let mut budget = Budget::new(LIMITS, Used::default(), at(1));
        budget.spend(6_000, at(1));
        let saved = budget.take_unsaved(at(1)).unwrap();
        assert_eq!(saved.day_bytes, 6_100, "a hundredth ahead");
        assert_eq!(budget.take_unsaved(at(1)), None);
        let mut budget = Budget::new(LIMITS, saved, Now { boot_ns: 5, ..at(2) });
        assert_eq!(budget.left(9, 0, Now { boot_ns: 5, ..at(2) }), 3_900);
    }

    proptest! {
        /// Whenever it crashes, what was saved is no less than what was used, and little more; and there are few writes.
        #[test]
        fn a_crash_forgets_nothing_and_writes_are_few(
            steps in proptest::collection::vec((0_u64..600, 0_u64..150), 1..300),
            crashes in proptest::collection::vec(any::<prop::sample::Index>(), 0..3),
            trusted in any::<bool>(),
        ) {
            let mut now = Now { boot_ns: 0, wall_us: trusted.then_some(NOON_US - DAY_US / 2) };
            let mut budget = Budget::new(LIMITS, Used::default(), now);
            let crashes: Vec<usize> = crashes.iter().map(|index| index.index(steps.len())).collect();
            let (mut saved, mut spent, mut writes) = (Used::default(), 0_u64, 0_u64);
            for (number, (seconds, bytes)) in steps.iter().enumerate() {
                // All of it within one day.
                let pass_ns = seconds * 1_000_000_000 / 3;
                now.boot_ns += pass_ns;
                now.wall_us = now.wall_us.map(|wall_us| wall_us + i64::try_from(pass_ns / 1_000).unwrap());
                budget.spend(*bytes, now);
                spent += bytes;
                if let Some(used) = budget.take_unsaved(now) {
                    saved = used;
                    writes += 1;
                }
                prop_assert!(saved.day_bytes >= spent && saved.month_bytes >= spent);
                let most = spent + 100 * (crashes.len() as u64 + 1);
                prop_assert!(saved.month_bytes <= most, "{} saved, {} spent", saved.month_bytes, spent);
                if crashes.contains(&number) {
                    budget = Budget::new(LIMITS, saved, now);
                }
            }
            prop_assert!(writes <= spent / 100 + 2 + now.boot_ns / SAVE_NS);
        }
    }
}
