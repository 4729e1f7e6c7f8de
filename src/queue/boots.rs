//! When the machine's boots began by the wall clock, as far as that is known, and so when something was measured while
//! the clock was not set.
//!
//! A block names its boot, and each record its time since then. What is stored is never rewritten: the wall time is
//! computed whenever a record is read, so it is as good as what is known by then.

use std::sync::Arc;
use std::time::Duration;

use super::engine::Inner;
use super::store::Ran;
use super::{Batch, PeekError, Queue};
use crate::clock::{BUILD_FLOOR_MS, wall_at};
use crate::reading::{Lineage, Stamp, Trust};

/// The clock was put right by more than this: what is read from then on gets the new time.
const MOVED_US: u64 = 100_000;
/// The same for what is on disk.
const MOVED_ON_DISK_US: u64 = 10_000_000;
/// How often the beginning of this boot may be written.
const SAVE_EVERY_NS: u64 = 60_000_000_000;

/// The boots of one queue's machine.
#[derive(Debug, Clone)]
pub(super) struct Boots {
    queue: uuid::Uuid,
    present: u32,
    /// The index that blocks bear, and microseconds since 1970 UTC; ascending by index.
    began_us: Vec<(u32, i64)>,
    ran: Ran,
}

impl Boots {
    /// `present`: what records of this boot bear; `known`: which boots began when.
    pub(super) fn new(present: &Lineage, known: impl IntoIterator<Item = (u32, i64)>) -> Self {
        let began_us = known.into_iter().collect();
        Self { queue: present.queue, present: present.boot_index, began_us, ran: Ran::default() }
    }

    /// When this boot began.
    pub(super) fn present_us(&self) -> Option<i64> {
        self.of(self.present)
    }

    fn of(&self, boot_index: u32) -> Option<i64> {
        self.began_us.iter().find(|(known, _)| *known == boot_index).map(|(_, began_us)| *began_us)
    }

    fn present_began(&mut self, began_us: i64) {
        match self.began_us.last_mut().filter(|(newest, _)| *newest == self.present) {
            Some((_, known_us)) => *known_us = began_us,
            None => self.began_us.push((self.present, began_us)),
        }
    }

    /// Whether more will be known of records of this lineage once the clock of this boot is set.
    fn may_learn(&self, of: &Lineage) -> bool {
        of.queue == self.queue && self.present_us().is_none()
    }

    /// The stamp of a record of this lineage by what is known: as it stands where the clock was set; corrected where it
    /// was set later in that boot; else between the boots around it, where one after it is known.
    pub(super) fn stamp(&self, of: &Lineage, stamp: Stamp) -> Stamp {
        // Indices of another queue's boots mean nothing here.
        if stamp.trust >= Trust::Corrected || of.queue != self.queue {
            return stamp;
        }
        if let Some(began_us) = self.of(of.boot_index) {
            return Stamp { wall_us: wall_at(began_us, stamp.boot_ns), trust: Trust::Corrected, ..stamp };
        }
        let Some((_, next_us)) = self.began_us.iter().find(|(boot, _)| *boot > of.boot_index) else { return stamp };
        let before = self.began_us.iter().rfind(|(boot, _)| *boot < of.boot_index).map(|(_, began_us)| *began_us);
        let earliest_us = before.unwrap_or(BUILD_FLOOR_MS * 1_000);
        let ran_us = i64::try_from(self.ran.least(of.boot_index).as_micros()).unwrap_or(i64::MAX);
        let latest_us = next_us.saturating_sub(ran_us);
        // What its own clock said of the boot's beginning is kept where it can be true: a clock saved at shutdown is
        // late, not wrong. Else it ended when the next began, which no retention by time takes for older than it is.
        let said_us = stamp.wall_us.saturating_sub(wall_at(0, stamp.boot_ns));
        let is_possible = earliest_us <= said_us && said_us <= latest_us;
        let wall_us = wall_at(if is_possible { said_us } else { latest_us }, stamp.boot_ns).min(*next_us);
        Stamp { wall_us, trust: Trust::Estimated, ..stamp }
    }
}

/// What the queue remembers of the boots while it runs.
#[derive(Debug)]
pub(super) struct BootTimes {
    pub(super) boots: Arc<Boots>,
    /// When this boot began, as the control state has it.
    durable_us: Option<i64>,
    /// When a write of it was asked for last.
    asked_ns: Option<u64>,
    /// Until this boot time records wait for the clock to be set.
    hold: Duration,
}

