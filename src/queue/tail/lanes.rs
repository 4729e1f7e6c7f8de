//! What acknowledgements, removals and splits do to a stream's lanes, its unsealed records and its marks.

use super::{Entry, MARKS_MAX, Retired, StreamState};
use crate::queue::lane::LANES_MAX;
use crate::reading::Position;

/// Most lanes that delivery in another order makes: the rest is for blocks that only a newer agent can open.
const SPLIT_LANES_MAX: usize = LANES_MAX - 4;

impl StreamState {
    /// Everything from `from` through `through` is delivered, but for what only a newer agent can open; `from` is where
    /// reading of the lane began, so that a lane of which an earlier part is open does not move. Positions that were
    /// never given move nothing.
    pub(in crate::queue) fn ack_range(&mut self, from: Position, through: Position) -> Retired {
        if through >= self.next_position() {
            return Retired::default();
        }
        let apart = self.lanes_apart();
        let is_apart = |next| apart.iter().any(|lane| lane.next == next);
        let Some(floor) = self.lanes.ack_range(from, through, is_apart) else { return Retired::default() };
        // A mark in front of a lane is borne by its first record, one inside by the next: all of these are delivered.
        let is_borne = |at| floor <= at && at <= through && !apart.iter().any(|lane| lane.start <= at && at < lane.end);
        self.marks.retain(|(at, _)| !is_borne(*at));
        let mut retired = self.retire_tail(floor, through);
        retired.records += self.retire_blocks(floor, through, retired.records);
        self.decoded.take_if(|block| floor <= block.last && block.last <= through);
        self.report_safe();
        retired
    }

    /// No record is left to be read from `from` on and before `end`, where a lane ends: it is done, in parts where blocks
    /// of a newer agent are in between, which stay. What its marks say is said by the next record behind it that is not
    /// read yet. The last lane is never closed.
    pub(in crate::queue) fn close_lane(&mut self, from: Position, end: Position) -> Retired {
        let mut retired = Retired::default();
        let parts: Vec<(Position, Position)> = self.lanes.pairs().to_vec();
        for (next, until) in parts.into_iter().filter(|(next, until)| from <= *next && *until <= end) {
            if until != Position::END && !self.newer.holds(next) {
                retired.records += self.close_part(next, until).records;
            }
        }
        retired
    }

    fn close_part(&mut self, from: Position, end: Position) -> Retired {
        let lane = self.lanes.lane_at(from);
        let unborne: u64 =
            self.marks.iter().filter(|(at, _)| lane.start <= *at && *at < end).map(|(_, count)| count).sum();
        self.marks.retain(|(at, _)| *at < lane.start || end <= *at);
        self.lanes.ack_range(lane.next, Position::from_packed(end.packed() - 1), |_| false);
        if unborne > 0 {
            let at = self.unread_from(end);
            self.add_mark(at, unborne);
        }
        let records = self.retire_blocks(lane.start, Position::from_packed(end.packed() - 1), 0);
        self.report_safe();
        Retired { records, ..Retired::default() }
    }

    /// Counts what leaves the blocks: all that was read but what was still in the tail. Once all blocks are done, nothing
    /// of them is held, whatever was counted.
    fn retire_blocks(&mut self, from: Position, through: Position, of_tail: u64) -> u64 {
        let mut records = self.handed.retire(from, through).saturating_sub(of_tail);
        if self.disk.last.is_some_and(|last| last < self.lanes.cursor()) {
            records = self.disk.records;
        }
        let records = records.min(self.disk.records);
        self.take_from_disk(records);
        records
    }

    /// Takes what is delivered out of the tail, wherever it stands.
    fn retire_tail(&mut self, from: Position, through: Position) -> Retired {
        let mut retired = Retired::default();
        let mut note = |entry: &Entry| {
            retired.records += 1;
            retired.tail_bytes += entry.bytes;
            retired.oldest_pushed_ns = retired.oldest_pushed_ns.or(Some(entry.pushed_ns));
        };
        let first = self.tail.partition_point(|entry| entry.record.position < from);
        let behind = self.tail.partition_point(|entry| entry.record.position <= through);
        if first < behind {
            self.tail.drain(first..behind).for_each(|entry| note(&entry));
        }
        self.tail_bytes -= retired.tail_bytes;
        retired
    }

    /// The smallest position at or after `at` from which on nothing of its lane was handed out: a mark put there is
    /// seen by whoever reads on.
    pub(super) fn unread_from(&self, mut at: Position) -> Position {
        loop {
            let lane = self.lanes.lane_at(at);
            match self.handed.through(lane.start, lane.end) {
                Some(handed) if handed >= at => at = handed.next(),
                _ => return at,
            }
            if at < lane.end || lane.end == Position::END {
                return at;
            }
        }
    }

    /// Adds a mark. Where there are too many, the one before it moves up to it, else the next one takes it on: what is
    /// told late is told.
    pub(super) fn add_mark(&mut self, mut at: Position, mut records: u64) {
        if self.marks.len() >= MARKS_MAX && !self.marks.iter().any(|(mark, _)| *mark == at) {
            let before = self.marks.partition_point(|(mark, _)| *mark < at).saturating_sub(1);
            let (mark, count) = self.marks.remove(before);
            records = records.saturating_add(count);
            if mark > at {
                at = self.unread_from(mark);
            }
        }
        let index = self.marks.partition_point(|(mark, _)| *mark < at);
        match self.marks.get_mut(index) {
            Some((mark, count)) if *mark == at => *count = count.saturating_add(records),
            _ => self.marks.insert(index, (at, records)),
        }
    }

    /// Records that nobody has read are split from the last lane, so that they can be delivered first. Says whether
    /// there is a new lane.
    pub(in crate::queue) fn split_lane(&mut self, at: Position) -> bool {
        if self.lanes.pairs().len() >= SPLIT_LANES_MAX {
            return false;
        }
        let last = self.lanes.pairs().last().map_or(Position::ZERO, |(next, _)| *next);
        at == self.unread_from(at.max(last)) && self.lanes.split_last(at)
    }

    /// Lanes that touch become one again, but for the newest: it is still the newest. Only while nothing is being
    /// delivered: an acknowledgement names where its lane began.
    pub(in crate::queue) fn merge_lanes(&mut self) {
        let newest = self.lanes.pairs().last().map(|(next, _)| *next);
        self.lanes.merge_touching(|next| Some(next) == newest || self.newer.holds(next));
    }
}
