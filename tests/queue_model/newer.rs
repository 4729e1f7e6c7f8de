//! Blocks that only a newer agent can open, as an A/B rollback leaves them: they keep their place, what is around them is
//! delivered, and after the next upgrade they are, all against a model; and single promises.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;

use forebay::config::Durability;
use forebay::metrics::ByStreamAndReason;
use forebay::queue::block::Header;
use forebay::queue::scan::{self, Found};
use forebay::queue::{Limit, PeekError, Pushed, Queue, Settings, StreamIndex};
use forebay::reading::{Position, Record};
use proptest::prelude::*;

use super::ground::Ground;
use super::memory::{Clock, Disk, NEWER, put_version, settings, start};
use super::reader::Reader;
use super::{drain, number, record};

const ONE: StreamIndex = StreamIndex(0);

/// Makes those blocks of a newer version that `is_newer` says, and all others known. Gives the former's first and last
/// positions. The queue is closed or has crashed.
fn change_versions(
    ground: Ground,
    disk: &Disk,
    dir: &Path,
    is_newer: impl Fn(&Header) -> bool,
) -> BTreeSet<(Position, Position)> {
    let mut newer = BTreeSet::new();
    let mut is_newer = |header: &Header| {
        let chosen = is_newer(header);
        newer.extend(chosen.then_some((header.first, header.last)));
        chosen
    };
    if ground == Ground::Memory {
        disk.put_versions(is_newer);
        return newer;
    }
    for log in logs(ground, dir) {
        let mut bytes = std::fs::read(&log).unwrap();
        let mut frames = Vec::new();
        scan::scan(&bytes, |offset, found| match found {
            Found::Block { header, bytes } | Found::Newer { header: Some(header), bytes, .. } => {
                let version = if is_newer(&header) { NEWER } else { 1 };
                frames.push((offset as usize, bytes.len(), version));
            }
            Found::Newer { .. } => panic!("every version keeps its header"),
        });
        for (offset, length, version) in frames {
            put_version(&mut bytes[offset..offset + length], version);
        }
        std::fs::write(&log, bytes).unwrap();
    }
    newer
}

