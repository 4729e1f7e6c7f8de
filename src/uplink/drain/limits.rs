//! What a turn of the drain may send: the rates, the budget, and how fast each stream's link is.

use super::{Drain, Outlet};
use crate::clock::boot_ns;

impl Drain<'_> {
    /// Payload bytes that a stream may send in this turn; 0: none.
    pub(super) fn turn_bytes(&mut self, place: usize, turn_bytes_max: usize) -> usize {
        let (priority, is_lowest) = (self.outlets[place].priority, place == self.lowest_place());
        self.metering.turn_bytes(priority, is_lowest, turn_bytes_max, &self.metrics)
    }

    /// The stream that a budget keeps back first.
    fn lowest_place(&self) -> usize {
        let places = self.outlets.iter().enumerate();
        places.min_by_key(|(_, outlet)| outlet.priority).map_or(0, |(place, _)| place)
    }

    /// When the rates let a stream send, where they do not now.
    pub(super) fn rate_closed_until_ns(&self, outlet: &Outlet, now_ns: u64) -> Option<u64> {
        self.metering.closed_until_ns(&outlet.rate, now_ns)
    }

    /// After reports were served: how fast each stream's link is.
    pub(super) fn measure_links(&mut self) {
        let now_ns = boot_ns();
        for outlet in &mut self.outlets {
            let delivered = std::mem::take(&mut outlet.delivered_bytes);
            outlet.link.look(delivered, outlet.lane.in_flight().0 > 0, now_ns);
        }
    }

    pub(super) fn in_flight_bytes(&self) -> usize {
        self.outlets.iter().map(|outlet| outlet.lane.in_flight().1).sum()
    }
}
