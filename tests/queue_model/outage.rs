//! The longer window of an outage: when it holds, when it ends, and how large a group may grow in it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay::config::Durability;
use forebay::queue::{Limit, NewRecord, Queue, StreamIndex};
use forebay::reading::{Field, Position, Value};

use super::memory::{Clock, Disk, settings, start};
use super::record;

const ONE: StreamIndex = StreamIndex(0);
/// Longer than anything takes that is not stuck.
const LONG: Duration = Duration::from_secs(30);

struct World {
    disk: Disk,
    clock: Clock,
    queue: Queue,
    _dir: tempfile::TempDir,
}

impl World {
    /// A window of 1 s, of 60 s in an outage; two blocks on disk, which [`World::let_store_work`] reads.
    fn new() -> Self {
        let (disk, clock) = (Disk::default(), Clock::default());
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
        settings.queue.window_outage = Duration::from_secs(60);
        let queue = start(&disk, &settings, &clock).0;
        for n in 0..2 {
            queue.push(ONE, record(n)).unwrap();
            queue.flush().unwrap();
        }
        Self { disk, clock, queue, _dir: dir }
    }

    fn push(&self, bytes: usize) -> Position {
        let text = Field::new("text", Value::Text("x".repeat(bytes)));
        let pushed = self.queue.push(ONE, NewRecord { fields: vec![text], ..record(0) }).unwrap();
        let forebay::queue::Pushed::Queued(position) = pushed else { panic!("a small record is queued") };
        position
    }

    fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms * 1_000_000, Ordering::SeqCst);
        self.queue.tick();
    }

    /// The store thread reads only when nothing is due to be sealed, and each of these reads needs it: a block is
    /// kept decoded until the next one takes its place.
    fn let_store_work(&self) {
        for after in [None, Some(Position::new(1, 0)), None] {
            let batch = self.queue.peek(ONE, after, Limit { records: 1, bytes: 1 }).unwrap();
            assert_eq!(batch.map(|batch| batch.records.len()), Some(1));
        }
    }

    fn window_s(&self) -> u64 {
        self.queue.status().window.as_secs()
    }

    fn blocks(&self) -> usize {
        self.disk.with(|platter| platter.appended_blocks)
    }

    fn wait_until_durable(&self, position: Position) {
        let mut safe = self.queue.safe_through(ONE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let durable =
            async { tokio::time::timeout(LONG, safe.wait_for(|safe| *safe >= Some(position))).await.map(drop) };
        assert!(runtime.block_on(durable).is_ok(), "{position} is not written");
    }
}

#[test]
fn after_a_minute_without_uplink_the_longer_window_holds_until_it_returns() {
    let world = World::new();
    world.pass(59_000);
    let first = world.push(10);
    world.pass(500);
    world.wait_until_durable(first);
    world.pass(1_000);
    let second = world.push(10);
    world.pass(29_000);
    world.let_store_work();
    assert_eq!(world.blocks(), 3, "nothing is due in the longer window");
    assert_eq!((world.queue.status().undurable_age, world.window_s()), (Duration::from_secs(29), 60));
    world.pass(1_000);
    world.wait_until_durable(second);
    let third = world.push(10);
    world.pass(20_000);
    world.let_store_work();
    assert_eq!(world.blocks(), 4);
    world.queue.set_uplink_up(true);
    assert_eq!(world.window_s(), 60, "what waited for it may be in memory still");
    world.wait_until_durable(third);
    world.pass(30_000);
    assert_eq!(world.window_s(), 1);
}

#[test]
fn in_an_outage_a_group_of_64_kib_does_not_wait_for_the_window() {
    let world = World::new();
    world.pass(61_000);
    let mut last = world.push(1_000);
    for _ in 0..59 {
        last = world.push(1_000);
    }
    world.let_store_work();
    assert_eq!(world.blocks(), 2, "less than a group");
    for _ in 0..10 {
        world.push(1_000);
    }
    world.wait_until_durable(last);
}
