//! Handing records out to a reader: copies of what survives, bearing the marks of what does not, remembered for counting.

use super::{Decoded, HANDED_MAX, Handed, StreamState};
use crate::queue::{Limit, block};
use crate::reading::{Position, Record};

impl StreamState {
    /// Records of the tail from `at` on, at most so many and so many bytes, at least one; none that is done.
    pub(in crate::queue) fn peek_tail(&mut self, at: Position, limit: Limit) -> Vec<Record> {
        let from = self.tail.partition_point(|entry| entry.record.position < at);
        let mut taken = Vec::new();
        let mut bytes = 0;
        for entry in self.tail.range(from..) {
            if !taken.is_empty() && (taken.len() >= limit.records || bytes + entry.bytes > limit.bytes) {
                break;
            }
            if !self.lanes.is_done(entry.record.position) {
                bytes += entry.bytes;
                taken.push(Record::clone(&entry.record));
            }
        }
        self.hand_out(at, &mut taken, false);
        taken
    }

    /// The same from a decoded block.
    pub(in crate::queue) fn peek_block(&mut self, block: &Decoded, at: Position, limit: Limit) -> Vec<Record> {
        let mut taken: Vec<Record> = Vec::new();
        let mut bytes = 0;
        let from = block.records.partition_point(|record| record.position < at);
        if at <= self.lanes.cursor() && self.disk.oldest_boot_ns.is_some() {
            self.disk.oldest_boot_ns = block.records.get(from).map(|record| record.stamp.boot_ns);
        }
        for record in block.records[from..].iter().filter(|record| !self.lanes.is_done(record.position)) {
            let more = block::record_bytes(record);
            if !taken.is_empty() && (taken.len() >= limit.records || bytes + more > limit.bytes) {
                break;
            }
            bytes += more;
            taken.push(record.clone());
        }
        self.hand_out(at, &mut taken, true);
        taken
    }

    /// Puts the marks on those that bear them and remembers what was handed out.
    fn hand_out(&mut self, at: Position, taken: &mut [Record], from_block: bool) {
        // A mark below the cursor belongs to the first record at all.
        let mut after = if at <= self.lanes.cursor() { None } else { Some(at) };
        for record in taken.iter_mut() {
            let marks = self
                .marks
                .iter()
                .filter(|(mark, _)| after.is_none_or(|after| *mark >= after) && *mark <= record.position);
            record.skipped += marks.map(|(_, count)| count).sum::<u64>();
            after = Some(record.position.next());
        }
        let (Some(first), Some(last)) = (taken.first(), taken.last()) else { return };
        self.handed_through = self.handed_through.max(Some(last.position));
        let known = self.handed.back().map(|batch| batch.last);
        let new = taken.iter().filter(|record| known.is_none_or(|known| record.position > known)).count() as u64;
        if !from_block || new == 0 {
            return;
        }
        let full = self.handed.len() >= HANDED_MAX;
        match self.handed.back_mut() {
            Some(batch) if full => {
                batch.last = last.position;
                batch.records += new;
            }
            _ => {
                let first = known.map_or(first.position, |known| first.position.max(known.next()));
                self.handed.push_back(Handed { first, last: last.position, records: new });
            }
        }
    }
}
