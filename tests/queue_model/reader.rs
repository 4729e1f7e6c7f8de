//! A stream's reader as the uplink has it: in one order, or the newest lane first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use forebay::queue::{Limit, Newest, PeekError, Queue, StreamIndex};
use forebay::reading::{Position, Record};

/// One lane as it is gone through.
#[derive(Debug, Clone)]
pub struct Reading {
    from: Position,
    end: Position,
    /// Read and not acknowledged, ascending.
    in_flight: VecDeque<Position>,
    sent: Option<Position>,
}

impl Reading {
    fn new(from: Position, end: Position) -> Self {
        Self { from, end, in_flight: VecDeque::new(), sent: None }
    }
}

#[derive(Debug, Clone)]
pub struct Reader {
    pub stream: StreamIndex,
    pub newest_first: bool,
    lanes: Vec<Reading>,
}

impl Reader {
    pub fn new(stream: StreamIndex, newest_first: bool) -> Self {
        let lanes = if newest_first { Vec::new() } else { vec![Reading::new(Position::ZERO, Position::END)] };
        Self { stream, newest_first, lanes }
    }

    /// Reads again from what is not acknowledged. Gives what was read and is not.
    pub fn rewind(&mut self) -> Vec<Position> {
        let lanes = std::mem::replace(self, Self::new(self.stream, self.newest_first)).lanes;
        lanes.into_iter().flat_map(|lane| lane.in_flight).collect()
    }

    /// Reads a batch of the newest lane that has any. An error where a block of a newer version keeps it from that.
    pub fn read(&mut self, queue: &Queue, records: usize) -> Result<Vec<Record>, PeekError> {
        if self.lanes.is_empty() {
            let lanes = queue.lanes(self.stream).unwrap();
            self.lanes.extend(lanes.pairs().iter().map(|(next, end)| Reading::new(*next, *end)));
        }
        let mut waits = None;
        for index in (0..self.lanes.len()).rev() {
            let lane = &mut self.lanes[index];
            let from = lane.sent.map_or(lane.from, Position::next);
            match queue.peek_lane(self.stream, from, lane.end, Limit { records, bytes: 3_000 }) {
                Err(error @ PeekError::NewerVersion { .. }) => waits = Some(error),
                Err(error) => return Err(error),
                Ok(Some(batch)) => {
                    for position in batch.records.iter().map(|record| &record.position) {
                        assert!(lane.sent.is_none_or(|sent| sent < *position), "order in a lane");
                        assert!(lane.from <= *position && *position < lane.end, "inside its lane");
                        lane.sent = Some(*position);
                        lane.in_flight.push_back(*position);
                    }
                    return Ok(batch.records.into_iter().map(Arc::unwrap_or_clone).collect());
                }
                Ok(None) if lane.end != Position::END && lane.in_flight.is_empty() => {
                    queue.close_lane(self.stream, lane.from, lane.end);
                    self.lanes.remove(index);
                }
                Ok(None) => {}
            }
        }
        waits.map_or(Ok(Vec::new()), Err)
    }

    /// Acknowledges the first part of what is in flight of the newest lane that has any. Gives it.
    pub fn ack(&mut self, queue: &Queue, percent: u8) -> Vec<Position> {
        let Some(lane) = self.lanes.iter_mut().rev().find(|lane| !lane.in_flight.is_empty()) else { return Vec::new() };
        let count = lane.in_flight.len() * usize::from(percent) / 100;
        let acknowledged: Vec<Position> = lane.in_flight.drain(..count).collect();
        if let Some(last) = acknowledged.last() {
            queue.ack_lane(self.stream, lane.from, *last);
        }
        acknowledged
    }

    pub fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.in_flight.is_empty())
    }

    /// What is newest becomes a lane.
    pub fn split(&mut self, queue: &Queue, bytes: u64) {
        if self.is_idle() {
            queue.merge_lanes(self.stream);
            self.lanes.clear();
        }
        let newest = Newest { bytes, age: Duration::from_secs(1_000_000_000) };
        if queue.split_newest(self.stream, newest).unwrap()
            && let Some(before) = self.lanes.last_mut()
        {
            let (at, end) = *queue.lanes(self.stream).unwrap().pairs().last().unwrap();
            before.end = at;
            self.lanes.push(Reading::new(at, end));
        }
    }
}
