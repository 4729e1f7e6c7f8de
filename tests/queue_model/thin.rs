//! Thinning: outages much longer than the queue is large leave a coarser history of original records without a hole, and
//! what is gone is said to the record.

use forebay::config::{Durability, WhenFull};
use forebay::metrics::{ByStream, ByStreamAndReason, Metrics};
use forebay::queue::{Limit, NewRecord, Queue, Settings, StreamIndex};
use forebay::reading::{Field, Record, Stamp, Trust, Value};
use proptest::prelude::*;

use super::ground::Ground;
use super::memory::{Clock, Disk, settings, start};
use super::{drain, number};

pub const TELEMETRY: StreamIndex = StreamIndex(0);
const ALARMS: StreamIndex = StreamIndex(1);
const DEVICES: u64 = 3;
const ALL: Limit = Limit { records: 100, bytes: usize::MAX };

/// Reading `n` of a plant with three devices, one reading a second: a slow wave, a pump that is switched now and then, a
/// spike up or down every 997 readings.
pub fn reading(n: u64) -> NewRecord {
    let wave = ((n % 360) as f64).to_radians().sin();
    let spike = match n % 1994 {
        500 => 1_000.0 + n as f64,
        1497 => -1_000.0 - n as f64,
        _ => 0.0,
    };
    NewRecord {
        stamp: Stamp { boot_ns: n * 1_000_000_000, wall_us: n as i64 * 1_000_000, trust: Trust::Ntp },
        source: "plant".into(),
        device: format!("device-{}", n % DEVICES).into(),
        fields: vec![
            Field::new("number", Value::Unsigned(n)),
            Field::new("temperature_c", Value::float(wave + spike)),
            Field::new("pump_on", Value::Bool(n % 6_000 < 3_000)),
            Field::new("state", Value::Text(format!("phase {}", n / 20_000))),
        ],
    }
}

fn is_spike(n: u64) -> bool {
    n % 1994 == 500 || n % 1994 == 1497
}

pub fn thinning(dir: &std::path::Path, size_bytes: u64) -> Settings {
    let mut settings = settings(&[("telemetry", Durability::Window), ("alarms", Durability::Window)], 1 << 20, dir);
    settings.queue.quota_bytes = Some(16 << 20);
    settings.streams[TELEMETRY.0].retention.size_bytes = Some(size_bytes);
    settings.streams[TELEMETRY.0].retention.when_full = WhenFull::Thin;
    settings
}

pub fn is_original(record: &Record) -> bool {
    let wanted = reading(number(record));
    (&wanted.stamp, &wanted.source, &wanted.device, &wanted.fields)
        == (&record.stamp, &record.source, &record.device, &record.fields)
}

/// Every device has a survivor in every tenth of the time, and every spike is still there.
fn assert_history(got: &[Record], pushed: u64) {
    let kept: std::collections::BTreeSet<u64> = got.iter().map(number).collect();
    for tenth in 0..10 {
        let range = pushed * tenth / 10..pushed * (tenth + 1) / 10;
        for device in 0..DEVICES {
            assert!(kept.range(range.clone()).any(|n| n % DEVICES == device), "device {device} in {range:?}");
        }
    }
    let lost: Vec<u64> = (0..pushed).filter(|n| is_spike(*n) && !kept.contains(n)).collect();
    assert!(lost.is_empty(), "spikes {lost:?} are gone");
}

/// Ten times what the stream may take, in groups as an outage brings them.
fn long_outage(ground: Ground, size_bytes: u64, readings: u64) {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let settings = thinning(dir.path(), size_bytes);
    let queue = ground.start(&disk, &settings, &clock);
    let mut bytes = 0;
    for n in 0..readings {
        let record = reading(n);
        bytes += 60 + record.fields.len() as u64 * 10;
        queue.push(TELEMETRY, record).unwrap();
        if n % 500 == 499 {
            queue.flush().unwrap();
            let held = queue.status().streams[TELEMETRY.0].bytes;
            assert!(held <= size_bytes, "{held} bytes held");
        }
    }
    assert!(bytes > 10 * size_bytes);
    queue.flush().unwrap();
    queue.abandon().unwrap();
    let queue = ground.start(&disk, &settings, &clock);
    // Once something is read the blocks are known.
    queue.peek(TELEMETRY, None, Limit { records: 1, bytes: 1 }).unwrap();
    let held = queue.status().streams[TELEMETRY.0].records;
    let got = drain(&queue, TELEMETRY);
    assert!(got.iter().all(is_original));
    assert!(got.windows(2).all(|two| two[0].position < two[1].position));
    assert_eq!(got.len() as u64, held, "what was counted is what there is");
    let skipped: u64 = got.iter().map(|record| record.skipped).sum();
    let thinned: u64 = got.iter().map(|record| record.thinned).sum();
    assert_eq!((got.len() as u64 + skipped, thinned), (readings, skipped), "all that is gone was thinned");
    assert_history(&got, readings);
    queue.close().unwrap();
}