impl BootTimes {
    pub(super) fn new(boots: Boots) -> Self {
        Self { durable_us: boots.present_us(), boots: Arc::new(boots), asked_ns: None, hold: Duration::ZERO }
    }

    /// Boots that are on disk ran at least so long.
    pub(super) fn ran(&mut self, ran: &Ran) {
        Arc::make_mut(&mut self.boots).ran.add(ran);
    }

    /// What was saved of this boot.
    pub(super) fn saved(&mut self, began_us: Option<i64>) {
        self.durable_us = began_us;
    }

    /// Notes when this boot began. Gives whether that is to be written.
    fn began(&mut self, began_us: i64, now_ns: u64) -> bool {
        if self.boots.present_us().is_none_or(|known_us| known_us.abs_diff(began_us) > MOVED_US) {
            Arc::make_mut(&mut self.boots).present_began(began_us);
        }
        let is_late = self.asked_ns.is_none_or(|asked_ns| now_ns.saturating_sub(asked_ns) >= SAVE_EVERY_NS);
        let due = is_late && is_news_on_disk(self.durable_us, began_us);
        if due {
            self.asked_ns = Some(now_ns);
        }
        due
    }
}

/// Whether the beginning of this boot is to be written anew where it is known on disk so.
pub(super) fn is_news_on_disk(known_us: Option<i64>, began_us: i64) -> bool {
    known_us.is_none_or(|known_us| known_us.abs_diff(began_us) > MOVED_ON_DISK_US)
}

impl Queue {
    /// This boot of the machine began then, microseconds since 1970 UTC, as a clock says that can be trusted. From now on
    /// records of this boot are read with their corrected time. It is made durable once a boot, and when it moves by more
    /// than 10 s. No I/O.
    pub fn boot_began(&self, began_us: i64) {
        let inner = self.inner();
        let now_ns = inner.now_ns();
        let mut shared = inner.lock();
        if shared.boot_times.began(began_us, now_ns) {
            shared.saves.wanted += 1;
            inner.store_wake.notify_one();
        }
    }

    /// The present, microseconds since 1970 UTC, where the clock of this boot was set; whether the kernel's shows it or a
    /// receiver has told.
    pub fn wall_us(&self) -> Option<i64> {
        let inner = self.inner();
        let now_ns = inner.now_ns();
        let began_us = inner.lock().boot_times.boots.present_us()?;
        Some(wall_at(began_us, now_ns))
    }

    /// While the machine is up for less than this and its clock is not set, records are not read whose time would be
    /// better then ([`PeekError::ClockUnset`]). Nothing waits before this is called.
    pub fn hold_for_clock(&self, hold: Duration) {
        self.inner().lock().boot_times.hold = hold;
    }
}

