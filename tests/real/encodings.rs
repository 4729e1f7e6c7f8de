//! Avro and Protobuf, wide and narrow, read back from a real Kafka by Confluent's consumer and deserialisers; the
//! registry away at the first start and at the second, and unwilling in between.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{PATIENCE, expected, wait_for_readings};
use crate::agent::Agent;
use crate::process::{output, script, wait_for};
use crate::scene::{MQTT_SOURCE, Scene, modbus_source, wait_until_up};
use crate::servers::{ModbusUnits, Mosquitto};
use crate::stand_in::{Mood, StandIn};

const DEVICES: u64 = 7;

/// Streams in three forms: MQTT into wide Avro, Modbus into wide Protobuf, Modbus into narrow Avro.
fn configure(scene: &Scene, units: &ModbusUnits, mosquitto: &Mosquitto, registry: &StandIn) {
    let connect = format!("tcp://{}", units.address);
    let sources =
        [modbus_source("plc", &connect, "alarms"), modbus_source("mill", &connect, "metrics"), MQTT_SOURCE.to_owned()];
    let text = format!(
        r#"[gateway]
id = "gateway-1"
state-dir = "{state}"
tags = {{ site = "north" }}
{sources}
[mqtt]
broker = "mqtt://127.0.0.1:{port}"
[[stream]]
name = "telemetry"
[[stream]]
name = "alarms"
encoding = "protobuf"
[[stream]]
name = "metrics"
shape = "narrow"
[kafka]
brokers = ["{bootstrap}"]
encoding = "avro"
cloudevents = true
registry = {{ url = "http://{registry}", timeout = "5s" }}
[status]
listen = "127.0.0.1:0"
"#,
        state = scene.dir().join("state").display(),
        sources = sources.concat(),
        port = mosquitto.port,
        bootstrap = scene.kafka.bootstrap,
        registry = registry.address(),
    );
    std::fs::write(scene.dir().join("forebay.toml"), text).unwrap();
}

fn payload(count: u64) -> Value {
    // Numbers with and without a fraction in one field, as devices write them.
    let ratio = if count.is_multiple_of(2) { json!(count / 2) } else { json!(count as f64 / 2.0) };
    let big = u64::MAX - count;
    json!({ "count": count, "ratio": ratio, "big": big, "ok": count.is_multiple_of(3), "Zustand Öl": format!("läuft {count}") })
}

fn publish(mosquitto: &Mosquitto, counts: std::ops::Range<u64>) {
    for device in 0..DEVICES {
        let own = counts.clone().filter(|count| count % DEVICES == device);
        mosquitto.publish(&format!("sensors/dev-{device}/data"), own.map(|count| payload(count).to_string()));
    }
}

fn held(agent: &Agent) -> BTreeMap<String, String> {
    let status = agent.status();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let held = status["uplink"]["held"].as_array().cloned().unwrap_or_default();
    held.iter().map(|held| (text(&held["stream"]), text(&held["why"]))).collect()
}

fn wait_for_hold(agent: &Agent, stream: &str, words: &str) {
    let is_held = || held(agent).get(stream).is_some_and(|why| why.contains(words)).then_some(());
    wait_for(&format!("{stream} to be held: {words}"), PATIENCE, is_held);
}

/// Waits until all that was pushed by now is acknowledged.
fn wait_for_kafka(scene: &Scene, agent: &Agent) {
    scene.wait_until_delivered(agent);
}

