//! The uplink from a queue into the embedded Kafka: whole and in order, through outages and errors of every class.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used)]

mod encodings;
mod letters;
#[allow(dead_code)]
#[path = "../queue_model/memory.rs"]
mod memory;
mod newer;
mod newest_first;
mod once;
mod rate;
#[path = "../yardstick/rewriting.rs"]
mod rewriting;
#[path = "../registry/stand_in.rs"]
mod stand_in;

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::config::{Durability, Gateway, Kafka, KafkaCompression};
use forebay::demo::kafka::EmbeddedKafka;
use forebay::kafka::account::Account;
use forebay::kafka::{Consumer, Received};
use forebay::metrics::{ByStreamAndReason, Metrics};
use forebay::queue::{NewRecord, Queue, StreamIndex};
use forebay::reading::{Field, Stamp, Trust, Value};
use forebay::uplink::{Pace, Settings, Uplink};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);
const PACE: Pace = Pace {
    first_delay_max: Duration::ZERO,
    backoff_first: Duration::from_millis(20),
    backoff_max: Duration::from_millis(200),
    rebuild_first: Duration::from_millis(50),
    stall: None,
    stall_interval: Duration::from_secs(300),
    fenced_wait: Duration::from_secs(600),
    cursor_refresh: Duration::from_secs(24 * 3600),
};
/// 2026-11-22T12:00:00Z.
const NOW_MS: i64 = 1_795_348_800_000;
/// Kafka protocol error codes.
const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
const INVALID_RECORD: i16 = 87;
const INVALID_TIMESTAMP: i16 = 32;
const NOT_ENOUGH_REPLICAS: i16 = 19;
const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;

