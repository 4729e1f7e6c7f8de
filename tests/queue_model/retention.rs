//! What each stream gives up when there is no room, and by age: refusals, sizes, priorities, ages; all accounted for.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay::config::{Durability, Retention, WhenFull};
use forebay::metrics::{ByStreamAndReason, Metrics};
use forebay::queue::{Limit, NewRecord, Newest, PushError, Pushed, Queue, Settings, StreamIndex};
use forebay::reading::{Position, Stamp, Trust};
use proptest::prelude::*;

use super::memory::{Clock, Disk, settings, start, start_in_boot};
use super::{drain, number, record};

const LOW: StreamIndex = StreamIndex(0);
const HIGH: StreamIndex = StreamIndex(1);
const STRICT: StreamIndex = StreamIndex(2);
const STREAMS: usize = 3;

/// `low` and `high` drop their oldest, `strict` refuses.
fn three_streams(dir: &std::path::Path) -> Settings {
    let names = [("low", Durability::Window), ("high", Durability::Window), ("strict", Durability::Window)];
    let mut settings = settings(&names, 32 * 1024, dir);
    settings.streams[HIGH.0].priority = 5;
    settings.streams[STRICT.0].retention.when_full = WhenFull::RejectNewest;
    settings
}

fn dropped(metrics: &Metrics, stream: &str, reason: &'static str) -> u64 {
    metrics.records_dropped.get_or_create(&ByStreamAndReason { stream: stream.to_owned(), reason }).get()
}

fn held(queue: &Queue, stream: StreamIndex) -> u64 {
    queue.status().streams[stream.0].records
}

#[test]
fn a_stream_that_rejects_refuses_at_its_size_and_takes_again_when_it_is_drained() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let mut settings = three_streams(dir.path());
    settings.streams[STRICT.0].retention.size_bytes = Some(2_000);
    let (queue, metrics) = start(&disk, &settings, &clock);
    let mut taken = 0;
    while let Ok(pushed) = queue.push(STRICT, record(taken)) {
        assert!(matches!(pushed, Pushed::Queued(_)));
        taken += 1;
        assert!(taken < 1_000, "2000 bytes are the limit");
    }
    let refused = queue.push(STRICT, record(taken)).unwrap_err();
    assert!(matches!(&refused, PushError::StreamFull { limit_bytes: 2_000, .. }), "{refused}");
    queue.push(LOW, record(0)).unwrap();
    let got = drain(&queue, STRICT);
    assert_eq!(got.iter().map(number).collect::<Vec<_>>(), (0..taken).collect::<Vec<_>>());
    assert!(got.iter().all(|record| record.skipped == 0));
    assert!(queue.push(STRICT, record(taken)).is_ok());
    assert_eq!(dropped(&metrics, "strict", "size"), 0);
}

