//! Other encodings than wide JSON, into the embedded Kafka, with a stand-in for the Schema Registry.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apache_avro::types::Value as Avro;
use forebay::config::{Delivery, Encoding, Form, Output, Registry, Secret, Shape, Transactions};
use forebay::kafka::Received;
use forebay::queue::{NewRecord, StreamIndex};
use forebay::reading::{Field, Stamp, Trust, Value};
use forebay::uplink::Uplink;
use tokio_util::sync::CancellationToken;

use super::stand_in::{Mood, StandIn};
use super::{Bench, NOW_MS, PACE, assert_whole, dead_letters, poison, wait_for};

const AVRO: Form = Form { encoding: Encoding::Avro, shape: Shape::Wide };
const SUBJECT: &str = "telemetry-value";

fn registry(stand_in: &StandIn) -> Registry {
    Registry {
        tls: false,
        host: "127.0.0.1".into(),
        port: stand_in.address().port(),
        path: String::new(),
        username: None,
        password: None,
        ca: None,
        timeout: Duration::from_secs(20),
    }
}

/// Streams `telemetry`, written in this form, and `alarms` in JSON.
fn bench(form: Form, stand_in: &StandIn) -> Bench {
    let mut bench = Bench::new(&["telemetry", "alarms"]);
    bench.settings.kafka.output =
        Output { forms: [("telemetry".into(), form)].into(), registry: Some(registry(stand_in)), ..Output::default() };
    bench
}

fn push(bench: &Bench, fields: Vec<Field>) {
    let record = NewRecord {
        stamp: Stamp { boot_ns: 1, wall_us: NOW_MS * 1_000, trust: Trust::Ntp },
        source: "test".into(),
        device: "device-0".into(),
        fields,
    };
    bench.queue.push(StreamIndex(0), record).unwrap();
}

fn push_numbers(bench: &Bench, field: &str, count: i64) {
    (0..count).for_each(|number| push(bench, vec![Field::new(field, Value::Integer(number))]));
}

/// The members of all messages of the topic, each read with the schema that it names.
fn read_avro(bench: &Bench, stand_in: &StandIn) -> Vec<BTreeMap<String, Avro>> {
    let decode = |received: &Received| {
        let (head, mut datum) = received.value.split_at(5);
        let id = u32::from_be_bytes(head[1..].try_into().unwrap());
        let schema = apache_avro::Schema::parse_str(&stand_in.schema(id)).unwrap();
        let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
        let Avro::Record(members) = reader.read_value(&mut datum).unwrap() else { panic!("no record") };
        assert!(head[0] == 0 && datum.is_empty());
        let plain = |value| if let Avro::Union(_, inner) = value { *inner } else { value };
        members.into_iter().map(|(name, value)| (name, plain(value))).collect()
    };
    bench.read("telemetry").iter().map(decode).collect()
}

fn seqs(records: &[BTreeMap<String, Avro>]) -> Vec<i64> {
    let seq = |record: &BTreeMap<String, Avro>| if let Avro::Long(seq) = record["seq"] { seq } else { panic!() };
    records.iter().map(seq).collect()
}

/// An uplink that ends before the bench does.
fn first_life(bench: &Bench) -> (Uplink, CancellationToken) {
    let stop = CancellationToken::new();
    let uplink = Uplink::start_paced(
        bench.settings.clone(),
        PACE,
        bench.queue.clone(),
        Arc::clone(&bench.metrics),
        stop.clone(),
    );
    (uplink.unwrap(), stop)
}

fn hold_of(uplink: &Uplink) -> String {
    uplink.status().held.first().map(|(_, reason)| reason.clone()).unwrap_or_default()
}

#[test]
fn avro_records_arrive_whole_and_schemas_grow_with_their_fields() {
    let stand_in = StandIn::start();
    let bench = bench(AVRO, &stand_in);
    push_numbers(&bench, "a", 500);
    let uplink = bench.start();
    bench.drained(0);
    assert_eq!(stand_in.versions(SUBJECT), 1);
    (0..500).for_each(|number| push(&bench, vec![Field::new(["b", "c"][number % 2], Value::Float(0.5))]));
    bench.push(1, 50);
    bench.drained(0);
    bench.drained(1);
    bench.end(uplink);
    let records = read_avro(&bench, &stand_in);
    assert_eq!(seqs(&records), (0..1_000).collect::<Vec<_>>());
    for (number, record) in records[..500].iter().enumerate() {
        assert_eq!(record["a"], Avro::Long(number as i64));
    }
    for (number, record) in records[500..].iter().enumerate() {
        assert_eq!((&record[["b", "c"][number % 2]], &record["a"]), (&Avro::Double(0.5), &Avro::Null));
    }
    assert!((2..=3).contains(&stand_in.versions(SUBJECT)), "fields that wait together are registered together");
    assert_whole(&bench.account("alarms"), 50);
}

