//! `forebay consume`, the built command, against the embedded Kafka: what it counts, prints, and ends with.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use forebay::config::{Kafka, KafkaCompression};
use forebay::demo::kafka::EmbeddedKafka;
use forebay::kafka::{Outgoing, Producer, Refusal};
use forebay::reading::{Field, Lineage, Position, Record, Stamp, Trust, Value as Read};
use forebay::uplink::encode::{Encoded, Encoder, Registered};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
/// 2026-11-22T12:00:00Z.
const NOON_MS: i64 = 1_795_348_800_000;

struct Topic {
    broker: EmbeddedKafka,
    producer: Producer,
    sent: usize,
}

impl Topic {
    fn new(partitions: i32) -> Self {
        let broker = EmbeddedKafka::start().unwrap();
        broker.create_topic("telemetry", partitions).unwrap();
        let kafka = Kafka {
            brokers: vec![broker.bootstrap()],
            client_id: "test".into(),
            tls: None,
            sasl: None,
            compression: KafkaCompression::None,
            in_flight_bytes_max: 1 << 20,
            linger: Duration::ZERO,
            drain: Default::default(),
            rate: Default::default(),
            budget: None,
            delivery: forebay::config::Delivery::AtLeastOnce,
            properties: [].into(),
            output: Default::default(),
        };
        Self { broker, producer: Producer::new(&kafka, 1, Refusal::Stops).unwrap(), sent: 0 }
    }

    /// One record a second from noon on: `(device, run, seq, skipped)`; returns once Kafka has all.
    fn send(&mut self, records: &[(&str, u32, u64, u64)]) {
        for (device, run, seq, skipped) in records {
            let timestamp_ms = NOON_MS + self.sent as i64 * 1_000;
            let mut time = Vec::new();
            forebay::reading::json::write_time(&mut time, timestamp_ms * 1_000);
            let record = json!({"gateway": "truck-17", "stream": "telemetry", "device": device, "queue": "5f0c9a1e",
                "time": String::from_utf8(time).unwrap(), "run": run, "seq": seq, "skipped": skipped, "x": 1.5});
            self.send_value(device, record.to_string().as_bytes(), timestamp_ms);
        }
    }

    fn send_value(&mut self, key: &str, payload: &[u8], timestamp_ms: i64) {
        let token = self.sent;
        self.producer.send(Outgoing { topic: "telemetry", key, payload, headers: &[], timestamp_ms, token }).unwrap();
        self.sent += 1;
        // One at a time: the order in the topic is the order of the calls.
        assert!(self.producer.flush(PATIENCE), "no delivery report");
    }

    fn consume(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(["consume", "--brokers", &self.broker.bootstrap(), "--topic", "telemetry"]).args(more);
        command
    }
}

