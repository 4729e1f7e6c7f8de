//! One stream as it stands in memory: its lanes, its unsealed records, what is known of its blocks on disk, and the
//! marks of what was removed. No lock, no I/O, no clock of its own.

mod hand_out;
mod handed;
mod lanes;
mod newer;
mod thinning;
mod transaction;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use self::handed::Handed;
pub(super) use self::newer::NotApart;
use super::dropped::Dropped;
use super::lane::Lanes;
use super::store::OldestBlocks;
use crate::config::{Durability, Retention, Stream};
use crate::reading::{Lineage, Name, Position, Record};

/// Most removal marks of one stream; more are added up in the newest.
const MARKS_MAX: usize = 16;

/// What a stream keeps across restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamControl {
    /// Its name.
    pub stream: Name,
    /// What is still to be delivered.
    pub lanes: Lanes,
    /// `(at, records)`: the first surviving record at or after `at` says that so many were removed before it.
    pub skipped: Vec<(Position, u64)>,
    /// First and last position of the transaction whose outcome is not known.
    pub in_doubt: Option<(Position, Position)>,
}

/// A record that is in memory only.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) record: Arc<Record>,
    pub(super) bytes: usize,
    pub(super) pushed_ns: u64,
}

/// What is known of a stream's blocks.
#[derive(Debug, Clone, Default)]
pub(super) struct OnDisk {
    /// Last position of the newest block.
    pub(super) last: Option<Position>,
    /// Records at or after the cursor.
    pub(super) records: u64,
    /// Their bytes, sealed.
    pub(super) bytes: u64,
    /// When the oldest was measured, boot time; `None` where that was another boot.
    pub(super) oldest_boot_ns: Option<u64>,
}

/// A block's records, kept while the uplink takes them piece by piece.
#[derive(Debug)]
pub(super) struct Decoded {
    /// Nothing survives between this and the first record.
    pub(super) covers_from: Position,
    pub(super) last: Position,
    pub(super) lineage: Arc<Lineage>,
    pub(super) records: Vec<Arc<Record>>,
    /// Bytes of the records, by [`super::block::record_bytes`].
    pub(super) bytes: usize,
}

/// What an acknowledgement or removal took out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retired {
    pub(super) records: u64,
    pub(super) tail_bytes: usize,
    /// Push time of the oldest record that left the tail.
    pub(super) oldest_pushed_ns: Option<u64>,
}

#[derive(Debug)]
pub(super) struct StreamState {
    pub(super) name: Name,
    pub(super) every_record: bool,
    pub(super) priority: u8,
    pub(super) retention: Retention,
    /// It refused a record for its size and has not drained enough since.
    pub(super) refusing: bool,
    pub(super) lanes: Lanes,
    pub(super) tail: VecDeque<Entry>,
    pub(super) tail_bytes: usize,
    run: u32,
    next_seq: u64,
    /// Positions through this one are being written: they can be acknowledged, not dropped.
    pub(super) sealing_through: Option<Position>,
    pub(super) disk: OnDisk,
    /// Positions through this one may be on disk: a failed append can leave some of its blocks behind, and a cursor
    /// that passes them has to be made durable all the same.
    pub(super) tried_through: Option<Position>,
    /// The lanes as the control state has them.
    pub(super) lanes_durable: Lanes,
    marks: Vec<(Position, u64)>,
    /// The marks as the control state has them.
    marks_durable: Vec<(Position, u64)>,
    /// What was handed to the uplink in this run.
    handed: Handed,
    doubt: transaction::Doubt,
    newer: newer::Newer,
    /// How far blocks were read for the uplink in this run.
    fetched: handed::Highest,
    pub(super) decoded: Option<Arc<Decoded>>,
    pub(super) safe: watch::Sender<Option<Position>>,
    /// What left the tail undurable, kept before `safe` passes it.
    pub(super) dropped: watch::Sender<Dropped>,
}

