//! Exactly-once delivery into the embedded Kafka, which knows transactions but neither isolation, fencing nor offsets in
//! them: what needs these is tested on a real one (`tests/real/once.rs`).

use std::time::{Duration, Instant};

use forebay::config::{Delivery, Encoding, Form, KafkaCompression, Rate, Shape, Transactions};
use forebay::metrics::ByKind;
use forebay::uplink::Uplink;

use super::rate::budget;
use super::{Bench, COORDINATOR_LOAD_IN_PROGRESS, NOT_ENOUGH_REPLICAS, assert_whole, dead_letters, poison, wait_for};

pub fn bench(streams: &[&str]) -> Bench {
    let mut bench = Bench::new(streams);
    let timeout = Duration::from_secs(10);
    bench.settings.kafka.delivery = Delivery::ExactlyOnce(Transactions { id: None, timeout });
    bench
}

fn transactions(bench: &Bench, kind: &'static str) -> u64 {
    bench.metrics.uplink_transactions.get_or_create(&ByKind { kind }).get()
}

#[test]
fn transactions_carry_what_is_queued_whole_and_in_order() {
    let bench = bench(&["telemetry", "alarms"]);
    bench.push(0, 3_000);
    let uplink = bench.start();
    bench.push(1, 50);
    bench.drained(0);
    bench.drained(1);
    assert_eq!(uplink.status().state, "up");
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 3_000);
    assert_whole(&bench.account("alarms"), 50);
    // Each stream's cursor comes first, alone.
    assert!(transactions(&bench, "committed") >= 4);
    assert_eq!((transactions(&bench, "aborted"), transactions(&bench, "unknown")), (0, 0));
}

#[test]
fn a_backlog_goes_in_few_transactions_each_longer_than_what_the_client_holds() {
    let mut bench = bench(&["telemetry"]);
    bench.settings.kafka.in_flight_bytes_max = 64 * 1024;
    bench.push(0, 20_000);
    let uplink = bench.start();
    bench.drained(0);
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 20_000);
    // 3 MB: the cursor alone, then 128 KiB and four times as much each time.
    let committed = transactions(&bench, "committed");
    assert!((3..=8).contains(&committed), "{committed} transactions");
}

#[test]
fn a_rate_holds_in_goes_of_a_second() {
    let mut bench = bench(&["telemetry", "alarms"]);
    bench.settings.streams[0].rate = Rate { records: Some(1_000), bytes: None };
    bench.push(0, 2_500);
    let begun = Instant::now();
    let uplink = bench.start();
    bench.push(1, 500);
    bench.drained(1);
    assert!(bench.queue.status().streams[0].records > 0, "the other stream has no limit");
    bench.drained(0);
    // 1000 go at once, and a quarter of a second is lent.
    assert!(begun.elapsed() >= Duration::from_millis(1_200), "2500 records in {:?}", begun.elapsed());
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 2_500);
}

#[test]
fn a_budget_stops_the_backlog_and_keeps_its_reserve() {
    let mut bench = bench(&["telemetry", "alarms"]);
    budget(&mut bench);
    bench.push(0, 2_000);
    let uplink = bench.start();
    wait_for("the budget to be used up", || bench.metrics.uplink_budget_exhausted.get() == 1);
    let waiting = bench.queue.status().streams[0].records;
    assert!(waiting > 500, "{waiting} wait");
    bench.push(1, 50);
    bench.drained(1);
    let used = bench.metrics.uplink_budget_day_bytes.get();
    assert!((70_000..140_000).contains(&used), "{used} bytes used");
    assert_eq!(bench.queue.status().streams[0].records, waiting, "the reserve is not the backlog's");
    bench.end(uplink);
    assert_whole(&bench.account("alarms"), 50);
}

/// A backlog of one stream that goes in three transactions, the last for more than a second, on a slow link.
/// Gives the uplink once the last is under way.
fn long_transaction(bench: &mut Bench) -> Uplink {
    bench.settings.kafka.compression = KafkaCompression::None;
    bench.broker.round_trip(Duration::from_millis(100)).unwrap();
    bench.push(0, 10_000);
    bench.queue.flush().unwrap();
    let uplink = bench.start();
    // Before it: the streams' cursors and the two smaller ones.
    let before = bench.settings.streams.len() as u64 + 2;
    wait_for("the small transactions", || transactions(bench, "committed") >= before);
    wait_for("the long one", || bench.metrics.uplink_in_flight_records.get() > 0);
    uplink
}

#[test]
fn a_stream_of_higher_priority_ends_the_filling_of_a_transaction() {
    let mut bench = bench(&["telemetry", "alarms"]);
    bench.settings.streams[1].priority = 9;
    let uplink = long_transaction(&mut bench);
    let before = transactions(&bench, "committed");
    bench.push(1, 1);
    bench.drained(1);
    assert_eq!(transactions(&bench, "committed") - before, 2, "the open one and the alarm's");
    let waiting = bench.queue.status().streams[0].records;
    assert!(waiting > 1_000, "the alarm has waited for all but {waiting} records");
    bench.broker.round_trip(Duration::ZERO).unwrap();
    bench.drained(0);
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 10_000);
    assert_whole(&bench.account("alarms"), 1);
}

