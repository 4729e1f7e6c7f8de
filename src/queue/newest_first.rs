//! What newest-first delivery asks of the queue: lanes read and acknowledged one by one, and a new lane for what is
//! newest.

use super::block::Header;
use super::engine::Inner;
use super::lane::Lanes;
use super::peek::{self, Span};
use super::tail::{Retired, StreamState};
use super::{Batch, Limit, PeekError, Queue, STORE_WAIT_MAX, StreamIndex};
use crate::reading::Position;

/// Most blocks looked at for one that is young enough.
const LOOKS_MAX: u32 = 64;

/// What is delivered first: the newest records, so many bytes at most, none older than this.
#[derive(Debug, Clone, Copy)]
pub struct Newest {
    /// Most bytes, sealed where they are in blocks.
    pub bytes: u64,
    /// Greatest age.
    pub age: std::time::Duration,
}

impl Queue {
    /// What of the stream is not done, as ascending, disjoint lanes `[next, end)`; the last one is open.
    pub fn lanes(&self, stream: StreamIndex) -> Option<Lanes> {
        self.inner().lock().streams.get(stream.0).map(|queue| queue.lanes.clone())
    }

    /// Records from `from` on and before `end`, ascending, not removed; of one lineage. `None`: there are none. Blocks that
    /// only a newer agent can open are read over: they become lanes of their own, which no acknowledgement reaches.
    ///
    /// # Errors
    /// As [`Queue::peek`]; [`PeekError::NewerVersion`] where there are too many lanes for that.
    pub fn peek_lane(
        &self,
        stream: StreamIndex,
        from: Position,
        end: Position,
        limit: Limit,
    ) -> Result<Option<Batch>, PeekError> {
        peek::peek(self.inner(), stream, Span::of_lane(from, end), limit)
    }

    /// Everything of a lane through `through` is delivered; `from` is the lane's first position when its reading began.
    /// A lane of which an earlier part is open does not move. Idempotent. No I/O.
    pub fn ack_lane(&self, stream: StreamIndex, from: Position, through: Position) {
        self.retire(stream, |queue| queue.ack_range(from, through));
    }

    /// The lane that `from` is in ends at `end` and holds no record any more that can be read, as [`Queue::peek_lane`] has
    /// said: it is done, but for what only a newer agent can open. No I/O.
    pub fn close_lane(&self, stream: StreamIndex, from: Position, end: Position) {
        self.retire(stream, |queue| queue.close_lane(from, end));
    }

    /// Makes one lane of those that touch. Only while nothing is being delivered: an acknowledgement names where its
    /// lane began.
    pub fn merge_lanes(&self, stream: StreamIndex) {
        if let Some(queue) = self.inner().lock().streams.get_mut(stream.0) {
            queue.merge_lanes();
        }
    }

    /// Makes a lane of the newest records, at the beginning of a block where they are in blocks, unless all that waits
    /// in the last lane is as new, somebody has read that far, or there are as many lanes as there may be. Says whether
    /// there is a new lane. May wait for the store thread, so it is not for async threads.
    ///
    /// # Errors
    /// As [`Queue::peek`].
    pub fn split_newest(&self, stream: StreamIndex, newest: Newest) -> Result<bool, PeekError> {
        let inner = self.inner();
        if !inner.lock().recovered {
            // The answer comes once the blocks are known.
            read(inner, stream, Position::ZERO)?;
        }
        let at = match plan(inner, stream, newest)? {
            Plan::Here(at) => Some(at),
            Plan::InBlocksFrom(at) => block_boundary(inner, stream, at, newest)?,
            Plan::Nowhere => None,
        };
        let Some(at) = at else { return Ok(false) };
        let mut shared = inner.lock();
        let Some(queue) = shared.streams.get_mut(stream.0) else { return Ok(false) };
        let split = queue.split_lane(at);
        if split {
            tracing::info!(stream = %queue.name, %at, lanes = queue.lanes.pairs().len(), "newest records go first");
        }
        Ok(split)
    }

