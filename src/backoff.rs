//! Delays between tries: doubling, capped, with jitter so that a fleet that lost its broker does not return as one.

use std::time::Duration;

/// Capped exponential backoff; the caller sleeps.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays that start at `first` and double up to `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first.min(max) }
    }

    /// The next delay: between half of it and the whole, by `random` in 0..1 ([`fastrand::f64`]).
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.max);
        whole.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// The next delay with jitter of its own: [`Self::next_delay`] of [`fastrand::f64`].
    #[expect(clippy::should_implement_trait, reason = "a delay is asked for one at a time, never iterated over")]
    pub fn next(&mut self) -> Duration {
        self.next_delay(fastrand::f64())
    }

    /// It worked: the next delay is the first again.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_start_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(3));
        let delays: Vec<_> = (0..5).map(|_| backoff.next_delay(1.0).as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 3000, 3000]);
        backoff.reset();
        assert_eq!(backoff.next_delay(0.0), Duration::from_millis(250));
    }
}
