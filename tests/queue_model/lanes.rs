//! Lanes against a model: newest-first readings, per-lane acknowledgements, splits, drops, crashes; and single promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay::config::Durability;
use forebay::queue::{Limit, Newest, Pushed, Queue, Settings, StreamIndex};
use forebay::reading::Position;
use proptest::prelude::*;

use super::ground::Ground;
use super::memory::{Clock, Disk, settings, start};
use super::{number, record};

const ONE: StreamIndex = StreamIndex(0);

/// One lane as a newest-first reader goes through it.
#[derive(Debug, Clone)]
struct Reading {
    from: Position,
    end: Position,
    /// Read and not acknowledged, ascending; with what each said was skipped before it.
    in_flight: Vec<(Position, u64)>,
    sent: Option<Position>,
}

/// The reader of one stream, as the uplink does it.
#[derive(Default)]
struct Reader {
    lanes: Vec<Reading>,
}

impl Reader {
    fn refresh(&mut self, queue: &Queue) {
        let mut known = std::mem::take(&mut self.lanes);
        for (next, end) in queue.lanes(ONE).unwrap().pairs() {
            let holds = |lane: &Reading| lane.from <= *next && *next < lane.end;
            let mut lane = match known.iter().position(holds) {
                Some(index) => known.swap_remove(index),
                None => Reading { from: *next, end: *end, in_flight: Vec::new(), sent: None },
            };
            lane.end = *end;
            self.lanes.push(lane);
        }
    }

    /// Reads a batch of a lane, the newest first; gives its records with their positions.
    fn read(&mut self, queue: &Queue, skip_lanes: usize, records: usize) -> Option<Vec<(Position, u64, u64)>> {
        self.refresh(queue);
        let index = self.lanes.len().checked_sub(1 + skip_lanes)?;
        let lane = &mut self.lanes[index];
        let from = lane.sent.map_or(lane.from, Position::next);
        let limit = Limit { records, bytes: 3_000 };
        match queue.peek_lane(ONE, from, lane.end, limit).unwrap() {
            Some(batch) => {
                let mut read = Vec::new();
                for record in &batch.records {
                    assert!(lane.sent.is_none_or(|sent| sent < record.position), "order in a lane");
                    assert!(lane.from <= record.position && record.position < lane.end, "inside its lane");
                    lane.sent = Some(record.position);
                    lane.in_flight.push((record.position, record.skipped));
                    read.push((record.position, number(record), record.skipped));
                }
                Some(read)
            }
            None => {
                if lane.in_flight.is_empty() && lane.end != Position::END {
                    queue.close_lane(ONE, lane.from, lane.end);
                }
                None
            }
        }
    }

    /// Acknowledges the first part of what is in flight of a lane.
    fn ack(&mut self, queue: &Queue, skip_lanes: usize, share: u8) -> Vec<(Position, u64)> {
        let Some(index) = self.lanes.len().checked_sub(1 + skip_lanes) else { return Vec::new() };
        let lane = &mut self.lanes[index];
        let count = lane.in_flight.len() * usize::from(share) / 100;
        let Some((last, _)) = count.checked_sub(1).map(|last| lane.in_flight[last]) else { return Vec::new() };
        queue.ack_lane(ONE, lane.from, last);
        queue.ack_lane(ONE, lane.from, last);
        lane.in_flight.drain(..count).collect()
    }

    fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.in_flight.is_empty())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Flush,
    Split(u64),
    Read(usize, usize),
    Ack(usize, u8),
    Rewind,
    Wait(u64),
    Restart,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40_usize).prop_map(Step::Push),
        2 => Just(Step::Flush),
        3 => (50..4_000_u64).prop_map(Step::Split),
        5 => (0..4_usize, 1..30_usize).prop_map(|(lane, records)| Step::Read(lane, records)),
        4 => (0..4_usize, 0..=100_u8).prop_map(|(lane, share)| Step::Ack(lane, share)),
        1 => Just(Step::Rewind),
        1 => (1..6_000_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

struct World {
    ground: Ground,
    disk: Disk,
    clock: Clock,
    settings: Settings,
    queue: Queue,
    reader: Reader,
    given: BTreeMap<Position, u64>,
    /// In this life, or durably.
    acknowledged: BTreeSet<Position>,
    ever_acknowledged: BTreeSet<Position>,
    read: BTreeSet<Position>,
    may_be_lost: BTreeSet<Position>,
    /// Acknowledged in a life that ended in order, and never on disk.
    never_written: BTreeSet<Position>,
    /// It is the first life: what is counted is exact.
    first_life: bool,
}

impl World {
    fn new(ground: Ground, dir: &std::path::Path) -> Self {
        let (disk, clock) = (Disk::default(), Clock::default());
        let settings = settings(&[("one", Durability::Window)], 1 << 20, dir);
        let queue = ground.start(&disk, &settings, &clock);
        Self {
            ground,
            disk,
            clock,
            settings,
            queue,
            reader: Reader::default(),
            given: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            ever_acknowledged: BTreeSet::new(),
            read: BTreeSet::new(),
            may_be_lost: BTreeSet::new(),
            never_written: BTreeSet::new(),
            first_life: true,
        }
    }

    fn apply(&mut self, step: &Step) {
        self.act(step);
        if self.first_life {
            let waiting = (self.given.len() - self.acknowledged.len()) as u64;
            assert_eq!(self.queue.status().streams[0].records, waiting, "after {step:?}");
        }
    }

    fn act(&mut self, step: &Step) {
        match *step {
            Step::Push(records) => {
                for _ in 0..records {
                    let count = self.given.len() as u64;
                    let Pushed::Queued(position) = self.queue.push(ONE, record(count)).unwrap() else { panic!() };
                    assert_eq!(self.given.insert(position, count), None, "given once");
                }
            }
            Step::Flush => self.queue.flush().unwrap(),
            Step::Split(bytes) => {
                if self.reader.is_idle() {
                    self.queue.merge_lanes(ONE);
                    self.reader = Reader::default();
                }
                let newest = Newest { bytes, age: Duration::from_secs(1_000_000_000) };
                self.queue.split_newest(ONE, newest).unwrap();
                assert!(self.queue.lanes(ONE).unwrap().pairs().len() <= 16);
            }
            Step::Read(lane, records) => {
                for (position, number, skipped) in self.reader.read(&self.queue, lane, records).unwrap_or_default() {
                    assert_eq!(self.given.get(&position), Some(&number), "{position} holds what was pushed");
                    assert!(!self.acknowledged.contains(&position), "{position} is done");
                    assert_eq!(skipped, 0, "nothing was removed");
                    self.read.insert(position);
                }
            }
            Step::Ack(lane, share) => {
                let acknowledged = self.reader.ack(&self.queue, lane, share);
                self.acknowledged.extend(acknowledged.iter().map(|(position, _)| *position));
                self.ever_acknowledged.extend(acknowledged.iter().map(|(position, _)| *position));
                let lanes = self.queue.lanes(ONE).unwrap();
                assert!(acknowledged.iter().all(|(position, _)| lanes.is_done(*position)));
                assert!(self.given.keys().all(|at| !lanes.is_done(*at) || self.may_be_done(*at)), "{lanes:?}");
            }
            Step::Rewind => self.reader = Reader::default(),
            Step::Wait(ms) => {
                self.clock.fetch_add(ms * 1_000_000, Ordering::SeqCst);
                self.queue.tick();
            }
            Step::Restart => {
                self.queue.close().unwrap();
                let on_disk = self.queue.status().streams[0].durable;
                self.reopen();
                let lanes = self.queue.lanes(ONE).unwrap();
                // What was acknowledged and never written cannot come again: no state is written for it.
                let unwritten = self.acknowledged.iter().filter(|at| Some(**at) > on_disk && !lanes.is_done(**at));
                self.never_written.extend(unwritten);
                let is_excused = |at: &Position| self.may_be_lost.contains(at) || self.never_written.contains(at);
                let kept = |at: &Position| lanes.is_done(*at) || is_excused(at);
                assert!(self.acknowledged.iter().all(kept), "a stop in order keeps what was acknowledged");
            }
            Step::Crash => {
                self.queue.abandon().unwrap();
                let safe = *self.queue.safe_through(ONE).borrow();
                self.may_be_lost.extend(self.given.keys().filter(|position| Some(**position) > safe));
                self.reopen();
                // What was acknowledged and not durable may come again.
                let lanes = self.queue.lanes(ONE).unwrap();
                self.acknowledged.retain(|position| lanes.is_done(*position));
            }
        }
    }

    fn may_be_done(&self, position: Position) -> bool {
        self.ever_acknowledged.contains(&position) || self.may_be_lost.contains(&position)
    }

    fn reopen(&mut self) {
        self.queue = self.ground.start(&self.disk, &self.settings, &self.clock);
        self.reader = Reader::default();
        self.first_life = false;
    }

    fn finish(mut self) {
        for round in 0.. {
            assert!(round < 10_000, "lanes come to an end: {:?}", self.queue.lanes(ONE));
            let before = self.queue.lanes(ONE).unwrap().pairs().len();
            let mut any = false;
            for lane in 0..before {
                self.apply(&Step::Read(lane, 50));
                any |= !self.reader.is_idle();
                self.apply(&Step::Ack(lane, 100));
            }
            if !any && self.queue.lanes(ONE).unwrap().pairs().len() == 1 && before == 1 {
                break;
            }
        }
        for position in self.given.keys() {
            assert!(self.read.contains(position) || self.may_be_lost.contains(position), "{position} is lost");
        }
        let status = &self.queue.status().streams[0];
        assert_eq!((status.records, status.bytes), (0, 0));
        self.queue.close().unwrap();
        assert!(self.ground.is_empty(&self.disk, &self.settings.dir), "what is delivered leaves the disk");
    }
}

fn run(ground: Ground, steps: &[Step]) {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(ground, dir.path());
    for step in steps {
        world.apply(step);
    }
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_lane_goes_first_nothing_safe_is_lost(steps in proptest::collection::vec(step(), 1..80)) {
        run(Ground::Memory, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn lanes_on_append_only_segments(steps in proptest::collection::vec(step(), 1..50)) {
        run(Ground::Segments, &steps);
    }

    #[test]
    fn lanes_on_sled(steps in proptest::collection::vec(step(), 1..50)) {
        run(Ground::Epochs, &steps);
    }
}

#[derive(Debug, Clone)]
enum FullStep {
    Push(usize),
    Flush,
    Split(u64),
    Take(usize, usize),
    SetAside(usize),
    Restart,
}

fn full_step() -> impl Strategy<Value = FullStep> {
    prop_oneof![
        5 => (1..30_usize).prop_map(FullStep::Push),
        5 => Just(FullStep::Flush),
        3 => (50..2_000_u64).prop_map(FullStep::Split),
        4 => (0..4_usize, 1..30_usize).prop_map(|(lane, records)| FullStep::Take(lane, records)),
        2 => (0..4_usize).prop_map(FullStep::SetAside),
        1 => Just(FullStep::Restart),
    ]
}

/// Reads and acknowledges a batch; adds up the records and what they say was removed.
fn take(queue: &Queue, reader: &mut Reader, lane: usize, records: usize, seen: &mut (u64, u64)) -> bool {
    let Some(read) = reader.read(queue, lane, records) else { return false };
    seen.0 += read.len() as u64;
    seen.1 += read.iter().map(|(_, _, skipped)| skipped).sum::<u64>();
    reader.ack(queue, lane, 100);
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// On a disk of three epochs the oldest records are dropped all the time, whatever lane they are in; those that come
    /// through account for all others.
    #[test]
    fn every_record_dropped_from_a_lane_is_marked_once(steps in proptest::collection::vec(full_step(), 1..80)) {
        let (disk, clock) = (Disk::default(), Clock::default());
        disk.with(|platter| platter.epochs_max = Some(3));
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("queue")).unwrap();
        let settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
        let mut queue = start(&disk, &settings, &clock).0;
        let mut reader = Reader::default();
        let (mut pushed, mut seen) = (0, (0, 0));
        for step in steps {
            match step {
                FullStep::Push(records) => {
                    for _ in 0..records {
                        queue.push(ONE, record(pushed)).unwrap();
                        pushed += 1;
                    }
                }
                FullStep::Flush => queue.flush().unwrap(),
                FullStep::Split(bytes) => {
                    queue.merge_lanes(ONE);
                    reader = Reader::default();
                    queue.split_newest(ONE, Newest { bytes, age: Duration::from_secs(1_000_000_000) }).unwrap();
                }
                FullStep::Take(lane, records) => { take(&queue, &mut reader, lane, records, &mut seen); }
                FullStep::SetAside(lane) => {
                    // As the uplink does: everything in flight is reported, then read again from what is not delivered.
                    if let Some((first, _, _)) = reader.read(&queue, lane, 3).as_ref().and_then(|read| read.first()) {
                        queue.set_aside(ONE, *first, "refused").unwrap();
                        queue.set_aside(ONE, *first, "refused").unwrap();
                        reader = Reader::default();
                    }
                }
                FullStep::Restart => {
                    queue.close().unwrap();
                    queue = start(&disk, &settings, &clock).0;
                    reader = Reader::default();
                }
            }
        }
        // A bearer for marks that have none yet.
        queue.push(ONE, record(pushed)).unwrap();
        pushed += 1;
        for _ in 0..1_000 {
            let lanes = queue.lanes(ONE).unwrap().pairs().len();
            let any = (0..lanes).rev().any(|lane| take(&queue, &mut reader, lane, 50, &mut seen));
            if !any && lanes == 1 {
                break;
            }
        }
        prop_assert_eq!(seen.0 + seen.1, pushed, "{:?}", seen);
        prop_assert_eq!(queue.status().streams[0].records, 0);
    }
}

fn push_ten(queue: &Queue, ten: u64) {
    for number in ten * 10..(ten + 1) * 10 {
        queue.push(ONE, record(number)).unwrap();
    }
}

fn filled(disk: &Disk, settings: &Settings, clock: &Clock, flushes: u64) -> Queue {
    let queue = start(disk, settings, clock).0;
    for n in 0..flushes {
        push_ten(&queue, n);
        queue.flush().unwrap();
    }
    queue
}

const ANY_AGE: Duration = Duration::from_secs(1_000_000);

#[test]
fn a_split_is_at_the_beginning_of_a_block_and_outlives_a_restart_once_something_of_it_is_delivered() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
    let queue = filled(&disk, &settings, &clock, 20);
    let bytes = queue.status().streams[0].bytes / 20 * 3;
    assert!(queue.split_newest(ONE, Newest { bytes, age: ANY_AGE }).unwrap());
    let lanes = queue.lanes(ONE).unwrap();
    let (at, _) = lanes.pairs()[1];
    assert!(at.seq() % 10 == 0 && (150..190).contains(&at.seq()), "{lanes:?}");
    let mut reader = Reader::default();
    let read = reader.read(&queue, 0, 1_000).unwrap();
    assert_eq!(read[0].0, at);
    reader.ack(&queue, 0, 100);
    assert_eq!(queue.status().streams[0].records, 200 - read.len() as u64);
    queue.close().unwrap();
    let queue = start(&disk, &settings, &clock).0;
    let lanes = queue.lanes(ONE).unwrap();
    assert_eq!(lanes.pairs()[0], (Position::ZERO, at));
    assert_eq!(lanes.pairs()[1].0, read.last().unwrap().0.next());
}

#[test]
fn what_is_older_than_the_age_is_not_newest() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    // `record(n)` was measured at n nanoseconds.
    clock.store(200, Ordering::SeqCst);
    let settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
    let queue = filled(&disk, &settings, &clock, 20);
    let newest = |ns| Newest { bytes: u64::MAX, age: Duration::from_nanos(ns) };
    assert!(!queue.split_newest(ONE, newest(200)).unwrap(), "all of it is as new");
    assert!(queue.split_newest(ONE, newest(55)).unwrap());
    assert_eq!(queue.lanes(ONE).unwrap().pairs()[1].0, Position::new(1, 140), "blocks end at 149 and later");
    assert!(queue.split_newest(ONE, newest(0)).unwrap(), "what comes will be");
    assert_eq!(queue.lanes(ONE).unwrap().pairs()[2].0, Position::new(1, 200));
    queue.merge_lanes(ONE);
    let lanes = queue.lanes(ONE).unwrap();
    let newest = Position::new(1, 200);
    assert_eq!(lanes.pairs(), [(Position::ZERO, newest), (newest, Position::END)], "history is one, the newest apart");
}

