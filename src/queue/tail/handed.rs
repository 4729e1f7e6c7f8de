//! What of a stream was handed to a reader: how far in each lane, so that marks are put where nobody has read yet, and
//! how many records, so that acknowledgements can be counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::queue::lane::{LaneAt, Lanes};
use crate::reading::{Position, Record};

/// Most ranges remembered for counting; more are added up in the one before.
const RANGES_MAX: usize = 1024;

/// Records of one range of positions that were read and are not acknowledged; only counts depend on it.
#[derive(Debug)]
struct Range {
    last: Position,
    records: u64,
}

/// See the module. A lane is read in order, so that what was read of it has no holes.
#[derive(Debug, Default)]
pub(super) struct Handed {
    /// By first position; disjoint.
    ranges: BTreeMap<Position, Range>,
    highest: Highest,
}

/// The highest position of each lane that has come so far, in no order.
#[derive(Debug, Default)]
pub(super) struct Highest {
    positions: Vec<Position>,
}

impl Highest {
    /// A position of this lane has come so far.
    pub(super) fn note(&mut self, lane: LaneAt, position: Position) {
        let position = self.within(lane.start, lane.end).map_or(position, |before| before.max(position));
        self.positions.retain(|other| *other < lane.start || lane.end <= *other);
        self.positions.push(position);
    }

    /// The highest in `[start, end)`.
    pub(super) fn within(&self, start: Position, end: Position) -> Option<Position> {
        self.positions.iter().copied().filter(|position| start <= *position && *position < end).max()
    }
}

impl Handed {
    /// Records of one or more lanes were handed out.
    pub(super) fn note(&mut self, taken: &[Arc<Record>], lanes: &Lanes) {
        let mut rest = taken;
        while let Some(first) = rest.first() {
            let lane = lanes.lane_at(first.position);
            let (mine, others) = rest.split_at(rest.partition_point(|record| record.position < lane.end).max(1));
            if let Some(last) = mine.last() {
                self.highest.note(lane, last.position);
                self.note_ranges(mine);
            }
            rest = others;
        }
    }

    /// Remembers those that are not in a range yet; what lies between such ranges was read before lanes became one.
    fn note_ranges(&mut self, taken: &[Arc<Record>]) {
        let mut new: Option<(Position, Range)> = None;
        for record in taken {
            let position = record.position;
            if self.ranges.range(..=position).next_back().is_some_and(|(_, range)| range.last >= position) {
                self.add_range(new.take());
                continue;
            }
            let (_, range) = new.get_or_insert((position, Range { last: position, records: 0 }));
            range.last = position;
            range.records += 1;
        }
        self.add_range(new);
    }

    fn add_range(&mut self, new: Option<(Position, Range)>) {
        let Some((first, new)) = new else { return };
        let full = self.ranges.len() >= RANGES_MAX;
        match self.ranges.range_mut(..first).next_back().filter(|_| full) {
            Some((_, before)) => {
                before.last = new.last;
                before.records += new.records;
            }
            None => {
                self.ranges.insert(first, new);
            }
        }
    }

    /// The highest position handed out of `[start, end)`.
    pub(super) fn through(&self, start: Position, end: Position) -> Option<Position> {
        self.highest.within(start, end)
    }

    /// Records read that an acknowledgement of this range, both ends included, takes out.
    pub(super) fn retire(&mut self, from: Position, through: Position) -> u64 {
        let mut retired = 0;
        let before = self.ranges.range(..from).next_back().filter(|(_, range)| range.last >= from);
        let mut at = before.map_or(from, |(first, _)| *first);
        while let Some((first, range)) = self.ranges.range_mut(at..).next() {
            let first = *first;
            if first > through {
                break;
            }
            at = range.last.next();
            if range.last > through {
                // Inside a block positions follow each other; the last part of a sparse one takes the rest.
                let span = through.packed() - first.packed() + 1;
                let part = span.min(range.records.saturating_sub(1));
                let left = Range { last: range.last, records: range.records - part };
                retired += part;
                self.ranges.remove(&first);
                self.ranges.insert(through.next(), left);
                break;
            }
            retired += range.records;
            self.ranges.remove(&first);
        }
        retired
    }

    /// The record at this position is gone for another reason.
    pub(super) fn forget(&mut self, position: Position) {
        if let Some((_, range)) =
            self.ranges.range_mut(..=position).next_back().filter(|(_, range)| range.last >= position)
        {
            range.records = range.records.saturating_sub(1);
        }
    }

    /// Everything through here is gone for another reason.
    pub(super) fn forget_through(&mut self, last: Position) {
        self.retire(Position::ZERO, last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Stamp, Trust};

    fn at(seq: u64) -> Position {
        Position::new(1, seq)
    }

    fn records(seqs: std::ops::Range<u64>) -> Vec<Arc<Record>> {
        let record = |seq| Record {
            position: at(seq),
            skipped: 0,
            thinned: 0,
            stamp: Stamp { boot_ns: 0, wall_us: 0, trust: Trust::Unknown },
            source: "s".into(),
            device: "d".into(),
            fields: Vec::new(),
        };
        seqs.map(|seq| Arc::new(record(seq))).collect()
    }

    #[test]
    fn what_is_read_again_counts_once_and_lanes_count_apart() {
        let mut lanes = Lanes::from_cursor(at(0));
        lanes.split_last(at(100));
        let mut handed = Handed::default();
        for (first, last) in [(100, 120), (0, 30), (120, 140), (30, 50), (20, 40), (110, 150)] {
            handed.note(&records(first..last), &lanes);
        }
        assert_eq!(handed.through(at(0), at(100)), Some(at(49)), "the highest, whatever was read again");
        assert_eq!(handed.through(at(100), Position::END), Some(at(149)));
        assert_eq!(handed.retire(at(100), at(124)), 25);
        assert_eq!(handed.retire(at(0), at(49)), 50);
        assert_eq!(handed.retire(at(125), at(149)), 25);
        assert_eq!(handed.retire(at(0), at(149)), 0);
    }

    #[test]
    fn a_batch_over_two_lanes_is_known_in_both() {
        let mut lanes = Lanes::from_cursor(at(0));
        lanes.split_last(at(10));
        let mut handed = Handed::default();
        handed.note(&records(0..20), &lanes);
        assert_eq!((handed.through(at(0), at(10)), handed.through(at(10), at(99))), (Some(at(9)), Some(at(19))));
        handed.forget(at(12));
        assert_eq!(handed.retire(at(0), at(19)), 19);
    }

    #[test]
    fn what_is_dropped_is_not_counted_as_acknowledged() {
        let lanes = Lanes::from_cursor(at(0));
        let mut handed = Handed::default();
        handed.note(&records(0..1_000), &lanes);
        handed.forget_through(at(499));
        assert_eq!(handed.retire(at(0), at(999)), 500);
    }
}
