//! Blocks that only a newer agent can open: they become lanes of their own, which are read over and never
//! acknowledged, until that agent is back. Only a retention rule or an operator ends them before, counted as any other.
//!
//! The lanes are all that is durable of it: whoever starts on them meets the blocks again, and an agent that can open
//! them reads them as every other lane. So nothing here has to survive.

use super::StreamState;
use crate::queue::block::Header;
use crate::queue::lane::{LANES_MAX, LaneAt};
use crate::reading::Position;

/// Neighbouring blocks that only a newer agent can open, with nothing else between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: Position,
    /// Not included.
    end: Position,
    records: u64,
}

/// See the module. As many ranges as lanes at most, ascending and disjoint.
#[derive(Debug, Default)]
pub(super) struct Newer {
    ranges: Vec<Range>,
}

/// Why a block cannot be read over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) enum NotApart {
    /// There are as many lanes as there may be.
    LanesUsedUp,
    /// It is of this run or a later one, which nobody else can have written.
    Ahead,
}

impl Newer {
    pub(super) fn holds(&self, position: Position) -> bool {
        self.end_of(position).is_some()
    }

    /// End of the range that holds a position.
    fn end_of(&self, position: Position) -> Option<Position> {
        self.ranges.iter().find(|range| range.first <= position && position < range.end).map(|range| range.end)
    }

    /// The range that ends at or before a position, the last of these.
    fn before(&self, position: Position) -> Option<Range> {
        self.ranges.iter().rev().find(|range| range.end <= position).copied()
    }

    fn add(&mut self, new: Range) {
        self.ranges.retain(|range| range.end <= new.first || new.end <= range.first);
        self.ranges.push(new);
        self.ranges.sort_unstable_by_key(|range| range.first);
    }
}

impl StreamState {
    /// The first position from `at` on that is not done and can be read here.
    pub(in crate::queue) fn first_readable(&self, at: Position) -> Position {
        let mut at = self.lanes.first_open(at);
        while let Some(end) = self.newer.end_of(at) {
            at = self.lanes.first_open(end);
        }
        at
    }

    /// Whether a position is not done and can be read here.
    pub(in crate::queue) fn is_readable(&self, position: Position) -> bool {
        !self.lanes.is_done(position) && !self.newer.holds(position)
    }

    /// What is open of a block that only a newer agent can open is kept apart from now on. `read_from`: on disk there is
    /// nothing between this position and the block.
    pub(in crate::queue) fn keep_apart(&mut self, header: &Header, read_from: Position) -> Result<(), NotApart> {
        let end = header.last.next();
        if header.last.run() >= self.run {
            return Err(NotApart::Ahead);
        }
        // Where nothing is between two such blocks, done or to be read, they are one lane.
        let joined = self.newer.before(header.first).filter(|before| {
            let lane = self.lanes.lane_at(before.end);
            before.end == header.first || read_from <= before.end && lane.next == before.end && header.first <= lane.end
        });
        let first = joined.map_or(header.first, |before| before.first);
        let lanes = self.lanes.with_apart(first, end).ok_or(NotApart::LanesUsedUp)?;
        // A start meets several blocks of one lane again one by one: the last place is kept for that.
        let is_in_last = self.lanes.pairs().last().is_some_and(|(next, _)| *next <= header.last);
        let count = lanes.pairs().len();
        if is_in_last && count == LANES_MAX && count > self.lanes.pairs().len() {
            return Err(NotApart::LanesUsedUp);
        }
        self.hand_marks_on(header.first, read_from);
        let done = lanes.done_positions(header.first, header.last);
        let records = u64::from(header.count).saturating_sub(done);
        self.lanes = lanes;
        self.newer.add(Range { first, end, records: records + joined.map_or(0, |before| before.records) });
        Ok(())
    }

    /// What the marks in front of a block say is said by its first record: between `read_from` and it there is none.
    fn hand_marks_on(&mut self, first: Position, read_from: Position) {
        let lane = self.lanes.lane_at(first);
        let from = if read_from <= lane.next { lane.start } else { read_from };
        let is_mine = |at: Position| from <= at && at < first;
        let unborne: u64 = self.marks.iter().filter(|(at, _)| is_mine(*at)).map(|(_, count)| count).sum();
        if unborne > 0 {
            self.marks.retain(|(at, _)| !is_mine(*at));
            self.add_mark(first, unborne);
        }
    }

    /// Records that wait for a newer agent, as the headers of their blocks tell.
    pub(in crate::queue) fn newer_records(&self) -> u64 {
        self.newer.ranges.iter().map(|range| range.records).sum()
    }

    /// The lanes that are kept apart.
    pub(super) fn lanes_apart(&self) -> Vec<LaneAt> {
        if self.newer.ranges.is_empty() {
            return Vec::new();
        }
        let pairs = self.lanes.pairs().iter().filter(|(next, _)| self.newer.holds(*next));
        pairs.map(|(next, _)| self.lanes.lane_at(*next)).collect()
    }

    /// Blocks through here were removed.
    pub(super) fn forget_newer(&mut self, last: Position) {
        self.newer.ranges.retain_mut(|range| {
            if range.first <= last {
                // Where only a part of it went, how much is an estimate.
                let positions = |from: Position| {
                    if from.run() == range.end.run() { range.end.packed().saturating_sub(from.packed()) } else { 1 }
                };
                let left = u128::from(range.records) * u128::from(positions(last.next()))
                    / u128::from(positions(range.first).max(1));
                range.records = u64::try_from(left).unwrap_or(range.records).min(range.records).max(1);
                range.first = last.next();
            }
            range.first < range.end
        });
    }
}

#[cfg(test)]
#[path = "newer_tests.rs"]
mod tests;
