//! Random histories against a model: sets of positions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use forebay::config::Durability;
use forebay::queue::admin::Task;
use forebay::queue::{Limit, Pushed, Queue, SetAsideError, Settings, StreamIndex};
use forebay::reading::Position;
use proptest::prelude::*;

use super::ground::Ground;
use super::memory::{Clock, Disk, settings, start};
use super::{number, record};

const STREAMS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Push { stream: usize, records: usize },
    Peek { stream: usize, records: usize },
    Ack { stream: usize, share: u8 },
    Flush,
    RequestFlush,
    Wait { ms: u64 },
    FailNextAppend,
    Restart,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..STREAMS;
    prop_oneof![
        4 => (stream.clone(), 1..40_usize).prop_map(|(stream, records)| Step::Push { stream, records }),
        4 => (stream.clone(), 1..30_usize).prop_map(|(stream, records)| Step::Peek { stream, records }),
        3 => (stream, 0..=100_u8).prop_map(|(stream, share)| Step::Ack { stream, share }),
        1 => Just(Step::Flush),
        1 => Just(Step::RequestFlush),
        2 => (1..6_000_u64).prop_map(|ms| Step::Wait { ms }),
        1 => Just(Step::FailNextAppend),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

/// What must be true of one stream.
#[derive(Default)]
struct Expected {
    /// Every position ever given, and what it holds.
    given: BTreeMap<Position, u64>,
    acknowledged: BTreeSet<Position>,
    /// Given in a life that crashed, not reported safe: may be gone.
    may_be_lost: BTreeSet<Position>,
    delivered: BTreeSet<Position>,
    /// Read and not acknowledged in this life, ascending.
    in_flight: Vec<Position>,
}

struct World {
    ground: Ground,
    disk: Disk,
    clock: Clock,
    settings: Settings,
    queue: Queue,
    streams: Vec<Expected>,
    numbers: u64,
}

impl World {
    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Push { stream, records } => self.push(stream, records),
            Step::Peek { stream, records } => {
                self.peek(stream, records);
            }
            Step::Ack { stream, share } => self.ack(stream, share),
            // A failing append is asked for by another step; the records then stay in memory.
            Step::Flush => drop(self.queue.flush()),
            Step::RequestFlush => self.queue.request_flush(),
            Step::Wait { ms } => {
                self.clock.fetch_add(ms * 1_000_000, Ordering::SeqCst);
                self.queue.tick();
            }
            Step::FailNextAppend => self.disk.with(|platter| platter.failing_appends = 1),
            Step::Restart => {
                self.disk.with(|platter| platter.failing_appends = 0);
                self.queue.close().unwrap();
                self.reopen();
            }
            Step::Crash => {
                self.queue.abandon().unwrap();
                for (index, stream) in self.streams.iter_mut().enumerate() {
                    let safe = *self.queue.safe_through(StreamIndex(index)).borrow();
                    let unsafe_ones = stream.given.keys().filter(|position| Some(**position) > safe);
                    stream.may_be_lost.extend(unsafe_ones);
                }
                self.reopen();
            }
        }
    }

    fn reopen(&mut self) {
        self.queue = self.ground.start(&self.disk, &self.settings, &self.clock);
        for stream in &mut self.streams {
            stream.in_flight.clear();
        }
    }

    fn push(&mut self, stream: usize, records: usize) {
        for _ in 0..records {
            let Pushed::Queued(position) = self.queue.push(StreamIndex(stream), record(self.numbers)).unwrap() else {
                panic!("a small record is queued");
            };
            let expected = &mut self.streams[stream];
            assert!(expected.given.keys().all(|given| *given < position), "{position} was given before");
            expected.given.insert(position, self.numbers);
            self.numbers += 1;
        }
    }

    fn peek(&mut self, stream: usize, records: usize) -> bool {
        let expected = &mut self.streams[stream];
        let after = expected.in_flight.last().copied();
        let limit = Limit { records, bytes: 3_000 };
        let Some(batch) = self.queue.peek(StreamIndex(stream), after, limit).unwrap() else { return false };
        assert!(batch.records.len() <= records && !batch.records.is_empty());
        for record in &batch.records {
            let position = record.position;
            assert!(expected.in_flight.last().is_none_or(|last| *last < position), "{position} is out of order");
            assert_eq!(expected.given.get(&position), Some(&number(record)), "{position} holds what was pushed");
            assert_eq!(record.skipped, 0, "nothing was removed");
            // A record that must be there may not be passed over.
            let from = expected.in_flight.last().map_or(Position::ZERO, |last| last.next());
            for missed in expected.given.range(from..position).map(|(missed, _)| missed) {
                let allowed = expected.acknowledged.contains(missed) || expected.may_be_lost.contains(missed);
                assert!(allowed, "{missed} was passed over before {position}");
            }
            expected.in_flight.push(position);
            expected.delivered.insert(position);
        }
        true
    }

    fn ack(&mut self, stream: usize, share: u8) {
        let expected = &mut self.streams[stream];
        let through = expected.in_flight.len() * usize::from(share) / 100;
        let Some(last) = through.checked_sub(1).map(|index| expected.in_flight[index]) else { return };
        self.queue.ack(StreamIndex(stream), last);
        self.queue.ack(StreamIndex(stream), last);
        expected.acknowledged.extend(expected.in_flight.drain(..through));
        // What is read from the cursor now was not acknowledged in this life.
        if let Some(batch) =
            self.queue.peek(StreamIndex(stream), None, Limit { records: 1, bytes: usize::MAX }).unwrap()
        {
            assert!(batch.records[0].position > last, "{last} is acknowledged");
        }
    }

    fn finish(mut self) {
        self.disk.with(|platter| platter.failing_appends = 0);
        for stream in 0..STREAMS {
            while self.peek(stream, 50) {}
            self.ack(stream, 100);
        }
        for (index, stream) in self.streams.iter().enumerate() {
            for position in stream.given.keys() {
                let explained = stream.delivered.contains(position) || stream.may_be_lost.contains(position);
                assert!(explained, "{position} of stream {index} is lost");
            }
            let status = &self.queue.status().streams[index];
            assert_eq!((status.records, status.bytes), (0, 0));
        }
        self.queue.close().unwrap();
        assert!(self.ground.is_empty(&self.disk, &self.settings.dir), "what is delivered leaves the disk");
    }
}