#[test]
fn the_lowest_priority_gives_way_first_and_what_rejects_never_does() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &three_streams(dir.path()), &clock);
    disk.with(|platter| platter.epochs_max = Some(4));
    for n in 0..4 {
        for stream in [LOW, HIGH, STRICT] {
            queue.push(stream, record(n)).unwrap();
        }
        queue.flush().unwrap();
    }
    assert_eq!(dropped(&metrics, "low", "quota"), 0, "twelve blocks fit");
    queue.push(HIGH, record(4)).unwrap();
    queue.flush().unwrap();
    assert_eq!((dropped(&metrics, "low", "quota"), dropped(&metrics, "high", "quota")), (1, 0));
    for n in 5..30 {
        queue.push(HIGH, record(n)).unwrap();
        queue.flush().unwrap();
    }
    assert_eq!(dropped(&metrics, "low", "quota"), 4, "all of the lower priority goes before any of the higher");
    assert!(dropped(&metrics, "high", "quota") > 0);
    assert_eq!(held(&queue, STRICT), 4);
    queue.abandon().unwrap();
    let (queue, _) = start(&disk, &three_streams(dir.path()), &clock);
    queue.push(LOW, record(4)).unwrap();
    assert_eq!(drain(&queue, LOW)[0].skipped, 4);
    assert_eq!(drain(&queue, STRICT).iter().map(number).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn a_disk_full_of_what_rejects_refuses_more_of_it_and_leaves_the_others_their_share_of_memory() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &three_streams(dir.path()), &clock);
    disk.with(|platter| platter.epochs_max = Some(1));
    let mut taken = 0;
    while queue.push(STRICT, record(taken)).is_ok() {
        taken += 1;
        if taken <= 3 {
            queue.flush().unwrap();
        }
        assert!(taken < 10_000);
    }
    assert!(queue.flush().is_err(), "nothing may make room");
    for n in 0..50 {
        queue.push(LOW, record(n)).unwrap();
    }
    assert_eq!(dropped(&metrics, "strict", "tail_full") + dropped(&metrics, "low", "tail_full"), 0);
    disk.with(|platter| platter.epochs_max = None);
    queue.flush().unwrap();
    assert_eq!(drain(&queue, STRICT).len() as u64, taken);
    assert_eq!(drain(&queue, LOW).len(), 50);
}

#[test]
fn one_held_stream_does_not_pin_what_the_others_freed() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &three_streams(dir.path()), &clock);
    disk.with(|platter| platter.epochs_max = Some(3));
    // Every epoch holds one block of a stream that is not drained.
    for n in 0..3 {
        queue.push(HIGH, record(n)).unwrap();
        queue.flush().unwrap();
        for _ in 0..2 {
            queue.push(LOW, record(n)).unwrap();
            queue.flush().unwrap();
        }
    }
    drain(&queue, LOW);
    for n in 0..6 {
        queue.push(LOW, record(n)).unwrap();
        queue.flush().unwrap();
    }
    assert_eq!((dropped(&metrics, "low", "quota"), dropped(&metrics, "high", "quota")), (0, 0));
    assert_eq!((held(&queue, LOW), held(&queue, HIGH)), (6, 3));
}

#[test]
fn where_an_epoch_cannot_be_rewritten_it_is_given_up_whole_but_for_what_rejects() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &three_streams(dir.path()), &clock);
    disk.with(|platter| (platter.epochs_max, platter.failing_reclaims) = (Some(3), true));
    for n in 0..30 {
        queue.push(if n % 3 == 0 { LOW } else { HIGH }, record(n)).unwrap();
        queue.flush().unwrap();
    }
    let gone = dropped(&metrics, "low", "quota") + dropped(&metrics, "high", "quota");
    assert_eq!(gone + held(&queue, LOW) + held(&queue, HIGH), 30);
    assert!(dropped(&metrics, "high", "quota") > 0 && held(&queue, LOW) > 0, "epoch by epoch");
}

#[test]
fn a_disk_that_others_filled_costs_nothing_until_memory_is_used_up() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &three_streams(dir.path()), &clock);
    for n in 0..6 {
        queue.push(LOW, record(n)).unwrap();
        queue.flush().unwrap();
    }
    disk.with(|platter| platter.filled_by_others = true);
    for n in 6..20 {
        queue.push(LOW, record(n)).unwrap();
    }
    assert!(queue.flush().is_err());
    assert_eq!((dropped(&metrics, "low", "quota"), held(&queue, LOW)), (0, 20));
    disk.with(|platter| platter.filled_by_others = false);
    // It looks again by itself, within five seconds.
    let mut safe = queue.safe_through(LOW);
    clock.fetch_add(5_100_000_000, Ordering::SeqCst);
    queue.tick();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(safe.wait_for(|safe| safe.is_some_and(|safe| safe.seq() == 19))).unwrap();
    assert_eq!(drain(&queue, LOW).len(), 20);
}

