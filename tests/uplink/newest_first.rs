//! Newest-first: after an outage what is new arrives before history, and everything arrives.

use forebay::config::DrainOrder;

use super::*;

/// More than goes first, and more than one window of the client.
const BACKLOG: usize = 20_000;

/// The `seq`s as they arrived, each once.
fn arrived(bench: &Bench) -> Vec<u64> {
    let mut seen = std::collections::BTreeSet::new();
    let seq = |received: &Received| {
        let value: serde_json::Value = serde_json::from_slice(&received.value).unwrap();
        value["run"].as_u64().unwrap() * 1_000_000 + value["seq"].as_u64().unwrap()
    };
    bench.read("telemetry").iter().map(seq).filter(|seq| seen.insert(*seq)).collect()
}

/// How many runs of ascending positions there are.
fn ascents(arrived: &[u64]) -> usize {
    1 + arrived.windows(2).filter(|two| two[1] < two[0]).count()
}

fn outage(bench: &Bench, uplink: &Uplink) {
    bench.push(0, 500);
    bench.drained(0);
    bench.broker.down().unwrap();
    bench.push(0, 10);
    wait_for("the outage to be seen", || uplink.status().state == "down");
    bench.push(0, BACKLOG);
}

#[test]
fn after_an_outage_the_newest_arrive_first_and_history_follows_in_order() {
    let mut bench = Bench::new(&["telemetry"]);
    bench.settings.kafka.drain = DrainOrder::NewestFirst;
    let uplink = bench.start();
    outage(&bench, &uplink);
    bench.broker.up().unwrap();
    bench.drained(0);
    bench.end(uplink);
    assert_whole_but_for_order(&bench.account("telemetry"), 510 + BACKLOG as u64);
    let arrived = arrived(&bench);
    let place = |seq: usize| arrived.iter().position(|at| *at == 1_000_000 + seq as u64).unwrap();
    let (oldest, middle, newest) = (place(700), place(BACKLOG / 2), place(500 + BACKLOG + 9));
    assert!(newest < oldest && newest < middle, "the newest is number {newest}, history {oldest} and {middle}");
    assert!(oldest < middle, "history in order");
    // The live part, what was in flight, the newest lane, history; each in order.
    assert!(ascents(&arrived) <= 4, "{} parts", ascents(&arrived));
    assert_eq!(bench.queue.lanes(StreamIndex(0)).unwrap().pairs().len(), 1, "history is done");
}

#[test]
fn a_restart_amid_history_goes_on_without_sending_the_newest_again() {
    let mut bench = Bench::new(&["telemetry"]);
    bench.settings.kafka.drain = DrainOrder::NewestFirst;
    bench.settings.kafka.in_flight_bytes_max = 64 * 1024;
    let uplink = bench.start();
    outage(&bench, &uplink);
    // What comes first is new, and history comes to a stop behind it.
    bench.broker.up().unwrap();
    wait_for("history to begin", || {
        let lanes = bench.queue.lanes(StreamIndex(0)).unwrap();
        lanes.pairs().len() == 2 && lanes.pairs()[0].0.seq() > 700
    });
    bench.broker.down().unwrap();
    bench.stop.cancel();
    uplink.join();
    let waiting = bench.queue.status().streams[0].records;
    let lanes = bench.queue.lanes(StreamIndex(0)).unwrap();
    bench.reopen();
    assert_eq!(bench.queue.lanes(StreamIndex(0)), Some(lanes.clone()), "{waiting} waited");
    // What waits is known once the blocks are: before that nothing seems to.
    wait_for("the blocks to be known", || bench.queue.status().streams[0].records > 0);
    let sent_before = bench.metrics.uplink_records_delivered.get_or_create(&telemetry()).get();
    bench.broker.up().unwrap();
    let uplink = bench.start();
    bench.drained(0);
    let sent = bench.metrics.uplink_records_delivered.get_or_create(&telemetry()).get() - sent_before;
    assert_eq!(sent, waiting, "only what waited is sent");
    bench.end(uplink);
    assert_whole_but_for_order(&bench.account("telemetry"), 510 + BACKLOG as u64);
}

#[test]
fn an_oldest_first_uplink_takes_over_lanes_of_a_newest_first_one() {
    let mut bench = Bench::new(&["telemetry"]);
    bench.push(0, BACKLOG);
    let newest = forebay::queue::Newest { bytes: 10_000, age: Duration::from_secs(300) };
    assert!(bench.queue.split_newest(StreamIndex(0), newest).unwrap());
    bench.reopen();
    // What waits is known once the blocks are: before that nothing seems to.
    wait_for("the blocks to be known", || bench.queue.status().streams[0].records == BACKLOG as u64);
    let uplink = bench.start();
    bench.drained(0);
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), BACKLOG as u64);
}

#[test]
fn errors_of_every_class_lose_nothing_while_two_lanes_drain() {
    for code in [TOPIC_AUTHORIZATION_FAILED, INVALID_RECORD, NOT_ENOUGH_REPLICAS, OUT_OF_ORDER_SEQUENCE_NUMBER] {
        let mut bench = Bench::new(&["telemetry"]);
        bench.settings.kafka.drain = DrainOrder::NewestFirst;
        for (name, value) in [("batch.size", "4096"), ("max.in.flight", "1")] {
            bench.settings.kafka.properties.insert(name.into(), value.into());
        }
        bench.push(0, 8_000);
        bench.broker.fail_produce(&[0, 0, code, code, code]);
        let uplink = bench.start();
        bench.push(0, 500);
        bench.drained(0);
        wait_for("the hold to end", || uplink.status().held.is_empty());
        bench.end(uplink);
        let account = bench.account("telemetry");
        assert_eq!((account.received(), account.missing()), (8_500, 0), "code {code}");
        assert_eq!(poison(&bench), 0, "code {code}");
    }
}

fn assert_whole_but_for_order(account: &Account, records: u64) {
    assert_eq!((account.received(), account.missing()), (records, 0));
}

fn telemetry() -> forebay::metrics::ByStream {
    forebay::metrics::ByStream { stream: "telemetry".into() }
}
