//! What all streams together may send now: their rate, and the budget of a metered link, which outlives restarts in a
//! small file.

use std::path::{Path, PathBuf};

use super::budget::{Budget, Now, Used};
use super::rate::RateLimit;
use crate::config::{Budget as Limits, Rate};
use crate::kafka::Traffic;
use crate::metrics::Metrics;
use crate::queue::{Queue, write_atomically};

/// The file in the state directory.
const FILE: &str = "uplink-budget";
/// More than this is not read of it.
const FILE_BYTES_MAX: u64 = 1024;
/// Wire bytes are compared with payload bytes once so much was reported delivered.
const COMPARED_BYTES_MIN: u64 = 4 * 1024;
/// How many wire bytes a payload byte may cost or save.
const RATIO_MIN: f64 = 0.02;
const RATIO_MAX: f64 = 20.0;

/// Tells the time.
type Clock = Box<dyn Fn() -> Now + Send>;

/// The budget and what is known of the link's cost.
pub struct Metering {
    /// All streams together.
    rate: RateLimit,
    budget: Option<Budget>,
    path: PathBuf,
    clock: Clock,
    tls: bool,
    /// The client's sums as it last told them.
    counted: Traffic,
    /// Payload handed to the client and perhaps not in those sums.
    pending_bytes: u64,
    /// Payload in flight when it last told them, and handed over since.
    in_flight_bytes: u64,
    sent_bytes: u64,
    /// Wire bytes, and payload reported, since the two were last compared.
    compared_bytes: (u64, u64),
    /// Wire bytes for a byte of payload.
    ratio: f64,
    /// The budget keeps a stream from sending.
    exhausted: bool,
    save_failed: bool,
}

impl Metering {
    /// Goes on with what the file says was used. `tls`: the link is encrypted, which costs bytes.
    pub fn new(rate: Rate, limits: Option<Limits>, tls: bool, state_dir: &Path, clock: Clock) -> Self {
        let path = state_dir.join(FILE);
        let budget = limits.map(|limits| Budget::new(limits, load(&path), clock()));
        Self {
            rate: RateLimit::new(rate),
            budget,
            path,
            clock,
            tls,
            counted: Traffic::default(),
            pending_bytes: 0,
            in_flight_bytes: 0,
            sent_bytes: 0,
            compared_bytes: (0, 0),
            ratio: 1.0,
            exhausted: false,
            save_failed: false,
        }
    }

    /// Whether nothing is left for a stream of this priority, whatever becomes of what is in flight.
    fn is_exhausted(&mut self, priority: u8) -> bool {
        let now = (self.clock)();
        self.budget.as_mut().is_some_and(|budget| budget.left(priority, 0, now) == 0)
    }

    /// Payload bytes that a stream of this priority may send in one go, at most `most`; 0: none. `is_lowest`: it is the one
    /// that a budget keeps back first.
    pub fn turn_bytes(&mut self, priority: u8, is_lowest: bool, most: usize, metrics: &Metrics) -> usize {
        let allowed = self.allowance_bytes(priority);
        if allowed == 0 {
            if self.is_exhausted(priority) {
                self.note_exhausted(true, metrics);
            }
        } else if is_lowest {
            self.note_exhausted(false, metrics);
        }
        usize::try_from(allowed).unwrap_or(usize::MAX).min(most)
    }

    /// When the rates let a stream with this rate of its own send, where they do not now.
    pub fn closed_until_ns(&self, stream: &RateLimit, now_ns: u64) -> Option<u64> {
        [self.rate.closed_until_ns(now_ns), stream.closed_until_ns(now_ns)].into_iter().flatten().max()
    }

    /// What one go may have where it is all sent at once: a second of the rates. Records and bytes.
    pub fn burst(&self, stream: &RateLimit) -> (usize, usize) {
        let (all, own) = (self.rate.per_second(), stream.per_second());
        (all.0.min(own.0), all.1.min(own.1))
    }

    /// Payload bytes that a stream of this priority may hand to the client now.
    fn allowance_bytes(&mut self, priority: u8) -> u64 {
        let (pending, now) = ((self.pending_bytes as f64 * self.ratio) as u64, (self.clock)());
        match &mut self.budget {
            Some(budget) => (budget.left(priority, pending, now) as f64 / self.ratio) as u64,
            None => u64::MAX,
        }
    }