    /// Takes records out under the lock, and does what follows: gauges, counters, the cursor to be made durable.
    pub(super) fn retire(&self, stream: StreamIndex, take: impl FnOnce(&mut StreamState) -> Retired) {
        let inner = self.inner();
        let now_ns = inner.now_ns();
        let mut shared = inner.lock();
        let Some(queue) = shared.streams.get_mut(stream.0) else { return };
        let bytes_before = queue.disk.bytes;
        let retired = take(queue);
        let block_bytes = bytes_before - queue.disk.bytes;
        shared.tail_bytes -= retired.tail_bytes;
        shared.note_age(retired.oldest_pushed_ns, now_ns, &inner.metrics);
        let waited = shared.progress_since_ns.is_some();
        shared.note_progress(block_bytes, now_ns);
        let wake =
            shared.progress_since_ns.is_some() && (!waited || shared.progress_bytes >= super::engine::CURSOR_BYTES);
        drop(shared);
        inner.counters[stream.0].acknowledged.inc_by(retired.records);
        if wake {
            inner.store_wake.notify_one();
        }
    }
}

/// Where the newest part begins.
enum Plan {
    /// At a record in memory.
    Here(Position),
    /// At the block that holds this position, or a later one.
    InBlocksFrom(Position),
    /// All is as new.
    Nowhere,
}

/// How far the newest part reaches back: exactly in memory, in blocks by their bytes a record on average.
fn plan(inner: &Inner, stream: StreamIndex, newest: Newest) -> Result<Plan, PeekError> {
    let now_ns = inner.now_ns();
    let age_ns = u64::try_from(newest.age.as_nanos()).unwrap_or(u64::MAX);
    let shared = inner.lock();
    let streams = shared.streams.len();
    let queue = shared.streams.get(stream.0).ok_or(PeekError::NoSuchStream { stream: stream.0, streams })?;
    let mut bytes = 0_u64;
    let mut first_new = None;
    for entry in queue.tail.iter().rev() {
        bytes += entry.bytes as u64;
        let old = now_ns.saturating_sub(entry.record.stamp.boot_ns) > age_ns;
        if old || bytes > newest.bytes {
            // Where not even one record is new, what comes next will be.
            return Ok(Plan::Here(first_new.unwrap_or_else(|| queue.next_position())));
        }
        first_new = Some(entry.record.position);
    }
    let Some(last) = queue.disk.last.filter(|_| queue.disk.records > 0) else { return Ok(Plan::Nowhere) };
    let record_bytes = (queue.disk.bytes / queue.disk.records).max(1);
    let records = newest.bytes.saturating_sub(bytes) / record_bytes;
    let at = Position::new(last.run(), last.seq().saturating_sub(records));
    Ok(Plan::InBlocksFrom(at))
}

/// The first block from `at` on that is young enough; its first position. `None`: nothing older waits.
fn block_boundary(
    inner: &Inner,
    stream: StreamIndex,
    mut at: Position,
    newest: Newest,
) -> Result<Option<Position>, PeekError> {
    let oldest = read(inner, stream, Position::ZERO)?;
    let oldest_new = |at: Position| Ok(oldest.as_ref().filter(|oldest| oldest.first < at).map(|_| at));
    for _ in 0..LOOKS_MAX {
        let Some(header) = read(inner, stream, at)? else { return oldest_new(at) };
        let written = &header.lineage;
        let this_boot = (written.queue, written.boot_index) == (inner.lineage.queue, inner.lineage.boot_index);
        // Of another boot it is certain only that it is older than this one.
        let measured_ns = if this_boot { header.boot_ns.1 } else { 0 };
        let age_ns = u128::from(inner.now_ns().saturating_sub(measured_ns));
        if age_ns <= newest.age.as_nanos() {
            return oldest_new(header.first);
        }
        at = header.last.next();
    }
    oldest_new(at)
}

/// The header of the first block in the last lane at or after a position.
fn read(inner: &Inner, stream: StreamIndex, at: Position) -> Result<Option<Header>, PeekError> {
    let answer = {
        let mut shared = inner.lock();
        let streams = shared.streams.len();
        let queue = shared.streams.get(stream.0).ok_or(PeekError::NoSuchStream { stream: stream.0, streams })?;
        let first_open = queue.lanes.pairs().last().map_or(Position::ZERO, |(next, _)| *next);
        let at = at.max(first_open);
        if shared.recovered && queue.disk.last.is_none_or(|last| at > last) {
            return Ok(None);
        }
        peek::ask(inner, &mut shared, stream, at)?
    };
    Ok(peek::answer_of(&answer, STORE_WAIT_MAX)?.block?.map(|block| block.header))
}