/// A configuration of an auditor whose stream is written in this form.
fn configuration(topic: &Topic, folder: &Path, encoding: &str, shape: &str) -> PathBuf {
    let registry = if encoding == "json" { "" } else { "registry = { url = \"http://127.0.0.1:1\" }\n" };
    let text = format!(
        "[gateway]\nid = \"truck-17\"\nstate-dir = \"{}\"\ntags = {{ site = \"north\" }}\n\n[kafka]\nbrokers = [\"{}\"]\n\
         encoding = \"{encoding}\"\nshape = \"{shape}\"\n{registry}",
        folder.display(),
        topic.broker.bootstrap()
    );
    let path = folder.join("forebay.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Sends records of two fields as the agent does, those at `seqs`, in the form of this configuration; returns the
/// number of messages.
fn send_as_configured(topic: &mut Topic, path: &Path, seqs: &[u64]) -> usize {
    let config = forebay::config::load(path).unwrap().config;
    let mut encoder = Encoder::new(&config.streams[0], &config.gateway, &config.kafka.unwrap().output);
    let (before, mut out) = (topic.sent, Encoded::default());
    for seq in seqs {
        let lineage = Lineage { gateway: "truck-17".into(), queue: uuid::Uuid::from_u128(7 << 96), boot_index: 0 };
        let wall_us = NOON_MS * 1_000 + seq.cast_signed();
        let record = Record {
            position: Position::new(1, *seq),
            skipped: 0,
            thinned: 0,
            stamp: Stamp { boot_ns: 1, wall_us, trust: Trust::Gnss },
            source: "plc".into(),
            device: "boiler".into(),
            fields: vec![Field::new("on", Read::Bool(true)), Field::new("t", Read::float(7.5))],
        };
        assert!(encoder.learn(&record));
        if let Some(plan) = encoder.plan() {
            encoder.registered(Registered { id: 7, columns: plan.columns });
        }
        encoder.encode(&lineage, &record, &mut out).unwrap();
        (0..out.count()).for_each(|index| topic.send_value("boiler", out.payload(index), NOON_MS));
    }
    topic.sent - before
}

/// The JSON document on standard output.
fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn what_arrived_whole_ends_with_0_and_copies_are_no_fault() {
    let mut topic = Topic::new(3);
    topic.send(&[("boiler", 1, 0, 0), ("air", 1, 1, 0), ("boiler", 1, 2, 0), ("boiler", 1, 2, 0), ("air", 2, 3, 3)]);
    let output = topic.consume(&["--json"]);
    let found = document(&output);
    assert_eq!(output.status.code(), Some(0), "{found}");
    assert_eq!((&found["clean"], &found["received"], &found["repeated"]), (&json!(true), &json!(4), &json!(1)));
    let stream = &found["streams"][0];
    assert_eq!(
        (&stream["gateway"], &stream["queue"], &stream["skipped"]),
        (&json!("truck-17"), &json!("5f0c9a1e"), &json!(3))
    );
    assert_eq!(stream["latest"], json!("2026-11-22T12:00:04.000Z"));
    let boiler = &stream["devices"][1];
    assert_eq!((&boiler["device"], &boiler["received"], &boiler["repeated"]), (&json!("boiler"), &json!(2), &json!(1)));
    assert_eq!((&boiler["last_run"], &boiler["last_seq"]), (&json!(1), &json!(2)));
}

#[test]
fn a_hole_and_a_late_record_are_named_and_end_with_1() {
    let mut topic = Topic::new(1);
    topic.send(&[("boiler", 1, 0, 0), ("boiler", 1, 9, 2), ("boiler", 1, 4, 0)]);
    topic.send_value("stranger", b"{\"not\": \"ours\"}", NOON_MS);
    let output = topic.consume(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("gateway truck-17  queue 5f0c9a1e  stream telemetry"), "{text}");
    assert!(text.contains("run 1 seq 1 to 3: 3 missing"), "{text}");
    assert!(text.contains("run 1 seq 5 to 8: 2 missing"), "{text}");
    assert!(text.ends_with("in all: received 3, missing 5, out of order 1, repeated 0, unreadable 1\n"), "{text}");
}

#[test]
fn every_form_is_accounted_for_as_configured_and_as_said() {
    for (encoding, shape) in [
        ("json", "wide"),
        ("json", "narrow"),
        ("avro", "wide"),
        ("avro", "narrow"),
        ("protobuf", "wide"),
        ("protobuf", "narrow"),
    ] {
        let (mut topic, folder) = (Topic::new(2), tempfile::tempdir().unwrap());
        let path = configuration(&topic, folder.path(), encoding, shape);
        let messages = send_as_configured(&mut topic, &path, &[0, 1, 2, 2]);
        let copies = messages / 4;
        assert_eq!(copies, if shape == "narrow" { 2 } else { 1 });
        let mut by_configuration = Command::new(env!("CARGO_BIN_EXE_forebay"));
        by_configuration.args(["consume", "--json", "--config"]).arg(&path);
        for output in [by_configuration.output().unwrap(), topic.consume(&["--json", "--encoding", encoding])] {
            let found = document(&output);
            assert_eq!(output.status.code(), Some(0), "{encoding} {shape}: {found}");
            assert_eq!((&found["clean"], &found["unreadable_by_topic"]), (&json!(true), &json!([])));
            let counts = [&found["received"], &found["repeated"], &found["missing"], &found["unreadable"]];
            assert_eq!(counts, [&json!(3), &json!(copies), &json!(0), &json!(0)], "{encoding} {shape}: {found}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_never_clean_and_is_named_by_its_place() {
    let (mut topic, folder) = (Topic::new(1), tempfile::tempdir().unwrap());
    let path = configuration(&topic, folder.path(), "avro", "wide");
    topic.send(&[("boiler", 1, 0, 0)]);
    send_as_configured(&mut topic, &path, &[0, 1]);
    let output = topic.consume(&["--json"]);
    let found = document(&output);
    assert_eq!(output.status.code(), Some(1), "{found}");
    let counts = [&found["clean"], &found["received"], &found["missing"], &found["unreadable"]];
    assert_eq!(counts, [&json!(false), &json!(1), &json!(0), &json!(2)]);
    let of = &found["unreadable_by_topic"][0];
    let place = [&of["topic"], &of["count"], &of["first_partition"], &of["first_offset"]];
    assert_eq!(place, [&json!("telemetry"), &json!(2), &json!(0), &json!(1)], "{found}");
    assert!(of["first_reason"].as_str().unwrap().contains("was to be read as json"), "{found}");

    let output = topic.consume(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = "UNREADABLE: 2 messages of topic telemetry are not in the account; the first, partition 0 offset 1: it is in \
                Confluent's wire format, as avro and protobuf are, and was to be read as json; say --encoding avro or protobuf\n";
    assert!(text.contains(line), "{text}");

    topic.send_value("stranger", b"\0\0\0\0\x07not ours", NOON_MS);
    let output = topic.consume(&["--encoding", "avro"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("partition 0 offset 3: it is not a record of forebay in avro"), "{text}");
}

/// The embedded Kafka knows no offsets for times; that holes before the beginning are not judged is tested with the
/// account itself.
#[test]
fn from_a_time_later_than_all_reads_nothing() {
    let mut topic = Topic::new(1);
    topic.send(&[("boiler", 1, 3, 0)]);
    let output = topic.consume(&["--json", "--from", "2030-01-01T00:00:00Z"]);
    let found = document(&output);
    assert_eq!((&found["received"], &found["missing"]), (&json!(0), &json!(0)), "{found}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn follow_reads_what_comes_later_and_accounts_when_interrupted() {
    let mut topic = Topic::new(1);
    topic.send(&[("boiler", 1, 0, 0)]);
    let mut command = topic.command(&["--json", "--follow"]);
    command.env("FOREBAY_LOG", "info").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut caught_up = |records: &str| log.any(|line| line.unwrap().contains(records));
    assert!(caught_up("records=1"));
    topic.send(&[("boiler", 1, 1, 0), ("boiler", 1, 4, 0)]);
    assert!(caught_up("records=3"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let found = document(&output);
    assert_eq!(output.status.code(), Some(1), "{found}");
    assert_eq!((&found["received"], &found["missing"]), (&json!(3), &json!(2)));
}

#[test]
fn mistakes_are_named() {
    let topic = Topic::new(1);
    let output = topic.consume(&["--topic", "absent"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("topic absent: "), "{text}");
    let output = topic.consume(&["--encoding", "csv"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("allowed: json, avro, protobuf"));
    let output = topic.consume(&["--from", "yesterday"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("such as 2026-11-22T12:00:00Z"));
}

#[test]
fn a_configuration_names_brokers_and_topics() {
    let mut topic = Topic::new(2);
    topic.send(&[("boiler", 1, 0, 0), ("air", 1, 1, 0)]);
    let folder = tempfile::tempdir().unwrap();
    let path = configuration(&topic, folder.path(), "json", "wide");
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    let output = command.args(["consume", "--json", "--config"]).arg(&path).output().unwrap();
    let found = document(&output);
    assert_eq!((&found["topics"], &found["received"]), (&json!(["telemetry"]), &json!(2)));
}
