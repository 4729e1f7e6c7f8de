//! Single faults and promises: a healthy uplink writes nothing, a stalled or failing store, a full disk, a panic.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay::config::Durability;
use forebay::metrics::{ByKind, ByStreamAndReason, Metrics};
use forebay::queue::{Limit, PeekError, PushError, Pushed, StreamIndex};
use forebay::reading::{Field, Position, Value};

use super::memory::{Clock, Disk, settings, start};
use super::{drain, number, record};

const ONE: StreamIndex = StreamIndex(0);
const ALL: Limit = Limit { records: 1_000_000, bytes: usize::MAX };

fn dropped(metrics: &Metrics, reason: &'static str) -> u64 {
    metrics.records_dropped.get_or_create(&ByStreamAndReason { stream: "one".to_owned(), reason }).get()
}

#[test]
fn what_is_acknowledged_in_time_is_never_written() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    queue.set_uplink_up(true);
    for n in 0..1_000 {
        queue.push(ONE, record(n)).unwrap();
        let batch = queue.peek(ONE, None, ALL).unwrap().unwrap();
        assert_eq!(batch.records.len(), 1);
        clock.fetch_add(100_000_000, Ordering::SeqCst);
        queue.ack(ONE, batch.records[0].position);
        queue.tick();
    }
    queue.flush().unwrap();
    queue.close().unwrap();
    assert_eq!(metrics.queue_blocks_sealed.get(), 0);
    assert_eq!(metrics.queue_state_writes.get(), 0, "progress in memory only is not worth a write");
    disk.with(|platter| assert_eq!((platter.appended_blocks, platter.saves), (0, 0)));
    assert_eq!(*queue.safe_through(ONE).borrow(), Some(Position::new(1, 999)));
    assert_eq!(queue.status().undurable_age_max, Duration::from_millis(100));
}

#[test]
fn after_half_the_window_records_are_written_without_being_asked() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, _) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    queue.push(ONE, record(1)).unwrap();
    let mut safe = queue.safe_through(ONE);
    assert_eq!(*safe.borrow_and_update(), None);
    clock.fetch_add(500_000_000, Ordering::SeqCst);
    queue.tick();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(safe.changed()).unwrap();
    assert_eq!(*safe.borrow(), Some(Position::new(1, 0)));
    assert_eq!(queue.peek(ONE, None, ALL).unwrap().unwrap().records.len(), 1, "durable is not delivered");
}

#[test]
fn a_record_of_an_every_record_stream_is_written_at_once_and_alone() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let streams = [("one", Durability::Window), ("alarms", Durability::EveryRecord)];
    let (queue, metrics) = start(&disk, &settings(&streams, 1 << 20, dir.path()), &clock);
    queue.push(ONE, record(1)).unwrap();
    let mut safe = queue.safe_through(StreamIndex(1));
    queue.push(StreamIndex(1), record(2)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(safe.wait_for(|safe| *safe == Some(Position::new(1, 0)))).unwrap();
    assert_eq!(*queue.safe_through(ONE).borrow(), None);
    assert_eq!(metrics.queue_blocks_sealed.get(), 1);
}

