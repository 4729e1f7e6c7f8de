//! Boot time, wall time, and how far the wall clock can be trusted.
//!
//! A gateway without a clock chip boots in the past and jumps when NTP answers, so everything that measures durations
//! or orders things uses `CLOCK_BOOTTIME`, and wall time is a label that carries its own trust.

mod kernel;

use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use rustix::time::{ClockId, clock_gettime};

use crate::reading::{Stamp, Trust};

/// Nanoseconds since boot, sleep included (`CLOCK_BOOTTIME`, clock_gettime(2)).
pub fn boot_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// Microseconds since 1970 UTC as the kernel's clock stands.
pub fn wall_us() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    (now.tv_sec as i64).saturating_mul(1_000_000).saturating_add(now.tv_nsec as i64 / 1_000)
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

/// Stamps readings: wall time derived from boot time, with the trust the kernel's clock deserves.
///
/// The kernel is asked for its trust at most once a second; a stamp costs two vDSO calls.
#[derive(Debug, Default)]
pub struct Clock {
    trust: AtomicU8,
    checked_boot_ns: AtomicI64,
}

impl Clock {
    /// A clock that has not asked the kernel yet.
    pub fn new() -> Self {
        Self { trust: AtomicU8::new(Trust::Unknown as u8), checked_boot_ns: AtomicI64::new(i64::MIN) }
    }

    /// The stamp of something that happened at `at_boot_ns`, this boot; `measured_us` is the time the device itself
    /// knew (a GNSS fix), which is then the truth.
    pub fn stamp(&self, at_boot_ns: u64, measured_us: Option<i64>) -> Stamp {
        if let Some(wall_us) = measured_us {
            return Stamp { boot_ns: at_boot_ns, wall_us, trust: Trust::Gnss };
        }
        let now_boot_ns = boot_ns();
        let age_us = i64::try_from(now_boot_ns.saturating_sub(at_boot_ns) / 1_000).unwrap_or(i64::MAX);
        Stamp { boot_ns: at_boot_ns, wall_us: wall_us().saturating_sub(age_us), trust: self.trust(now_boot_ns) }
    }

    /// How far the kernel's clock can be trusted now.
    pub fn trust(&self, now_boot_ns: u64) -> Trust {
        let now = i64::try_from(now_boot_ns).unwrap_or(i64::MAX);
        let checked = self.checked_boot_ns.load(Ordering::Relaxed);
        if checked == i64::MIN || now.saturating_sub(checked) >= TRUST_CHECK_NS {
            self.checked_boot_ns.store(now, Ordering::Relaxed);
            self.trust.store(trust_of(kernel::discipline()) as u8, Ordering::Relaxed);
        }
        Trust::from_u8(self.trust.load(Ordering::Relaxed))
    }
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
    fn a_stamp_goes_back_from_now_to_the_moment_of_arrival() {
        let second_ago = boot_ns().saturating_sub(1_000_000_000);
        let stamp = Clock::new().stamp(second_ago, None);
        let age_us = wall_us() - stamp.wall_us;
        assert!(age_us >= 1_000_000, "age {age_us} us");
    }
}