#[test]
fn a_long_outage_leaves_a_coarser_history_without_a_hole() {
    long_outage(Ground::Memory, 256 * 1024, 40_000);
}

#[test]
fn the_same_on_append_only_segments() {
    long_outage(Ground::Segments, 256 * 1024, 40_000);
}

#[test]
fn the_same_on_sled() {
    long_outage(Ground::Epochs, 900 * 1024, 100_000);
}

pub fn count(metrics: &Metrics) -> (u64, u64) {
    let of = |reason| {
        metrics.records_dropped.get_or_create(&ByStreamAndReason { stream: "telemetry".to_owned(), reason }).get()
    };
    let thinned = metrics.records_thinned.get_or_create(&ByStream { stream: "telemetry".to_owned() }).get();
    (thinned, of("quota") + of("size") + of("tail_full") + of("age"))
}

pub fn push(queue: &Queue, readings: std::ops::Range<u64>) {
    for n in readings {
        queue.push(TELEMETRY, reading(n)).unwrap();
        if n % 200 == 199 {
            queue.flush().unwrap();
        }
    }
    queue.flush().unwrap();
}

#[test]
fn the_quota_is_kept_by_thinning_and_nothing_is_dropped() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let mut settings = thinning(dir.path(), 1 << 30);
    settings.streams[TELEMETRY.0].retention.size_bytes = None;
    disk.with(|platter| platter.bytes_max = Some(1 << 20));
    let (queue, metrics) = start(&disk, &settings, &clock);
    push(&queue, 0..40_000);
    let status = queue.status();
    assert!(status.disk_bytes <= status.quota_bytes, "{} of {}", status.disk_bytes, status.quota_bytes);
    let got = drain(&queue, TELEMETRY);
    let (thinned, dropped) = count(&metrics);
    assert!(thinned > 10_000 && dropped == 0, "{thinned} thinned, {dropped} dropped");
    assert_eq!(queue.status().streams[TELEMETRY.0].records, 0);
    assert_eq!(got.iter().map(|record| record.thinned).sum::<u64>(), thinned);
    assert_history(&got, 40_000);
}

#[test]
fn it_begins_before_the_limit_while_there_is_nothing_else_to_do() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let size = 256 * 1024;
    let (queue, metrics) = start(&disk, &thinning(dir.path(), size), &clock);
    let mut pushed = 0;
    while queue.status().streams[TELEMETRY.0].bytes <= size / 100 * 87 {
        assert_eq!(count(&metrics), (0, 0), "below 85 % nothing is thinned");
        push(&queue, pushed..pushed + 50);
        pushed += 50;
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while queue.status().streams[TELEMETRY.0].bytes > size / 100 * 85 {
        assert!(std::time::Instant::now() < deadline, "it does not begin");
        std::thread::yield_now();
    }
    assert!(count(&metrics).0 > 0);
    let got = drain(&queue, TELEMETRY);
    assert_eq!(got.len() as u64 + got.iter().map(|record| record.thinned).sum::<u64>(), pushed);
}

#[test]
fn what_the_uplink_was_given_is_not_thinned() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &thinning(dir.path(), 64 * 1024), &clock);
    push(&queue, 0..600);
    let given = queue.peek(TELEMETRY, None, ALL).unwrap().unwrap().records;
    push(&queue, 600..10_000);
    assert!(count(&metrics).0 > 1_000);
    let again = queue.peek(TELEMETRY, None, ALL).unwrap().unwrap().records;
    // It may be dropped as a whole, yet what is left of it is as it was.
    let first = again[0].position;
    let expected: Vec<u64> =
        given.iter().filter(|record| record.position >= first).map(|record| number(record)).collect();
    assert_eq!(again.iter().map(|record| number(record)).collect::<Vec<_>>()[..expected.len()], expected[..]);
    assert!(!expected.is_empty());
    let got = drain(&queue, TELEMETRY);
    assert_eq!(got.len() as u64 + got.iter().map(|record| record.skipped).sum::<u64>(), 10_000);
}

#[test]
fn where_there_is_too_little_room_for_a_tenth_each_the_oldest_are_dropped_and_counted() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    // Fewer than 300 records fit, ten intervals of three devices may need as many.
    let (queue, metrics) = start(&disk, &thinning(dir.path(), 16 * 1024), &clock);
    push(&queue, 0..20_000);
    let (thinned, dropped) = count(&metrics);
    assert!(thinned > 0 && dropped > 0, "{thinned} thinned, {dropped} dropped");
    let got = drain(&queue, TELEMETRY);
    let skipped: u64 = got.iter().map(|record| record.skipped).sum();
    assert_eq!(got.len() as u64 + skipped, 20_000);
    assert!(got.iter().map(|record| record.thinned).sum::<u64>() <= skipped);
}

