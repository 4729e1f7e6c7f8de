//! Which record of a stream goes next: the oldest, or with newest-first those of the newest lane that has any, so that
//! what is new is in Kafka first and history follows.
//!
//! Each lane is read in order on its own. They share the stream's way out, so what is sent of one lane does not wait for
//! the reports of another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::config::DrainOrder;
use crate::queue::{Limit, Newest, PeekError, Queue, StreamIndex};
use crate::reading::{Lineage, Position, Record};

/// What goes first after an outage.
const NEWEST: Newest = Newest { bytes: 256 * 1024, age: Duration::from_secs(300) };

/// The reading of one lane.
#[derive(Debug)]
struct Reading {
    /// Where it began: acknowledgements name it.
    from: Position,
    end: Position,
    /// The last position handed to the client since the last rewind.
    sent: Option<Position>,
    /// Read and not yet sent.
    ready: VecDeque<Arc<Record>>,
    lineage: Option<Arc<Lineage>>,
    /// Its next block cannot be opened; it is looked at again then, boot time in ns.
    blocked_until_ns: Option<u64>,
    /// It was read since it is known here.
    looked_at: bool,
}

impl Reading {
    fn new(from: Position, end: Position) -> Self {
        Self { from, end, sent: None, ready: VecDeque::new(), lineage: None, blocked_until_ns: None, looked_at: false }
    }

    /// Reads on where nothing is ready. Gives whether something is.
    fn read(&mut self, queue: &Queue, stream: StreamIndex, limit: Limit) -> Result<bool, PeekError> {
        if self.ready.is_empty() {
            let from = self.sent.map_or(self.from, Position::next);
            if let Some(batch) = queue.peek_lane(stream, from, self.end, limit)? {
                self.lineage = Some(batch.lineage);
                self.ready.extend(batch.records);
            }
        }
        Ok(!self.ready.is_empty())
    }
}

/// What reading on in a lane gave.
enum Look {
    Ready,
    /// Its next block cannot be opened for now.
    Waits,
    /// Nothing is left of it, or nothing yet.
    Empty,
}

/// A record that is ready to be sent.
#[derive(Debug)]
pub struct Ready<'a> {
    /// Where the reading of its lane began.
    pub lane: Position,
    /// The record.
    pub record: &'a Record,
    /// What it has in common with its block.
    pub lineage: &'a Lineage,
}

/// Reads one stream.
#[derive(Debug)]
pub struct Reader {
    stream: StreamIndex,
    order: DrainOrder,
    /// Ascending.
    lanes: Vec<Reading>,
    /// Index of the lane whose record is ready.
    current: usize,
    /// There was an outage, or this is the start: what is newest is to become a lane.
    split_wanted: bool,
    /// Why the next block of a lane cannot be opened; until all lanes were looked at and none is blocked.
    blocked: Option<String>,
}

impl Reader {
    /// Reads from the cursor on.
    pub fn new(stream: StreamIndex, order: DrainOrder) -> Self {
        let newest_first = order == DrainOrder::NewestFirst;
        let lanes = vec![Reading::new(Position::ZERO, Position::END)];
        let lanes = if newest_first { Vec::new() } else { lanes };
        Self { stream, order, lanes, current: 0, split_wanted: newest_first, blocked: None }
    }

    /// Whether what is newest goes first.
    pub fn is_newest_first(&self) -> bool {
        self.order == DrainOrder::NewestFirst
    }

    /// The link is back: what has become new meanwhile goes first.
    pub fn link_is_back(&mut self) {
        self.split_wanted = self.is_newest_first();
    }

    /// Before a turn: looks again at what is newest. `idle`: nothing of the stream is in flight; `isolates`: a record
    /// that Kafka refuses is being told from others, and lanes stay as they are.
    ///
    /// # Errors
    /// What is newest cannot be told now; it is tried again with the next turn, and the lanes go on as they are.
    pub fn begin_turn(&mut self, queue: &Queue, idle: bool, isolates: bool) -> Result<(), PeekError> {
        if !self.is_newest_first() {
            return Ok(());
        }
        self.current = self.lanes.len();
        if !self.split_wanted || isolates {
            return Ok(());
        }
        if idle {
            queue.merge_lanes(self.stream);
            self.lanes.clear();
            self.current = 0;
        }
        if queue.split_newest(self.stream, NEWEST)? {
            self.take_over_split(queue);
            self.current = self.lanes.len();
        }
        self.split_wanted = false;
        Ok(())
    }

