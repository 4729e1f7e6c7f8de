//! What exactly-once delivery needs of the queue: lanes that Kafka's word can move on, and a transaction in doubt that
//! is durable before a crash could leave records of it behind.
//!
//! A transaction whose records are in memory only writes nothing: after a crash none of them can be sent again. As soon
//! as one of its records is in a block, or is about to be, lanes and doubt are made durable: by
//! [`Queue::secure_transaction`] before the commit, or by the seal before the block. So the two may come in any order.

use std::time::Instant;

use uuid::Uuid;

use super::engine::{Inner, Phase};
use super::lane::Lanes;
use super::tail::StreamState;
use super::{PeekError, Queue, STORE_WAIT_MAX, StreamIndex};
use crate::reading::Position;

/// Saves of the control state that were asked for, by ticket.
#[derive(Debug, Default)]
pub(super) struct Saves {
    pub(super) wanted: u64,
    done: u64,
    error: Option<(u64, String)>,
}

impl Saves {
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted > self.done
    }

    pub(super) fn done(&mut self, ticket: u64) {
        self.done = self.done.max(ticket);
    }

    pub(super) fn failed(&mut self, ticket: u64, error: String) {
        self.done(ticket);
        self.error = Some((ticket, error));
    }
}

impl Queue {
    /// The queue's uuid.
    pub fn id(&self) -> Uuid {
        self.inner().lineage.queue
    }

    /// Kafka has all that `lanes` says is done. No I/O.
    pub fn adopt_lanes(&self, stream: StreamIndex, lanes: &Lanes) {
        let inner = self.inner();
        let now_ns = inner.now_ns();
        let mut shared = inner.lock();
        let Some(queue) = shared.streams.get_mut(stream.0) else { return };
        let retired = queue.adopt(lanes);
        shared.tail_bytes -= retired.tail_bytes;
        shared.note_age(retired.oldest_pushed_ns, now_ns, &inner.metrics);
        shared.note_progress(0, now_ns);
        drop(shared);
        inner.counters[stream.0].acknowledged.inc_by(retired.records);
        inner.store_wake.notify_one();
    }

    /// The transaction that is open, or whose outcome was not known when the agent ended: first and last position.
    pub fn in_doubt(&self, stream: StreamIndex) -> Option<(Position, Position)> {
        self.inner().lock().streams.get(stream.0)?.in_doubt()
    }

    /// The position that the stream's next record will have.
    pub fn next_position(&self, stream: StreamIndex) -> Option<Position> {
        Some(self.inner().lock().streams.get(stream.0)?.next_position())
    }

    /// Whether there may be a record of the stream that is not delivered. Cheap; of a damaged block at the end it says so
    /// until something else is delivered.
    pub fn waits(&self, stream: StreamIndex) -> bool {
        self.inner().lock().streams.get(stream.0).is_some_and(StreamState::waits)
    }

    /// A transaction of the records from `first` through `last` begins. No I/O.
    pub fn begin_transaction(&self, stream: StreamIndex, first: Position, last: Position) {
        if let Some(queue) = self.inner().lock().streams.get_mut(stream.0) {
            queue.transaction_begins(first, last);
        }
    }

    /// Makes lanes and the open transaction durable, where it has records that a crash would leave behind; to be called
    /// before the commit. Blocks until it is so; writes nothing for records that are in memory only.
    ///
    /// # Errors
    /// When the control state cannot be written or the store does not answer: then nothing may be committed.
    pub fn secure_transaction(&self, stream: StreamIndex) -> Result<(), PeekError> {
        let inner = self.inner();
        let mut shared = inner.lock();
        let is_due = shared.streams.get(stream.0).is_some_and(|queue| queue.transaction_is_to_be_saved());
        if !is_due {
            return Ok(());
        }
        shared.saves.wanted += 1;
        let ticket = shared.saves.wanted;
        inner.store_wake.notify_one();
        let deadline = Instant::now() + STORE_WAIT_MAX;
        while shared.saves.done < ticket {
            if matches!(shared.phase, Phase::Stopped(_) | Phase::Abandoned) {
                return Err(PeekError::Closed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(PeekError::Stalled { waited_s: STORE_WAIT_MAX.as_secs() });
            }
            shared = Inner::wait(&inner.progress, shared, Some(left));
        }
        match &shared.saves.error {
            Some((failed, reason)) if *failed >= ticket => Err(PeekError::Store { reason: reason.clone() }),
            _ => Ok(()),
        }
    }

    /// How many records the one that is delivered next is to say were left out before it, where the lanes begin at `at`.
    pub fn skipped_at(&self, stream: StreamIndex, at: Position) -> u64 {
        self.inner().lock().streams.get(stream.0).map_or(0, |queue| queue.skipped_at(at))
    }

    /// What [`Queue::skipped_at`] gave when it was last known: a crash may have lost it while Kafka has the cursor beyond
    /// the records that were left out. No I/O.
    pub fn carry_skipped(&self, stream: StreamIndex, at: Position, records: u64) {
        let inner = self.inner();
        if let Some(queue) = inner.lock().streams.get_mut(stream.0) {
            queue.carry_skipped(at, records);
        }
    }

    /// It is known what became of the open transaction, and [`Queue::ack`] or [`Queue::adopt_lanes`] has been told what
    /// is delivered. No I/O.
    pub fn end_transaction(&self, stream: StreamIndex) {
        let inner = self.inner();
        let now_ns = inner.now_ns();
        let mut shared = inner.lock();
        let Some(queue) = shared.streams.get_mut(stream.0) else { return };
        queue.transaction_ended();
        // What the control state doubts without reason is cleared with the next cursor, or on its own.
        shared.note_progress(0, now_ns);
    }
}