#[test]
fn a_stream_that_is_not_configured_any_more_is_kept_while_there_is_room_and_goes_first() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    disk.with(|platter| platter.epochs_max = Some(3));
    let all = three_streams(dir.path());
    let (queue, _) = start(&disk, &all, &clock);
    for n in 0..3 {
        for stream in [HIGH, STRICT] {
            queue.push(stream, record(n)).unwrap();
            queue.flush().unwrap();
        }
    }
    queue.close().unwrap();
    let mut fewer = all.clone();
    fewer.streams.truncate(2);
    let (queue, metrics) = start(&disk, &fewer, &clock);
    for n in 0..4 {
        queue.push(LOW, record(n)).unwrap();
        queue.flush().unwrap();
    }
    let gone = dropped(&metrics, "strict", "quota");
    assert!(gone > 0 && dropped(&metrics, "low", "quota") == 0);
    queue.close().unwrap();
    let (queue, _) = start(&disk, &all, &clock);
    let got = drain(&queue, STRICT);
    assert_eq!(got.iter().map(number).collect::<Vec<_>>(), (gone..3).collect::<Vec<_>>());
    assert_eq!(got.iter().map(|record| record.skipped).sum::<u64>(), gone);
    assert_eq!(drain(&queue, HIGH).len(), 3);
}

#[test]
fn a_stream_keeps_within_its_own_size() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let mut settings = three_streams(dir.path());
    settings.streams[LOW.0].retention.size_bytes = Some(4_000);
    let (queue, metrics) = start(&disk, &settings, &clock);
    for n in 0..200 {
        queue.push(LOW, record(n)).unwrap();
        queue.push(HIGH, record(n)).unwrap();
        queue.flush().unwrap();
        assert!(queue.status().streams[LOW.0].bytes <= 4_000);
    }
    let gone = dropped(&metrics, "low", "size");
    assert!(gone > 100 && held(&queue, LOW) >= 10, "{gone} dropped, {} held", held(&queue, LOW));
    assert_eq!((gone + held(&queue, LOW), held(&queue, HIGH)), (200, 200));
    let got = drain(&queue, LOW);
    assert_eq!(got[0].skipped, gone);
    assert_eq!(number(&got[0]), gone);
}

fn measured(boot_s: u64, wall_s: i64, trust: Trust) -> NewRecord {
    NewRecord { stamp: Stamp { boot_ns: boot_s * 1_000_000_000, wall_us: wall_s * 1_000_000, trust }, ..record(boot_s) }
}

/// Moves the clock and lets the store thread look.
fn later(queue: &Queue, clock: &Clock, seconds: u64) {
    clock.fetch_add(seconds * 1_000_000_000, Ordering::SeqCst);
    queue.tick();
    queue.flush().unwrap();
}

#[test]
fn records_expire_by_the_age_they_have_for_certain() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let mut settings = three_streams(dir.path());
    settings.streams[LOW.0].retention = Retention { age: Some(Duration::from_secs(600)), ..Retention::default() };
    let (queue, metrics) = start(&disk, &settings, &clock);
    for boot_s in [0, 300] {
        queue.push(LOW, measured(boot_s, 0, Trust::Unknown)).unwrap();
        later(&queue, &clock, 300);
    }
    assert_eq!(held(&queue, LOW), 2, "600 s are not over 600 s");
    later(&queue, &clock, 100);
    let gone = |metrics: &Metrics| dropped(metrics, "low", "age");
    wait_until(&queue, || gone(&metrics) == 1);
    let got = queue.peek(LOW, None, Limit { records: 9, bytes: 9_000 }).unwrap().unwrap();
    assert_eq!((got.records.len(), got.records[0].skipped, number(&got.records[0])), (1, 1, 300));
    queue.close().unwrap();
    // Another boot: how long the machine was off is not known.
    clock.store(0, Ordering::SeqCst);
    let (queue, metrics) = start_in_boot(&disk, &settings, &clock, 1);
    later(&queue, &clock, 599);
    assert_eq!((gone(&metrics), held(&queue, LOW)), (0, 1));
    later(&queue, &clock, 100);
    wait_until(&queue, || gone(&metrics) == 1);
}

