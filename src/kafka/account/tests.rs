//! The account against records made up, and against a model.

use std::collections::{BTreeSet, VecDeque};

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
    for (value, why) in [
        (&b"{\"seq\":1}"[..], "not a record of forebay in json: missing field `device`"),
        (b"\xff", "neither a JSON object nor in Confluent's wire format: its first byte is 0xff"),
        (b"\0\0\0\0\x07", "was to be read as json"),
        (b"", "empty"),
    ] {
        let Added::Unreadable(found) = account.add(value) else { panic!("{why}") };
        assert!(found.to_string().contains(why), "{found}");
    }
    assert_eq!((account.unreadable(), account.received()), (4, 0));
}

fn stamped(account: &mut Account, run: u32, seq: u64, timestamp_ms: i64) {
    let value = value("a", run, seq, 0);
    account.take(&Message { value: &value, encoding: Encoding::Json, partition: 0, timestamp_ms: Some(timestamp_ms) });
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
    let long = Unreadable::Name { member: "device", bytes: NAME_BYTES_MAX + 1 };
    assert_eq!(account.add(&value(&"d".repeat(NAME_BYTES_MAX + 1), 1, 0, 0)), Added::Unreadable(long));
    for (run, seq) in [(Position::RUN_MAX + 1, 0), (1, Position::SEQ_MAX + 1)] {
        let why = Unreadable::Position { run, seq };
        assert_eq!(account.add(&value("d", run, seq, 0)), Added::Unreadable(why));
    }
    assert_eq!(account.add(&value("d", Position::RUN_MAX, Position::SEQ_MAX, 0)), Added::New);
}

#[test]
fn a_full_account_counts_what_it_does_not_take() {
    let mut account = Account { entries: ENTRIES_MAX - MESSAGE_ENTRIES_MAX - 2, ..Account::default() };
    assert_eq!(account.add(&value("a", 1, 0, 0)), Added::New);
    assert_eq!(account.add(&value("a", 1, 1, 0)), Added::Beyond);
    assert_eq!((account.received(), account.beyond()), (1, 1));
}

#[test]
fn a_copy_may_explain_the_hole_before_it() {
    let account = account(&[("a", 1, 0, 0), ("a", 1, 2, 0), ("a", 1, 2, 1)]);
    assert_eq!((account.received(), account.missing(), account.repeated()), (2, 0, 1));
}

#[test]
fn counts_that_no_agent_writes_do_not_overflow() {
    let account = account(&[("a", 1, 0, u64::MAX), ("a", 1, 5, u64::MAX), ("a", 2, 1, 1)]);
    let (_, stream) = account.streams().next().unwrap();
    assert_eq!((stream.skipped(), account.missing()), (u64::MAX, 0));
}

fn narrow(device: &str, seq: u64, metric: Option<&str>, partition: i32) -> (Vec<u8>, i32) {
    let mut value = serde_json::json!({"gateway": "g", "stream": "telemetry", "device": device, "queue": "5f0c9a1e",
        "run": 1, "seq": seq});
    if let Some(metric) = metric {
        value["metric"] = metric.into();
    }
    (value.to_string().into_bytes(), partition)
}

fn take(account: &mut Account, (value, partition): &(Vec<u8>, i32)) -> Added {
    let partition = *partition;
    account.take(&Message { value, encoding: Encoding::Json, partition, timestamp_ms: None })
}

#[test]
fn a_narrow_record_is_received_once_and_its_metrics_are_no_copies() {
    let mut account = Account::default();
    let mut of = |seq, metric| take(&mut account, &narrow("a", seq, Some(metric), 0));
    assert_eq!([of(0, "t"), of(0, "p"), of(1, "t")], [Added::New, Added::Further, Added::New]);
    // Broken off in the midst of record 1, and sent again from record 0 on.
    assert_eq!([of(0, "t"), of(0, "p")], [Added::Repeated, Added::Repeated]);
    assert_eq!([of(1, "t"), of(1, "p"), of(1, "h")], [Added::Repeated, Added::Further, Added::Further]);
    assert_eq!(of(1, "h"), Added::Repeated);
    assert_eq!((account.received(), account.repeated(), account.missing(), account.out_of_order()), (2, 4, 0, 0));
}

#[test]
fn a_device_that_moved_to_another_partition_is_read_from_both() {
    let mut account = Account::default();
    let mut of = |seq, metric, partition| take(&mut account, &narrow("a", seq, Some(metric), partition));
    assert_eq!([of(0, "t", 0), of(1, "t", 1), of(2, "t", 1)], [Added::New, Added::New, Added::New]);
    assert_eq!([of(0, "p", 0), of(2, "p", 1)], [Added::Further, Added::Further]);
    // Broken off in one partition, and sent again in the other.
    assert_eq!([of(2, "t", 0), of(2, "p", 0), of(2, "h", 0)], [Added::Repeated, Added::Repeated, Added::Further]);
    assert_eq!((account.received(), account.repeated(), account.out_of_order()), (3, 2, 0));
}

#[test]
fn a_wide_record_may_have_a_field_called_metric() {
    for metric in [serde_json::json!("cpu"), serde_json::json!(7), serde_json::json!(true), serde_json::json!(null)] {
        let mut value: serde_json::Value = serde_json::from_slice(&value("a", 1, 0, 0)).unwrap();
        value["metric"] = metric;
        let (mut account, value) = (Account::default(), value.to_string());
        let added = [account.add(value.as_bytes()), account.add(value.as_bytes())];
        assert_eq!(added, [Added::New, Added::Repeated], "{value}");
    }
}