#[test]
fn a_stalled_store_costs_the_oldest_unsealed_records_and_they_are_counted() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &settings(&[("one", Durability::Window)], 64 * 1024, dir.path()), &clock);
    disk.with(|platter| platter.stalled = true);
    queue.push(ONE, record(0)).unwrap();
    queue.request_flush();
    disk.wait_until_stuck();
    let mut pushed = 1;
    while dropped(&metrics, "tail_full") < 100 {
        assert!(matches!(queue.push(ONE, record(pushed)), Ok(Pushed::Queued(_))));
        pushed += 1;
        assert!(pushed < 10_000, "the tail has a limit");
    }
    assert!(queue.status().streams[0].bytes <= 64 * 1024);
    assert!(!queue.store_failed());
    clock.fetch_add(31_000_000_000, Ordering::SeqCst);
    assert!(queue.store_failed(), "a call that takes longer than 30 s is for the supervisor");
    disk.with(|platter| platter.stalled = false);
    queue.flush().unwrap();
    let safe = queue.safe_through(ONE).borrow().unwrap();
    assert_eq!(safe, Position::new(1, pushed - 1));
    let told = queue.dropped(ONE);
    let gone: Vec<u64> = (0..pushed).filter(|n| told.borrow().contains(Position::new(1, *n))).collect();
    assert_eq!(gone, (1..=100).collect::<Vec<_>>(), "who waits for one learns that it was not kept");
    let got = drain(&queue, ONE);
    assert_eq!(got.len() as u64, pushed - 100);
    assert_eq!(number(&got[0]), 0, "what was being written stays");
    assert_eq!(got.iter().map(|record| record.skipped).collect::<Vec<_>>()[..3], [0, 100, 0]);
    assert_eq!(got.iter().map(|record| record.skipped).sum::<u64>(), 100);
}

#[test]
fn a_record_that_finds_no_room_at_all_is_refused() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, _) = start(&disk, &settings(&[("one", Durability::Window)], 10, dir.path()), &clock);
    assert!(matches!(queue.push(ONE, record(0)), Err(PushError::TailFull { used: 0, limit: 10 })));
}

#[test]
fn a_failing_store_keeps_records_in_memory_until_it_works() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    disk.with(|platter| platter.failing_appends = 1);
    for n in 0..500 {
        queue.push(ONE, record(n)).unwrap();
    }
    assert!(matches!(queue.flush(), Err(PeekError::Store { .. })));
    assert_eq!(*queue.safe_through(ONE).borrow(), None);
    queue.flush().unwrap();
    assert_eq!(*queue.safe_through(ONE).borrow(), Some(Position::new(1, 499)));
    assert_eq!(metrics.queue_store_failures.get_or_create(&ByKind { kind: "failed" }).get(), 1);
    let got: Vec<u64> = drain(&queue, ONE).iter().map(number).collect();
    assert_eq!(got, (0..500).collect::<Vec<_>>(), "what the failed append left behind is not delivered twice");
    assert_eq!(queue.status().streams[0].records, 0);
}

#[test]
fn a_panic_of_the_store_is_fenced_once_and_reported_the_second_time() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, _) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    disk.with(|platter| platter.panicking_appends = 1);
    queue.push(ONE, record(1)).unwrap();
    assert!(matches!(queue.flush(), Err(PeekError::Store { .. })));
    assert!(!queue.store_failed());
    clock.fetch_add(300_000_000, Ordering::SeqCst);
    queue.flush().unwrap();
    assert_eq!(drain(&queue, ONE).len(), 1);
    disk.with(|platter| platter.panicking_appends = 1);
    queue.push(ONE, record(2)).unwrap();
    assert!(queue.flush().is_err());
    assert!(queue.store_failed());
}

#[test]
fn a_full_disk_gives_up_the_oldest_records_and_says_how_many() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    disk.with(|platter| platter.epochs_max = Some(3));
    for n in 0..20 {
        queue.push(ONE, record(n)).unwrap();
        queue.flush().unwrap();
    }
    let gone = dropped(&metrics, "quota");
    assert!(gone >= 3, "{gone} records dropped");
    let held = queue.status().streams[0].records;
    assert_eq!(held + gone, 20);
    queue.abandon().unwrap();
    let (queue, _) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    let got = drain(&queue, ONE);
    assert_eq!(got.iter().map(number).collect::<Vec<_>>(), (gone..20).collect::<Vec<_>>());
    assert_eq!(got[0].skipped, gone, "the mark outlives a crash");
    assert_eq!(got.iter().map(|record| record.skipped).sum::<u64>(), gone);
}

