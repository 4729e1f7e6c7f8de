//! How fast a stream may send: limits that the user set, and a window in flight that fits the link. Pure; time comes as
//! an argument, nanoseconds since boot.

use std::collections::VecDeque;

/// A limit lets so much through at once after a pause.
const BURST_NS: u64 = 250_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// So many units a second at most, over any time longer than the burst of a quarter second.
#[derive(Debug, Clone, Copy)]
pub struct Limiter {
    per_second: u64,
    /// When all that was sent would have gone at exactly the rate.
    paid_until_ns: u64,
}

impl Limiter {
    /// A limit that has let nothing through yet; at least one unit a second.
    pub fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), paid_until_ns: 0 }
    }

    /// When something may be sent; not later than `now_ns`: at once.
    pub fn opens_at_ns(&self) -> u64 {
        self.paid_until_ns.saturating_sub(BURST_NS)
    }

    /// So much was sent.
    pub fn took(&mut self, units: u64, now_ns: u64) {
        let cost_ns = u128::from(units) * u128::from(SECOND_NS) / u128::from(self.per_second);
        let cost_ns = u64::try_from(cost_ns).unwrap_or(u64::MAX);
        self.paid_until_ns = self.paid_until_ns.max(now_ns).saturating_add(cost_ns);
    }
}

/// Limits of records and of bytes, before compression.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateLimit {
    /// Records.
    pub records: Option<Limiter>,
    /// Bytes of keys and values.
    pub bytes: Option<Limiter>,
}

impl RateLimit {
    /// As the configuration says.
    pub fn new(rate: crate::config::Rate) -> Self {
        Self { records: rate.records.map(Limiter::new), bytes: rate.bytes.map(Limiter::new) }
    }

    /// When a record may be sent, where it may not be sent now.
    pub fn closed_until_ns(&self, now_ns: u64) -> Option<u64> {
        let limits = [self.records, self.bytes];
        limits.iter().flatten().map(Limiter::opens_at_ns).max().filter(|opens_ns| *opens_ns > now_ns)
    }

    /// Records and bytes a second; where there is no limit, as many as can be.
    pub fn per_second(&self) -> (usize, usize) {
        let of = |limit: Option<Limiter>| {
            limit.map_or(usize::MAX, |limit| usize::try_from(limit.per_second).unwrap_or(usize::MAX))
        };
        (of(self.records), of(self.bytes))
    }

    /// A record of so many bytes was sent.
    pub fn took(&mut self, bytes: usize, now_ns: u64) {
        if let Some(limit) = &mut self.records {
            limit.took(1, now_ns);
        }
        if let Some(limit) = &mut self.bytes {
            limit.took(bytes as u64, now_ns);
        }
    }
}

/// What is in flight must arrive within this: a part of the socket timeout, so that no batch outlives that, and a third of
/// what an alarm may take that waits behind it, as deliveries come in batches and a link seems up to twice as fast as it is.
const IN_FLIGHT_NS: u64 = 3 * SECOND_NS;
/// The window of a link of which nothing is known, and the smallest, of all streams together: four seconds of 64 kbit/s
/// before compression.
const WINDOW_BYTES_MIN: usize = 32 * 1024;
/// The smallest of a stream, however many there are.
const STREAM_BYTES_MIN: usize = 4 * 1024;
/// What was delivered is averaged over so long, while something was in flight.
const MEASURED_NS: u64 = 5 * SECOND_NS;
/// One sum is kept for each of these.
const SLOT_NS: u64 = 250_000_000;

/// Measures how fast one stream's records are delivered.
#[derive(Debug, Default)]
pub struct LinkRate {
    /// How long something was in flight, and how much of that was delivered, oldest first.
    slots: VecDeque<(u64, u64)>,
    looked_ns: Option<u64>,
}

impl LinkRate {
    /// So many bytes were reported delivered since the last look; `busy`: something was in flight until now. Time
    /// without anything in flight says nothing about the link.
    pub fn look(&mut self, delivered_bytes: u64, busy: bool, now_ns: u64) {
        let passed_ns = self.looked_ns.map_or(0, |looked_ns| now_ns.saturating_sub(looked_ns));
        self.looked_ns = busy.then_some(now_ns);
        if passed_ns == 0 && delivered_bytes == 0 {
            return;
        }
        match self.slots.back_mut().filter(|(busy_ns, _)| *busy_ns < SLOT_NS) {
            Some((busy_ns, bytes)) => {
                *busy_ns += passed_ns;
                *bytes += delivered_bytes;
            }
            None => self.slots.push_back((passed_ns, delivered_bytes)),
        }
        let mut all_ns: u64 = self.slots.iter().map(|(busy_ns, _)| busy_ns).sum();
        while let Some((busy_ns, _)) = self.slots.front().filter(|(busy_ns, _)| all_ns - busy_ns >= MEASURED_NS) {
            all_ns -= busy_ns;
            self.slots.pop_front();
        }
    }

