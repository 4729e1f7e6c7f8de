//! What a transaction may hold: what the link carries in a few seconds, a second of the rates, what is left of the budget.

use super::thread::Exactly;

/// Most records of a transaction: each is remembered until the commit.
const RECORDS_MAX: usize = 65_536;

/// The most that a transaction of a stream may have.
#[derive(Debug, Clone, Copy)]
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
        (bytes > 0).then_some(Allowance { records: records.min(RECORDS_MAX), bytes: self.size.bytes(bytes) })
    }

    /// Payload that the client has and Kafka has not reported.
    pub(super) fn in_flight_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.in_flight().1)
    }
}