#[test]
fn without_a_registry_the_stream_is_held_and_others_go_on() {
    let stand_in = StandIn::start();
    stand_in.mood(Mood::Away);
    let bench = bench(AVRO, &stand_in);
    push_numbers(&bench, "a", 300);
    let uplink = bench.start();
    wait_for("the hold", || hold_of(&uplink).contains("cannot be reached"));
    bench.push(1, 100);
    bench.drained(1);
    assert_eq!((bench.queue.status().streams[0].records, uplink.status().state), (300, "held"));
    stand_in.mood(Mood::Willing);
    bench.drained(0);
    wait_for("the release", || uplink.status().held.is_empty());
    bench.end(uplink);
    assert_eq!(seqs(&read_avro(&bench, &stand_in)), (0..300).collect::<Vec<_>>());
    assert_whole(&bench.account("alarms"), 100);
    assert_eq!(bench.metrics.uplink_client_rebuilds.get(), 0, "a registry is no matter of the Kafka client");
}

#[test]
fn a_silent_registry_keeps_nobody_else_waiting() {
    let stand_in = StandIn::start();
    stand_in.mood(Mood::Silent);
    let bench = bench(AVRO, &stand_in);
    push_numbers(&bench, "a", 10);
    let uplink = bench.start();
    bench.push(1, 2_000);
    bench.drained(1);
    assert_eq!(bench.queue.status().streams[0].records, 10);
    // It is still being waited for, and the end does not wait with it.
    bench.end(uplink);
}

#[test]
fn an_answer_that_does_not_come_in_time_is_an_absence() {
    let stand_in = StandIn::start();
    stand_in.mood(Mood::Silent);
    let mut bench = bench(AVRO, &stand_in);
    bench.settings.kafka.output.registry.as_mut().unwrap().timeout = Duration::from_millis(50);
    push_numbers(&bench, "a", 10);
    let uplink = bench.start();
    wait_for("the hold", || hold_of(&uplink).contains("no answer within 50ms"));
    bench.end(uplink);
}

#[test]
fn what_was_registered_once_needs_no_registry_at_the_next_start() {
    let stand_in = StandIn::start();
    let bench = bench(AVRO, &stand_in);
    push_numbers(&bench, "a", 100);
    let (uplink, stop) = first_life(&bench);
    bench.drained(0);
    stop.cancel();
    uplink.join();

    stand_in.mood(Mood::Away);
    push_numbers(&bench, "a", 100);
    let uplink = bench.start();
    bench.drained(0);
    assert_eq!(hold_of(&uplink), "");
    // What is new has to wait.
    push_numbers(&bench, "b", 1);
    wait_for("the hold", || hold_of(&uplink).contains("cannot be reached"));
    stand_in.mood(Mood::Willing);
    bench.drained(0);
    bench.end(uplink);
    let records = read_avro(&bench, &stand_in);
    assert_eq!(seqs(&records), (0..201).collect::<Vec<_>>());
    assert_eq!((stand_in.versions(SUBJECT), &records[200]["b"]), (2, &Avro::Long(0)));
}

#[test]
fn a_damaged_cache_is_registered_anew_under_the_same_id() {
    let stand_in = StandIn::start();
    let bench = bench(AVRO, &stand_in);
    let file = bench.settings.gateway.state_dir.join("schemas/telemetry.json");
    let mut before = String::new();
    // One bit of the id flipped; torn; empty; whole.
    for damage in 0..4 {
        push_numbers(&bench, "a", 10);
        let (uplink, stop) = first_life(&bench);
        bench.drained(0);
        stop.cancel();
        uplink.join();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(before.is_empty() || before == text);
        before.clone_from(&text);
        let mut bytes = text.into_bytes();
        match damage {
            0 => {
                let id = before.find("\"id\":").unwrap() + 5;
                bytes[id + 3] ^= 2;
            }
            1 => bytes.truncate(60),
            2 => bytes.clear(),
            _ => {}
        }
        std::fs::write(&file, bytes).unwrap();
    }
    assert_eq!(stand_in.versions(SUBJECT), 1);
    assert_eq!(seqs(&read_avro(&bench, &stand_in)), (0..40).collect::<Vec<_>>());
    bench.queue.close().unwrap();
}

