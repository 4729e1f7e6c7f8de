//! The dead-letter topic, in both ways of delivery.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use forebay::config::{Delivery, Encoding, Form, Shape, Transactions};
use forebay::metrics::{ByKind, ByStreamAndReason};
use forebay::uplink::Uplink;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{
    Bench, INVALID_RECORD, NOW_MS, PATIENCE, TOPIC_AUTHORIZATION_FAILED, assert_whole, dead_letters, poison, wait_for,
};

const TOPIC: &str = "dead-letters";

fn ways() -> [Delivery; 2] {
    [Delivery::AtLeastOnce, Delivery::ExactlyOnce(Transactions { id: None, timeout: Duration::from_secs(10) })]
}

fn bench(delivery: &Delivery) -> Bench {
    let mut bench = Bench::new(&["telemetry", "alarms"]);
    bench.broker.create_topic(TOPIC, 1).unwrap();
    bench.settings.kafka.delivery = delivery.clone();
    bench.settings.kafka.output.dead_letter_topic = Some(TOPIC.into());
    bench
}

/// A message of the dead-letter topic.
struct Found {
    key: String,
    value: serde_json::Value,
    timestamp_ms: i64,
    headers: BTreeMap<String, String>,
}

/// Reads the dead-letter topic to its end.
fn found(bench: &Bench) -> Vec<Found> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bench.broker.bootstrap()).set("group.id", "test");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut from_start = TopicPartitionList::new();
    from_start.add_partition_offset(TOPIC, 0, Offset::Beginning).unwrap();
    consumer.assign(&from_start).unwrap();
    let (_, end) = consumer.fetch_watermarks(TOPIC, 0, PATIENCE).unwrap();
    let (begun, mut found) = (Instant::now(), Vec::new());
    while (found.len() as i64) < end {
        assert!(begun.elapsed() < PATIENCE, "read {} of {end}", found.len());
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers = message.headers().unwrap().iter();
        found.push(Found {
            key: text(message.key().unwrap()),
            value: serde_json::from_slice(message.payload().unwrap()).unwrap(),
            timestamp_ms: message.timestamp().to_millis().unwrap(),
            headers: headers.map(|header| (header.key.to_owned(), text(header.value.unwrap()))).collect(),
        });
    }
    found
}

fn in_topic(bench: &Bench) -> u64 {
    let label = ByStreamAndReason { stream: "telemetry".into(), reason: "poison_topic" };
    bench.metrics.records_set_aside.get_or_create(&label).get()
}

fn fallbacks(bench: &Bench, kind: &'static str) -> u64 {
    bench.metrics.uplink_dead_letter_fallbacks.get_or_create(&ByKind { kind }).get()
}

/// Lets the uplink deliver everything, and end.
fn deliver(bench: &Bench, uplink: Uplink) {
    bench.drained(0);
    wait_for("the end of the hold", || uplink.status().held.is_empty());
    bench.end(uplink);
}

#[test]
fn a_refused_record_is_in_the_topic_as_it_was_with_headers_that_say_why() {
    for delivery in ways() {
        let bench = bench(&delivery);
        let uplink = bench.start();
        bench.push(0, 10);
        bench.drained(0);
        bench.broker.fail_produce(&[INVALID_RECORD]);
        bench.push_at(0, NOW_MS - 5_000);
        bench.drained(0);
        bench.push(0, 10);
        deliver(&bench, uplink);
        let letters = found(&bench);
        assert_eq!(letters.len(), 1, "{delivery:?}");
        let letter = &letters[0];
        assert_eq!((letter.key.as_str(), letter.timestamp_ms), ("device-0", NOW_MS - 5_000));
        assert_eq!((&letter.value["seq"], &letter.value["number"]), (&10.into(), &1.into()));
        let of = |name: &str| letter.headers.get(name).unwrap_or_else(|| panic!("no {name}")).as_str();
        assert_eq!((of("forebay-stream"), of("forebay-topic")), ("telemetry", "telemetry"));
        assert_eq!((of("forebay-device"), of("forebay-run"), of("forebay-seq")), ("device-0", "1", "10"));
        assert_eq!(of("forebay-queue").len(), 32);
        assert_eq!(of("forebay-error"), "INVALID_RECORD");
        assert!(of("forebay-error-text").contains("InvalidRecord"), "{}", of("forebay-error-text"));
        assert_eq!(of("forebay-time"), "2026-11-22T11:59:55.000Z");
        assert!(of("forebay-set-aside").ends_with('Z'));
        assert_eq!((in_topic(&bench), poison(&bench), dead_letters(&bench).len()), (1, 0, 0));
        // The next record of the stream says that one is not there.
        let account = bench.account("telemetry");
        assert_whole(&account, 20);
        let skipped: u64 = bench
            .read("telemetry")
            .iter()
            .map(|received| serde_json::from_slice::<serde_json::Value>(&received.value).unwrap())
            .filter_map(|record| record["skipped"].as_u64())
            .sum();
        assert_eq!(skipped, 1);
    }
}