fn read(scene: &Scene, registry: &StandIn, topic: &str, encoding: &str) -> Vec<Value> {
    let url = format!("http://{}", registry.address());
    let text = output(script("read-encodings").args([&scene.kafka.bootstrap, &url, topic, encoding]));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What holds for every message in every form.
fn check_message(message: &Value, stream: &str, kind: &str, content_type: &str) {
    let (value, headers) = (&message["value"], &message["headers"]);
    assert_eq!(message["partition"], message["murmur2"], "Java would choose another partition: {message}");
    assert_eq!(message["key"], value["device"], "{message}");
    assert_eq!((&value["gateway"], &value["stream"]), (&json!("gateway-1"), &json!(stream)), "{message}");
    assert_eq!(value["site"], "north", "{message}");
    let time_us = value["time"].as_i64().unwrap();
    assert_eq!(message["timestamp_ms"].as_i64(), Some(time_us / 1_000), "{message}");
    let id = format!("{}-{}-{}", value["queue"].as_str().unwrap(), value["run"], value["seq"].as_u64().unwrap_or(0));
    assert!(headers["ce_id"].as_str().unwrap().starts_with(&id), "{message}");
    for (name, expected) in [
        ("ce_specversion", "1.0"),
        ("ce_type", kind),
        ("ce_source", &format!("/forebay/gateway-1/{stream}")),
        ("ce_subject", message["key"].as_str().unwrap()),
        ("content-type", content_type),
    ] {
        assert_eq!(headers[name], expected, "{message}");
    }
    assert!(headers["ce_dataschema"].as_str().unwrap().contains("/schemas/ids/100"), "{message}");
}

/// `(run, seq)` of all messages with what they say, each once.
fn by_place(messages: &[Value]) -> BTreeMap<(u64, u64), Vec<&Value>> {
    let mut places: BTreeMap<_, Vec<&Value>> = BTreeMap::new();
    for message in messages {
        let number = |name: &str| message["value"][name].as_u64().unwrap_or(0);
        places.entry((number("run"), number("seq"))).or_default().push(&message["value"]);
    }
    places
}

/// Every `seq` of every run up to the highest.
fn assert_no_hole(places: &BTreeMap<(u64, u64), Vec<&Value>>) {
    let mut next = BTreeMap::new();
    for (run, seq) in places.keys() {
        let expected = next.entry(*run).or_insert(0);
        assert_eq!(seq, expected, "run {run}");
        *expected += 1;
    }
}

/// The members of a value that are fields.
fn fields(value: &Value) -> Value {
    const OWN: [&str; 11] =
        ["gateway", "stream", "device", "source", "time", "clock", "queue", "run", "seq", "skipped", "site"];
    let members = value.as_object().unwrap().iter().filter(|(name, _)| !OWN.contains(&name.as_str()));
    members.map(|(name, value)| (name.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into()
}

/// Wide Avro of what was published over MQTT, the new field included.
fn check_telemetry(messages: &[Value]) {
    messages.iter().for_each(|message| check_message(message, "telemetry", "forebay.reading", "application/avro"));
    let places = by_place(messages);
    assert_no_hole(&places);
    let mut counts = BTreeMap::new();
    for value in places.values().map(|copies| copies[0]) {
        counts.insert(value["count"].as_f64().unwrap() as u64, fields(value));
    }
    assert_eq!(counts.len(), 701);
    for (count, fields) in &counts {
        if *count == 700 {
            assert_eq!(*fields, json!({ "count": 700.0, "new": "field" }));
            continue;
        }
        let mut expected = payload(*count);
        (expected["count"], expected["ratio"]) = (json!(*count as f64), json!(*count as f64 / 2.0));
        expected["Zustand__l"] = expected.as_object_mut().unwrap().remove("Zustand Öl").unwrap();
        assert_eq!(*fields, expected);
    }
}

/// Wide Protobuf of what was polled.
fn check_alarms(messages: &[Value]) {
    messages.iter().for_each(|message| check_message(message, "alarms", "forebay.reading", "application/protobuf"));
    let places = by_place(messages);
    assert_no_hole(&places);
    for value in places.values().map(|copies| copies[0]) {
        let unit = if value["device"] == "plc-2" { 2 } else { 1 };
        assert_eq!(fields(value), expected(unit));
    }
}

/// Narrow Avro of what was polled: one message a field.
fn check_metrics(messages: &[Value]) {
    messages.iter().for_each(|message| check_message(message, "metrics", "forebay.metric", "application/avro"));
    let places = by_place(messages);
    assert_no_hole(&places);
    for values in places.values() {
        let unit = if values[0]["device"] == "mill-2" { 2 } else { 1 };
        let mut found = serde_json::Map::new();
        for value in values {
            let member = if value["flag"].is_boolean() { &value["flag"] } else { &value["value"] };
            found.insert(value["metric"].as_str().unwrap().to_owned(), member.clone());
        }
        let mut expected = expected(unit);
        for value in expected.as_object_mut().unwrap().values_mut() {
            if let Some(number) = value.as_f64() {
                *value = json!(number);
            }
        }
        assert_eq!(Value::from(found), expected);
    }
}

#[test]
fn confluents_deserialisers_read_every_field() {
    let mut scene = Scene::new("others::encodings");
    scene.kafka.topic(&["metrics", "3"]);
    let (units, mosquitto, registry) = (ModbusUnits::tcp(), Mosquitto::start(scene.dir()), StandIn::start());
    configure(&scene, &units, &mosquitto, &registry);

    // The very first start, without a registry: all is held, nothing is lost.
    registry.mood(Mood::Away);
    let agent = scene.agent();
    wait_until_up(&agent, &["plc", "mill", "yard"]);
    publish(&mosquitto, 0..400);
    wait_for_readings(&agent, "yard", 400);
    for stream in ["telemetry", "alarms", "metrics"] {
        wait_for_hold(&agent, stream, "cannot be reached");
    }
    registry.mood(Mood::Willing);
    wait_for_kafka(&scene, &agent);
    assert_eq!(held(&agent), BTreeMap::new());
    agent.terminate();

    // The next start without one: what was registered is on disk.
    registry.mood(Mood::Away);
    let agent = scene.agent();
    wait_until_up(&agent, &["plc", "mill", "yard"]);
    publish(&mosquitto, 400..700);
    wait_for_readings(&agent, "yard", 300);
    wait_for_kafka(&scene, &agent);
    assert_eq!(held(&agent), BTreeMap::new());

    // A field that is new, and a registry that will not have it: its stream is held, the others go on.
    registry.mood(Mood::Unwilling(409, "Schema being registered is incompatible".into()));
    mosquitto.publish("sensors/dev-0/data", std::iter::once(r#"{"count":700,"new":"field"}"#.to_owned()));
    wait_for_hold(&agent, "telemetry", "409 Schema being registered is incompatible");
    let polls = agent.source("plc").1;
    wait_for_readings(&agent, "plc", polls + 10);
    let of_alarms = |agent: &Agent| agent.streams().into_iter().find(|stream| stream.name == "alarms").unwrap();
    let goal = of_alarms(&agent).pushed - 1;
    wait_for("the other stream", PATIENCE, || (of_alarms(&agent).acknowledged >= Some(goal)).then_some(()));
    registry.mood(Mood::Willing);
    wait_for("the release", PATIENCE, || held(&agent).is_empty().then_some(()));
    wait_for_kafka(&scene, &agent);
    agent.terminate();

    let telemetry = read(&scene, &registry, "telemetry", "avro");
    check_telemetry(&telemetry);
    let alarms = read(&scene, &registry, "alarms", "protobuf");
    check_alarms(&alarms);
    let metrics = read(&scene, &registry, "metrics", "avro");
    check_metrics(&metrics);
    println!(
        "  read by confluent-kafka: {} Avro, {} Protobuf, {} narrow Avro messages; {} + {} + {} versions of schemas",
        telemetry.len(),
        alarms.len(),
        metrics.len(),
        registry.versions("telemetry-value"),
        registry.versions("alarms-value"),
        registry.versions("metrics-value"),
    );
}