#[test]
fn a_registry_that_was_set_up_anew_gets_the_schemas_of_before() {
    let stand_in = StandIn::start();
    let bench = bench(AVRO, &stand_in);
    push_numbers(&bench, "a", 10);
    let (uplink, stop) = first_life(&bench);
    bench.drained(0);
    stop.cancel();
    uplink.join();
    stand_in.forget();
    let uplink = bench.start();
    wait_for("the registration", || stand_in.versions(SUBJECT) == 1);
    wait_for("its answer", || {
        let text = std::fs::read_to_string(bench.settings.gateway.state_dir.join("schemas/telemetry.json")).unwrap();
        text.contains("\"id\":1006")
    });
    bench.end(uplink);
}

#[test]
fn a_schema_that_is_refused_holds_its_stream_until_it_is_taken() {
    for (status, words) in [(409, "incompatible with an earlier schema"), (422, "not valid"), (403, "forbidden")] {
        let stand_in = StandIn::start();
        let bench = bench(AVRO, &stand_in);
        push_numbers(&bench, "a", 100);
        let uplink = bench.start();
        bench.drained(0);
        stand_in.mood(Mood::Unwilling(status, words.into()));
        push_numbers(&bench, "b", 100);
        wait_for("the hold", || hold_of(&uplink).contains(words) && hold_of(&uplink).contains(&status.to_string()));
        bench.push(1, 100);
        bench.drained(1);
        assert_eq!(bench.queue.status().streams[0].records, 100, "held, nothing dropped");
        stand_in.mood(Mood::Willing);
        bench.drained(0);
        wait_for("the release", || uplink.status().held.is_empty());
        bench.end(uplink);
        assert_eq!(seqs(&read_avro(&bench, &stand_in)), (0..200).collect::<Vec<_>>());
    }
}

#[test]
fn a_registry_may_want_a_password() {
    let stand_in = StandIn::start();
    stand_in.wants("Z2F0ZXdheTpvcGVuIHNlc2FtZQ==");
    let mut bench = bench(AVRO, &stand_in);
    push_numbers(&bench, "a", 10);
    let (uplink, stop) = first_life(&bench);
    wait_for("the hold", || hold_of(&uplink).contains("401 Unauthorized"));
    stop.cancel();
    uplink.join();
    let registry = bench.settings.kafka.output.registry.as_mut().unwrap();
    registry.username = Some("gateway".into());
    registry.password = Some(Secret("open sesame".into()));
    let uplink = bench.start();
    bench.drained(0);
    bench.end(uplink);
    assert_eq!(read_avro(&bench, &stand_in).len(), 10);
}

#[test]
fn a_registry_proves_over_tls_who_it_is() {
    let stand_in = StandIn::start_tls();
    let mut bench = bench(AVRO, &stand_in);
    let data = |name: &str| Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name));
    push_numbers(&bench, "a", 10);
    for (host, ca, words) in [
        ("127.0.0.1", "ca-1.pem", "UnknownIssuer"),
        ("localhost", "registry-ca.pem", "localhost"),
        ("127.0.0.1", "nowhere.pem", "nowhere.pem"),
    ] {
        let registry = bench.settings.kafka.output.registry.as_mut().unwrap();
        (registry.tls, registry.host, registry.ca) = (true, host.into(), data(ca));
        let (uplink, stop) = first_life(&bench);
        wait_for("the hold", || !hold_of(&uplink).is_empty());
        let reason = hold_of(&uplink);
        assert!(reason.contains("https://") && reason.contains(words), "{reason}");
        stop.cancel();
        uplink.join();
    }
    let registry = bench.settings.kafka.output.registry.as_mut().unwrap();
    (registry.host, registry.ca) = ("127.0.0.1".into(), data("registry-ca.pem"));
    let uplink = bench.start();
    bench.drained(0);
    bench.end(uplink);
    assert_eq!(seqs(&read_avro(&bench, &stand_in)), (0..10).collect::<Vec<_>>());
}

#[test]
fn gateways_of_a_fleet_share_a_schema() {
    let stand_in = StandIn::start();
    for form in [AVRO, Form { encoding: Encoding::Protobuf, shape: Shape::Wide }] {
        stand_in.forget();
        let benches = [bench(form, &stand_in), bench(form, &stand_in)];
        let uplinks = [benches[0].start(), benches[1].start()];
        for (round, field) in ["a", "b", "c", "d"].iter().enumerate() {
            let bench = &benches[round % 2];
            push(bench, vec![Field::new(*field, Value::Float(1.0)), Field::new("x", Value::Bool(true))]);
            bench.drained(0);
        }
        let latest = stand_in.schema(1_005 + stand_in.versions(SUBJECT) as u32);
        assert!(
            ["a", "b", "c", "d", "x"]
                .iter()
                .all(|name| latest.contains(&format!("{name}\"")) || latest.contains(&format!("{name} ="))),
            "{latest}"
        );
        for (bench, uplink) in benches.into_iter().zip(uplinks) {
            bench.end(uplink);
        }
    }
}