fn logs(ground: Ground, dir: &Path) -> Vec<std::path::PathBuf> {
    let is_segments = ground == Ground::Segments;
    let Ok(entries) = std::fs::read_dir(dir.join(if is_segments { "segments" } else { "queue" })) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let logs = paths.map(|path| if is_segments { path } else { path.join("db") });
    logs.filter(|path| path.is_file() && !path.to_string_lossy().contains("state-")).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Flush,
    Read(usize),
    Ack(u8),
    Rewind,
    Split(u64),
    Wait(u64),
    Restart,
    Crash,
    /// A start of an agent that can open only some of the blocks.
    Rollback {
        seed: u64,
        one_in: u64,
        crash: bool,
    },
    /// A start of one that can open all.
    Upgrade {
        crash: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..40_usize).prop_map(Step::Push),
        4 => Just(Step::Flush),
        5 => (1..30_usize).prop_map(Step::Read),
        4 => (0..=100_u8).prop_map(Step::Ack),
        1 => Just(Step::Rewind),
        1 => (50..4_000_u64).prop_map(Step::Split),
        1 => (1..6_000_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        2 => (any::<u64>(), 1..6_u64, any::<bool>())
            .prop_map(|(seed, one_in, crash)| Step::Rollback { seed, one_in, crash }),
        1 => any::<bool>().prop_map(|crash| Step::Upgrade { crash }),
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
    /// First and last positions of the blocks that cannot be opened.
    newer: BTreeSet<(Position, Position)>,
}

impl World {
    fn new(ground: Ground, newest_first: bool, dir: &Path) -> Self {
        let (disk, clock) = (Disk::default(), Clock::default());
        let settings = settings(&[("one", Durability::Window)], 1 << 20, dir);
        let queue = ground.start(&disk, &settings, &clock);
        Self {
            ground,
            disk,
            clock,
            settings,
            queue,
            reader: Reader::new(ONE, newest_first),
            given: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            ever_acknowledged: BTreeSet::new(),
            read: BTreeSet::new(),
            may_be_lost: BTreeSet::new(),
            newer: BTreeSet::new(),
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Push(records) => {
                for _ in 0..records {
                    let count = self.given.len() as u64;
                    let Pushed::Queued(position) = self.queue.push(ONE, record(count)).unwrap() else { panic!() };
                    assert_eq!(self.given.insert(position, count), None, "given once");
                }
            }
            Step::Flush => self.queue.flush().unwrap(),
            Step::Read(records) => {
                for record in read(&mut self.reader, &self.queue, records) {
                    let position = record.position;
                    assert_eq!(self.given.get(&position), Some(&number(&record)), "{position} holds what was pushed");
                    assert_eq!(record.skipped, 0, "nothing was removed");
                    assert!(!self.acknowledged.contains(&position), "{position} is done");
                    let is_newer = self.newer.iter().any(|(first, last)| *first <= position && position <= *last);
                    assert!(!is_newer, "{position} cannot be opened");
                    self.read.insert(position);
                }
            }
            Step::Ack(share) => {
                let acknowledged = self.reader.ack(&self.queue, share);
                self.acknowledged.extend(acknowledged.iter().copied());
                self.ever_acknowledged.extend(acknowledged);
            }
            Step::Rewind => drop(self.reader.rewind()),
            Step::Split(bytes) if self.reader.newest_first => self.reader.split(&self.queue, bytes),
            Step::Split(_) => {}
            Step::Wait(ms) => {
                self.clock.fetch_add(ms * 1_000_000, Ordering::SeqCst);
                self.queue.tick();
            }
            Step::Restart => self.restart(false, None),
            Step::Crash => self.restart(true, None),
            Step::Rollback { seed, one_in, crash } => self.restart(crash, Some((seed, one_in))),
            Step::Upgrade { crash } => self.restart(crash, Some((0, u64::MAX))),
        }
        let lanes = self.queue.lanes(ONE).unwrap();
        assert!(lanes.pairs().len() <= 16);
        let may_be_done = |at: &Position| self.ever_acknowledged.contains(at) || self.may_be_lost.contains(at);
        assert!(self.given.keys().all(|at| !lanes.is_done(*at) || may_be_done(at)), "{lanes:?} after {step:?}");
    }

    /// `versions`: which of the blocks can be opened from now on; `None`: those that could before.
    fn restart(&mut self, crash: bool, versions: Option<(u64, u64)>) {
        if crash {
            self.queue.abandon().unwrap();
            let safe = *self.queue.safe_through(ONE).borrow();
            self.may_be_lost.extend(self.given.keys().filter(|position| Some(**position) > safe));
        } else {
            self.queue.close().unwrap();
        }
        if let Some((seed, one_in)) = versions {
            let is_newer = |header: &Header| {
                one_in < u64::MAX
                    && (header.first.packed() ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40 < (1 << 24) / one_in
            };
            self.newer = change_versions(self.ground, &self.disk, &self.settings.dir, is_newer);
        }
        self.queue = self.ground.start(&self.disk, &self.settings, &self.clock);
        self.reader.rewind();
        if crash {
            // What was acknowledged and not durable may come again.
            let lanes = self.queue.lanes(ONE).unwrap();
            self.acknowledged.retain(|position| lanes.is_done(*position));
        }
    }

    fn drain(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "lanes come to an end: {:?}", self.queue.lanes(ONE));
            let before = self.read.len();
            self.apply(&Step::Read(50));
            let idle = self.reader.is_idle();
            self.apply(&Step::Ack(100));
            if idle && before == self.read.len() {
                return;
            }
        }
    }

    fn finish(mut self) {
        self.drain();
        let unread = |at: &&Position| !self.ever_acknowledged.contains(at) && !self.may_be_lost.contains(at);
        let is_newer = |at: &Position| self.newer.iter().any(|(first, last)| first <= at && at <= last);
        if self.queue.lanes(ONE).unwrap().pairs().len() < 14 {
            assert!(self.given.keys().filter(unread).all(is_newer), "what can be opened is delivered around the rest");
        }
        self.restart(false, Some((0, u64::MAX)));
        self.drain();
        for position in self.given.keys() {
            assert!(self.read.contains(position) || self.may_be_lost.contains(position), "{position} is lost");
        }
        assert_eq!(self.queue.lanes(ONE).unwrap().pairs().len(), 1);
        let status = &self.queue.status().streams[0];
        assert_eq!((status.records, status.bytes, status.newer_records), (0, 0, 0));
        self.queue.close().unwrap();
        assert!(self.ground.is_empty(&self.disk, &self.settings.dir), "what is delivered leaves the disk");
    }
}

