//! Handing records out to a reader: what survives, bearing the marks of what does not, remembered for counting.

use std::sync::Arc;

use super::{Decoded, StreamState};
use crate::queue::{Limit, block};
use crate::reading::{Position, Record};

impl StreamState {
    /// Records of the tail from `at` on and before `end`, at most so many and so many bytes, at least one; none that is
    /// done.
    pub(in crate::queue) fn peek_tail(&mut self, at: Position, end: Position, limit: Limit) -> Vec<Arc<Record>> {
        let from = self.tail.partition_point(|entry| entry.record.position < at);
        let mut taken = Vec::new();
        let mut bytes = 0;
        for entry in self.tail.range(from..) {
            if entry.record.position >= end {
                break;
            }
            if !taken.is_empty() && (taken.len() >= limit.records || bytes + entry.bytes > limit.bytes) {
                break;
            }
            if self.is_readable(entry.record.position) {
                bytes += entry.bytes;
                taken.push(Arc::clone(&entry.record));
            }
        }
        self.hand_out(at, &mut taken);
        taken
    }

    /// The same from a decoded block.
    pub(in crate::queue) fn peek_block(
        &mut self,
        block: &Decoded,
        at: Position,
        end: Position,
        limit: Limit,
    ) -> Vec<Arc<Record>> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let from = block.records.partition_point(|record| record.position < at);
        if at <= self.lanes.cursor() && self.disk.oldest_boot_ns.is_some() {
            self.disk.oldest_boot_ns = block.records.get(from).map(|record| record.stamp.boot_ns);
        }
        let wanted = |record: &&Arc<Record>| record.position < end && self.is_readable(record.position);
        for record in block.records[from..].iter().filter(wanted) {
            let more = block::record_bytes(record);
            if !taken.is_empty() && (taken.len() >= limit.records || bytes + more > limit.bytes) {
                break;
            }
            bytes += more;
            taken.push(Arc::clone(record));
        }
        self.hand_out(at, &mut taken);
        taken
    }

    /// Puts the marks on those that bear them and remembers what was handed out.
    fn hand_out(&mut self, at: Position, taken: &mut [Arc<Record>]) {
        let lane = self.lanes.lane_at(at);
        // A mark in front of a lane belongs to its first record at all.
        let mut after = if at <= lane.next { lane.start } else { at };
        for record in taken.iter_mut() {
            let marks = self.marks.iter().filter(|(mark, _)| after <= *mark && *mark <= record.position);
            let skipped: u64 = marks.map(|(_, count)| count).sum();
            if skipped > 0 {
                // What the queue keeps says it again to whoever reads again, as long as the mark is there.
                Arc::make_mut(record).skipped += skipped;
            }
            after = record.position.next();
        }
        self.handed.note(taken, &self.lanes);
    }
}
