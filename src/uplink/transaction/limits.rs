//! What a transaction may hold: a second of the rates, what is left of the budget.

use super::thread::Exactly;
use crate::uplink::rate::RateLimit;

/// The most that the next transaction of a stream may have.
pub(super) struct Allowance {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

impl Exactly<'_> {
    /// What a stream may send now; `None`: nothing.
    pub(super) fn allowance(&mut self, place: usize, now_ns: u64) -> Option<Allowance> {
        let outlet = &self.outlets[place];
        if self.metering.closed_until_ns(&outlet.rate, now_ns).is_some() {
            return None;
        }
        let (records, burst_bytes) = self.metering.burst(&outlet.rate);
        let is_lowest = self.outlets.iter().all(|other| other.priority >= outlet.priority);
        let bytes = self.metering.turn_bytes(outlet.priority, is_lowest, burst_bytes, &self.metrics);
        (bytes > 0).then_some(Allowance { records, bytes })
    }

    /// When the rates let a stream send, where they do not now.
    pub(super) fn rate_opens_ns(&self, rate: &RateLimit, now_ns: u64) -> Option<u64> {
        self.metering.closed_until_ns(rate, now_ns)
    }

    /// Payload that the client has and Kafka has not reported.
    pub(super) fn in_flight_bytes(&self) -> usize {
        self.outlets.iter().map(|outlet| outlet.lane.in_flight().1).sum()
    }
}