/// Gives the records their time as it is known by now.
pub(super) fn in_time(inner: &Inner, mut batch: Batch) -> Result<Batch, PeekError> {
    if batch.records.iter().all(|record| record.stamp.trust >= Trust::Corrected) {
        return Ok(batch);
    }
    let (boots, hold) = {
        let shared = inner.lock();
        (Arc::clone(&shared.boot_times.boots), shared.boot_times.hold)
    };
    let waits = Duration::from_nanos(inner.now_ns()) < hold && boots.may_learn(&batch.lineage);
    let (lineage, mut timed) = (&batch.lineage, 0);
    for record in &mut batch.records {
        let stamp = boots.stamp(lineage, record.stamp);
        if waits && stamp.trust == Trust::Unknown {
            break;
        }
        if stamp != record.stamp {
            Arc::make_mut(record).stamp = stamp;
        }
        timed += 1;
    }
    batch.records.truncate(timed);
    if timed == 0 { Err(PeekError::ClockUnset { hold_s: hold.as_secs() }) } else { Ok(batch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: i64 = 1_000_000;
    const QUEUE: uuid::Uuid = uuid::Uuid::from_u128(7);
    /// A day after the floor, to the second.
    const DAY_US: i64 = BUILD_FLOOR_MS * 1_000 + 86_400 * SECOND_US;

    fn lineage(boot_index: u32) -> Lineage {
        Lineage { gateway: "g".into(), queue: QUEUE, boot_index }
    }

    /// Measured ten seconds after the boot, which began then by a clock that nobody vouched for.
    fn measured(said_us: i64) -> Stamp {
        Stamp { boot_ns: 10_000_000_000, wall_us: said_us + 10 * SECOND_US, trust: Trust::Unknown }
    }

    /// What is given for a record of that boot in seconds from [`DAY_US`] on, less the ten seconds.
    fn given(boots: &Boots, boot_index: u32, said_us: i64) -> (i64, Trust) {
        let stamp = boots.stamp(&lineage(boot_index), measured(said_us));
        ((stamp.wall_us - DAY_US) / SECOND_US - 10, stamp.trust)
    }

    #[test]
    fn a_boot_whose_clock_was_set_later_dates_all_its_records() {
        let boots = Boots::new(&lineage(4), [(2, DAY_US), (4, DAY_US + 500 * SECOND_US)]);
        assert_eq!(given(&boots, 2, 0), (0, Trust::Corrected));
        assert_eq!(given(&boots, 4, DAY_US * 2), (500, Trust::Corrected), "a clock that was ahead");
    }

    #[test]
    fn a_boot_without_a_clock_lies_between_those_around_it() {
        let boots = Boots::new(&lineage(4), [(1, DAY_US), (4, DAY_US + 500 * SECOND_US)]);
        for (said_s, estimate_s) in [(-9_000_000, 490), (-1, 490), (0, 0), (300, 300), (500, 490), (9_000_000, 490)] {
            let expected = (estimate_s, Trust::Estimated);
            assert_eq!(given(&boots, 2, DAY_US + said_s * SECOND_US), expected, "{said_s}");
        }
        assert_eq!(given(&boots, 0, DAY_US - 86_400 * SECOND_US), (-86_400, Trust::Estimated));
        assert_eq!(given(&boots, 0, 0), (-10, Trust::Estimated), "not before the software was made");
    }

    #[test]
    fn a_boot_ended_before_the_next_began_however_long_it_ran() {
        let mut times = BootTimes::new(Boots::new(&lineage(4), [(1, DAY_US), (4, DAY_US + 500 * SECOND_US)]));
        for (boot, seconds) in [(2, 60), (3, 900), (2, 100), (2, 30)] {
            times.ran(&Ran::of(boot, Duration::from_secs(seconds)));
        }
        for (said_s, estimate_s) in [(0, 0), (400, 400), (401, 400), (-1, 400)] {
            let expected = (estimate_s, Trust::Estimated);
            assert_eq!(given(&times.boots, 2, DAY_US + said_s * SECOND_US), expected, "{said_s}");
        }
    }

    #[test]
    fn boots_that_began_backwards_still_give_a_time() {
        let boots = Boots::new(&lineage(4), [(1, DAY_US + 500 * SECOND_US), (4, DAY_US)]);
        assert_eq!(given(&boots, 2, 0), (-10, Trust::Estimated));
    }

    #[test]
    fn where_nothing_is_known_after_it_the_clock_is_quoted_as_it_stood() {
        let boots = Boots::new(&lineage(4), [(1, DAY_US)]);
        assert_eq!(given(&boots, 2, DAY_US + SECOND_US), (1, Trust::Unknown));
        assert!(boots.may_learn(&lineage(2)));
    }

    #[test]
    fn a_time_that_was_right_stays_and_another_queues_boots_are_not_ours() {
        let boots = Boots::new(&lineage(4), [(4, DAY_US)]);
        for trust in [Trust::Corrected, Trust::Ntp, Trust::Gnss] {
            let stamp = Stamp { trust, ..measured(5) };
            assert_eq!(boots.stamp(&lineage(4), stamp), stamp);
        }
        let foreign = Lineage { queue: uuid::Uuid::from_u128(8), ..lineage(4) };
        assert_eq!(boots.stamp(&foreign, measured(5)), measured(5));
        let unset = Boots::new(&lineage(4), []);
        assert_eq!((unset.may_learn(&lineage(4)), unset.may_learn(&foreign)), (true, false));
    }

    #[test]
    fn the_beginning_of_a_boot_is_written_once_and_when_it_moves_far() {
        let mut times = BootTimes::new(Boots::new(&lineage(4), []));
        assert!(times.began(DAY_US, 0));
        assert!(!times.began(DAY_US, SAVE_EVERY_NS / 2), "it is on its way");
        assert!(times.began(DAY_US, SAVE_EVERY_NS), "it did not arrive");
        times.saved(Some(DAY_US));
        assert!(!times.began(DAY_US + 9 * SECOND_US, 3 * SAVE_EVERY_NS));
        assert_eq!(times.boots.present_us(), Some(DAY_US + 9 * SECOND_US), "but used");
        assert!(times.began(DAY_US + 11 * SECOND_US, 4 * SAVE_EVERY_NS));
        times.began(DAY_US + 11 * SECOND_US + 99_000, 4 * SAVE_EVERY_NS);
        assert_eq!(times.boots.present_us(), Some(DAY_US + 11 * SECOND_US), "a clock is steered all the time");
    }
}