struct Bench {
    broker: EmbeddedKafka,
    kafka: Kafka,
    queue: Queue,
    disk: memory::Disk,
    of_queue: forebay::queue::Settings,
    metrics: Arc<Metrics>,
    settings: Settings,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(streams: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("queue")).unwrap();
        let broker = EmbeddedKafka::start().unwrap();
        for stream in streams {
            broker.create_topic(stream, 1).unwrap();
        }
        let named: Vec<_> = streams.iter().map(|name| (*name, Durability::Window)).collect();
        let of_queue = memory::settings(&named, 4 << 20, dir.path());
        let disk = memory::Disk::default();
        let (queue, metrics) = memory::start(&disk, &of_queue, &memory::Clock::default());
        let kafka = Kafka {
            brokers: vec![broker.bootstrap()],
            client_id: "test".into(),
            tls: None,
            sasl: None,
            compression: KafkaCompression::Zstd,
            in_flight_bytes_max: 64 * 1024,
            linger: Duration::from_millis(5),
            drain: Default::default(),
            rate: Default::default(),
            budget: None,
            delivery: forebay::config::Delivery::AtLeastOnce,
            properties: [
                ("reconnect.backoff.ms", "50"),
                ("reconnect.backoff.max.ms", "100"),
                ("retry.backoff.ms", "50"),
                ("retry.backoff.max.ms", "100"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            output: Default::default(),
        };
        let gateway = Gateway { id: "test".into(), state_dir: dir.path().to_owned(), tags: [].into() };
        let settings = Settings { kafka: kafka.clone(), streams: of_queue.streams.clone(), gateway };
        Self { broker, kafka, queue, disk, of_queue, metrics, settings, stop: CancellationToken::new(), dir }
    }

    /// The queue is closed in order and opened again, for another uplink.
    fn reopen(&mut self) {
        self.queue.close().unwrap();
        (self.queue, self.metrics) = memory::start(&self.disk, &self.of_queue, &memory::Clock::default());
        self.stop = CancellationToken::new();
    }

    fn push(&self, stream: usize, count: usize) {
        for number in 0..count {
            let record = NewRecord {
                stamp: Stamp { boot_ns: 1, wall_us: NOW_MS * 1_000, trust: Trust::Ntp },
                source: "test".into(),
                device: format!("device-{}", number % 3).into(),
                fields: vec![Field::new("number", Value::Unsigned(number as u64))],
            };
            self.queue.push(StreamIndex(stream), record).unwrap();
        }
    }

    fn push_text(&self, stream: usize, text: String) {
        let record = NewRecord {
            stamp: Stamp { boot_ns: 1, wall_us: NOW_MS * 1_000, trust: Trust::Ntp },
            source: "test".into(),
            device: "device-0".into(),
            fields: vec![Field::new("text", Value::Text(text))],
        };
        self.queue.push(StreamIndex(stream), record).unwrap();
    }

    fn push_fields(&self, stream: usize, count: usize) {
        let record = NewRecord {
            stamp: Stamp { boot_ns: 1, wall_us: NOW_MS * 1_000, trust: Trust::Ntp },
            source: "test".into(),
            device: "device-0".into(),
            fields: (0..count).map(|number| Field::new(format!("field_{number}"), Value::Float(0.5))).collect(),
        };
        self.queue.push(StreamIndex(stream), record).unwrap();
    }

    fn push_at(&self, stream: usize, wall_ms: i64) {
        let record = NewRecord {
            stamp: Stamp { boot_ns: 1, wall_us: wall_ms * 1_000, trust: Trust::Ntp },
            source: "test".into(),
            device: "device-0".into(),
            fields: vec![Field::new("number", Value::Unsigned(1))],
        };
        self.queue.push(StreamIndex(stream), record).unwrap();
    }

    fn start(&self) -> Uplink {
        self.start_paced(PACE)
    }

    fn start_paced(&self, pace: Pace) -> Uplink {
        Uplink::start_paced(
            self.settings.clone(),
            pace,
            self.queue.clone(),
            Arc::clone(&self.metrics),
            self.stop.clone(),
        )
        .unwrap()
    }

    /// Waits until the stream has nothing that is not acknowledged.
    fn drained(&self, stream: usize) {
        wait_for("the stream to drain", || self.queue.status().streams[stream].records == 0);
    }

    fn end(&self, uplink: Uplink) {
        self.stop.cancel();
        let begun = Instant::now();
        uplink.join();
        assert!(begun.elapsed() < Duration::from_secs(5), "join took {:?}", begun.elapsed());
        self.queue.close().unwrap();
    }

    fn account(&self, topic: &str) -> Account {
        let mut account = Account::default();
        for received in self.read(topic) {
            account.add(&received.value);
        }
        account
    }

    /// Reads the topic back to its end.
    fn read(&self, topic: &str) -> Vec<Received> {
        let consumer = Consumer::open(&self.kafka, topic, PATIENCE).unwrap();
        let watermarks = consumer.watermarks(PATIENCE).unwrap();
        assert!(watermarks.iter().all(|(low, _)| *low == 0), "the embedded broker dropped records");
        let all: i64 = watermarks.iter().map(|(_, high)| high).sum();
        let begun = Instant::now();
        let mut read = Vec::new();
        while (read.len() as i64) < all {
            assert!(begun.elapsed() < PATIENCE, "read {} of {all}", read.len());
            read.extend(consumer.poll(Duration::from_millis(100)).unwrap());
        }
        read
    }
}

/// Looks again until it is true; the deadline only ends a broken test.
fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < PATIENCE, "waited for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn assert_whole(account: &Account, records: u64) {
    assert_eq!((account.received(), account.missing(), account.out_of_order()), (records, 0, 0));
    assert_eq!(account.unreadable(), 0);
}

#[test]
fn what_is_queued_arrives_whole_and_in_order() {
    let bench = Bench::new(&["telemetry", "alarms"]);
    bench.push(0, 3_000);
    let uplink = bench.start();
    bench.push(1, 50);
    bench.drained(0);
    bench.drained(1);
    assert_eq!(uplink.status().state, "up");
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 3_000);
    assert_whole(&bench.account("alarms"), 50);
}

#[test]
fn an_outage_is_only_a_longer_queue() {
    let bench = Bench::new(&["telemetry"]);
    let uplink = bench.start();
    bench.push(0, 500);
    bench.drained(0);
    bench.broker.down().unwrap();
    bench.push(0, 2_000);
    wait_for("the outage to be seen", || uplink.status().state == "down");
    bench.push(0, 500);
    assert!(bench.queue.status().streams[0].records > 0);
    bench.broker.up().unwrap();
    bench.drained(0);
    assert_eq!(uplink.status().state, "up");
    assert_eq!(bench.metrics.uplink_reconnects.get(), 1);
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 3_000);
}