/// Reads a batch; nothing where there is no lane for a newer block.
fn read(reader: &mut Reader, queue: &Queue, records: usize) -> Vec<Record> {
    match reader.read(queue, records) {
        Err(PeekError::NewerVersion { version, .. }) => {
            assert_eq!(version, NEWER);
            assert!(queue.lanes(ONE).unwrap().pairs().len() >= 14, "there is room to read over it");
            Vec::new()
        }
        read => read.unwrap(),
    }
}

fn run(ground: Ground, newest_first: bool, steps: &[Step]) {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(ground, newest_first, dir.path());
    for step in steps {
        world.apply(step);
    }
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::trials(300), ..ProptestConfig::default() })]

    #[test]
    fn whatever_cannot_be_opened_keeps_its_place(
        newest_first: bool, steps in proptest::collection::vec(step(), 1..80),
    ) {
        run(Ground::Memory, newest_first, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::trials(12), max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn newer_blocks_on_append_only_segments(
        newest_first: bool, steps in proptest::collection::vec(step(), 1..50),
    ) {
        run(Ground::Segments, newest_first, &steps);
    }

    #[test]
    fn newer_blocks_on_sled(newest_first: bool, steps in proptest::collection::vec(step(), 1..50)) {
        run(Ground::Epochs, newest_first, &steps);
    }
}

/// A block for each ten of these numbers.
fn fill(queue: &Queue, tens: std::ops::Range<u64>) {
    for ten in tens {
        for n in ten * 10..(ten + 1) * 10 {
            queue.push(ONE, record(n)).unwrap();
        }
        queue.flush().unwrap();
    }
}

fn take_all(queue: &Queue) -> Vec<u64> {
    let mut reader = Reader::new(ONE, false);
    let mut numbers = Vec::new();
    loop {
        let records = read(&mut reader, queue, 100);
        if records.is_empty() {
            return numbers;
        }
        numbers.extend(records.iter().map(number));
        reader.ack(queue, 100);
    }
}

/// The way of an A/B update: a newer agent runs through an outage, the older one comes back and delivers, is restarted
/// and killed, and the newer one comes back again.
#[test]
fn a_rollback_drains_around_what_the_newer_agent_wrote_and_the_next_upgrade_drains_that() {
    for ground in [Ground::Memory, Ground::Segments, Ground::Epochs] {
        let (disk, clock) = (Disk::default(), Clock::default());
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
        let queue = ground.start(&disk, &settings, &clock);
        fill(&queue, 0..3);
        queue.close().unwrap();
        let queue = ground.start(&disk, &settings, &clock);
        fill(&queue, 3..9);
        queue.abandon().unwrap();
        let newer = change_versions(ground, &disk, dir.path(), |header| header.first.run() == 2);
        assert_eq!(newer.len(), 6);
        let queue = ground.start(&disk, &settings, &clock);
        fill(&queue, 9..11);
        let around: Vec<u64> = (0..30).chain(90..110).collect();
        assert_eq!(take_all(&queue), around, "{ground:?}");
        let lanes = queue.lanes(ONE).unwrap();
        let apart = (Position::new(2, 0), Position::new(2, 60));
        assert_eq!((lanes.pairs()[0], lanes.pairs().len()), (apart, 2), "neighbours share a lane");
        let status = queue.status().streams[0].clone();
        assert_eq!((status.records, status.newer_records), (60, 60));
        for crash in [false, true] {
            if crash { queue.abandon().unwrap() } else { queue.close().unwrap() }
        }
        let queue = ground.start(&disk, &settings, &clock);
        assert_eq!(queue.lanes(ONE).unwrap().pairs()[0], apart, "it is durable");
        fill(&queue, 11..12);
        assert_eq!(take_all(&queue), (110..120).collect::<Vec<u64>>());
        queue.close().unwrap();
        change_versions(ground, &disk, dir.path(), |_| false);
        let queue = ground.start(&disk, &settings, &clock);
        fill(&queue, 12..13);
        assert_eq!(take_all(&queue), (30..90).chain(120..130).collect::<Vec<u64>>(), "{ground:?}");
        queue.close().unwrap();
        assert!(ground.is_empty(&disk, dir.path()));
    }
}

#[test]
fn one_order_keeps_what_follows_behind_a_newer_block() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
    let queue = start(&disk, &settings, &clock).0;
    fill(&queue, 0..3);
    queue.close().unwrap();
    change_versions(Ground::Memory, &disk, dir.path(), |header| header.first.seq() == 10);
    let queue = start(&disk, &settings, &clock).0;
    let limit = Limit { records: 100, bytes: 1 << 20 };
    let before = queue.peek(ONE, None, limit).unwrap().unwrap().records;
    assert_eq!(before.iter().map(|record| number(record)).collect::<Vec<_>>(), (0..10).collect::<Vec<u64>>());
    queue.ack(ONE, Position::new(1, 9));
    let (first, last) = (Position::new(1, 10), Position::new(1, 19));
    for after in [None, Some(Position::new(1, 9))] {
        let error = queue.peek(ONE, after, limit).unwrap_err();
        assert!(
            matches!(error, PeekError::NewerVersion { version: NEWER, first: f, last: l, .. } if (f, l) == (first, last))
        );
    }
    queue.close().unwrap();
    change_versions(Ground::Memory, &disk, dir.path(), |_| false);
    let queue = start(&disk, &settings, &clock).0;
    assert_eq!(drain(&queue, ONE).iter().map(number).collect::<Vec<_>>(), (10..30).collect::<Vec<u64>>());
}

