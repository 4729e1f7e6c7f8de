//! Thinning beside newest-first delivery: each lane gives way where nobody has read, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use forebay::queue::{Limit, Queue};
use forebay::reading::Position;
use proptest::prelude::*;

use super::memory::{Clock, Disk, start};
use super::reader::Reader;
use super::thin::{TELEMETRY, count, is_original, push, reading, thinning};

#[derive(Debug, Clone)]
enum LaneStep {
    Push { readings: u64 },
    Flush,
    Split { bytes: u64 },
    Read { records: usize },
    Ack { percent: u8 },
    Rewind,
    Restart,
}

fn lane_step() -> impl Strategy<Value = LaneStep> {
    prop_oneof![
        6 => (1..400_u64).prop_map(|readings| LaneStep::Push { readings }),
        4 => Just(LaneStep::Flush),
        3 => (100..8_000_u64).prop_map(|bytes| LaneStep::Split { bytes }),
        3 => (1..30_usize).prop_map(|records| LaneStep::Read { records }),
        2 => (0..=100_u8).prop_map(|percent| LaneStep::Ack { percent }),
        1 => Just(LaneStep::Rewind),
        1 => Just(LaneStep::Restart),
    ]
}

/// What came through of several lanes: each record once.
#[derive(Default)]
struct Apart {
    reader: Option<Reader>,
    /// What was read last of each, and not acknowledged: `skipped` of a record may grow until then.
    skipped: BTreeMap<Position, u64>,
    acknowledged: BTreeMap<Position, u64>,
    /// Read and given back: nothing of it may be thinned in this run.
    given: BTreeSet<Position>,
}

impl Apart {
    fn reader(&mut self) -> &mut Reader {
        self.reader.get_or_insert_with(|| Reader::new(TELEMETRY, true))
    }

    fn read(&mut self, queue: &Queue, records: usize) -> bool {
        let read = self.reader().read(queue, records).unwrap();
        for record in &read {
            assert!(is_original(record), "{record:?}");
            assert!(record.thinned <= record.skipped);
            assert!(!self.acknowledged.contains_key(&record.position), "{} is done", record.position);
            self.given.remove(&record.position);
            self.skipped.insert(record.position, record.skipped);
        }
        !read.is_empty()
    }

    fn ack(&mut self, queue: &Queue, percent: u8) {
        for position in self.reader().ack(queue, percent) {
            // One that was dropped in flight is told of by another.
            self.acknowledged.extend(self.skipped.remove(&position).map(|skipped| (position, skipped)));
        }
    }

    fn rewind(&mut self) {
        let given = self.reader().rewind();
        self.given.extend(given);
        self.skipped.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// The newest lane first, while those behind it are thinned: what was read stays as it is, what comes through is
    /// original, and tells of all that does not.
    #[test]
    fn lanes_are_thinned_where_nobody_has_read(
        size in 10_000..40_000_u64, steps in proptest::collection::vec(lane_step(), 1..60),
    ) {
        let (disk, clock) = (Disk::default(), Clock::default());
        let dir = tempfile::tempdir().unwrap();
        let settings = thinning(dir.path(), size);
        let (mut queue, mut metrics) = start(&disk, &settings, &clock);
        let (mut pushed, mut dropped, mut apart) = (0, 0, Apart::default());
        for step in steps {
            match step {
                LaneStep::Push { readings } => {
                    for n in pushed..pushed + readings {
                        queue.push(TELEMETRY, reading(n)).unwrap();
                    }
                    pushed += readings;
                }
                LaneStep::Flush => queue.flush().unwrap(),
                LaneStep::Split { bytes } => apart.reader().split(&queue, bytes),
                LaneStep::Read { records } => { apart.read(&queue, records); }
                LaneStep::Ack { percent } => apart.ack(&queue, percent),
                LaneStep::Rewind => apart.rewind(),
                LaneStep::Restart => {
                    queue.close().unwrap();
                    // What it held goes to the disk as it ends, and may be too much.
                    dropped += count(&metrics).1;
                    (queue, metrics) = start(&disk, &settings, &clock);
                    apart.rewind();
                    apart.given.clear();
                }
            }
        }
        apart.rewind();
        // A bearer for marks that have none yet.
        queue.push(TELEMETRY, reading(pushed)).unwrap();
        // The store writes a large tail at a time of its own, and may have to drop what was read.
        queue.flush().unwrap();
        // What had to be dropped went whole; all that is left was not touched.
        let lanes = queue.lanes(TELEMETRY).unwrap();
        apart.given.retain(|position| !lanes.is_done(*position));
        let mut rounds = 0;
        while apart.read(&queue, 50) || queue.lanes(TELEMETRY).unwrap().pairs().len() > 1 {
            apart.ack(&queue, 100);
            rounds += 1;
            prop_assert!(rounds < 10_000);
        }
        prop_assert!(apart.given.is_empty(), "{:?} were read and are gone", apart.given);
        dropped += count(&metrics).1;
        let told: u64 = apart.acknowledged.values().sum();
        // A record that was dropped on its way has told its marks already, and another tells them again.
        prop_assert!(dropped > 0 || apart.acknowledged.len() as u64 + told == pushed + 1);
        queue.close().unwrap();
    }
}

/// With many records waiting, both lanes are thinned: the one that waits for history as well.
#[test]
fn the_older_lane_is_thinned_too() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &thinning(dir.path(), 64 * 1024), &clock);
    push(&queue, 0..1_500);
    assert_eq!(count(&metrics), (0, 0));
    let mut reader = Reader::new(TELEMETRY, true);
    reader.split(&queue, 2_000);
    let first = reader.read(&queue, 5).unwrap()[0].position;
    assert!(first.seq() > 1_000, "{first}");
    push(&queue, 1_500..6_000);
    let (thinned, dropped) = count(&metrics);
    assert!(thinned > 1_000 && dropped == 0, "{thinned} thinned, {dropped} dropped");
    let mut records = 0;
    let mut from = Position::ZERO;
    while let Some(batch) =
        queue.peek_lane(TELEMETRY, from, first, Limit { records: 10_000, bytes: usize::MAX }).unwrap()
    {
        records += batch.records.len() as u64;
        from = batch.records.last().unwrap().position.next();
    }
    assert!(records * 2 < first.seq(), "{records} are left of {} before {first}", first.seq());
}