#[test]
fn errors_of_every_class_lose_nothing_and_keep_the_order() {
    for code in [TOPIC_AUTHORIZATION_FAILED, INVALID_RECORD, NOT_ENOUGH_REPLICAS, OUT_OF_ORDER_SEQUENCE_NUMBER] {
        let mut bench = Bench::new(&["telemetry"]);
        // Many batches wait behind the one that fails. The embedded broker does not look at sequence numbers, as a
        // real one does to refuse what is in flight behind a refused batch; so only one is in flight here.
        for (name, value) in [("batch.size", "4096"), ("max.in.flight", "1")] {
            bench.settings.kafka.properties.insert(name.into(), value.into());
        }
        bench.broker.fail_produce(&[0, 0, code, code, code]);
        bench.push(0, 500);
        let uplink = bench.start();
        bench.push(0, 500);
        bench.drained(0);
        wait_for("the hold to end", || uplink.status().held.is_empty());
        bench.end(uplink);
        let account = bench.account("telemetry");
        assert_eq!((account.received(), account.missing()), (1_000, 0), "code {code}");
        assert_eq!(account.out_of_order(), 0, "code {code}");
    }
}

#[test]
fn a_held_stream_does_not_hold_the_other_and_loses_nothing() {
    let bench = Bench::new(&["telemetry", "alarms"]);
    bench.broker.fail_produce(&[TOPIC_AUTHORIZATION_FAILED; 6]);
    bench.push(0, 100);
    let uplink = bench.start();
    wait_for("the hold", || !uplink.status().held.is_empty());
    assert!(bench.queue.status().streams[0].records > 0, "held, not dropped");
    bench.push(1, 100);
    bench.drained(1);
    bench.drained(0);
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 100);
    assert_whole(&bench.account("alarms"), 100);
}

fn poison(bench: &Bench) -> u64 {
    let label = ByStreamAndReason { stream: "telemetry".into(), reason: "poison" };
    bench.metrics.records_set_aside.get_or_create(&label).get()
}