impl StreamState {
    /// A stream at the start of `run`.
    pub(super) fn new(control: StreamControl, stream: &Stream, run: u32) -> Self {
        Self {
            name: control.stream,
            every_record: stream.durability == Durability::EveryRecord,
            priority: stream.priority,
            retention: stream.retention,
            refusing: false,
            lanes_durable: control.lanes.clone(),
            lanes: control.lanes,
            tail: VecDeque::new(),
            tail_bytes: 0,
            run,
            next_seq: 0,
            sealing_through: None,
            disk: OnDisk::default(),
            tried_through: None,
            marks_durable: control.skipped.clone(),
            marks: control.skipped,
            handed: Handed::default(),
            doubt: transaction::Doubt::new(control.in_doubt),
            newer: newer::Newer::default(),
            fetched: handed::Highest::default(),
            decoded: None,
            safe: watch::Sender::new(None),
            dropped: watch::Sender::default(),
        }
    }

    /// The position the next record gets.
    pub(super) fn next_position(&self) -> Position {
        Position::new(self.run, self.next_seq)
    }

    /// What is to survive a restart.
    pub(super) fn control(&self) -> StreamControl {
        StreamControl {
            stream: Arc::clone(&self.name),
            lanes: self.lanes.clone(),
            skipped: self.marks.clone(),
            in_doubt: self.in_doubt(),
        }
    }

    /// Gives the record its position and keeps it.
    pub(super) fn push(&mut self, mut record: Record, bytes: usize, now_ns: u64) -> Position {
        let position = self.next_position();
        record.position = position;
        self.next_seq += 1;
        self.tail_bytes += bytes;
        self.tail.push_back(Entry { record: Arc::new(record), bytes, pushed_ns: now_ns });
        position
    }

    /// The next record of its lane was set aside. The one behind it says so, beside what this one would have said,
    /// although it may have been handed out before: the uplink reads again from here, and a resend may carry more.
    pub(super) fn set_aside(&mut self, position: Position, skipped: u64) -> Retired {
        if self.lanes.is_done(position) {
            return Retired::default();
        }
        let retired = self.ack_range(self.lanes.lane_at(position).next, position);
        self.add_mark(position.next(), skipped.saturating_add(1));
        retired
    }

    /// The oldest record of the tail, if it is not after `through`.
    fn pop_through(&mut self, through: Position) -> Option<Entry> {
        let oldest = self.tail.front()?.record.position;
        if oldest <= through { self.tail.pop_front() } else { None }
    }

    /// So many records fewer are held in blocks; bytes go in proportion.
    fn take_from_disk(&mut self, records: u64) {
        let left = self.disk.records - records;
        let share = u128::from(self.disk.bytes) * u128::from(left) / u128::from(self.disk.records.max(1));
        self.disk.bytes = u64::try_from(share).unwrap_or(self.disk.bytes);
        self.disk.records = left;
        if left == 0 {
            self.disk.oldest_boot_ns = None;
        }
    }

    /// Takes the oldest record out that is not being written; the next one that the uplink has not seen says so.
    pub(super) fn drop_oldest(&mut self) -> Option<Entry> {
        let first = self.sealing_through.map_or(0, |through| self.index_after(through));
        let entry = self.tail.remove(first)?;
        self.tail_bytes -= entry.bytes;
        let dropped = entry.record.position;
        let survivor_before = match first.checked_sub(1) {
            Some(before) => self.tail.get(before).map(|entry| entry.record.position),
            None => self.disk.last.max(self.sealing_through),
        };
        self.handed.forget(dropped);
        self.mark(dropped, survivor_before, 1);
        self.dropped.send_modify(|ranges| ranges.add(dropped));
        self.report_safe();
        Some(entry)
    }

    /// Blocks were dropped from disk; what their records told of is told on.
    pub(super) fn drop_from_disk(&mut self, blocks: &OldestBlocks) {
        let (last, records) = (blocks.last, blocks.records);
        self.lanes.remove_through(last);
        self.forget_newer(last);
        self.handed.forget_through(last);
        self.decoded = None;
        let held = self.disk.records;
        self.take_from_disk(records.min(held));
        if self.disk.last.is_some_and(|newest| newest <= last) {
            self.take_from_disk(self.disk.records);
        }
        self.mark(last, None, records.saturating_add(blocks.skipped));
    }