#[test]
fn what_is_kept_of_a_narrow_record_is_bounded() {
    let mut account = Account::default();
    for metric in 0..METRICS_MAX {
        let metric = narrow("a", 0, Some(&metric.to_string()), 0);
        assert!(matches!(take(&mut account, &metric), Added::New | Added::Further));
    }
    let one_more = take(&mut account, &narrow("a", 0, Some("one more"), 0));
    assert_eq!((one_more, account.unreadable()), (Added::Unreadable(Unreadable::Metrics), 1));
    assert_eq!(take(&mut account, &narrow("a", 0, Some("7"), 0)), Added::Repeated);
    let full = account.entries;
    take(&mut account, &narrow("a", 1, Some("7"), 0));
    assert_eq!(account.entries, full, "the room of the last record is used again");
    assert_eq!(full, 4 + 1 + METRICS_MAX / 16, "stream, run, device, range; record, metrics");
}

/// A message of the model: the device, the record, the metric.
type Sent = (usize, u64, u8);

/// What two partitions hold of narrow records, given as device and number of metrics, when the sending breaks off: of
/// each partition only so many messages arrive, and it begins again with a record so far before the first that lacks
/// one. Devices 0 and 1 are in the first partition, 2 and 3 in the second.
fn logs(records: &[(usize, u8)], breaks: &[([usize; 2], usize)]) -> [VecDeque<Sent>; 2] {
    let mut logs: [VecDeque<Sent>; 2] = Default::default();
    let mut from = 0;
    for (arriving, back) in breaks.iter().chain([&([usize::MAX; 2], 0)]) {
        let (mut left, mut lacking) = (*arriving, records.len());
        for (seq, (device, metrics)) in records.iter().enumerate().skip(from) {
            let partition = device / 2;
            for metric in 0..*metrics {
                if left[partition] == 0 {
                    lacking = lacking.min(seq);
                    continue;
                }
                left[partition] -= 1;
                logs[partition].push_back((*device, seq as u64, metric));
            }
        }
        from = lacking.saturating_sub(*back);
    }
    logs
}

proptest::proptest! {
    /// Wherever the sending breaks off, and however the partitions are read among each other, the account is that of a
    /// model which forgets nothing.
    #[test]
    fn narrow_records_count_as_in_a_model(
        records in proptest::collection::vec((0_usize..4, 1_u8..5), 1..30),
        breaks in proptest::collection::vec(([0_usize..40, 0_usize..40], 0_usize..6), 0..5),
        picks in proptest::collection::vec(0_usize..2, 1..300),
    ) {
        let mut logs = logs(&records, &breaks);
        let (mut account, mut messages, mut model) = (Account::default(), BTreeSet::new(), (0, 0));
        for pick in picks.into_iter().cycle() {
            let from = if logs[pick].is_empty() { 1 - pick } else { pick };
            let Some((device, seq, metric)) = logs[from].pop_front() else { break };
            take(&mut account, &narrow(["a", "b", "c", "d"][device], seq, Some(&metric.to_string()), from as i32));
            let is_new = messages.range((seq, 0)..=(seq, u8::MAX)).next().is_none();
            model.0 += u64::from(is_new);
            model.1 += u64::from(!messages.insert((seq, metric)));
        }
        proptest::prop_assert_eq!((account.received(), account.repeated()), model);
        proptest::prop_assert_eq!((account.missing(), account.out_of_order(), account.unreadable()), (0, 0, 0));
    }

    #[test]
    fn the_size_is_known(
        records in proptest::collection::vec((0_u32..3, 0_u64..40, 0_usize..4, 0_u64..3, 0_u8..40), 1..120),
    ) {
        let mut account = Account::default();
        for (run, seq, device, skipped, metric) in records {
            let mut value: serde_json::Value =
                serde_json::from_slice(&value(["a", "b", "c", "d"][device], run, seq, skipped)).unwrap();
            value["metric"] = metric.to_string().into();
            let value = value.to_string();
            let message = Message {
                value: value.as_bytes(),
                encoding: Encoding::Json,
                partition: i32::from(metric % 3),
                timestamp_ms: None,
            };
            let before = account.entries;
            account.take(&message);
            proptest::prop_assert!(account.entries <= before + MESSAGE_ENTRIES_MAX);
        }
        let of = |stream: &StreamAccount| {
            let runs: usize = stream.runs.values().map(|run| 1 + run.entries()).sum();
            let devices: usize = stream.devices.values().map(|device| 1 + device.entries()).sum();
            1 + runs + devices
        };
        proptest::prop_assert_eq!(account.entries, account.streams.values().map(of).sum::<usize>());
    }

    #[test]
    fn any_order_of_arrival_gives_the_same_holes(
        seqs in proptest::collection::vec(0_u64..60, 1..120),
    ) {
        let mut run = Run::default();
        let mut model = BTreeSet::new();
        for seq in seqs {
            proptest::prop_assert_eq!(run.insert(seq), model.insert(seq));
        }
        let end = *model.last().unwrap();
        let holes = end + 1 - model.len() as u64;
        let found: u64 = run.missing(1, 0).iter().map(|hole| hole.unexplained).sum();
        proptest::prop_assert_eq!(found, holes);
    }
}