fn dead_letters(bench: &Bench) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(bench.dir.path().join("queue/dead-letter.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_record_that_is_too_large_is_set_aside_and_the_stream_goes_on() {
    let mut bench = Bench::new(&["telemetry"]);
    bench.settings.kafka.properties.insert("message.max.bytes".into(), "4000".into());
    bench.push(0, 100);
    bench.push_text(0, "x".repeat(5_000));
    bench.push_text(0, "y".repeat(5_000));
    bench.push(0, 100);
    let uplink = bench.start();
    bench.drained(0);
    wait_for("the end of the hold", || uplink.status().held.is_empty());
    bench.end(uplink);
    assert_eq!(poison(&bench), 2);
    let letters = dead_letters(&bench);
    assert_eq!((&letters[0]["seq"], &letters[1]["seq"]), (&100.into(), &101.into()));
    assert_eq!(letters[0]["text"], "x".repeat(5_000));
    assert!(letters[0]["error"].as_str().unwrap().contains("too large"), "{}", letters[0]["error"]);
    assert_whole(&bench.account("telemetry"), 200);
}

#[test]
fn a_record_the_broker_refuses_is_set_aside() {
    let bench = Bench::new(&["telemetry"]);
    let uplink = bench.start();
    bench.broker.fail_produce(&[INVALID_RECORD]);
    bench.push(0, 1);
    bench.drained(0);
    bench.push(0, 10);
    bench.drained(0);
    bench.end(uplink);
    assert_eq!((poison(&bench), dead_letters(&bench).len()), (1, 1));
    assert_whole(&bench.account("telemetry"), 10);
}

#[test]
fn a_refused_timestamp_is_sent_again_with_one_that_was_accepted() {
    let bench = Bench::new(&["telemetry"]);
    let uplink = bench.start();
    bench.push_at(0, NOW_MS - 5_000);
    bench.drained(0);
    bench.broker.fail_produce(&[INVALID_TIMESTAMP]);
    bench.push_at(0, NOW_MS);
    bench.drained(0);
    bench.push_at(0, NOW_MS - 1);
    bench.drained(0);
    bench.push_at(0, NOW_MS + 1);
    bench.drained(0);
    bench.end(uplink);
    assert_eq!((poison(&bench), dead_letters(&bench).len()), (0, 0));
    let timestamps: Vec<i64> = bench.read("telemetry").iter().map(|received| received.timestamp_ms.unwrap()).collect();
    assert_eq!(timestamps, [NOW_MS - 5_000, NOW_MS - 5_000, NOW_MS - 1, NOW_MS - 1]);
}

#[test]
fn a_timestamp_that_is_refused_twice_gives_way_to_the_present_time() {
    let bench = Bench::new(&["telemetry"]);
    let uplink = bench.start();
    bench.push_at(0, NOW_MS - 5_000);
    bench.drained(0);
    bench.broker.fail_produce(&[INVALID_TIMESTAMP; 2]);
    let before_ms = forebay::clock::wall_us() / 1_000;
    bench.push_at(0, NOW_MS);
    bench.drained(0);
    bench.push_at(0, NOW_MS + 1);
    bench.drained(0);
    bench.end(uplink);
    assert_eq!((poison(&bench), dead_letters(&bench).len()), (0, 0));
    let timestamps: Vec<i64> = bench.read("telemetry").iter().map(|received| received.timestamp_ms.unwrap()).collect();
    assert_eq!((timestamps.len(), timestamps[0]), (3, NOW_MS - 5_000));
    assert!(timestamps[1..].iter().all(|given_ms| *given_ms >= before_ms), "{timestamps:?} from {before_ms} on");
}

#[test]
fn beside_a_held_stream_what_is_behind_a_refused_batch_does_not_overtake_it() {
    let mut bench = Bench::new(&["telemetry", "alarms"]);
    bench.settings.kafka.in_flight_bytes_max = 1 << 20;
    // Several batches are ready at once.
    bench.settings.kafka.properties.insert("message.max.bytes".into(), "20000".into());
    let uplink = bench.start();
    // The link is known to be fast: the window lets them all be on the way together.
    bench.push(1, 2_000);
    bench.drained(1);
    for _ in 0..25 {
        bench.push_text(0, "x".repeat(22_000));
    }
    wait_for("the hold", || !uplink.status().held.is_empty());
    // A refusal ends the client that stops at one; as a stream waits, its successor goes on behind refused batches.
    bench.broker.fail_produce(&[TOPIC_AUTHORIZATION_FAILED]);
    // So many that the stream goes record by record no longer in the end.
    bench.push(1, 2_000);
    bench.drained(1);
    assert!(bench.metrics.uplink_client_rebuilds.get() > 0, "it is another client");
    bench.broker.fail_produce(&[INVALID_RECORD]);
    bench.push(1, 400);
    bench.drained(1);
    assert!(!uplink.status().held.is_empty(), "the other one still waits");
    bench.end(uplink);
    assert_whole(&bench.account("alarms"), 4_400);
}

#[test]
fn too_many_refused_records_are_held_and_none_is_lost() {
    let mut bench = Bench::new(&["telemetry"]);
    bench.settings.kafka.properties.insert("message.max.bytes".into(), "4000".into());
    for _ in 0..25 {
        bench.push_text(0, "x".repeat(5_000));
    }
    let uplink = bench.start();
    wait_for("the hold", || !uplink.status().held.is_empty());
    let (_, reason) = uplink.status().held.swap_remove(0);
    assert!(reason.starts_with("more than 20 of the last 1000"), "{reason}");
    assert_eq!((poison(&bench), dead_letters(&bench).len()), (20, 20));
    assert_eq!(bench.queue.status().streams[0].records, 5);
    bench.end(uplink);
}

/// The double of a stuck client: one that lingers for a quarter of an hour. It sends nothing, reports nothing, and only the
/// last flush can make it.
fn stuck(streams: &[&str]) -> Bench {
    let mut bench = Bench::new(streams);
    bench.settings.kafka.linger = Duration::from_secs(900);
    bench.settings.kafka.properties.insert("statistics.interval.ms".into(), "50".into());
    bench
}

/// The watchdog replaces it, then `mend`; the next one has all `in_flight` records, of which it delivers those of the first
/// stream, and is not replaced.
fn is_replaced_once(bench: &Bench, of_first: u64, in_flight: i64, mend: impl FnOnce()) {
    let uplink = bench.start_paced(Pace { stall: Some(Duration::from_millis(400)), ..PACE });
    wait_for("the watchdog", || bench.metrics.uplink_watchdog_rebuilds.get() == 1);
    mend();
    wait_for("the new client", || {
        bench.metrics.uplink_client_rebuilds.get() == 1 && bench.metrics.uplink_in_flight_records.get() == in_flight
    });
    wait_for("its connection", || uplink.status().state == "up");
    bench.end(uplink);
    assert_eq!(bench.metrics.uplink_watchdog_rebuilds.get(), 1);
    assert_whole(&bench.account("telemetry"), of_first);
}

#[test]
fn a_stuck_client_is_replaced_once_and_without_loss() {
    let bench = stuck(&["telemetry"]);
    bench.push(0, 100);
    is_replaced_once(&bench, 100, 100, || {});
}

/// A second stream whose topic cannot take records: that is its own affair.
#[test]
fn a_topic_that_takes_no_records_does_not_hide_a_stuck_client() {
    let bench = stuck(&["telemetry", "alarms"]);
    bench.broker.lead("alarms", 0, false).unwrap();
    // What fits the smallest window.
    bench.push(0, 40);
    bench.push(1, 10);
    is_replaced_once(&bench, 40, 50, || bench.broker.lead("alarms", 0, true).unwrap());
}

/// Nor is a cluster that lacks a leader, while another stream is delivered all the time.
#[test]
fn a_topic_without_a_leader_beside_one_that_is_delivered_is_no_stuck_client() {
    let mut bench = Bench::new(&["telemetry", "alarms"]);
    bench.settings.kafka.properties.insert("statistics.interval.ms".into(), "50".into());
    bench.broker.lead("alarms", 0, false).unwrap();
    bench.push(1, 10);
    let uplink = bench.start_paced(Pace {
        // The client looks for a leader every second.
        stall: Some(Duration::from_millis(1_500)),
        stall_interval: Duration::from_millis(100),
        ..PACE
    });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        bench.push(0, 10);
        bench.drained(0);
    }
    bench.broker.lead("alarms", 0, true).unwrap();
    bench.drained(1);
    bench.end(uplink);
    assert_eq!(bench.metrics.uplink_watchdog_rebuilds.get(), 0);
    assert_whole(&bench.account("alarms"), 10);
}