fn run(ground: Ground, steps: &[Step]) {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let streams = [("one", Durability::Window), ("two", Durability::Window), ("alarms", Durability::EveryRecord)];
    let settings = settings(&streams, 1 << 20, dir.path());
    let queue = ground.start(&disk, &settings, &clock);
    let streams = (0..STREAMS).map(|_| Expected::default()).collect();
    let mut world = World { ground, disk, clock, settings, queue, streams, numbers: 0 };
    for step in steps {
        world.apply(step);
    }
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::trials(200), ..ProptestConfig::default() })]

    #[test]
    fn nothing_safe_is_lost_and_order_holds(steps in proptest::collection::vec(step(), 1..60)) {
        run(Ground::Memory, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::trials(12), max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_same_on_append_only_segments(steps in proptest::collection::vec(step(), 1..40)) {
        run(Ground::Segments, &steps);
    }

    #[test]
    fn the_same_on_sled(steps in proptest::collection::vec(step(), 1..40)) {
        run(Ground::Epochs, &steps);
    }

    #[test]
    fn the_same_encrypted_under_a_new_key_at_each_start(steps in proptest::collection::vec(step(), 1..40)) {
        run(Ground::EncryptedEpochs, &steps);
    }
}

#[derive(Debug, Clone)]
enum FullStep {
    Push { stream: usize, records: usize },
    Take { stream: usize, records: usize },
    SetAside { stream: usize },
    Purge { stream: usize, records: usize },
    Flush,
    Restart,
    CrashAfterFlush,
}

fn full_step() -> impl Strategy<Value = FullStep> {
    prop_oneof![
        5 => (0..2_usize, 1..30_usize).prop_map(|(stream, records)| FullStep::Push { stream, records }),
        2 => (0..2_usize, 1..30_usize).prop_map(|(stream, records)| FullStep::Take { stream, records }),
        2 => (0..2_usize).prop_map(|stream| FullStep::SetAside { stream }),
        1 => (0..2_usize, 1..30_usize).prop_map(|(stream, records)| FullStep::Purge { stream, records }),
        4 => Just(FullStep::Flush),
        1 => Just(FullStep::Restart),
        1 => Just(FullStep::CrashAfterFlush),
    ]
}

/// Reads and acknowledges one batch; adds up the records and what they say was removed.
fn take(queue: &Queue, stream: usize, records: usize, seen: &mut [(u64, u64)]) -> bool {
    let limit = Limit { records, bytes: usize::MAX };
    let Some(batch) = queue.peek(StreamIndex(stream), None, limit).unwrap() else { return false };
    seen[stream].0 += batch.records.len() as u64;
    seen[stream].1 += batch.records.iter().map(|record| record.skipped).sum::<u64>();
    queue.ack(StreamIndex(stream), batch.records[batch.records.len() - 1].position);
    true
}

/// Reads some, as the uplink does before it finds out, then sets the first aside. The next one bears the mark.
fn set_aside(queue: &Queue, stream: usize) {
    let stream = StreamIndex(stream);
    let Some(batch) = queue.peek(stream, None, Limit { records: 3, bytes: usize::MAX }).unwrap() else { return };
    let first = &batch.records[0];
    let skipped = first.skipped;
    if let Some(second) = batch.records.get(1) {
        let refused = queue.set_aside(stream, second.position, "refused");
        assert!(matches!(refused, Err(SetAsideError::NotNext { next, .. }) if next == first.position));
    }
    queue.set_aside(stream, first.position, "refused").unwrap();
    queue.set_aside(stream, first.position, "refused").unwrap();
    if let Some(second) = batch.records.get(1) {
        let next = queue.peek(stream, None, Limit { records: 1, bytes: usize::MAX }).unwrap().unwrap();
        assert_eq!(next.records[0].position, second.position);
        assert_eq!(next.records[0].skipped, second.skipped + skipped + 1);
    }
}

/// Has an operator purge the oldest so many records, and does it twice.
fn purge(queue: &Queue, stream: usize, records: usize) {
    let index = StreamIndex(stream);
    let Some(batch) = queue.peek(index, None, Limit { records, bytes: usize::MAX }).unwrap() else { return };
    let name: forebay::reading::Name = if stream == 0 { "one".into() } else { "two".into() };
    let through = batch.records.last().unwrap().position;
    let task = || Task::Purge { stream: name.clone(), through };
    let mut removed = 0;
    loop {
        let step = queue.administer(task()).unwrap();
        removed += step.records;
        if step.epoch.is_none() {
            break;
        }
    }
    // Making room for what was in memory may have dropped some of them before.
    assert!(removed <= batch.records.len() as u64);
    let next = queue.peek(index, None, Limit { records: 1, bytes: usize::MAX }).unwrap();
    assert!(next.is_none_or(|next| next.records[0].position > through));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::trials(200), ..ProptestConfig::default() })]

    /// On a disk of two epochs records are dropped all the time; those that come through account for all others.
    #[test]
    fn every_dropped_record_is_marked_once(steps in proptest::collection::vec(full_step(), 1..60)) {
        let (disk, clock) = (Disk::default(), Clock::default());
        disk.with(|platter| platter.epochs_max = Some(2));
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("queue")).unwrap();
        let settings = settings(&[("one", Durability::Window), ("two", Durability::Window)], 1 << 20, dir.path());
        let mut queue = start(&disk, &settings, &clock).0;
        let (mut pushed, mut seen) = ([0_u64; 2], [(0_u64, 0_u64); 2]);
        for step in steps {
            match step {
                FullStep::Push { stream, records } => {
                    for _ in 0..records {
                        queue.push(StreamIndex(stream), record(pushed[stream])).unwrap();
                        pushed[stream] += 1;
                    }
                }
                FullStep::Take { stream, records } => { take(&queue, stream, records, &mut seen); }
                FullStep::SetAside { stream } => set_aside(&queue, stream),
                FullStep::Purge { stream, records } => purge(&queue, stream, records),
                FullStep::Flush => queue.flush().unwrap(),
                FullStep::Restart => {
                    queue.close().unwrap();
                    queue = start(&disk, &settings, &clock).0;
                }
                FullStep::CrashAfterFlush => {
                    // With the cursor durable as well, or the same records would rightly be seen twice.
                    queue.close().unwrap();
                    queue = start(&disk, &settings, &clock).0;
                    queue.flush().unwrap();
                    queue.abandon().unwrap();
                    queue = start(&disk, &settings, &clock).0;
                }
            }
        }
        for stream in 0..2 {
            // A bearer for marks that have none yet.
            queue.push(StreamIndex(stream), record(pushed[stream])).unwrap();
            pushed[stream] += 1;
            while take(&queue, stream, 50, &mut seen) {}
            prop_assert_eq!(seen[stream].0 + seen[stream].1, pushed[stream], "of stream {}: {:?}", stream, seen[stream]);
        }
    }
}