#[test]
fn what_expires_is_found_behind_blocks_that_are_delivered_already() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let mut settings = three_streams(dir.path());
    settings.streams[LOW.0].retention = Retention { age: Some(Duration::from_secs(600)), ..Retention::default() };
    let (queue, metrics) = start(&disk, &settings, &clock);
    // What holds the epoch, so that no block of it goes.
    queue.push(HIGH, measured(0, 0, Trust::Unknown)).unwrap();
    for boot_s in [0, 300, 600] {
        queue.push(LOW, measured(boot_s, 0, Trust::Unknown)).unwrap();
        later(&queue, &clock, if boot_s < 600 { 300 } else { 100 });
    }
    // Newest-first: the last is delivered before the others.
    let newest = Newest { bytes: 1, age: Duration::from_secs(300) };
    assert!(queue.split_newest(LOW, newest).unwrap());
    let (at, _) = *queue.lanes(LOW).unwrap().pairs().last().unwrap();
    let read = queue.peek_lane(LOW, at, Position::END, Limit { records: 9, bytes: 9_000 }).unwrap().unwrap();
    queue.ack_lane(LOW, at, read.records[0].position);
    let gone = || dropped(&metrics, "low", "age");
    wait_until(&queue, || gone() == 1);
    queue.push(LOW, measured(700, 0, Trust::Unknown)).unwrap();
    later(&queue, &clock, 300);
    wait_until(&queue, || gone() == 2);
    later(&queue, &clock, 200);
    assert_eq!((gone(), held(&queue, LOW)), (2, 1), "500 s are not over 600 s");
    later(&queue, &clock, 200);
    wait_until(&queue, || gone() == 3);
    assert_eq!((held(&queue, LOW), held(&queue, HIGH)), (0, 1));
}

#[test]
fn across_boots_the_wall_clock_counts_where_it_was_trusted_then_and_now() {
    const BEGAN_US: i64 = 1_000_000_000_000;
    // How far the record's time was trusted, whether its boot's clock was set later, whether this boot's is, what goes.
    for (then, set_later, set_now, gone) in [
        (Trust::Ntp, false, true, 1),
        (Trust::Rtc, false, true, 0),
        (Trust::Ntp, false, false, 0),
        (Trust::Unknown, true, true, 1),
        (Trust::Unknown, true, false, 0),
    ] {
        let (disk, clock) = (Disk::default(), Clock::default());
        let dir = tempfile::tempdir().unwrap();
        let mut settings = three_streams(dir.path());
        settings.streams[LOW.0].retention.age = Some(Duration::from_secs(600));
        let (queue, _) = start(&disk, &settings, &clock);
        queue.push(LOW, measured(0, BEGAN_US / 1_000_000, then)).unwrap();
        if set_later {
            queue.boot_began(BEGAN_US);
        }
        queue.close().unwrap();
        let (queue, metrics) = start_in_boot(&disk, &settings, &clock, 1);
        if set_now {
            queue.boot_began(BEGAN_US + 700_000_000);
        }
        queue.push(HIGH, measured(0, 0, Trust::Unknown)).unwrap();
        later(&queue, &clock, 100);
        if gone == 1 {
            wait_until(&queue, || dropped(&metrics, "low", "age") == 1);
        }
        queue.flush().unwrap();
        let case = format!("{then:?}, {set_later}, {set_now}");
        assert_eq!((dropped(&metrics, "low", "age"), held(&queue, LOW)), (gone, 1 - gone), "{case}");
    }
}

/// A flush is done before what else is due; each one gives the store thread a turn for that.
fn wait_until(queue: &Queue, done: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        queue.tick();
        queue.flush().unwrap();
        std::thread::yield_now();
    }
    panic!("it does not come about");
}