#[test]
fn a_store_that_hangs_ends_the_filling_of_a_transaction() {
    let mut bench = bench(&["telemetry"]);
    let uplink = long_transaction(&mut bench);
    let before = transactions(&bench, "committed");
    bench.disk.with(|platter| platter.stalled = true);
    bench.push(0, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| bench.queue.flush().unwrap());
        bench.disk.wait_until_stuck();
        // Longer than the records last that are read, and than an open transaction waits for more.
        std::thread::sleep(Duration::from_millis(2_200));
        bench.disk.with(|platter| platter.stalled = false);
    });
    wait_for("the commit of what was read", || transactions(&bench, "committed") > before);
    let waiting = bench.queue.status().streams[0].records;
    assert!(waiting > 1_000, "the transaction has waited for all but {waiting} records");
    bench.broker.round_trip(Duration::ZERO).unwrap();
    bench.drained(0);
    assert_eq!((transactions(&bench, "aborted"), transactions(&bench, "unknown")), (0, 0));
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 10_001);
}

#[test]
fn an_outage_is_waited_out() {
    let bench = bench(&["telemetry"]);
    let uplink = bench.start();
    bench.push(0, 500);
    bench.drained(0);
    bench.broker.down().unwrap();
    bench.push(0, 500);
    wait_for("the outage to be seen", || uplink.status().state == "down");
    bench.broker.up().unwrap();
    bench.drained(0);
    assert_eq!(uplink.status().state, "up");
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 1_000);
}

#[test]
fn a_record_that_is_too_large_is_set_aside_between_two_transactions() {
    let mut bench = bench(&["telemetry"]);
    bench.settings.kafka.properties.insert("message.max.bytes".into(), "4000".into());
    bench.push(0, 100);
    bench.push_text(0, "x".repeat(5_000));
    bench.push(0, 100);
    let uplink = bench.start();
    bench.drained(0);
    wait_for("the end of the hold", || uplink.status().held.is_empty());
    bench.end(uplink);
    assert_eq!((poison(&bench), dead_letters(&bench).len()), (1, 1));
    assert_whole(&bench.account("telemetry"), 200);
}

#[test]
fn a_backlog_of_many_messages_a_record_fills_transactions_and_breaks_none() {
    let mut bench = bench(&["telemetry"]);
    let narrow = Form { encoding: Encoding::Json, shape: Shape::Narrow };
    bench.settings.kafka.output.forms = [("telemetry".into(), narrow)].into();
    // Far more messages than the client holds, and it would be full in the middle of a record.
    bench.settings.kafka.in_flight_bytes_max = 1 << 20;
    for _ in 0..3_000 {
        bench.push_fields(0, 21);
    }
    let uplink = bench.start();
    bench.drained(0);
    bench.end(uplink);
    assert_eq!((transactions(&bench, "aborted"), transactions(&bench, "unknown")), (0, 0));
    assert_eq!(bench.read("telemetry").len(), 63_000);
}

/// The double of a stuck client: its requests come to nothing, while the cluster says that all is well.
#[test]
fn a_client_whose_transactions_time_out_is_replaced_once_and_without_loss() {
    let mut bench = bench(&["telemetry", "alarms"]);
    bench.settings.kafka.delivery = Delivery::ExactlyOnce(Transactions { id: None, timeout: Duration::from_secs(1) });
    let uplink = bench.start();
    wait_for("the cursors", || transactions(&bench, "committed") == 2);
    bench.broker.fail_produce(&[NOT_ENOUGH_REPLICAS; 1_000]);
    bench.push(0, 100);
    wait_for("the watchdog", || bench.metrics.uplink_watchdog_rebuilds.get() == 1);
    let aborted = transactions(&bench, "aborted");
    assert!(aborted >= 3, "{aborted} transactions timed out");
    wait_for("more of them", || transactions(&bench, "aborted") >= aborted + 4);
    bench.broker.heal_produce();
    bench.drained(0);
    assert_eq!((bench.metrics.uplink_watchdog_rebuilds.get(), bench.metrics.uplink_client_rebuilds.get()), (1, 1));
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 100);
}

/// The coordinator says that it is not ready yet, and the library asks again for as long as it does.
#[test]
fn a_commit_that_never_ends_costs_the_client_and_no_record() {
    let mut bench = bench(&["telemetry"]);
    bench.settings.kafka.delivery = Delivery::ExactlyOnce(Transactions { id: None, timeout: Duration::from_secs(1) });
    let uplink = bench.start();
    wait_for("the cursor", || transactions(&bench, "committed") == 1);
    bench.broker.fail_end(&[COORDINATOR_LOAD_IN_PROGRESS; 10_000]);
    let begun = Instant::now();
    bench.push(0, 100);
    let is_told = || uplink.status().last_error.unwrap_or_default().starts_with("committing did not end in 3 s: ");
    wait_for("the loss", is_told);
    assert!(begun.elapsed() >= Duration::from_secs(3), "it was lost after {:?}", begun.elapsed());
    bench.broker.heal_end();
    wait_for("another client", || bench.metrics.uplink_client_rebuilds.get() == 1);
    assert_eq!(transactions(&bench, "unknown"), 1);
    bench.drained(0);
    assert_eq!(uplink.status().state, "up");
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 100);
}