    /// Notes a removal that ends at `last`. Marks up to it and after `survivor_before` have lost their bearer and are
    /// added up.
    fn mark(&mut self, last: Position, survivor_before: Option<Position>, records: u64) {
        if records == 0 {
            return;
        }
        let mut total = records;
        self.marks.retain(|(earlier, count)| {
            let orphan = *earlier <= last && survivor_before.is_none_or(|before| *earlier > before);
            if orphan {
                total += count;
            }
            !orphan
        });
        self.add_mark(self.unread_from(last.next()), total);
    }

    /// Index of the first tail record after `position`.
    fn index_after(&self, position: Position) -> usize {
        self.tail.partition_point(|entry| entry.record.position <= position)
    }

    /// The group through `last` is durable: it leaves the tail. Gives what left.
    pub(super) fn sealed(&mut self, last: Position, bytes_on_disk: u64) -> Retired {
        let mut retired = Retired::default();
        while let Some(entry) = self.pop_through(last) {
            self.tail_bytes -= entry.bytes;
            retired.records += 1;
            retired.tail_bytes += entry.bytes;
            if retired.oldest_pushed_ns.is_none() {
                retired.oldest_pushed_ns = Some(entry.pushed_ns);
                if self.disk.records == 0 {
                    self.disk.oldest_boot_ns = Some(entry.record.stamp.boot_ns);
                }
            }
        }
        self.sealing_through = None;
        self.disk.last = self.disk.last.max(Some(last));
        self.disk.records += retired.records;
        if retired.records > 0 {
            self.disk.bytes += bytes_on_disk;
        }
        self.report_safe();
        retired
    }

    /// Takes over what recovery found on disk.
    pub(super) fn recovered(&mut self, held: &super::store::Held, boot_index: u32) {
        let done = thinning::records_done(held, &self.lanes);
        let (boot, measured) = held.oldest;
        self.disk = OnDisk {
            last: Some(held.last),
            records: held.records,
            bytes: held.bytes,
            oldest_boot_ns: (boot == boot_index).then(|| u64::try_from(measured.as_nanos()).unwrap_or(u64::MAX)),
        };
        self.tried_through = Some(held.last);
        self.take_from_disk(done);
        self.report_safe();
    }

    /// The state is being made durable, or no longer.
    pub(super) fn note_saving(&mut self, begun: bool) {
        self.doubt.note_saving(begun);
    }

    /// This state is durable now.
    pub(super) fn saved(&mut self, control: &StreamControl) {
        self.lanes_durable.clone_from(&control.lanes);
        self.marks_durable.clone_from(&control.skipped);
        self.doubt.saved(control.in_doubt);
    }

    /// A record of a group that went to disk did not fit any block and was set aside.
    pub(super) fn refused(&mut self, position: Position) {
        if self.lanes.is_done(position) {
            return;
        }
        self.take_from_disk(1.min(self.disk.records));
        self.mark(position, before_in_run(position), 1);
    }

    /// Whether there are marks that a crash would lose: they must not be younger on disk than the records that bear them.
    pub(super) fn has_new_marks(&self) -> bool {
        self.marks.iter().any(|mark| !self.marks_durable.contains(mark))
    }

    /// Whether acknowledgements passed blocks or marks since the cursor was last made durable.
    pub(super) fn cursor_is_due(&self) -> bool {
        let delivered_marks = self.marks_durable.iter().any(|mark| !self.marks.contains(mark));
        delivered_marks
            || self.doubt.is_over()
            || self.tried_through.is_some_and(|last| self.is_due_within(Position::ZERO, last))
    }

    /// Whether something from `from` through `through` is done and a crash would forget it.
    fn is_due_within(&self, from: Position, through: Position) -> bool {
        self.lanes.has_more_done_than(&self.lanes_durable, from, through)
    }

    /// Tells the watchers the highest position below which nothing can be lost.
    pub(super) fn report_safe(&self) {
        let safe = match self.tail.front() {
            Some(entry) => before_in_run(entry.record.position).or(self.disk.last),
            None => before_in_run(self.next_position()).or(self.disk.last),
        };
        self.safe.send_if_modified(|told| {
            let more = safe > *told;
            if more {
                *told = safe;
            }
            more
        });
    }
}

/// The position before this one in the same run.
fn before_in_run(position: Position) -> Option<Position> {
    position.seq().checked_sub(1).map(|seq| Position::new(position.run(), seq))
}