#[test]
fn a_record_that_no_schema_has_room_for_is_set_aside() {
    let stand_in = StandIn::start();
    let bench = bench(AVRO, &stand_in);
    let many = |range: std::ops::Range<usize>| {
        range.map(|number| Field::new(format!("field_{number}"), Value::Bool(true))).collect::<Vec<_>>()
    };
    for quarter in 0..4 {
        push(&bench, many(quarter * 250..(quarter + 1) * 250));
    }
    push(&bench, many(999..1_001));
    push_numbers(&bench, "one_more", 1);
    push(&bench, many(0..10));
    let uplink = bench.start();
    bench.drained(0);
    bench.end(uplink);
    assert_eq!((poison(&bench), dead_letters(&bench).len()), (2, 2));
    assert!(dead_letters(&bench)[0]["error"].as_str().unwrap().contains("1000 fields at most"));
    let records = read_avro(&bench, &stand_in);
    assert_eq!(seqs(&records), [0, 1, 2, 3, 6]);
    assert_eq!(records[4]["skipped"], Avro::Long(2));
}

/// `seq` and `metric` of all messages, in the order of the topic.
fn metrics(bench: &Bench) -> Vec<(u64, String)> {
    let of = |received: Received| {
        let json: serde_json::Value = serde_json::from_slice(&received.value).unwrap();
        (json["seq"].as_u64().unwrap(), json["metric"].as_str().unwrap().to_owned())
    };
    bench.read("telemetry").into_iter().map(of).collect()
}

fn narrow_bench() -> Bench {
    let mut bench = Bench::new(&["telemetry", "alarms"]);
    let narrow = Form { encoding: Encoding::Json, shape: Shape::Narrow };
    bench.settings.kafka.output.forms = [("telemetry".into(), narrow)].into();
    bench
}

fn five_fields(number: usize) -> Vec<Field> {
    (0..5).map(|field| Field::new(format!("f{field}"), Value::Integer((number + field) as i64))).collect()
}

#[test]
fn narrow_records_are_acknowledged_when_all_their_messages_are() {
    let mut bench = narrow_bench();
    // The client takes three messages: it is full in the middle of every record.
    bench.settings.kafka.properties.insert("queue.buffering.max.messages".into(), "3".into());
    (0..200).for_each(|number| push(&bench, five_fields(number)));
    let uplink = bench.start();
    bench.drained(0);
    bench.end(uplink);
    let expected: Vec<_> = (0..200).flat_map(|seq| (0..5).map(move |field| (seq, format!("f{field}")))).collect();
    assert_eq!(metrics(&bench), expected);
}

#[test]
fn a_narrow_record_with_a_message_that_is_refused_is_set_aside_whole() {
    for at in [0, 2, 4] {
        let mut bench = narrow_bench();
        bench.settings.kafka.properties.insert("message.max.bytes".into(), "4000".into());
        (0..20).for_each(|number| push(&bench, five_fields(number)));
        let mut fields = five_fields(20);
        fields[at].value = Value::Text("x".repeat(5_000));
        push(&bench, fields);
        (0..20).for_each(|number| push(&bench, five_fields(number)));
        let uplink = bench.start();
        bench.drained(0);
        bench.end(uplink);
        assert_eq!((poison(&bench), dead_letters(&bench)[0]["seq"].as_u64()), (1, Some(20)));
        let found: BTreeSet<u64> = metrics(&bench).into_iter().map(|(seq, _)| seq).filter(|seq| *seq != 20).collect();
        assert_eq!(found.len(), 40, "all others arrived");
    }
}

#[test]
fn a_narrow_stream_goes_through_errors_without_loss() {
    const NOT_ENOUGH_REPLICAS: i16 = 19;
    const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    for code in [NOT_ENOUGH_REPLICAS, OUT_OF_ORDER_SEQUENCE_NUMBER] {
        let mut bench = narrow_bench();
        for (name, value) in [("batch.size", "2048"), ("max.in.flight", "1"), ("queue.buffering.max.messages", "7")] {
            bench.settings.kafka.properties.insert(name.into(), value.into());
        }
        bench.broker.fail_produce(&[0, 0, code, code]);
        (0..100).for_each(|number| push(&bench, five_fields(number)));
        let uplink = bench.start();
        bench.drained(0);
        bench.end(uplink);
        let found: BTreeSet<_> = metrics(&bench).into_iter().collect();
        assert_eq!(found.len(), 500, "code {code}");
    }
}

