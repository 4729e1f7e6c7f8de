//! Reading: blocks first, then the tail, never removing. Blocks are fetched by the store thread and decoded here.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::block::{self, Header, SealedBlock};
use super::boots::in_time;
use super::cipher::missing_key;
use super::engine::{Inner, Phase, READS_MAX, ReadReply, ReadRequest, Shared};
use super::tail::{Decoded, NotApart, StreamState};
use super::{Batch, Limit, PeekError, STORE_WAIT_MAX, StreamIndex};
use crate::reading::Position;

/// Most bytes of decoded records, by [`block::record_bytes`], that are kept of all streams' blocks together: eight full
/// ones. A single block of another origin may have more.
const DECODED_BYTES_MAX: usize = 8 * super::filling::GATHER_BYTES_MAX;

/// Which positions are wanted: those from `from` on and before `end`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) from: Position,
    pub(super) end: Position,
    /// Blocks that only a newer agent can open are read over; else nothing is read behind them.
    pub(super) over_newer: bool,
    /// Longest wait for the store thread, each time it is asked.
    pub(super) wait_max: Duration,
}

impl Span {
    /// All after this one, or all, up to the first block that only a newer agent can open.
    pub(super) fn after(after: Option<Position>) -> Self {
        let (from, end) = (after.map_or(Position::ZERO, Position::next), Position::END);
        Self { from, end, over_newer: false, wait_max: STORE_WAIT_MAX }
    }

    /// Part of a lane.
    pub(super) fn of_lane(from: Position, end: Position) -> Self {
        Self { from, end, over_newer: true, wait_max: STORE_WAIT_MAX }
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
    let mut from = span.from;
    // Where the store had no more blocks although the stream has been on disk up to here.
    let mut nothing_through = None;
    loop {
        let (at, answer) = match step(inner, stream, Span { from, ..span }, nothing_through, limit)? {
            Step::Done(batch) => return batch.map(|batch| in_time(inner, batch)).transpose(),
            Step::Behind(position) => {
                from = position.next();
                continue;
            }
            Step::Fetch(at, answer) => (at, answer),
        };
        let reply = answer_of(&answer, span.wait_max)?;
        let Some(found) = reply.block? else {
            nothing_through = reply.disk_last;
            continue;
        };
        let (first, last) = (found.header.first, found.header.last);
        if first >= span.end {
            return Ok(None);
        }
        // Of a block that is done nothing is wanted: it is not opened, and what is wrong with it is not told.
        if last >= at && inner.lock().streams[stream.0].lanes.is_range_done(first.max(at), last) {
            from = last.next();
            continue;
        }
        from = match found.header.newer {
            Some(version) => read_over(inner, stream, Span { from: at, ..span }, &found.header, version)?,
            None => take(inner, stream, at, &found)?,
        };
    }
}

/// Leaves a block that only a newer agent can open for that one; gives where to go on.
fn read_over(
    inner: &Inner,
    stream: StreamIndex,
    span: Span,
    header: &Header,
    version: u16,
) -> Result<Position, PeekError> {
    let (first, last) = (header.first, header.last);
    if last < span.from {
        return Err(PeekError::Store {
            reason: format!("block {first} to {last} was read for position {}", span.from),
        });
    }
    let waits = |why| Err(PeekError::NewerVersion { version, first, last, why });
    if !span.over_newer {
        return waits("this delivery keeps to one order");
    }
    let mut shared = inner.lock();
    let queue = &mut shared.streams[stream.0];
    let known = queue.newer_records();
    match queue.keep_apart(header, span.from) {
        Ok(()) => {}
        Err(NotApart::LanesUsedUp) => return waits("too many parts of the stream wait already"),
        Err(NotApart::Ahead) => return waits("another agent has written to this queue"),
    }
    if known == 0 {
        let name = &queue.name;
        tracing::warn!(stream = %name, %first, version, "records of a newer version stay until a newer agent is back");
    }
    Ok(last.next())
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
            let bytes = records.iter().map(block::record_bytes).sum();
            let records = records.into_iter().map(Arc::new).collect();
            keep(&mut inner.lock().streams, stream.0, Decoded { covers_from: at, last, lineage, records, bytes });
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

/// Keeps a block's records. Where all streams' together become too many, others are let go of and will be read again:
/// streams are mostly read in turn, so those before this one are needed last.
fn keep(streams: &mut [StreamState], stream: usize, decoded: Decoded) {
    let kept_bytes = |stream: &StreamState| stream.decoded.as_ref().map_or(0, |block| block.bytes);
    streams[stream].decoded = Some(Arc::new(decoded));
    for before in 1..streams.len() {
        if streams.iter().map(kept_bytes).sum::<usize>() <= DECODED_BYTES_MAX {
            return;
        }
        let other = (stream + streams.len() - before) % streams.len();
        streams[other].decoded = None;
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
    let at = if span.over_newer { queue.first_readable(span.from) } else { queue.lanes.first_open(span.from) };
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

/// Waits for what the store thread says.
pub(super) fn answer_of(answer: &mpsc::Receiver<ReadReply>, wait_max: Duration) -> Result<ReadReply, PeekError> {
    answer.recv_timeout(wait_max).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => PeekError::Stalled { waited_s: wait_max.as_secs() },
        mpsc::RecvTimeoutError::Disconnected => PeekError::Closed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Durability, Retention, Stream};
    use crate::queue::StreamControl;
    use crate::queue::lane::Lanes;
    use crate::reading::Lineage;

    const STREAMS: usize = 16;

    fn streams() -> Vec<StreamState> {
        let stream = Stream {
            name: "telemetry".into(),
            topic: "telemetry".into(),
            priority: 0,
            drain: None,
            rate: Default::default(),
            durability: Durability::Window,
            retention: Retention::default(),
        };
        let control = || StreamControl {
            stream: "telemetry".into(),
            lanes: Lanes::from_cursor(Position::ZERO),
            skipped: Vec::new(),
            in_doubt: None,
        };
        (0..STREAMS).map(|_| StreamState::new(control(), &stream, 1)).collect()
    }

    fn decoded(bytes: usize) -> Decoded {
        let lineage = Arc::new(Lineage { gateway: "g".into(), queue: uuid::Uuid::nil(), boot_index: 0 });
        let (covers_from, last) = (Position::ZERO, Position::new(0, 9));
        Decoded { covers_from, last, lineage, records: Vec::new(), bytes }
    }

    fn kept(streams: &[StreamState]) -> Vec<usize> {
        (0..STREAMS).filter(|index| streams[*index].decoded.is_some()).collect()
    }

    #[test]
    fn decoded_blocks_of_all_streams_together_are_bounded() {
        let mut streams = streams();
        for round in 0..2 {
            for index in 0..STREAMS {
                keep(&mut streams, index, decoded(crate::queue::filling::GATHER_BYTES_MAX));
                let kept = kept(&streams);
                assert!(kept.contains(&index), "round {round}: what was just read is kept");
                assert_eq!(kept.len(), if round == 0 { 8.min(index + 1) } else { 8 });
            }
        }
        keep(&mut streams, 3, decoded(2 * DECODED_BYTES_MAX));
        assert_eq!(kept(&streams), [3], "one that alone is too much is kept alone");
    }

    #[test]
    fn a_block_that_is_delivered_takes_no_memory() {
        let mut streams = streams();
        keep(&mut streams, 0, decoded(1));
        streams[0].ack_range(Position::ZERO, Position::new(0, 8));
        assert_eq!(kept(&streams), [0]);
        streams[0].ack_range(Position::new(0, 9), Position::new(0, 9));
        assert!(kept(&streams).is_empty());
    }
}
