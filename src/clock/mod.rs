//! Boot time, wall time, and how far the wall clock can be trusted.
//!
//! A gateway without a clock chip boots in the past and jumps when NTP answers, so everything that measures durations
//! or orders things uses `CLOCK_BOOTTIME`, and wall time is a label that carries its own trust. Once the wall clock can be
//! trusted, the time at which this boot began says when everything was that was measured in it before.

mod fixes;
mod kernel;

use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use self::fixes::Fixes;
use crate::reading::{Stamp, Trust};

/// Nothing can be older than this software: 2026-11-22T00:00:00Z, in milliseconds since 1970.
pub const BUILD_FLOOR_MS: i64 = 1_795_305_600_000;

/// Nanoseconds since boot, sleep included (`CLOCK_BOOTTIME`, clock_gettime(2)).
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// Microseconds since 1970 UTC as the kernel's clock stands; 0 where it stands before that.
pub fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// When a boot began by the wall clock, microseconds since 1970 UTC, where this was the time at this boot time.
fn began_us(at_boot_ns: u64, wall_us: i64) -> i64 {
    wall_us.saturating_sub(i64::try_from(at_boot_ns / 1_000).unwrap_or(i64::MAX))
}

/// The kernel's id of this boot (`/proc/sys/kernel/random/boot_id`), or the nil uuid where it cannot be read.
pub fn boot_id() -> uuid::Uuid {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| uuid::Uuid::parse_str(text.trim()).ok())
        .unwrap_or_default()
}

/// How often the kernel is asked whether its clock is synchronised.
const TRUST_CHECK_NS: i64 = 1_000_000_000;

/// Stands for a time that is not known.
const UNKNOWN: i64 = i64::MIN;

/// Stamps readings: wall time derived from boot time, with the trust it deserves.
///
/// The kernel is asked for its trust at most once a second; a stamp costs two vDSO calls.
#[derive(Debug)]
pub struct Clock {
    trust: AtomicU8,
    checked_boot_ns: AtomicI64,
    fixes: Mutex<Fixes>,
    /// When this boot began as the receivers' fixes say, microseconds since 1970 UTC.
    fixes_began_us: AtomicI64,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A clock that has not asked the kernel yet.
    pub fn new() -> Self {
        Self {
            trust: AtomicU8::new(Trust::Unknown as u8),
            checked_boot_ns: AtomicI64::new(UNKNOWN),
            fixes: Mutex::default(),
            fixes_began_us: AtomicI64::new(UNKNOWN),
        }
    }

    /// The stamp of something that happened at `at_boot_ns`, this boot; `measured_us` is the time the device itself
    /// knew (a GNSS fix), which is then the truth.
    pub fn stamp(&self, at_boot_ns: u64, measured_us: Option<i64>) -> Stamp {
        if let Some(wall_us) = measured_us {
            let began_us = self.fixes.lock().unwrap_or_else(PoisonError::into_inner).note(at_boot_ns, wall_us);
            self.fixes_began_us.store(began_us.unwrap_or(UNKNOWN), Ordering::Relaxed);
            return Stamp { boot_ns: at_boot_ns, wall_us, trust: Trust::Gnss };
        }
        let now_boot_ns = boot_ns();
        let trust = self.trust(now_boot_ns);
        if let Some(began_us) = self.fixes_began_us().filter(|_| trust < Trust::Corrected) {
            return Stamp { boot_ns: at_boot_ns, wall_us: wall_at(began_us, at_boot_ns), trust: Trust::Corrected };
        }
        let age_us = i64::try_from(now_boot_ns.saturating_sub(at_boot_ns) / 1_000).unwrap_or(i64::MAX);
        Stamp { boot_ns: at_boot_ns, wall_us: wall_us().saturating_sub(age_us), trust }
    }

    /// When this boot began, microseconds since 1970 UTC: by the kernel's clock where that can be trusted, else by
    /// receivers' fixes that agree. `None`: nobody knows.
    pub fn began_us(&self) -> Option<i64> {
        let now_boot_ns = boot_ns();
        let wall_us = wall_us();
        let is_plausible = wall_us.div_euclid(1_000) >= BUILD_FLOOR_MS;
        if is_plausible && self.trust(now_boot_ns) >= Trust::Corrected {
            return Some(began_us(now_boot_ns, wall_us));
        }
        self.fixes_began_us()
    }

    fn fixes_began_us(&self) -> Option<i64> {
        Some(self.fixes_began_us.load(Ordering::Relaxed)).filter(|began_us| *began_us != UNKNOWN)
    }