#[test]
fn twelve_lanes_are_the_most_as_four_are_kept_for_blocks_of_a_newer_agent() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
    let queue = filled(&disk, &settings, &clock, 1);
    let mut reader = Reader::default();
    let mut splits = 0;
    for n in 0..40 {
        splits += u32::from(queue.split_newest(ONE, Newest { bytes: 1, age: ANY_AGE }).unwrap());
        push_ten(&queue, n);
        reader.read(&queue, 0, 3).unwrap();
        reader.ack(&queue, 0, 100);
    }
    assert_eq!((splits, queue.lanes(ONE).unwrap().pairs().len()), (11, 12));
}

#[test]
fn blocks_that_are_done_between_lanes_leave_the_disk_and_are_not_missed() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
    let queue = filled(&disk, &settings, &clock, 20);
    let blocks = |disk: &Disk| disk.with(|platter| platter.epochs.iter().map(Vec::len).sum::<usize>());
    assert_eq!(blocks(&disk), 20);
    assert!(queue.split_newest(ONE, Newest { bytes: queue.status().streams[0].bytes / 2, age: ANY_AGE }).unwrap());
    let mut reader = Reader::default();
    while take(&queue, &mut reader, 0, 50, &mut (0, 0)) {}
    push_ten(&queue, 20);
    queue.flush().unwrap();
    queue.close().unwrap();
    assert!(blocks(&disk) <= 13, "{} blocks are left of 21, of which 11 wait", blocks(&disk));
}
