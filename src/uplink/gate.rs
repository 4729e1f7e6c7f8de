//! Whether a stream may ask the registry, and whether it is held by it. Pure; time comes as an argument.

use super::lane::Backoff;

/// One stream's dealings with the registry.
#[derive(Debug)]
pub struct Gate {
    backoff: Backoff,
    asked: bool,
    retry_at_ns: u64,
    attempt: u32,
    /// A record waits for the schema that has its fields.
    needed: bool,
    held: Option<String>,
}

impl Gate {
    /// Nothing was asked yet.
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, asked: false, retry_at_ns: 0, attempt: 0, needed: false, held: None }
    }

    /// Whether there is no use in looking at the next record again: it waits, and nothing has come of it yet.
    pub fn is_shut(&self, now_ns: u64) -> bool {
        self.needed && (self.asked || now_ns < self.retry_at_ns)
    }

    /// The next record needs a schema that is not registered. Gives whether to ask for it now.
    pub fn need(&mut self, now_ns: u64) -> bool {
        self.needed = true;
        !self.asked && now_ns >= self.retry_at_ns
    }

    /// Why the stream is held by the registry, if it is.
    pub fn held(&self) -> Option<&str> {
        self.held.as_deref()
    }

    /// The registry is being asked.
    pub fn asked(&mut self) {
        self.asked = true;
    }

    /// It has done what was asked. Gives whether the stream was held.
    pub fn succeeded(&mut self) -> bool {
        (self.asked, self.needed, self.attempt, self.retry_at_ns) = (false, false, 0, 0);
        self.held.take().is_some()
    }

    /// It has not. Gives whether the stream is held for a reason that was not told yet. A schema that was registered
    /// earlier is good for all records that need no more, so without a need there is no hold.
    pub fn failed(&mut self, reason: &str, now_ns: u64, chance: f64) -> bool {
        self.asked = false;
        if !self.needed {
            return false;
        }
        self.retry_at_ns = now_ns.saturating_add(self.backoff.delay_ns(self.attempt, chance));
        self.attempt = self.attempt.saturating_add(1);
        let news = self.held.as_deref() != Some(reason);
        self.held = Some(reason.to_owned());
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first_ns: 100, max_ns: 300 };

    #[test]
    fn a_stream_that_needs_nothing_is_never_held() {
        let mut gate = Gate::new(BACKOFF);
        gate.asked();
        assert!(!gate.is_shut(0));
        assert!(!gate.failed("away", 0, 1.0));
        assert!(gate.need(0), "nothing was failed that counts: ask at once");
    }

    #[test]
    fn a_need_is_asked_for_once_at_a_time_and_with_growing_pauses() {
        let mut gate = Gate::new(BACKOFF);
        assert!(gate.need(0));
        gate.asked();
        assert!(gate.is_shut(0) && !gate.need(0));
        assert!(gate.failed("away", 1_000, 1.0));
        assert!(gate.is_shut(1_099) && !gate.need(1_099) && !gate.is_shut(1_100) && gate.need(1_100));
        gate.asked();
        assert!(!gate.failed("away", 2_000, 1.0), "said already");
        assert!(gate.is_shut(2_199) && gate.need(2_200));
        gate.asked();
        assert!(gate.failed("refused", 3_000, 1.0));
        assert_eq!(gate.held(), Some("refused"));
        assert!(gate.is_shut(3_299) && gate.need(3_300), "no pause beyond the longest");
        gate.asked();
        assert!(gate.succeeded());
        assert!(!gate.is_shut(0) && !gate.succeeded() && gate.held().is_none());
    }
}
