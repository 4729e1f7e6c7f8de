//! The account against records made up, and against a model.

use super::*;

fn value(device: &str, run: u32, seq: u64, skipped: u64) -> Vec<u8> {
    serde_json::json!({"gateway": "g", "stream": "telemetry", "device": device, "queue": "5f0c9a1e", "run": run,
        "seq": seq, "skipped": skipped, "x": 1.5})
    .to_string()
    .into_bytes()
}

fn account(records: &[(&str, u32, u64, u64)]) -> Account {
    let mut account = Account::default();
    for (device, run, seq, skipped) in records {
        account.add(&value(device, *run, *seq, *skipped));
    }
    account
}

#[test]
fn sequences_are_sparse_per_device_and_whole_per_stream() {
    let account = account(&[("a", 1, 0, 0), ("b", 1, 1, 0), ("a", 1, 3, 0), ("b", 1, 2, 0), ("a", 2, 0, 0)]);
    assert_eq!((account.received(), account.missing(), account.out_of_order()), (5, 0, 0));
}

#[test]
fn a_hole_is_missing_unless_the_next_record_explains_it() {
    let account = account(&[("a", 1, 0, 0), ("a", 1, 4, 3), ("a", 1, 9, 1)]);
    let (_, stream) = account.streams().next().unwrap();
    assert_eq!(account.missing_of(stream), [Missing { run: 1, first: 5, last: 8, unexplained: 3 }]);
    assert_eq!(stream.skipped(), 4);
}

#[test]
fn a_copy_is_repeated_and_a_late_first_copy_is_out_of_order() {
    let account = account(&[("a", 1, 0, 0), ("a", 1, 2, 0), ("a", 1, 0, 0), ("a", 1, 1, 0), ("b", 1, 3, 0)]);
    assert_eq!((account.received(), account.repeated(), account.out_of_order()), (4, 1, 1));
    assert_eq!(account.missing(), 0);
}

#[test]
fn what_is_no_record_is_counted_apart() {
    let mut account = Account::default();
    assert_eq!(account.add(b"{\"seq\":1}"), Added::Unreadable);
    assert_eq!(account.add(b"\xff"), Added::Unreadable);
    assert_eq!((account.unreadable(), account.received()), (2, 0));
}

fn stamped(account: &mut Account, run: u32, seq: u64, timestamp_ms: i64) {
    account.add_stamped(&value("a", run, seq, 0), Some(timestamp_ms));
}

#[test]
fn what_lies_before_the_beginning_of_the_reading_is_not_missing() {
    let mut account = Account::default();
    account.begins_at(1_000_000);
    for (seq, timestamp_ms) in [(50, 1_000_000), (55, 1_005_000), (60, 1_010_000), (61, 1_011_000)] {
        stamped(&mut account, 3, seq, timestamp_ms);
    }
    assert_eq!((account.received(), account.missing()), (4, 0));
    stamped(&mut account, 3, 64, 1_012_000);
    stamped(&mut account, 4, 1, 1_013_000);
    let (_, stream) = account.streams().next().unwrap();
    let holes = account.missing_of(stream);
    assert_eq!(holes[0], Missing { run: 3, first: 62, last: 63, unexplained: 2 });
    assert_eq!(holes[1], Missing { run: 4, first: 0, last: 0, unexplained: 1 });
    account.begins_at(2_000_000);
    assert_eq!(account.missing(), 0, "a later beginning judges only what follows it");
}

#[test]
fn the_latest_time_is_the_one_in_the_record() {
    let mut account = Account::default();
    for (seq, time) in [(0, "2026-11-22T12:00:00.123Z"), (1, "2026-11-22T11:00:00.000Z"), (2, "yesterday")] {
        let record = serde_json::json!({"gateway": "g", "stream": "s", "device": "d", "queue": "q", "run": 1,
            "seq": seq, "time": time});
        assert_eq!(account.add(record.to_string().as_bytes()), Added::New);
    }
    let (_, stream) = account.streams().next().unwrap();
    assert_eq!(stream.total().latest_us, Some(1_795_348_800_123_000));
}

#[test]
fn names_and_numbers_no_agent_writes_are_unreadable() {
    let mut account = Account::default();
    assert_eq!(account.add(&value(&"d".repeat(NAME_BYTES_MAX + 1), 1, 0, 0)), Added::Unreadable);
    assert_eq!(account.add(&value("d", Position::RUN_MAX + 1, 0, 0)), Added::Unreadable);
    assert_eq!(account.add(&value("d", 1, Position::SEQ_MAX + 1, 0)), Added::Unreadable);
    assert_eq!(account.add(&value("d", Position::RUN_MAX, Position::SEQ_MAX, 0)), Added::New);
}

#[test]
fn a_full_account_counts_what_it_does_not_take() {
    let mut account = Account { entries: ENTRIES_MAX - 7, ..Account::default() };
    assert_eq!(account.add(&value("a", 1, 0, 0)), Added::New);
    assert_eq!(account.add(&value("a", 1, 1, 0)), Added::Beyond);
    assert_eq!((account.received(), account.beyond()), (1, 1));
}

proptest::proptest! {
    #[test]
    fn the_size_is_known(
        records in proptest::collection::vec((0_u32..3, 0_u64..40, 0_usize..4, 0_u64..3), 1..120),
    ) {
        let mut account = Account::default();
        for (run, seq, device, skipped) in records {
            account.add(&value(["a", "b", "c", "d"][device], run, seq, skipped));
        }
        let of = |stream: &StreamAccount| {
            let runs: usize = stream.runs.values().map(|run| 1 + run.entries()).sum();
            1 + runs + stream.devices.len()
        };
        proptest::prop_assert_eq!(account.entries, account.streams.values().map(of).sum::<usize>());
    }

    #[test]
    fn any_order_of_arrival_gives_the_same_holes(
        seqs in proptest::collection::vec(0_u64..60, 1..120),
    ) {
        let mut run = Run::default();
        let mut model = std::collections::BTreeSet::new();
        for seq in seqs {
            proptest::prop_assert_eq!(run.insert(seq), model.insert(seq));
        }
        let end = *model.last().unwrap();
        let holes = end + 1 - model.len() as u64;
        let found: u64 = run.missing(1, 0).iter().map(|hole| hole.unexplained).sum();
        proptest::prop_assert_eq!(found, holes);
    }
}
