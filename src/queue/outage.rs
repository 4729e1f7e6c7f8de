//! How long the uplink has been down, and what that means for the durability window.
//!
//! Every fsync costs the file system some blocks of its own, so that a slow stream that is flushed every second wears
//! flash with many times its payload. Once the uplink has been down for a while the user's longer window may hold, and
//! a group is written as soon as it has grown to a size at which waiting longer saves little.

use std::time::Duration;

use super::engine::STORE_CALL_MAX;
use super::seal::Policy;

/// The outage window holds once the uplink has been down so long.
const DOWN_MIN: Duration = Duration::from_secs(60);
/// A group of so many bytes on disk is written without waiting longer: the file system's own writes are then about
/// half as much again as the payload, against eleven times as much for 400 bytes.
const GROUP_BYTES: u64 = 64 * 1024;
/// Compression is not believed beyond this factor: the next records may be of another kind.
const COMPRESSION_MAX: u64 = 32;

/// The uplink's absence, and how far records shrink on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outage {
    /// Since when the uplink is down, ns; `None`: it is up.
    down_since_ns: Option<u64>,
    /// When the last outage that brought the longer window ended, ns.
    long_until_ns: Option<u64>,
    /// Bytes of the last group in memory and on disk.
    last_group: (u64, u64),
}

impl Outage {
    /// A queue starts without an uplink.
    pub(super) fn from_start(now_ns: u64) -> Self {
        Self { down_since_ns: Some(now_ns), long_until_ns: None, last_group: (1, 1) }
    }

    pub(super) fn is_up(&self) -> bool {
        self.down_since_ns.is_none()
    }

    /// The uplink delivers, or does not; saying the same again changes nothing.
    pub(super) fn set_up(&mut self, up: bool, now_ns: u64) {
        if up && self.has_lasted(now_ns) {
            self.long_until_ns = Some(now_ns);
        }
        match (up, self.down_since_ns) {
            (true, _) => self.down_since_ns = None,
            (false, None) => self.down_since_ns = Some(now_ns),
            (false, Some(_)) => {}
        }
    }

    /// A group left the tail for the disk.
    pub(super) fn note_group(&mut self, tail_bytes: u64, disk_bytes: u64) {
        if tail_bytes > 0 && disk_bytes > 0 {
            self.last_group = (tail_bytes, disk_bytes);
        }
    }

    fn has_lasted(&self, now_ns: u64) -> bool {
        self.down_since_ns.is_some_and(|since| now_ns.saturating_sub(since) >= DOWN_MIN.as_nanos() as u64)
    }

    /// Whether records that waited for the longer window may still be on their way to disk: it holds, or it ended not
    /// longer ago than a working store takes at most.
    fn may_hold_old_records(&self, now_ns: u64) -> bool {
        let ended = |until: u64| now_ns.saturating_sub(until) < STORE_CALL_MAX.as_nanos() as u64;
        self.has_lasted(now_ns) || self.long_until_ns.is_some_and(ended)
    }

    /// Bytes in memory that make about [`GROUP_BYTES`] on disk, as the last group did.
    fn group_tail_bytes(&self) -> usize {
        let (tail_bytes, disk_bytes) = self.last_group;
        let wanted = GROUP_BYTES.saturating_mul(tail_bytes) / disk_bytes.max(1);
        usize::try_from(wanted.clamp(GROUP_BYTES, GROUP_BYTES * COMPRESSION_MAX)).unwrap_or(usize::MAX)
    }
}

impl Policy {
    /// The policy that holds now.
    pub(super) fn now(&self, outage: &Outage, now_ns: u64) -> Self {
        if self.seal_after_outage <= self.seal_after || !outage.has_lasted(now_ns) {
            return *self;
        }
        let tail_bytes = self.tail_bytes.min(outage.group_tail_bytes());
        Self { seal_after: self.seal_after_outage, tail_bytes, ..*self }
    }

    /// The durability window that records now in memory were promised.
    pub(super) fn window(&self, outage: &Outage, now_ns: u64) -> Duration {
        let longer = outage.may_hold_old_records(now_ns);
        2 * if longer { self.seal_after.max(self.seal_after_outage) } else { self.seal_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn policy(window_outage_s: u64) -> Policy {
        Policy::new(Duration::from_secs(1), Duration::from_secs(window_outage_s), 4 << 20)
    }

    #[test]
    fn the_longer_window_holds_from_the_sixtieth_second_of_an_outage_to_its_end() {
        let policy = policy(30);
        let mut outage = Outage::from_start(5 * SECOND_NS);
        let seal_after = |outage: &Outage, second: u64| policy.now(outage, second * SECOND_NS).seal_after;
        assert_eq!(seal_after(&outage, 64), Duration::from_millis(500));
        assert_eq!(seal_after(&outage, 65), Duration::from_secs(15));
        outage.set_up(true, 70 * SECOND_NS);
        assert_eq!(seal_after(&outage, 200), Duration::from_millis(500));
        outage.set_up(false, 200 * SECOND_NS);
        outage.set_up(false, 250 * SECOND_NS);
        assert_eq!(seal_after(&outage, 259), Duration::from_millis(500));
        assert_eq!(seal_after(&outage, 260), Duration::from_secs(15));
    }

    #[test]
    fn what_waited_for_the_longer_window_is_not_late_when_the_outage_ends() {
        let policy = policy(30);
        let mut outage = Outage::from_start(0);
        let window_s = |outage: &Outage, second: u64| policy.window(outage, second * SECOND_NS).as_secs();
        assert_eq!((window_s(&outage, 59), window_s(&outage, 60)), (1, 30));
        outage.set_up(true, 100 * SECOND_NS);
        outage.set_up(true, 105 * SECOND_NS);
        assert_eq!((window_s(&outage, 129), window_s(&outage, 130)), (30, 1));
        outage.set_up(false, 200 * SECOND_NS);
        outage.set_up(true, 201 * SECOND_NS);
        assert_eq!(window_s(&outage, 202), 1, "an outage of a second brought no longer window");
    }

    #[test]
    fn without_a_longer_window_an_outage_changes_nothing() {
        let policy = policy(1);
        let now = policy.now(&Outage::from_start(0), 3_600 * SECOND_NS);
        assert_eq!((now.seal_after, now.tail_bytes), (policy.seal_after, policy.tail_bytes));
        assert_eq!(policy.window(&Outage::from_start(0), 3_600 * SECOND_NS), Duration::from_secs(1));
    }

    #[test]
    fn a_group_of_64_kib_on_disk_waits_no_longer() {
        let policy = policy(600);
        let mut outage = Outage::from_start(0);
        let tail_bytes = |outage: &Outage| policy.now(outage, 3_600 * SECOND_NS).tail_bytes;
        assert_eq!(tail_bytes(&outage), 64 << 10);
        outage.note_group(50_000, 10_000);
        assert_eq!(tail_bytes(&outage), 320 << 10);
        outage.note_group(50_000, 1);
        assert_eq!(tail_bytes(&outage), 2 << 20, "compression is believed up to a factor");
        outage.note_group(1, 50_000);
        assert_eq!(tail_bytes(&outage), 64 << 10);
        outage.note_group(0, 0);
        assert_eq!(tail_bytes(&outage), 64 << 10);
    }
}
