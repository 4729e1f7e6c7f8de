//! The queue's part in exactly-once delivery: nothing of an open transaction outlives a crash without word of it.

use std::sync::atomic::Ordering;

use forebay::config::Durability;
use forebay::queue::lane::Lanes;
use forebay::queue::{Queue, StreamIndex};
use forebay::reading::Position;

use super::memory::{Clock, Disk, settings, start};
use super::{drain, number, record};

const ONE: StreamIndex = StreamIndex(0);

fn at(seq: u64) -> Position {
    Position::new(1, seq)
}

/// A queue with ten records.
fn ten(disk: &Disk, clock: &Clock, dir: &tempfile::TempDir) -> Queue {
    let (queue, _) = start(disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), clock);
    for n in 0..10 {
        queue.push(ONE, record(n)).unwrap();
    }
    queue
}

/// The doubt and the cursor as a crash would leave them.
fn durable(disk: &Disk) -> (Option<(Position, Position)>, Option<Position>) {
    disk.with(|platter| {
        let control = platter.controls.first();
        (control.and_then(|control| control.in_doubt), control.map(|control| control.lanes.cursor()))
    })
}

#[test]
fn transactions_of_records_in_memory_write_nothing() {
    let (disk, clock, dir) = (Disk::default(), Clock::default(), tempfile::tempdir().unwrap());
    let queue = ten(&disk, &clock, &dir);
    queue.begin_transaction(ONE, at(0), at(9));
    queue.secure_transaction(ONE).unwrap();
    queue.ack(ONE, at(9));
    queue.end_transaction(ONE);
    queue.close().unwrap();
    disk.with(|platter| assert_eq!((platter.appended_blocks, platter.saves), (0, 0)));
}

#[test]
fn a_transaction_of_records_on_disk_is_noted_before_its_commit_and_only_once() {
    let (disk, clock, dir) = (Disk::default(), Clock::default(), tempfile::tempdir().unwrap());
    let queue = ten(&disk, &clock, &dir);
    queue.flush().unwrap();
    queue.begin_transaction(ONE, at(0), at(4));
    assert_eq!(durable(&disk).0, None);
    queue.secure_transaction(ONE).unwrap();
    assert_eq!(durable(&disk).0, Some((at(0), at(4))));
    let saves = disk.with(|platter| platter.saves);
    queue.secure_transaction(ONE).unwrap();
    assert_eq!(disk.with(|platter| platter.saves), saves);
    queue.ack(ONE, at(4));
    queue.end_transaction(ONE);
    // The next one's note says as well that this one is over.
    queue.begin_transaction(ONE, at(5), at(9));
    queue.secure_transaction(ONE).unwrap();
    assert_eq!(durable(&disk), (Some((at(5), at(9))), Some(at(5))));
    queue.ack(ONE, at(9));
    queue.end_transaction(ONE);
    queue.close().unwrap();
    assert_eq!(durable(&disk), (None, Some(at(10))));
}

#[test]
fn a_stream_waits_while_it_has_records_that_are_not_delivered() {
    let (disk, clock, dir) = (Disk::default(), Clock::default(), tempfile::tempdir().unwrap());
    let settings = settings(&[("one", Durability::Window), ("two", Durability::Window)], 1 << 20, dir.path());
    let two = StreamIndex(1);
    let (queue, _) = start(&disk, &settings, &clock);
    assert!(!queue.waits(ONE) && !queue.waits(two), "nothing was given");
    queue.push(ONE, record(0)).unwrap();
    assert!(queue.waits(ONE) && !queue.waits(two));
    queue.flush().unwrap();
    assert!(queue.waits(ONE), "on disk");
    queue.close().unwrap();
    let (queue, _) = start(&disk, &settings, &clock);
    queue.flush().unwrap();
    assert!(queue.waits(ONE) && !queue.waits(two));
    assert_eq!(drain(&queue, ONE).len(), 1);
    assert!(!queue.waits(ONE));
    queue.close().unwrap();
    let (queue, _) = start(&disk, &settings, &clock);
    queue.flush().unwrap();
    assert!(!queue.waits(ONE), "a run begins behind the cursor");
    queue.close().unwrap();
}

#[test]
fn a_note_that_is_about_to_be_taken_back_is_none() {
    let (disk, clock, dir) = (Disk::default(), Clock::default(), tempfile::tempdir().unwrap());
    let queue = ten(&disk, &clock, &dir);
    queue.flush().unwrap();
    queue.begin_transaction(ONE, at(0), at(4));
    queue.secure_transaction(ONE).unwrap();
    // It is aborted, and what is saved next says that nothing is in doubt.
    queue.end_transaction(ONE);
    disk.with(|platter| platter.saving_held = true);
    clock.fetch_add(3_600_000_000_000, Ordering::SeqCst);
    queue.tick();
    disk.wait_until_stuck();
    queue.begin_transaction(ONE, at(0), at(4));
    std::thread::scope(|scope| {
        let secured = scope.spawn(|| queue.secure_transaction(ONE));
        // It may not be content with what is on disk now; it has some time to show that.
        (0..10_000).for_each(|_| {
            if !secured.is_finished() {
                std::thread::yield_now()
            }
        });
        disk.with(|platter| platter.saving_held = false);
        secured.join().unwrap().unwrap();
    });
    assert_eq!(durable(&disk).0, Some((at(0), at(4))), "the same range again");
    queue.close().unwrap();
}