    /// So many bytes of payload were handed to the client.
    pub fn sent(&mut self, bytes: usize, now_ns: u64) {
        self.rate.took(bytes, now_ns);
        self.pending_bytes += bytes as u64;
        self.sent_bytes += bytes as u64;
    }

    /// The client told its sums; so many bytes of payload are in flight.
    pub fn counted(&mut self, traffic: Traffic, in_flight_bytes: usize, metrics: &Metrics) {
        let wire_bytes = traffic.wire_bytes(self.tls).saturating_sub(self.counted.wire_bytes(self.tls));
        self.counted = traffic;
        metrics.uplink_wire_bytes.inc_by(wire_bytes);
        let handed_bytes = self.in_flight_bytes + std::mem::take(&mut self.sent_bytes);
        self.in_flight_bytes = in_flight_bytes as u64;
        self.compared_bytes.0 += wire_bytes;
        self.compared_bytes.1 += handed_bytes.saturating_sub(self.in_flight_bytes);
        if let (wire, reported @ COMPARED_BYTES_MIN..) = self.compared_bytes {
            let ratio = (wire as f64 / reported as f64).clamp(RATIO_MIN, RATIO_MAX);
            self.ratio = (self.ratio + ratio) / 2.0;
            self.compared_bytes = (0, 0);
        }
        self.pending_bytes = self.in_flight_bytes;
        self.spend(wire_bytes, metrics);
    }

    /// A client beside the main one told its sums; `before`: those that it had told.
    pub fn counted_beside(&mut self, before: Traffic, traffic: Traffic, metrics: &Metrics) {
        let wire_bytes = traffic.wire_bytes(self.tls).saturating_sub(before.wire_bytes(self.tls));
        metrics.uplink_wire_bytes.inc_by(wire_bytes);
        self.spend(wire_bytes, metrics);
    }

    /// The client is gone: what it did not tell any more is estimated.
    pub fn client_gone(&mut self, metrics: &Metrics) {
        let wire_bytes = (self.pending_bytes as f64 * self.ratio) as u64;
        (self.counted, self.compared_bytes) = (Traffic::default(), (0, 0));
        (self.pending_bytes, self.in_flight_bytes, self.sent_bytes) = (0, 0, 0);
        metrics.uplink_wire_bytes.inc_by(wire_bytes);
        self.spend(wire_bytes, metrics);
    }

    fn spend(&mut self, wire_bytes: u64, metrics: &Metrics) {
        let now = (self.clock)();
        let Some(budget) = &mut self.budget else { return };
        budget.spend(wire_bytes, now);
        let to_save = budget.take_unsaved(now);
        self.show_used(now, metrics);
        if let Some(to_save) = to_save {
            self.save(&to_save);
        }
    }

    /// At the start: the gauges may say what an uplink of another configuration set.
    pub fn show(&mut self, metrics: &Metrics) {
        metrics.uplink_budget_exhausted.set(0);
        self.show_used((self.clock)(), metrics);
    }

    fn show_used(&mut self, now: Now, metrics: &Metrics) {
        let used = self.budget.as_mut().map(|budget| budget.used(now)).unwrap_or_default();
        let shown = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        metrics.uplink_budget_day_bytes.set(shown(used.day_bytes));
        metrics.uplink_budget_month_bytes.set(shown(used.month_bytes));
    }

    /// At the end, when no client is left: what was used to the byte, so that a restart costs nothing.
    pub fn close(&mut self) {
        let now = (self.clock)();
        if let Some(used) = self.budget.as_mut().and_then(|budget| budget.take_exact(now)) {
            self.save(&used);
        }
    }

    fn save(&mut self, used: &Used) {
        match save(&self.path, used) {
            Ok(()) => self.save_failed = false,
            Err(error) if !std::mem::replace(&mut self.save_failed, true) => {
                tracing::warn!(path = %self.path.display(), %error, "use of the budget cannot be written; a restart forgets it");
            }
            Err(_) => {}
        }
    }

    /// Says so once when a stream is kept back, and once when none is any more.
    fn note_exhausted(&mut self, exhausted: bool, metrics: &Metrics) {
        if std::mem::replace(&mut self.exhausted, exhausted) != exhausted {
            metrics.uplink_budget_exhausted.set(i64::from(exhausted));
            match exhausted {
                true => tracing::warn!("budget of the link is used up; readings stay in the queue"),
                false => tracing::info!("budget of the link allows to send again"),
            }
        }
    }
}