#[test]
fn an_oversized_record_is_set_aside_in_a_file() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("queue")).unwrap();
    let (queue, metrics) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    let mut large = record(1);
    large.fields.push(Field::new("text", Value::Text("x".repeat(30_000))));
    assert_eq!(queue.push(ONE, large).unwrap(), Pushed::SetAside);
    queue.flush().unwrap();
    let text = std::fs::read_to_string(dir.path().join("queue/dead-letter.jsonl")).unwrap();
    assert!(text.starts_with(r#"{"set_aside":"too_large","stream":"one","device":"device""#), "{}", &text[..60]);
    let label = ByStreamAndReason { stream: "one".to_owned(), reason: "too_large" };
    assert_eq!(metrics.records_set_aside.get_or_create(&label).get(), 1);
    assert_eq!(queue.push(ONE, record(2)).unwrap(), Pushed::Queued(Position::new(1, 0)), "it takes no position");
}

#[test]
fn an_oversized_record_that_cannot_wait_to_be_set_aside_is_refused() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, _) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    disk.with(|platter| platter.stalled = true);
    queue.push(ONE, record(0)).unwrap();
    queue.request_flush();
    disk.wait_until_stuck();
    let mut wide = record(1);
    wide.fields = vec![wide.fields[0].clone(); forebay::reading::FIELDS_MAX + 1];
    for _ in 0..8 {
        assert_eq!(queue.push(ONE, wide.clone()).unwrap(), Pushed::SetAside);
    }
    let refused = queue.push(ONE, wide).unwrap_err();
    assert!(matches!(refused, PushError::SetAsideFull { waiting: 8, limit: 8 }), "{refused}");
    disk.with(|platter| platter.stalled = false);
    queue.flush().unwrap();
}

#[test]
fn acknowledged_blocks_are_deleted_once_the_cursor_is_durable() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    for n in 0..9 {
        queue.push(ONE, record(n)).unwrap();
        queue.flush().unwrap();
    }
    queue.push(ONE, record(9)).unwrap();
    let seen: Vec<u64> = drain(&queue, ONE).iter().map(number).collect();
    assert_eq!(seen, (0..10).collect::<Vec<_>>(), "blocks first, then the tail");
    queue.ack(ONE, Position::new(1, 3));
    queue.ack(ONE, Position::new(1, 77));
    let acknowledged = forebay::metrics::ByStream { stream: "one".to_owned() };
    assert_eq!(metrics.records_acknowledged.get_or_create(&acknowledged).get(), 10, "known positions count once");
    queue.close().unwrap();
    disk.with(|platter| assert_eq!((platter.epochs.len(), platter.saves), (0, 1)));
    assert!(matches!(queue.push(ONE, record(10)), Err(PushError::Closed)));
}

#[test]
fn bytes_on_a_damaged_block_cost_that_block_only() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, metrics) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    for n in 0..6 {
        queue.push(ONE, record(n)).unwrap();
        queue.flush().unwrap();
    }
    disk.with(|platter| {
        let bytes = &mut platter.epochs[0][1].bytes;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
    });
    let got: Vec<u64> = drain(&queue, ONE).iter().map(number).collect();
    assert_eq!(got, [0, 2, 3, 4, 5]);
    assert_eq!(metrics.queue_blocks_lost.get(), 1);
}

#[test]
fn a_start_that_is_not_recovered_yet_takes_pushes_and_reads_wait_for_the_blocks() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
    let (queue, _) = start(&disk, &settings, &clock);
    queue.push(ONE, record(1)).unwrap();
    queue.close().unwrap();
    let gate = disk.hold();
    let (queue, _) = start(&disk.clone(), &settings, &clock);
    assert_eq!(queue.push(ONE, record(2)).unwrap(), Pushed::Queued(Position::new(2, 0)));
    let reader = std::thread::spawn({
        let queue = queue.clone();
        move || drain(&queue, ONE).iter().map(number).collect::<Vec<_>>()
    });
    drop(gate);
    assert_eq!(reader.join().unwrap(), [1, 2], "the older run comes first");
}
