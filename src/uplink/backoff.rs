//! How long is waited between attempts. Pure; chance comes as an argument.

/// Delays between attempts: doubled at each, capped, and spread by chance so that a fleet does not come back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// First delay.
    pub first_ns: u64,
    /// Longest delay.
    pub max_ns: u64,
}

impl Backoff {
    /// The delay before attempt `attempt` (0 is the first repetition); `chance` in 0..1 spreads it over 50 to 100 %.
    pub fn delay_ns(self, attempt: u32, chance: f64) -> u64 {
        let full = self.first_ns.saturating_mul(1 << attempt.min(20)).min(self.max_ns);
        (full as f64 * (0.5 + 0.5 * chance.clamp(0.0, 1.0))) as u64
    }
}

/// Attempts one after another that came to nothing.
#[derive(Debug, Clone, Copy)]
pub struct Attempts {
    backoff: Backoff,
    failed: u32,
}

impl Attempts {
    /// None so far.
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, failed: 0 }
    }

    /// Another came to nothing: the delay before the next; `chance` in 0..1 spreads it.
    pub fn next_ns(&mut self, chance: f64) -> u64 {
        let delay_ns = self.backoff.delay_ns(self.failed, chance);
        self.failed = self.failed.saturating_add(1);
        delay_ns
    }

    /// The last one was of use.
    pub fn succeeded(&mut self) {
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first_ns: 5_000, max_ns: 60_000 };

    #[test]
    fn attempts_wait_twice_as_long_each_time_until_one_is_of_use() {
        let mut attempts = Attempts::new(BACKOFF);
        for delay_ns in [5_000, 10_000, 20_000, 40_000, 60_000, 60_000] {
            assert_eq!(attempts.next_ns(1.0), delay_ns);
        }
        attempts.succeeded();
        assert_eq!(attempts.next_ns(1.0), 5_000);
        assert_eq!(Attempts { failed: u32::MAX, ..attempts }.next_ns(1.0), 60_000);
    }

    #[test]
    fn a_fleet_that_fails_together_is_spread_over_half_the_delay() {
        for attempt in 0..6 {
            let full_ns = BACKOFF.delay_ns(attempt, 1.0);
            let delays_ns = [0.0, 0.25, 0.5, 0.75, 1.0].map(|chance| BACKOFF.delay_ns(attempt, chance));
            assert_eq!(delays_ns, [4, 5, 6, 7, 8].map(|eighths| full_ns * eighths / 8), "attempt {attempt}");
        }
    }
}
