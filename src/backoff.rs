//! Delays between attempts that grow, with jitter.

use std::time::Duration;

/// Doubles from `first` to `max`.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    present: Duration,
}

impl Backoff {
    /// Starts at `first`, never above `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, present: first }
    }

    /// The next delay: between half and all of the present step.
    pub fn next(&mut self) -> Duration {
        let step = self.present;
        self.present = (step * 2).min(self.max);
        step.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// Begins again.
    pub fn reset(&mut self) {
        self.present = self.first;
    }
}