#[test]
fn a_stream_that_drops_beside_it_gives_its_share() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let mut settings = thinning(dir.path(), 1 << 30);
    settings.streams[TELEMETRY.0].retention.size_bytes = None;
    let (queue, metrics) = start(&disk, &settings, &clock);
    disk.with(|platter| platter.epochs_max = Some(30));
    for part in 0..100 {
        push(&queue, part * 200..part * 200 + 200);
        for n in 0..600 {
            queue.push(ALARMS, reading(part * 600 + n)).unwrap();
        }
        queue.flush().unwrap();
    }
    let held: Vec<u64> = queue.status().streams.iter().map(|stream| stream.bytes).collect();
    assert!(held[0] * 3 > held[1], "{held:?}: it was not thinned to nothing");
    assert!(count(&metrics).0 > 0);
    let got = drain(&queue, TELEMETRY);
    assert_eq!(got.len() as u64 + got.iter().map(|record| record.skipped).sum::<u64>(), 20_000);
}

#[derive(Debug, Clone)]
enum Step {
    Push { readings: u64 },
    Take { records: usize },
    Flush,
    Restart,
    Crash,
    FailRewrites(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..120_u64).prop_map(|readings| Step::Push { readings }),
        2 => (1..60_usize).prop_map(|records| Step::Take { records }),
        4 => Just(Step::Flush),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        1 => any::<bool>().prop_map(Step::FailRewrites),
    ]
}

/// What came through.
#[derive(Default)]
struct Seen {
    records: u64,
    skipped: u64,
    last: Option<u64>,
}

fn take(queue: &Queue, records: usize, seen: &mut Seen) -> bool {
    let Some(batch) = queue.peek(TELEMETRY, None, Limit { records, bytes: usize::MAX }).unwrap() else { return false };
    for record in &batch.records {
        assert!(is_original(record), "{record:?}");
        assert!(seen.last.is_none_or(|last| last < number(record)), "order holds");
        assert!(record.thinned <= record.skipped);
        seen.last = Some(number(record));
        seen.skipped += record.skipped;
    }
    seen.records += batch.records.len() as u64;
    queue.ack(TELEMETRY, batch.records[batch.records.len() - 1].position);
    true
}

/// Whatever happens, what comes through is original, in order, and tells of all that does not.
fn account(ground: Ground, size_bytes: u64, scale: u64, steps: &[Step]) {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let settings = thinning(dir.path(), size_bytes);
    let mut queue = ground.start(&disk, &settings, &clock);
    let (mut pushed, mut seen, mut taken) = (0, Seen::default(), false);
    for step in steps {
        match *step {
            Step::Push { readings } => {
                for n in pushed..pushed + readings * scale {
                    queue.push(TELEMETRY, reading(n)).unwrap();
                }
                pushed += readings * scale;
            }
            Step::Take { records } => taken |= take(&queue, records * scale as usize, &mut seen),
            Step::Flush => queue.flush().unwrap(),
            Step::FailRewrites(fail) => disk.with(|platter| platter.failing_reclaims = fail),
            Step::Restart => {
                queue.close().unwrap();
                queue = ground.start(&disk, &settings, &clock);
                taken = false;
            }
            Step::Crash => {
                if taken {
                    // With the cursor durable, or the same records would rightly be seen twice.
                    queue.close().unwrap();
                    queue = ground.start(&disk, &settings, &clock);
                    taken = false;
                }
                queue.flush().unwrap();
                queue.abandon().unwrap();
                queue = ground.start(&disk, &settings, &clock);
            }
        }
    }
    // A bearer for marks that have none yet.
    queue.push(TELEMETRY, reading(pushed)).unwrap();
    while take(&queue, 50, &mut seen) {}
    assert_eq!(seen.records + seen.skipped, pushed + 1);
    queue.close().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn thinned_records_are_told_of_once(
        size in 4_000..40_000_u64, steps in proptest::collection::vec(step(), 1..60),
    ) {
        account(Ground::Memory, size, 1, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn the_same_history_on_append_only_segments(steps in proptest::collection::vec(step(), 1..40)) {
        account(Ground::Segments, 40_000, 2, &steps);
    }

    #[test]
    fn the_same_history_on_sled(steps in proptest::collection::vec(step(), 1..40)) {
        account(Ground::Epochs, 900_000, 20, &steps);
    }
}
