//! Reading: blocks first, then the tail, never removing. Blocks are fetched by the store thread and decoded here.

use std::sync::{Arc, mpsc};

use super::block::{self, SealedBlock};
use super::cipher::missing_key;
use super::engine::{Inner, Phase, READS_MAX, ReadReply, ReadRequest, Shared};
use super::tail::Decoded;
use super::{Batch, Limit, PeekError, STORE_WAIT_MAX, StreamIndex};
use crate::reading::Position;

/// Which positions are wanted: those from `from` on and before `end`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) from: Position,
    pub(super) end: Position,
}

impl Span {
    /// All after this one, or all.
    pub(super) fn after(after: Option<Position>) -> Self {
        Self { from: after.map_or(Position::ZERO, Position::next), end: Position::END }
    }
}

/// What the next step of a read is.
enum Step {
    Done(Option<Batch>),
    /// All that is left of a block is done: go on behind this position.
    Behind(Position),
    /// The block that holds this position or the next one is on its way.
    Fetch(Position, mpsc::Receiver<ReadReply>),
}

pub(super) fn peek(inner: &Inner, stream: StreamIndex, span: Span, limit: Limit) -> Result<Option<Batch>, PeekError> {
    let Span { mut from, end } = span;
    // Where the store had no more blocks although the stream has been on disk up to here.
    let mut nothing_through = None;
    loop {
        let (at, answer) = match step(inner, stream, Span { from, end }, nothing_through, limit)? {
            Step::Done(batch) => return Ok(batch),
            Step::Behind(position) => {
                from = position.next();
                continue;
            }
            Step::Fetch(at, answer) => (at, answer),
        };
        let reply = answer_of(&answer)?;
        let Some(found) = reply.block? else {
            nothing_through = reply.disk_last;
            continue;
        };
        from = take(inner, stream, at, &found)?;
    }
}

/// Keeps a block's records for this and the next reads; gives where to go on.
fn take(inner: &Inner, stream: StreamIndex, at: Position, found: &SealedBlock) -> Result<Position, PeekError> {
    let (first, last) = (found.header.first, found.header.last);
    if last < at {
        return Err(PeekError::Store { reason: format!("block {first} to {last} was read for position {at}") });
    }
    match block::open(found, &inner.keys) {
        Ok(records) => {
            let lineage = Arc::clone(&found.header.lineage);
            let decoded = Decoded { covers_from: at, last, lineage, records };
            inner.lock().streams[stream.0].decoded = Some(Arc::new(decoded));
            Ok(at)
        }
        Err(error) if missing_key(&error).is_some() => {
            // It is whole: the stream waits for the key, so that nothing overtakes what comes first.
            let key = missing_key(&error).map(|key| key.to_string()).unwrap_or_default();
            Err(PeekError::KeyMissing { key, first, last })
        }
        Err(error) => {
            inner.metrics.queue_blocks_lost.inc();
            tracing::error!(%first, %last, error = %format!("{error:#}"), "block is damaged, its records are lost");
            Ok(last.next())
        }
    }
}

/// One look under the lock.
fn step(
    inner: &Inner,
    stream: StreamIndex,
    span: Span,
    nothing_through: Option<Position>,
    limit: Limit,
) -> Result<Step, PeekError> {
    let mut shared = inner.lock();
    let recovered = shared.recovered;
    let streams = shared.streams.len();
    let queue = shared.streams.get_mut(stream.0).ok_or(PeekError::NoSuchStream { stream: stream.0, streams })?;
    let at = queue.lanes.first_open(span.from);
    if at >= span.end {
        return Ok(Step::Done(None));
    }
    let decoded = queue.decoded.as_ref().filter(|block| block.covers_from <= at && at <= block.last).cloned();
    if let Some(block) = decoded {
        let records = queue.peek_block(&block, at, span.end, limit);
        if records.is_empty() {
            return Ok(Step::Behind(block.last));
        }
        return Ok(Step::Done(Some(Batch { lineage: Arc::clone(&block.lineage), records })));
    }
    let on_disk = queue.disk.last.is_some_and(|last| at <= last && nothing_through < Some(last));
    if recovered && !on_disk {
        let records = queue.peek_tail(at, span.end, limit);
        let lineage = Arc::clone(&inner.lineage);
        return Ok(Step::Done((!records.is_empty()).then_some(Batch { lineage, records })));
    }
    Ok(Step::Fetch(at, ask(inner, &mut shared, stream, at)?))
}

/// Asks the store thread for the block at or after a position.
pub(super) fn ask(
    inner: &Inner,
    shared: &mut Shared,
    stream: StreamIndex,
    at: Position,
) -> Result<mpsc::Receiver<ReadReply>, PeekError> {
    if matches!(shared.phase, Phase::Stopped(_) | Phase::Abandoned) {
        return Err(PeekError::Closed);
    }
    if shared.reads.len() >= READS_MAX {
        return Err(PeekError::Busy { waiting: shared.reads.len(), limit: READS_MAX });
    }
    let (reply, answer) = mpsc::sync_channel(1);
    shared.reads.push_back(ReadRequest { stream: stream.0, at, reply });
    inner.store_wake.notify_one();
    Ok(answer)
}

/// Waits for what the store thread says, as long as it may take.
pub(super) fn answer_of(answer: &mpsc::Receiver<ReadReply>) -> Result<ReadReply, PeekError> {
    answer.recv_timeout(STORE_WAIT_MAX).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => PeekError::Stalled { waited_s: STORE_WAIT_MAX.as_secs() },
        mpsc::RecvTimeoutError::Disconnected => PeekError::Closed,
    })
}