/// The time as the queue knows it.
pub fn clock_of(queue: &Queue) -> Clock {
    let queue = queue.clone();
    Box::new(move || Now { boot_ns: crate::clock::boot_ns(), wall_us: queue.wall_us() })
}

/// JSON and its CRC32C in one line.
fn save(path: &Path, used: &Used) -> std::io::Result<()> {
    let text = serde_json::to_string(used)?;
    write_atomically(path, format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes())).as_bytes())
}

/// What was used; nothing where the file is missing or damaged.
fn load(path: &Path) -> Used {
    use std::io::Read as _;
    let mut text = String::new();
    match std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Used::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "use of the budget cannot be read; it begins at nothing");
            return Used::default();
        }
    }
    let parsed = text
        .trim_end()
        .rsplit_once(' ')
        .filter(|(json, crc)| u32::from_str_radix(crc, 16).is_ok_and(|crc| crc == crc32c::crc32c(json.as_bytes())));
    let used = parsed.and_then(|(json, _)| serde_json::from_str(json).ok());
    if used.is_none() {
        tracing::warn!(path = %path.display(), "use of the budget is damaged; it begins at nothing");
    }
    used.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_comes_back_and_a_damaged_file_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(load(&path), Used::default());
        let used = Used { day: 20_779, day_bytes: 123, month: 682, month_bytes: 456, certain: true };
        save(&path, &used).unwrap();
        assert_eq!(load(&path), used);
        let text = std::fs::read_to_string(&path).unwrap().replace("123", "124");
        std::fs::write(&path, text).unwrap();
        assert_eq!(load(&path), Used::default());
    }

    /// Of 2026-11-22: the machine that runs this may have no clock, or come to midnight.
    fn noon() -> Clock {
        Box::new(|| Now { boot_ns: 0, wall_us: Some(1_795_348_800_000_000) })
    }

    fn metering(dir: &Path) -> Metering {
        let limits = Limits { day_bytes: Some(100_000), month_bytes: None, reserve_percent: 20, reserve_priority: 1 };
        Metering::new(Rate::default(), Some(limits), false, dir, noon())
    }

    fn traffic(sent_bytes: u64) -> Traffic {
        Traffic { sent_bytes, ..Traffic::default() }
    }

    #[test]
    fn what_is_not_counted_yet_is_taken_off_by_what_the_link_costs_and_a_restart_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::default();
        let mut link = metering(dir.path());
        assert_eq!((link.allowance_bytes(0), link.allowance_bytes(1)), (80_000, 100_000));
        link.sent(20_000, 1);
        assert_eq!(link.allowance_bytes(0), 60_000, "nothing is known of compression");
        let wire = traffic(4_000).wire_bytes(false);
        link.counted(traffic(4_000), 0, &metrics);
        assert_eq!(metrics.uplink_wire_bytes.get(), wire);
        let left = link.allowance_bytes(0);
        assert!(left > 80_000 - wire, "compression makes it {left}");
        link.sent(10_000, 2);
        assert!(link.allowance_bytes(0) == left - 10_000 || link.allowance_bytes(0) + 1 == left - 10_000);
        link.client_gone(&metrics);
        let used = metrics.uplink_budget_day_bytes.get();
        assert!(used > 4_000 + 10_000 / 3, "{used}");
        let mut again = metering(dir.path());
        let left = again.allowance_bytes(1);
        assert!((100_000 - used as u64 - 1_000..=100_000 - used as u64).contains(&left), "{left} left, {used} used");
    }

    #[test]
    fn an_uplink_that_ends_in_order_and_starts_again_has_used_no_more_and_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::default();
        let mut link = metering(dir.path());
        link.counted_beside(Traffic::default(), traffic(5_000), &metrics);
        let used = metrics.uplink_wire_bytes.get();
        assert!(used > 5_000, "{used}");
        for _ in 0..20 {
            link.close();
            link = metering(dir.path());
        }
        assert_eq!(link.allowance_bytes(1), 100_000 - used);
        metrics.uplink_budget_exhausted.set(1);
        metrics.uplink_budget_day_bytes.set(1);
        link.show(&metrics);
        let shown = (metrics.uplink_budget_exhausted.get(), metrics.uplink_budget_day_bytes.get() as u64);
        assert_eq!(shown, (0, used));
        Metering::new(Rate::default(), None, false, dir.path(), noon()).show(&metrics);
        assert_eq!(metrics.uplink_budget_day_bytes.get(), 0, "there is no budget any more");
    }
}