#[test]
fn a_seal_notes_the_open_transaction_before_it_writes_a_block() {
    let (disk, clock, dir) = (Disk::default(), Clock::default(), tempfile::tempdir().unwrap());
    let queue = ten(&disk, &clock, &dir);
    queue.begin_transaction(ONE, at(0), at(4));
    queue.secure_transaction(ONE).unwrap();
    disk.with(|platter| platter.stalled = true);
    clock.fetch_add(500_000_000, Ordering::SeqCst);
    queue.tick();
    disk.wait_until_stuck();
    assert_eq!(disk.with(|platter| platter.appended_blocks), 0);
    assert_eq!(durable(&disk).0, Some((at(0), at(4))), "a block is about to be written, and a crash forgets this");
    disk.with(|platter| platter.stalled = false);
    queue.close().unwrap();
}

#[test]
fn a_doubt_outlives_a_crash_until_kafkas_word_is_known() {
    let (disk, clock, dir) = (Disk::default(), Clock::default(), tempfile::tempdir().unwrap());
    let queue = ten(&disk, &clock, &dir);
    queue.flush().unwrap();
    queue.begin_transaction(ONE, at(0), at(4));
    queue.secure_transaction(ONE).unwrap();
    queue.abandon().unwrap();

    let (queue, _) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    assert_eq!(queue.in_doubt(ONE), Some((at(0), at(4))));
    queue.adopt_lanes(ONE, &Lanes::from_cursor(at(5)));
    queue.end_transaction(ONE);
    assert_eq!(queue.in_doubt(ONE), None);
    let left: Vec<u64> = drain(&queue, ONE).iter().map(number).collect();
    assert_eq!(left, (5..10).collect::<Vec<_>>(), "what Kafka has is not sent again");
    queue.close().unwrap();
    assert_eq!(durable(&disk), (None, Some(at(10))));
}

#[test]
fn a_cursor_beyond_what_was_given_moves_nothing() {
    let (disk, clock, dir) = (Disk::default(), Clock::default(), tempfile::tempdir().unwrap());
    let queue = ten(&disk, &clock, &dir);
    queue.adopt_lanes(ONE, &Lanes::from_cursor(Position::new(2, 7)));
    assert_eq!(drain(&queue, ONE).len(), 10);
    queue.close().unwrap();
}

#[test]
fn a_record_that_is_kept_elsewhere_is_passed_over_and_the_next_says_so() {
    let (disk, clock, dir) = (Disk::default(), Clock::default(), tempfile::tempdir().unwrap());
    let queue = ten(&disk, &clock, &dir);
    queue.pass_over(ONE, at(0), 0);
    queue.pass_over(ONE, at(1), 1);
    queue.pass_over(ONE, at(1), 1);
    let left = drain(&queue, ONE);
    assert_eq!(left.iter().map(number).collect::<Vec<_>>(), (2..10).collect::<Vec<_>>());
    assert_eq!(left.iter().map(|record| record.skipped).collect::<Vec<_>>(), [2, 0, 0, 0, 0, 0, 0, 0]);
    queue.close().unwrap();
}

#[test]
fn what_a_crash_forgot_of_a_record_kept_elsewhere_comes_back_with_kafkas_cursor() {
    let (disk, clock, dir) = (Disk::default(), Clock::default(), tempfile::tempdir().unwrap());
    let queue = ten(&disk, &clock, &dir);
    queue.flush().unwrap();
    queue.begin_transaction(ONE, at(0), at(0));
    queue.secure_transaction(ONE).unwrap();
    // The transaction is committed with a cursor that says 1 more is left out, and the agent is killed.
    queue.abandon().unwrap();

    let (queue, _) = start(&disk, &settings(&[("one", Durability::Window)], 1 << 20, dir.path()), &clock);
    queue.adopt_lanes(ONE, &Lanes::from_cursor(at(1)));
    for _ in 0..2 {
        queue.carry_skipped(ONE, at(1), 1);
        assert_eq!(queue.skipped_at(ONE, at(1)), 1, "said once");
    }
    queue.carry_skipped(ONE, at(2), 7);
    queue.end_transaction(ONE);
    let left = drain(&queue, ONE);
    assert_eq!(left.iter().map(number).collect::<Vec<_>>(), (1..10).collect::<Vec<_>>());
    assert_eq!(left.iter().map(|record| record.skipped).sum::<u64>(), 1, "not where the cursor does not stand");
    queue.close().unwrap();
}