    /// How far the kernel's clock can be trusted now.
    pub fn trust(&self, now_boot_ns: u64) -> Trust {
        let now = i64::try_from(now_boot_ns).unwrap_or(i64::MAX);
        let checked = self.checked_boot_ns.load(Ordering::Relaxed);
        if checked == UNKNOWN || now.saturating_sub(checked) >= TRUST_CHECK_NS {
            self.checked_boot_ns.store(now, Ordering::Relaxed);
            self.trust.store(trust_of(kernel::discipline()) as u8, Ordering::Relaxed);
        }
        Trust::from_u8(self.trust.load(Ordering::Relaxed))
    }
}

/// The wall time at this boot time of a boot that began then, microseconds since 1970 UTC.
pub(crate) fn wall_at(began_us: i64, boot_ns: u64) -> i64 {
    began_us.saturating_add(i64::try_from(boot_ns / 1_000).unwrap_or(i64::MAX))
}

/// Trust from the kernel's time discipline: synchronised when `maxerror < 16 s`, and `STA_UNSYNC` is clear or the
/// error below 1 s (chrony without `rtcsync` leaves the flag set; systemd tests the error alone for that reason).
fn trust_of(discipline: Option<kernel::Discipline>) -> Trust {
    match discipline {
        Some(kernel::Discipline { max_error_us, unsynchronised })
            if max_error_us < 16_000_000 && (!unsynchronised || max_error_us < 1_000_000) =>
        {
            Trust::Ntp
        }
        _ => Trust::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::kernel::Discipline;
    use super::*;

    #[test]
    fn the_floor_is_the_day_it_says() {
        let mut text = Vec::new();
        crate::reading::json::write_time(&mut text, BUILD_FLOOR_MS * 1_000);
        assert_eq!(text, b"2026-11-22T00:00:00.000Z");
    }

    #[test]
    fn trust_follows_the_kernels_error_bound() {
        let of = |max_error_us, unsynchronised| trust_of(Some(Discipline { max_error_us, unsynchronised }));
        assert_eq!(of(500_000, false), Trust::Ntp);
        assert_eq!(of(500_000, true), Trust::Ntp);
        assert_eq!(of(5_000_000, true), Trust::Unknown);
        assert_eq!(of(5_000_000, false), Trust::Ntp);
        assert_eq!(of(16_000_000, false), Trust::Unknown);
        assert_eq!(trust_of(None), Trust::Unknown);
    }

    #[test]
    fn a_receivers_own_time_wins_over_the_kernels() {
        let stamp = Clock::new().stamp(boot_ns(), Some(1_796_808_445_000_000));
        assert_eq!((stamp.wall_us, stamp.trust), (1_796_808_445_000_000, Trust::Gnss));
    }

    #[test]
    fn fixes_that_agree_date_what_the_kernel_cannot() {
        let clock = Clock::new();
        // An hour ahead of this machine, so that it shows whose time it is.
        let ahead_us = 3_600_000_000;
        let began = began_us(boot_ns(), wall_us().max(BUILD_FLOOR_MS * 1_000)) + ahead_us;
        for _ in 0..5 {
            let now = boot_ns();
            clock.stamp(now, Some(wall_at(began, now)));
        }
        // The kernel's answer is held back: this machine may have a clock that is set.
        clock.checked_boot_ns.store(i64::MAX, Ordering::Relaxed);
        for (trust, expected) in [(Trust::Unknown, Trust::Corrected), (Trust::Ntp, Trust::Ntp)] {
            clock.trust.store(trust as u8, Ordering::Relaxed);
            let stamp = clock.stamp(boot_ns(), None);
            assert_eq!(stamp.trust, expected);
            let is_ahead = stamp.wall_us - wall_us() > ahead_us / 2;
            assert_eq!(is_ahead, expected == Trust::Corrected, "{stamp:?}");
            let known = clock.began_us().unwrap();
            assert_eq!((known - began).abs() < 1_000_000, expected == Trust::Corrected, "{known} {began}");
        }
    }

    #[test]
    fn a_stamp_goes_back_from_now_to_the_moment_of_arrival() {
        let second_ago = boot_ns().saturating_sub(1_000_000_000);
        let stamp = Clock::new().stamp(second_ago, None);
        let age_us = wall_us() - stamp.wall_us;
        assert!(age_us >= 1_000_000, "age {age_us} us");
    }
}