    /// Bytes a second; `None`: nothing was delivered lately.
    pub fn bytes_per_second(&self) -> Option<u64> {
        let busy_ns: u64 = self.slots.iter().map(|(busy_ns, _)| busy_ns).sum();
        let bytes: u64 = self.slots.iter().map(|(_, bytes)| bytes).sum();
        let rate = u128::from(bytes) * u128::from(SECOND_NS) / u128::from(busy_ns.max(1_000_000));
        (bytes > 0).then(|| u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// Most bytes in flight of one of `streams` that share the link.
    pub fn window_bytes(&self, bytes_max: usize, streams: usize) -> usize {
        let rate = self.bytes_per_second().unwrap_or(0);
        let fits = u128::from(rate) * u128::from(IN_FLIGHT_NS) / u128::from(SECOND_NS);
        let least = (WINDOW_BYTES_MIN / streams.max(1)).max(STREAM_BYTES_MIN);
        usize::try_from(fits).unwrap_or(usize::MAX).max(least).min(bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever asks whenever, over no stretch of time more passes than the rate allows, the burst and the last
        /// record aside; and who always asks gets it.
        #[test]
        fn a_limit_holds_over_every_stretch(
            per_second in 1_u64..100_000,
            steps in proptest::collection::vec((0_u64..400_000_000, 1_u64..5_000), 1..200),
        ) {
            let mut limit = Limiter::new(per_second);
            let mut now_ns = 7 * SECOND_NS;
            let mut sent: Vec<(u64, u64)> = Vec::new();
            for (pause_ns, units) in steps {
                now_ns += pause_ns;
                if limit.opens_at_ns() <= now_ns {
                    limit.took(units, now_ns);
                    sent.push((now_ns, units));
                }
            }
            for (first, (from_ns, _)) in sent.iter().enumerate() {
                let mut sum = 0;
                for (at_ns, units) in &sent[first..] {
                    let allowed = u128::from(at_ns - from_ns + BURST_NS) * u128::from(per_second) / u128::from(SECOND_NS);
                    prop_assert!(u128::from(sum) <= allowed + 1, "{} before the last, {} allowed", sum, allowed);
                    sum += units;
                }
            }
        }
    }

    #[test]
    fn who_always_asks_gets_the_rate() {
        let mut limit = Limiter::new(300);
        let (mut sent, begin_ns) = (0, SECOND_NS);
        for now_ns in (begin_ns..begin_ns + 10 * SECOND_NS).step_by(1_000_000) {
            while limit.opens_at_ns() <= now_ns {
                limit.took(1, now_ns);
                sent += 1;
            }
        }
        assert!((3_000..=3_077).contains(&sent), "{sent} in 10 s, a quarter second of burst among them");
    }

    #[test]
    fn the_window_follows_the_link_up_and_down() {
        let mut link = LinkRate::default();
        assert_eq!(link.window_bytes(1 << 20, 1), 32 * 1024, "nothing is known");
        assert_eq!([4, 8, 50].map(|streams| link.window_bytes(1 << 20, streams)), [8 * 1024, 4 * 1024, 4 * 1024]);
        let mut now_ns = 0;
        // 128 kbit/s, a report each second.
        for _ in 0..20 {
            link.look(0, true, now_ns);
            now_ns += SECOND_NS;
            link.look(16_000, true, now_ns);
        }
        assert_eq!(link.window_bytes(1 << 20, 1), 48_000, "three seconds");
        // An hour without anything in flight changes nothing.
        link.look(0, false, now_ns);
        now_ns += 3_600 * SECOND_NS;
        link.look(0, true, now_ns);
        assert_eq!(link.window_bytes(1 << 20, 1), 48_000);
        for _ in 0..400 {
            now_ns += 20_000_000;
            link.look(100_000, true, now_ns);
        }
        assert_eq!(link.window_bytes(1 << 20, 1), 1 << 20, "a fast one is limited by what is configured");
        // In flight and nothing arrives.
        for _ in 0..60 {
            now_ns += SECOND_NS / 10;
            link.look(0, true, now_ns);
        }
        assert_eq!(link.window_bytes(1 << 20, 1), 32 * 1024);
        assert!(link.slots.len() <= 64, "{} slots", link.slots.len());
    }

    #[test]
    fn a_burst_of_reports_after_a_long_wait_counts_the_wait() {
        let mut link = LinkRate::default();
        link.look(0, true, 0);
        link.look(1_000, true, 4 * SECOND_NS);
        link.look(39_000, true, 4 * SECOND_NS + 1_000_000);
        assert!((9_900..=10_000).contains(&link.bytes_per_second().unwrap()), "{:?}", link.bytes_per_second());
    }
}