#[test]
fn what_the_topic_refuses_too_is_in_the_file() {
    for delivery in ways() {
        // The first refusal is the stream's, the second the dead-letter topic's.
        for (code, kind) in [(INVALID_RECORD, "poison"), (TOPIC_AUTHORIZATION_FAILED, "held")] {
            let bench = bench(&delivery);
            let uplink = bench.start();
            bench.push(0, 10);
            bench.drained(0);
            bench.broker.fail_produce(&[INVALID_RECORD, code]);
            bench.push(0, 1);
            bench.drained(0);
            bench.push(0, 10);
            deliver(&bench, uplink);
            assert_eq!((poison(&bench), in_topic(&bench), fallbacks(&bench, kind)), (1, 0, 1), "{delivery:?} {kind}");
            let letters = dead_letters(&bench);
            assert_eq!((letters.len(), &letters[0]["seq"]), (1, &10.into()));
            assert!(
                letters[0]["error"].as_str().unwrap().contains("InvalidRecord"),
                "why the stream's topic refused it"
            );
            assert_eq!(found(&bench).len(), 0);
            assert_whole(&bench.account("telemetry"), 20);
        }
    }
}

#[test]
fn a_record_too_large_for_the_client_is_in_the_file() {
    for delivery in ways() {
        let mut bench = bench(&delivery);
        bench.settings.kafka.properties.insert("message.max.bytes".into(), "4000".into());
        bench.push(0, 50);
        bench.push_text(0, "x".repeat(5_000));
        bench.push(0, 50);
        let uplink = bench.start();
        deliver(&bench, uplink);
        assert_eq!(
            (poison(&bench), fallbacks(&bench, "poison"), dead_letters(&bench).len()),
            (1, 1, 1),
            "{delivery:?}"
        );
        assert_whole(&bench.account("telemetry"), 100);
    }
}

#[test]
fn too_many_letters_are_held_and_none_is_lost() {
    for delivery in ways() {
        let bench = bench(&delivery);
        let uplink = bench.start();
        bench.push(0, 1);
        bench.drained(0);
        for letter in 0..20 {
            bench.broker.fail_produce(&[INVALID_RECORD]);
            bench.push(0, 1);
            wait_for("the letter", || in_topic(&bench) > letter);
            bench.drained(0);
        }
        bench.broker.fail_produce(&[INVALID_RECORD; 3]);
        bench.push(0, 1);
        wait_for("the hold", || uplink.status().held.iter().any(|(_, why)| why.contains("more than 20")));
        // Nobody else is.
        bench.push(1, 10);
        bench.drained(1);
        deliver(&bench, uplink);
        assert_eq!((in_topic(&bench), found(&bench).len()), (20, 20), "{delivery:?}");
        assert_whole(&bench.account("telemetry"), 2);
    }
}

#[test]
fn a_record_of_several_messages_is_several_letters() {
    for delivery in ways() {
        let mut bench = bench(&delivery);
        let narrow = Form { encoding: Encoding::Json, shape: Shape::Narrow };
        bench.settings.kafka.output.forms = [("telemetry".into(), narrow)].into();
        let uplink = bench.start();
        bench.push(0, 1);
        bench.drained(0);
        bench.broker.fail_produce(&[INVALID_RECORD]);
        bench.push_fields(0, 2);
        deliver(&bench, uplink);
        let letters = found(&bench);
        let metrics: Vec<_> = letters.iter().map(|letter| letter.value["metric"].as_str().unwrap()).collect();
        assert_eq!(metrics, ["field_0", "field_1"], "{delivery:?}");
        assert!(letters.iter().all(|letter| letter.headers["forebay-seq"] == "1"));
    }
}