/// The same in transactions.
fn once(form: Form, stand_in: &StandIn) -> Bench {
    let mut bench = bench(form, stand_in);
    bench.settings.kafka.delivery = Delivery::ExactlyOnce(Transactions { id: None, timeout: Duration::from_secs(10) });
    bench
}

fn transactions(bench: &Bench, kind: &'static str) -> u64 {
    bench.metrics.uplink_transactions.get_or_create(&forebay::metrics::ByKind { kind }).get()
}

#[test]
fn transactions_carry_avro_and_end_where_a_schema_has_to_grow() {
    let stand_in = StandIn::start();
    let bench = once(AVRO, &stand_in);
    push_numbers(&bench, "a", 500);
    let uplink = bench.start();
    bench.drained(0);
    (0..500).for_each(|number| push(&bench, vec![Field::new(["b", "c"][number % 2], Value::Float(0.5))]));
    bench.push(1, 50);
    bench.drained(0);
    bench.drained(1);
    bench.end(uplink);
    let records = read_avro(&bench, &stand_in);
    assert_eq!(seqs(&records), (0..1_000).collect::<Vec<_>>());
    for (number, record) in records[..500].iter().enumerate() {
        assert_eq!(record["a"], Avro::Long(number as i64));
    }
    assert!((2..=4).contains(&stand_in.versions(SUBJECT)), "{} versions", stand_in.versions(SUBJECT));
    assert_eq!((transactions(&bench, "aborted"), transactions(&bench, "unknown")), (0, 0));
    assert_whole(&bench.account("alarms"), 50);
}

#[test]
fn a_registry_that_is_away_or_silent_keeps_no_transaction_open_and_no_other_stream_waiting() {
    let protobuf = Form { encoding: Encoding::Protobuf, shape: Shape::Wide };
    for (mood, words) in [(Mood::Away, "cannot be reached"), (Mood::Silent, "no answer within 200ms")] {
        let stand_in = StandIn::start();
        stand_in.mood(mood);
        let mut bench = once(protobuf, &stand_in);
        bench.settings.kafka.output.registry.as_mut().unwrap().timeout = Duration::from_millis(200);
        push_numbers(&bench, "a", 300);
        let uplink = bench.start();
        wait_for("the hold", || hold_of(&uplink).contains(words));
        bench.push(1, 100);
        bench.drained(1);
        assert_eq!((bench.queue.status().streams[0].records, uplink.status().state), (300, "held"));
        stand_in.mood(Mood::Willing);
        bench.drained(0);
        wait_for("the release", || uplink.status().held.is_empty());
        bench.end(uplink);
        assert_eq!((bench.read("telemetry").len(), stand_in.versions(SUBJECT)), (300, 1));
        assert_whole(&bench.account("alarms"), 100);
        assert_eq!((transactions(&bench, "aborted"), transactions(&bench, "unknown")), (0, 0));
    }
}

#[test]
fn transactions_need_no_registry_for_what_an_earlier_run_registered() {
    let stand_in = StandIn::start();
    let bench = once(AVRO, &stand_in);
    push_numbers(&bench, "a", 100);
    let (uplink, stop) = first_life(&bench);
    bench.drained(0);
    stop.cancel();
    uplink.join();
    stand_in.mood(Mood::Away);
    push_numbers(&bench, "a", 100);
    let uplink = bench.start();
    bench.drained(0);
    assert_eq!(hold_of(&uplink), "");
    bench.end(uplink);
    assert_eq!(seqs(&read_avro(&bench, &stand_in)), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_record_that_no_schema_has_room_for_is_set_aside_between_two_transactions() {
    let stand_in = StandIn::start();
    let bench = once(AVRO, &stand_in);
    let many = |range: std::ops::Range<usize>| {
        range.map(|number| Field::new(format!("field_{number}"), Value::Bool(true))).collect::<Vec<_>>()
    };
    for quarter in 0..4 {
        push(&bench, many(quarter * 250..(quarter + 1) * 250));
    }
    push(&bench, many(999..1_001));
    push(&bench, many(0..10));
    let uplink = bench.start();
    bench.drained(0);
    wait_for("the release", || uplink.status().held.is_empty());
    bench.end(uplink);
    assert_eq!(seqs(&read_avro(&bench, &stand_in)), [0, 1, 2, 3, 5]);
    assert_eq!((poison(&bench), dead_letters(&bench)[0]["seq"].as_u64()), (1, Some(4)));
}
