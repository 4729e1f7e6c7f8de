//! A stream's part in exactly-once delivery: the transaction that is open, and when a crash could leave it in doubt.

use super::{Retired, StreamState};
use crate::queue::lane::Lanes;
use crate::reading::Position;

/// The transaction that is open or whose outcome is not known: first and last position, here and in the control state.
#[derive(Debug)]
pub(super) struct Doubt {
    range: Option<(Position, Position)>,
    durable: Option<(Position, Position)>,
    is_being_saved: bool,
    /// A transaction has begun in this life: what is acknowledged must not be sent again after a crash.
    is_used: bool,
}

impl Doubt {
    pub(super) fn new(range: Option<(Position, Position)>) -> Self {
        Self { range, durable: range, is_being_saved: false, is_used: false }
    }

    /// Something is being saved, or was and perhaps failed; it takes the place of what is durable, and may be another
    /// range by then.
    pub(super) fn note_saving(&mut self, begun: bool) {
        self.is_being_saved = begun;
    }

    pub(super) fn saved(&mut self, range: Option<(Position, Position)>) {
        self.durable = range;
    }

    /// Whether the control state still doubts a transaction that has ended.
    pub(super) fn is_over(&self) -> bool {
        self.range.is_none() && self.durable.is_some()
    }

    /// The range, where a crash would leave no word of it.
    fn unsaved(&self) -> Option<(Position, Position)> {
        self.range.filter(|_| self.is_being_saved || self.range != self.durable)
    }
}

impl StreamState {
    /// From now on, until [`StreamState::transaction_ended`], these records may be in Kafka or not.
    pub(in crate::queue) fn transaction_begins(&mut self, first: Position, last: Position) {
        self.doubt.range = Some((first, last));
        self.doubt.is_used = true;
    }

    /// It is known what became of the transaction, and the lanes say so.
    pub(in crate::queue) fn transaction_ended(&mut self) {
        self.doubt.range = None;
    }

    /// Whether there may be a record that is not delivered. The cursor alone does not say: a run begins behind it.
    pub(in crate::queue) fn waits(&self) -> bool {
        !self.tail.is_empty() || self.disk.last.is_some_and(|last| self.lanes.cursor() <= last)
    }

    /// The transaction that is open or whose outcome is not known.
    pub(in crate::queue) fn in_doubt(&self) -> Option<(Position, Position)> {
        self.doubt.range
    }

    /// Whether the open transaction has records that a crash would leave, and a crash would leave no word of it.
    pub(in crate::queue) fn transaction_is_to_be_saved(&self) -> bool {
        let on_disk = self.disk.last.max(self.tried_through);
        self.doubt.unsaved().is_some_and(|(first, _)| on_disk.is_some_and(|last| first <= last))
    }

    /// Whether some of the records from `first` through `last`, which are about to be on disk, are in an open transaction
    /// or have been delivered by one since they were cut, and a crash would leave no word of it.
    pub(in crate::queue) fn doubt_is_due(&self, first: Position, last: Position) -> bool {
        let delivered = self.doubt.is_used && self.is_due_within(first, last);
        delivered || self.doubt.unsaved().is_some_and(|(begin, end)| begin <= last && first <= end)
    }

    /// What the mark at `at` says.
    pub(in crate::queue) fn skipped_at(&self, at: Position) -> u64 {
        self.marks.iter().filter(|(mark, _)| *mark == at).map(|(_, count)| count).sum()
    }

    /// There is a mark of at least so many records at `at`, where nothing behind it is delivered.
    pub(in crate::queue) fn carry_skipped(&mut self, at: Position, records: u64) {
        let more = records.saturating_sub(self.skipped_at(at));
        if self.lanes.cursor() == at && more > 0 {
            self.add_mark(at, more);
        }
    }

    /// Kafka has all that `lanes` says is done.
    pub(in crate::queue) fn adopt(&mut self, lanes: &Lanes) -> Retired {
        let common = self.lanes.common(lanes);
        if common.cursor() > self.next_position() {
            return Retired::default();
        }
        let moved = common.cursor() > self.lanes.cursor();
        let before = common.cursor().packed().checked_sub(1).map(Position::from_packed).filter(|_| moved);
        let retired = before.map_or_else(Retired::default, |before| self.ack_range(Position::ZERO, before));
        // Acknowledging ends where the first lane does.
        self.lanes = common;
        retired
    }
}