#[derive(Debug, Clone)]
enum Step {
    Push { stream: usize, records: usize },
    Take { stream: usize, records: usize },
    Flush,
    Restart,
    Crash,
    FailReclaims(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..STREAMS;
    prop_oneof![
        6 => (stream.clone(), 1..30_usize).prop_map(|(stream, records)| Step::Push { stream, records }),
        2 => (stream, 1..60_usize).prop_map(|(stream, records)| Step::Take { stream, records }),
        4 => Just(Step::Flush),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        1 => any::<bool>().prop_map(Step::FailReclaims),
    ]
}

/// Records seen, and those that they say were removed.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    taken: u64,
    records: u64,
    skipped: u64,
    last: Option<u64>,
}

fn take(queue: &Queue, stream: usize, records: usize, seen: &mut [Seen; STREAMS]) -> bool {
    let limit = Limit { records, bytes: usize::MAX };
    let Some(batch) = queue.peek(StreamIndex(stream), None, limit).unwrap() else { return false };
    for record in &batch.records {
        assert!(seen[stream].last.is_none_or(|last| last < number(record)), "order holds");
        seen[stream].last = Some(number(record));
    }
    seen[stream].records += batch.records.len() as u64;
    seen[stream].skipped += batch.records.iter().map(|record| record.skipped).sum::<u64>();
    queue.ack(StreamIndex(stream), batch.records[batch.records.len() - 1].position);
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::trials(200), ..ProptestConfig::default() })]

    /// Streams of all rules on a small disk: what comes through accounts for everything that was taken, and what
    /// rejects loses nothing.
    #[test]
    fn every_rule_accounts_for_everything(size in 1_000..6_000_u64, steps in proptest::collection::vec(step(), 1..60)) {
        let (disk, clock) = (Disk::default(), Clock::default());
        disk.with(|platter| platter.epochs_max = Some(4));
        let dir = tempfile::tempdir().unwrap();
        let mut settings = three_streams(dir.path());
        settings.streams[LOW.0].retention.size_bytes = Some(size);
        settings.streams[STRICT.0].retention.size_bytes = Some(2_000);
        let mut queue = start(&disk, &settings, &clock).0;
        let mut seen = [Seen::default(); STREAMS];
        for step in steps {
            match step {
                Step::Push { stream, records } => {
                    for _ in 0..records {
                        match queue.push(StreamIndex(stream), record(seen[stream].taken)) {
                            Ok(_) => seen[stream].taken += 1,
                            Err(refused) => prop_assert!(stream == STRICT.0, "{}", refused),
                        }
                    }
                }
                Step::Take { stream, records } => { take(&queue, stream, records, &mut seen); }
                // Where no epoch can be rewritten, what rejects may pin them all.
                Step::Flush => prop_assert!(queue.flush().is_ok() || disk.with(|platter| platter.failing_reclaims)),
                Step::FailReclaims(fail) => disk.with(|platter| platter.failing_reclaims = fail),
                Step::Restart => {
                    disk.with(|platter| platter.failing_reclaims = false);
                    queue.close().unwrap();
                    queue = start(&disk, &settings, &clock).0;
                }
                Step::Crash => {
                    disk.with(|platter| platter.failing_reclaims = false);
                    // With the cursor durable as well, or the same records would rightly be seen twice.
                    queue.close().unwrap();
                    queue = start(&disk, &settings, &clock).0;
                    queue.flush().unwrap();
                    queue.abandon().unwrap();
                    queue = start(&disk, &settings, &clock).0;
                }
            }
        }
        for stream in 0..STREAMS {
            // A bearer for marks that have none yet.
            if queue.push(StreamIndex(stream), record(seen[stream].taken)).is_ok() {
                seen[stream].taken += 1;
            }
            while take(&queue, stream, 50, &mut seen) {}
            let Seen { taken, records, skipped, .. } = seen[stream];
            prop_assert_eq!(records + skipped, taken, "of stream {}", stream);
        }
        prop_assert_eq!(seen[STRICT.0].skipped, 0);
    }
}