#[test]
fn the_quota_takes_newer_blocks_as_any_other_and_counts_them() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("queue")).unwrap();
    let settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
    let queue = start(&disk, &settings, &clock).0;
    fill(&queue, 0..6);
    queue.close().unwrap();
    change_versions(Ground::Memory, &disk, dir.path(), |header| header.first.seq() < 50);
    disk.with(|platter| platter.epochs_max = Some(2));
    let (queue, metrics) = start(&disk, &settings, &clock);
    assert_eq!(take_all(&queue), (50..60).collect::<Vec<u64>>());
    assert_eq!(queue.status().streams[0].newer_records, 50);
    // Five blocks of the newer agent are left; with one more the disk is full, and an epoch of three goes.
    fill(&queue, 6..8);
    let label = ByStreamAndReason { stream: "one".to_owned(), reason: "quota" };
    assert_eq!(metrics.records_dropped.get_or_create(&label).get(), 30);
    assert_eq!(queue.status().streams[0].newer_records, 20);
    queue.close().unwrap();
    disk.with(|platter| platter.epochs_max = None);
    change_versions(Ground::Memory, &disk, dir.path(), |_| false);
    let queue = start(&disk, &settings, &clock).0;
    let rest = drain(&queue, ONE);
    assert_eq!(rest.iter().map(number).collect::<Vec<_>>(), (30..50).chain(60..80).collect::<Vec<u64>>());
    assert_eq!(rest.iter().map(|record| record.skipped).sum::<u64>(), 30, "those dropped, told once");
}

/// Every other block is of a newer agent: there are not lanes enough, and what cannot have one holds the stream.
#[test]
fn where_lanes_are_used_up_the_stream_waits_and_nothing_is_lost() {
    for ground in [Ground::Memory, Ground::Epochs] {
        let (disk, clock) = (Disk::default(), Clock::default());
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
        let queue = ground.start(&disk, &settings, &clock);
        fill(&queue, 0..60);
        queue.close().unwrap();
        change_versions(ground, &disk, dir.path(), |header| header.first.seq() % 20 == 0);
        let mut delivered = Vec::new();
        for _ in 0..3 {
            // Each start finds the lanes again.
            let queue = ground.start(&disk, &settings, &clock);
            delivered.extend(take_all(&queue));
            assert!(queue.lanes(ONE).unwrap().pairs().len() >= 15);
            let waits = queue.peek_lane(ONE, Position::ZERO, Position::END, Limit { records: 1, bytes: 1 });
            let error = waits.unwrap_err().to_string();
            assert!(error.contains("wait for a newer forebay: too many parts"), "{error}");
            queue.close().unwrap();
        }
        change_versions(ground, &disk, dir.path(), |_| false);
        let queue = ground.start(&disk, &settings, &clock);
        delivered.extend(drain(&queue, ONE).iter().map(number));
        delivered.sort_unstable();
        assert_eq!(delivered, (0..600).collect::<Vec<u64>>(), "{ground:?}");
    }
}