#[test]
fn a_cluster_without_enough_replicas_is_no_stuck_client() {
    let mut bench = Bench::new(&["telemetry"]);
    bench.settings.kafka.properties.insert("statistics.interval.ms".into(), "50".into());
    bench.broker.fail_produce(&[NOT_ENOUGH_REPLICAS; 40]);
    bench.push(0, 100);
    let uplink = bench.start_paced(Pace { stall: Some(Duration::from_millis(800)), ..PACE });
    bench.drained(0);
    bench.end(uplink);
    assert_eq!(bench.metrics.uplink_watchdog_rebuilds.get(), 0);
    assert_whole(&bench.account("telemetry"), 100);
}

#[test]
fn a_stop_without_a_broker_does_not_block() {
    let bench = Bench::new(&["telemetry"]);
    bench.broker.down().unwrap();
    bench.push(0, 100);
    let uplink = bench.start();
    wait_for("records in flight", || bench.metrics.uplink_in_flight_records.get() > 0);
    bench.end(uplink);
}

#[test]
fn a_property_that_cannot_be_is_named_at_start() {
    let mut bench = Bench::new(&["telemetry"]);
    bench.settings.kafka.properties.insert("batch.size".into(), "many".into());
    let started = Uplink::start_paced(
        bench.settings.clone(),
        PACE,
        bench.queue.clone(),
        Arc::clone(&bench.metrics),
        bench.stop.clone(),
    );
    let error = format!("{:#}", started.err().unwrap());
    assert!(error.contains("batch.size = \"many\""), "{error}");
}