    /// Why records of the stream wait, where the next block of a lane cannot be opened; the other lanes go on.
    pub fn blocked(&self) -> Option<&str> {
        self.blocked.as_deref()
    }

    /// Reads on where nothing is ready; a newer lane comes before an older one, and one whose next block cannot be opened
    /// is left out for a while. `suspect`: a record of the lane that holds it is refused and being told from others; that
    /// lane comes first then. `is_in_flight` tells whether something of the lane that began here is sent and not
    /// acknowledged. Gives whether a record is ready.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub fn read(
        &mut self,
        queue: &Queue,
        limit: Limit,
        now_ns: u64,
        suspect: Option<Position>,
        is_in_flight: impl Fn(Position) -> bool,
    ) -> Result<bool, PeekError> {
        if self.lanes.get(self.current).is_some_and(|lane| !lane.ready.is_empty()) {
            return Ok(true);
        }
        self.take_over_lanes(queue);
        let first = suspect.and_then(|at| self.lanes.iter().position(|lane| at < lane.end));
        let newest_first = (0..self.lanes.len()).rev().filter(|index| Some(*index) != first);
        let (mut ready, mut done) = (Ok(None), Vec::new());
        for index in first.into_iter().chain(newest_first) {
            match self.look(index, queue, limit, now_ns) {
                Ok(Look::Ready) => ready = Ok(Some(index)),
                Ok(Look::Waits) => continue,
                Ok(Look::Empty) => {
                    let lane = &self.lanes[index];
                    if lane.end != Position::END && !is_in_flight(lane.from) {
                        queue.close_lane(self.stream, lane.from, lane.end);
                        done.push(index);
                    }
                    continue;
                }
                Err(error) => ready = Err(error),
            }
            break;
        }
        let ready = ready.map(|ready| ready.map(|at| at - done.iter().filter(|index| **index < at).count()));
        done.sort_unstable();
        for index in done.into_iter().rev() {
            self.lanes.remove(index);
        }
        let ready = ready?;
        self.current = ready.unwrap_or(self.lanes.len());
        self.note_open();
        Ok(ready.is_some())
    }

    /// Reads on in one lane where nothing of it is ready.
    fn look(&mut self, index: usize, queue: &Queue, limit: Limit, now_ns: u64) -> Result<Look, PeekError> {
        let lane = &mut self.lanes[index];
        if lane.ready.is_empty() && lane.blocked_until_ns.is_some_and(|until_ns| now_ns < until_ns) {
            return Ok(Look::Waits);
        }
        let read = lane.read(queue, self.stream, limit);
        lane.looked_at = true;
        let error = match read {
            Ok(is_ready) => {
                lane.blocked_until_ns = None;
                return Ok(if is_ready { Look::Ready } else { Look::Empty });
            }
            Err(error) => error,
        };
        // Nothing of it is passed over: it goes on with the key, in a newer version, with the clock set, or when the
        // blocks are purged. The other lanes go on, and make room for one more when they are done.
        let Some(wait) = error.look_again_after() else { return Err(error) };
        lane.blocked_until_ns = Some(now_ns.saturating_add(wait.as_nanos() as u64));
        self.blocked = Some(error.to_string());
        Ok(Look::Waits)
    }

    /// Forgets a block that could not be opened once each lane was looked at and none is blocked.
    fn note_open(&mut self) {
        if self.lanes.iter().all(|lane| lane.looked_at && lane.blocked_until_ns.is_none()) {
            self.blocked = None;
        }
    }

    /// The record that goes next, once [`Reader::read`] says that there is one.
    pub fn ready(&self) -> Option<Ready<'_>> {
        let lane = self.lanes.get(self.current)?;
        Some(Ready { lane: lane.from, record: lane.ready.front()?, lineage: lane.lineage.as_ref()? })
    }

    /// The records that go next: those of the same lane that are read, in order.
    pub fn ready_records(&self) -> impl Iterator<Item = &Record> {
        self.lanes.get(self.current).into_iter().flat_map(|lane| &lane.ready).map(|record| &**record)
    }

    /// The client took the record that was ready.
    pub fn took(&mut self) {
        if let Some(lane) = self.lanes.get_mut(self.current)
            && let Some(record) = lane.ready.pop_front()
        {
            lane.sent = Some(record.position);
        }
    }

    /// Reads again from what is not acknowledged.
    pub fn rewind(&mut self) {
        self.lanes.clear();
        if !self.is_newest_first() {
            self.lanes.push(Reading::new(Position::ZERO, Position::END));
        }
        self.current = 0;
    }

    /// What the queue has split off its last lane is a lane here too; it was not read before.
    fn take_over_split(&mut self, queue: &Queue) {
        let last = queue.lanes(self.stream).and_then(|lanes| lanes.pairs().last().copied());
        if let (Some((at, end)), Some(before)) = (last, self.lanes.last_mut()) {
            before.end = at;
            self.lanes.push(Reading::new(at, end));
        }
    }

    /// Where nothing is read, the queue's lanes are read. One that blocks of a newer agent divide later is read on as
    /// one: what was sent of it stays known.
    fn take_over_lanes(&mut self, queue: &Queue) {
        if self.lanes.is_empty() {
            let lanes = queue.lanes(self.stream);
            self.lanes
                .extend(lanes.iter().flat_map(|lanes| lanes.pairs()).map(|(next, end)| Reading::new(*next, *end)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{KeyBytes, QueueKeys};
    use crate::kafka::{Class, Failure};
    use crate::metrics::Metrics;
    use crate::queue::{NewRecord, Settings};
    use crate::reading::{Field, Stamp, Trust, Value};
    use crate::uplink::lane::{Backoff, Event, Lane};

    const STREAM: StreamIndex = StreamIndex(0);
    const LIMIT: Limit = Limit { records: 7, bytes: 1 << 16 };
    const EACH: u64 = 300;

    fn open(dir: &Path, keys: &[u8]) -> Queue {
        let key = |byte: &u8| KeyBytes::new(std::array::from_fn(|index| byte.wrapping_add((index == 0).into())));
        let keys = QueueKeys { current: keys.first().map(key), old: keys.iter().skip(1).map(key).collect() };
        let stream = crate::config::Stream {
            name: "telemetry".into(),
            topic: "telemetry".to_owned(),
            priority: 0,
            drain: None,
            rate: Default::default(),
            durability: crate::config::Durability::Window,
            retention: Default::default(),
        };
        let queue = crate::config::Queue {
            quota_bytes: None,
            window: Duration::from_secs(1),
            window_outage: Duration::from_secs(1),
            tail_bytes_max: 1 << 20,
            compression: crate::config::Compression::None,
            keys,
        };
        let settings = Settings { dir: dir.to_owned(), gateway: "test".into(), queue, streams: vec![stream] };
        Queue::open(settings, Metrics::new().0).unwrap()
    }

    fn push(queue: &Queue, count: u64) {
        for number in 0..count {
            let fields =
                vec![Field::new("n", Value::Unsigned(number)), Field::new("text", Value::Text("x".repeat(50)))];
            let stamp = Stamp { boot_ns: crate::clock::boot_ns(), wall_us: crate::clock::wall_us(), trust: Trust::Ntp };
            queue.push(STREAM, NewRecord { stamp, source: "plc".into(), device: "boiler".into(), fields }).unwrap();
        }
    }

    /// Runs of records, each under its first key.
    fn queue_of(dir: &Path, runs: &[&[u8]]) {
        for keys in runs {
            let queue = open(dir, keys);
            push(&queue, EACH);
            queue.close().unwrap();
        }
    }

    /// Takes what can be read; everything is acknowledged at once.
    fn drain(reader: &mut Reader, queue: &Queue, now_ns: u64) -> Vec<Position> {
        let mut taken = Vec::new();
        while reader.read(queue, LIMIT, now_ns, None, |_| false).unwrap() {
            let ready = reader.ready().unwrap();
            let (lane, position) = (ready.lane, ready.record.position);
            taken.push(position);
            reader.took();
            queue.ack_lane(STREAM, lane, position);
        }
        taken
    }

    #[test]
    fn history_without_its_key_does_not_keep_back_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        queue_of(dir.path(), &[&[1], &[2, 1]]);
        let queue = open(dir.path(), &[2]);
        push(&queue, 10);
        let mut reader = Reader::new(STREAM, DrainOrder::NewestFirst);
        assert!(queue.split_newest(STREAM, Newest { bytes: 1_000, age: NEWEST.age }).unwrap());
        let first = drain(&mut reader, &queue, 0);
        assert_eq!(first.last(), Some(&Position::new(3, 9)), "the newest lane is read");
        assert!(reader.blocked().unwrap().contains("encrypted with key"), "{:?}", reader.blocked());
        push(&queue, 1);
        assert_eq!(drain(&mut reader, &queue, 1), [Position::new(3, 10)], "and on");
        assert!(reader.blocked().is_some(), "it waits, whatever else is read");
        reader.rewind();
        push(&queue, 1);
        assert_eq!(drain(&mut reader, &queue, 2), [Position::new(3, 11)]);
        assert!(reader.blocked().is_some());
        queue.close().unwrap();
    }

    #[test]
    fn what_is_new_and_cannot_be_opened_does_not_keep_back_history() {
        let dir = tempfile::tempdir().unwrap();
        queue_of(dir.path(), &[&[2], &[1, 2]]);
        open(dir.path(), &[2, 1]).close().unwrap();
        let queue = open(dir.path(), &[2]);
        let mut reader = Reader::new(STREAM, DrainOrder::NewestFirst);
        assert!(queue.split_newest(STREAM, Newest { bytes: 1_000, age: NEWEST.age }).unwrap());
        let read = drain(&mut reader, &queue, 0);
        let run_1: Vec<Position> = (0..EACH).map(|seq| Position::new(1, seq)).collect();
        assert_eq!(read, run_1, "all that can be opened, in order");
        assert!(reader.blocked().is_some());
        assert_eq!(queue.status().streams[0].records, EACH, "nothing is passed over");
        queue.close().unwrap();
        let queue = open(dir.path(), &[2, 1]);
        reader.rewind();
        assert_eq!(drain(&mut reader, &queue, 5_000_000_000).len() as u64, EACH);
        assert_eq!(reader.blocked(), None, "all lanes can be opened");
        queue.close().unwrap();
    }

    /// One turn against a broker that refuses every batch with the record `poison`, all that is sent at once being one.
    /// Gives what the lane says at last.
    fn turn(reader: &mut Reader, lane: &mut Lane, queue: &Queue, poison: Position) -> Option<Event> {
        reader.begin_turn(queue, lane.is_idle(), lane.suspect().is_some()).unwrap();
        let mut sent = Vec::new();
        let (room, suspect) = (lane.room(0, 200, 1 << 20), lane.suspect());
        while sent.len() < room && reader.read(queue, LIMIT, 0, suspect, |from| lane.has_of(from)).unwrap() {
            let ready = reader.ready().unwrap();
            let (from, position) = (ready.lane, ready.record.position);
            sent.push((position, lane.took(from, position, 10, true)));
            reader.took();
        }
        lane.turn_ended();
        let class = if sent.iter().any(|(position, _)| *position == poison) { Class::Poison } else { Class::Retried };
        let failure = Failure { class, text: "no".into(), name: "", timestamp_refused: false };
        let failure = (class == Class::Poison).then_some(failure);
        let mut events = Vec::new();
        for (_, serial) in sent {
            events.extend(lane.reported(serial, failure.clone(), 0, 1.0));
        }
        for event in &events {
            if let Event::Acknowledged(through) = event {
                queue.ack_lane(STREAM, through.lane, through.position);
            }
        }
        if lane.take_rewound() {
            reader.rewind();
        }
        events.pop()
    }

    /// Looks for a refused record among long history, a newest lane and what keeps coming.
    fn is_found(poison: Position) {
        let dir = tempfile::tempdir().unwrap();
        queue_of(dir.path(), &[&[], &[], &[], &[]]);
        let queue = open(dir.path(), &[]);
        let mut reader = Reader::new(STREAM, DrainOrder::NewestFirst);
        let mut lane = Lane::new(Backoff { first_ns: 1, max_ns: 1 });
        push(&queue, 10);
        assert!(queue.split_newest(STREAM, Newest { bytes: 1_000, age: NEWEST.age }).unwrap());
        for _ in 0..40 {
            push(&queue, 50);
            if let Some(Event::SetAside(position, _)) = turn(&mut reader, &mut lane, &queue, poison) {
                assert_eq!(position, poison);
                let lanes = queue.lanes(STREAM).unwrap();
                assert!(lanes.pairs().iter().any(|(next, _)| *next == poison), "before it is delivered: {lanes:?}");
                return queue.close().unwrap();
            }
        }
        panic!("not found: {:?}", queue.lanes(STREAM));
    }

    #[test]
    fn a_refused_record_is_found_in_any_lane_while_new_ones_keep_coming() {
        is_found(Position::new(1, 100));
        is_found(Position::new(5, 7));
        is_found(Position::new(5, 130));
    }
}