/// As for one that is replaced, but with a partition without leader: the cluster says that all is not well.
#[test]
fn a_client_whose_transactions_time_out_is_kept_while_the_cluster_cannot_take_records() {
    let mut bench = bench(&["telemetry"]);
    bench.settings.kafka.delivery = Delivery::ExactlyOnce(Transactions { id: None, timeout: Duration::from_secs(1) });
    bench.settings.streams[0].topic = "wide".into();
    bench.broker.create_topic("wide", 2).unwrap();
    let uplink = bench.start();
    wait_for("the cursor", || transactions(&bench, "committed") == 1);
    // All devices are in the other one; the double of a broker does not survive a record for a partition without leader.
    bench.broker.lead("wide", 1, false).unwrap();
    bench.broker.fail_produce(&[NOT_ENOUGH_REPLICAS; 1_000]);
    bench.push(0, 100);
    wait_for("transactions to time out", || transactions(&bench, "aborted") >= 7);
    assert_eq!((bench.metrics.uplink_watchdog_rebuilds.get(), bench.metrics.uplink_client_rebuilds.get()), (0, 0));
    bench.broker.heal_produce();
    bench.broker.lead("wide", 1, true).unwrap();
    bench.drained(0);
    bench.end(uplink);
    assert_whole(&bench.account("wide"), 100);
}

#[test]
fn a_stop_without_a_broker_does_not_block() {
    let bench = bench(&["telemetry"]);
    bench.broker.down().unwrap();
    bench.push(0, 100);
    let uplink = bench.start();
    wait_for("the outage to be seen", || uplink.status().state == "down");
    bench.end(uplink);
}

/// Kafka protocol error codes.
const GROUP_AUTHORIZATION_FAILED: i16 = 30;
const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;

/// Why each stream is held, in the streams' order.
fn held(uplink: &forebay::uplink::Uplink, stream: &str) -> Option<String> {
    let held = uplink.status().held;
    held.into_iter().find(|(name, _)| name == stream).map(|(_, reason)| reason)
}

#[test]
fn without_the_right_to_the_transactional_id_all_streams_are_held_until_it_is_there() {
    let bench = bench(&["telemetry", "alarms"]);
    bench.push(0, 100);
    bench.broker.fail_producer_id(&[TRANSACTIONAL_ID_AUTHORIZATION_FAILED; 4]);
    let uplink = bench.start();
    let names_the_id =
        |reason: &str| reason.starts_with("transactional id \"test.") && reason.contains("authorization");
    for stream in ["telemetry", "alarms"] {
        wait_for("the hold", || held(&uplink, stream).is_some_and(|reason| names_the_id(&reason)));
    }
    assert_eq!(uplink.status().state, "held");
    bench.push(1, 50);
    bench.drained(0);
    bench.drained(1);
    wait_for("the end of the hold", || uplink.status().held.is_empty());
    assert_eq!(bench.metrics.uplink_fenced.get(), 0);
    // One client for each refusal, and the one that delivers.
    assert_eq!(bench.metrics.uplink_client_rebuilds.get(), 4);
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 100);
    assert_whole(&bench.account("alarms"), 50);
}

#[test]
fn a_group_that_may_not_be_read_holds_its_stream_alone() {
    let bench = bench(&["telemetry", "alarms"]);
    bench.push(0, 100);
    bench.push(1, 50);
    // Of each pair of questions, before and after the transactional id is taken, the first stream's is answered so.
    bench.broker.fail_offsets(&[GROUP_AUTHORIZATION_FAILED, 0, GROUP_AUTHORIZATION_FAILED, 0]);
    let uplink = bench.start();
    wait_for("the hold", || uplink.status().held.len() == 1);
    let (stream, reason) = uplink.status().held.remove(0);
    assert!(reason.contains(&format!(".{stream}")) && reason.contains("docs/kafka-acls.md"), "{reason}");
    bench.drained(0);
    bench.drained(1);
    wait_for("the end of the hold", || uplink.status().held.is_empty());
    assert_eq!(bench.metrics.uplink_client_rebuilds.get(), 0, "the client was not at fault");
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 100);
    assert_whole(&bench.account("alarms"), 50);
}

#[test]
fn a_group_that_takes_no_cursor_holds_its_stream_and_says_which_it_is() {
    let bench = bench(&["telemetry"]);
    bench.push(0, 100);
    bench.broker.fail_cursor(&[GROUP_AUTHORIZATION_FAILED; 4]);
    let uplink = bench.start();
    wait_for("the hold", || held(&uplink, "telemetry").is_some());
    let reason = held(&uplink, "telemetry").unwrap();
    assert!(reason.starts_with("group test.") && reason.contains(".telemetry, topic telemetry: "), "{reason}");
    bench.drained(0);
    wait_for("the end of the hold", || uplink.status().held.is_empty());
    assert_eq!((transactions(&bench, "unknown"), transactions(&bench, "aborted")), (0, 4));
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 100);
}
