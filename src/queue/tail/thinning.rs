//! What thinning may touch of a stream, and what it took.

use super::StreamState;
use crate::queue::lane::Lanes;
use crate::queue::store::Held;
use crate::reading::Position;

impl StreamState {
    /// A block of these positions, both included, is on its way to the uplink.
    pub(in crate::queue) fn fetched(&mut self, first: Position, last: Position) {
        let mut at = first;
        while at <= last && at < Position::END {
            let lane = self.lanes.lane_at(at);
            let end = Position::from_packed(lane.end.packed().saturating_sub(1));
            self.fetched.note(lane, last.min(end));
            at = lane.end;
        }
    }

    /// Ranges `[from, end)` of which nothing was handed to the uplink in this run, nor is on its way to it, nor is done:
    /// the ends of lanes, which are read in order. Nor may it have been delivered by a transaction of an earlier run whose
    /// outcome is not known. What is between lanes was delivered, and neither gives way to anything nor bears what did, so
    /// that thinning keeps inside one range.
    pub(in crate::queue) fn untouched(&self) -> Vec<(Position, Position)> {
        let in_doubt = self.in_doubt().map(|(_, last)| last);
        let range = |(next, end): &(Position, Position)| {
            let start = self.lanes.lane_at(*next).start;
            let touched = self.handed.through(start, *end).max(self.fetched.within(start, *end)).max(in_doubt);
            let from = touched.map_or(*next, |touched| touched.next().max(*next));
            (from < *end).then_some((from, *end))
        };
        self.lanes.pairs().iter().filter_map(range).collect()
    }

    /// So many records, and so many bytes of blocks, gave way to fewer.
    pub(in crate::queue) fn thinned(&mut self, records: u64, bytes: u64) {
        // The records may be known less well than the blocks: a start estimates them.
        self.disk.records = self.disk.records.saturating_sub(records).max(u64::from(self.disk.records > 0));
        self.disk.bytes = self.disk.bytes.saturating_sub(bytes);
    }
}

/// Of the records of all blocks, those that are done by the lanes: exact where one run follows without a gap, an estimate
/// where it was thinned.
pub(super) fn records_done(held: &Held, lanes: &Lanes) -> u64 {
    if lanes.is_range_done(held.first, held.last) {
        return held.records;
    }
    let positions = lanes.done_positions(held.first, held.last);
    let done = if held.last.run() == held.first.run() {
        let span = held.last.seq() - held.first.seq() + 1;
        u64::try_from(u128::from(held.records) * u128::from(positions) / u128::from(span)).unwrap_or(positions)
    } else {
        positions
    };
    // The last one waits.
    done.min(held.records.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Durability, Retention, Stream};
    use crate::queue::StreamControl;
    use crate::queue::lane::Lanes;

    #[test]
    fn what_an_earlier_runs_transaction_may_have_delivered_is_not_thinned() {
        let stream = Stream {
            name: "telemetry".into(),
            topic: "telemetry".into(),
            priority: 0,
            drain: None,
            rate: Default::default(),
            durability: Durability::Window,
            retention: Retention::default(),
        };
        let doubt = (Position::new(1, 3), Position::new(1, 9));
        let control = |in_doubt| StreamControl {
            stream: "telemetry".into(),
            lanes: Lanes::from_cursor(Position::new(1, 3)),
            skipped: Vec::new(),
            in_doubt,
        };
        assert_eq!(
            StreamState::new(control(Some(doubt)), &stream, 2).untouched(),
            [(Position::new(1, 10), Position::END)]
        );
        assert_eq!(StreamState::new(control(None), &stream, 2).untouched(), [(Position::new(1, 3), Position::END)]);
    }
}
