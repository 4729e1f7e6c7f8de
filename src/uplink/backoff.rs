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
