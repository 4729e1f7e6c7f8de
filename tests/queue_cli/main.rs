//! `forebay queue`, the built binary: beside an open queue, after a crash, on damage, on what is no queue.

#![allow(clippy::unwrap_used)] // helpers of tests; clippy only knows test functions

mod changes;
mod damage;
mod dead_letters;
mod encrypted;
mod mistakes;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use forebay::metrics::Metrics;
use forebay::queue::{Limit, NewRecord, Queue, Settings, StreamIndex};
use forebay::reading::{Field, Position, Stamp, Trust, Value};
use forebay::uplink::encode::encode_json;

const TELEMETRY: StreamIndex = StreamIndex(0);
const ALARMS: StreamIndex = StreamIndex(1);
/// 2026-11-22T12:00:00Z; record n was measured n seconds later.
const NOON_US: i64 = 1_795_348_800_000_000;

/// A configuration of two streams on small epochs; a window longer than any test, so that only `flush` seals.
fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "[gateway]\nid = \"truck\"\nstate-dir = \"{dir}\"\ntags = {{ site = \"north\" }}\n\
         [queue]\nsize = \"16 MiB\"\nwindow = \"1h\"\ncompression = \"none\"\n\
         [[stream]]\nname = \"telemetry\"\ntopic = \"t\"\n[[stream]]\nname = \"alarms\"\ntopic = \"a\"\n"
    )
}

fn settings(dir: &Path) -> Settings {
    let config = forebay::config::parse(&configuration(dir), Path::new("forebay.toml")).unwrap().config;
    Settings { dir: dir.to_owned(), gateway: config.gateway.id, queue: config.queue, streams: config.streams }
}

fn open(dir: &Path) -> Queue {
    Queue::open(settings(dir), Metrics::new().0).unwrap()
}

/// Everything below a directory: each file's bytes by its path.
fn tree(dir: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
            found.insert(path, Vec::new());
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// An open queue that answers on its control socket, as an agent's does.
struct Answering {
    queue: Queue,
    runtime: tokio::runtime::Runtime,
    server: Option<forebay::control::Server>,
}

impl Answering {
    fn start(queue: Queue) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(async { forebay::control::Server::start(queue.clone()).unwrap() });
        Self { queue, runtime, server: Some(server) }
    }

    fn stop(mut self) {
        self.runtime.block_on(self.server.take().unwrap().stop());
        self.queue.close().unwrap();
    }
}

/// Record `n` of the test, some 200 bytes that no codec makes small.
fn record(n: u64) -> NewRecord {
    let noise: String =
        (0..12u64).map(|k| format!("{:016x}", (n * 12 + k + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    let wall_us = NOON_US + i64::try_from(n).unwrap() * 1_000_000;
    NewRecord {
        stamp: Stamp { boot_ns: n, wall_us, trust: Trust::Ntp },
        source: "source".into(),
        device: format!("device-{}", n % 7).into(),
        fields: vec![Field::new("n", Value::Unsigned(n)), Field::new("noise", Value::Text(noise))],
    }
}

fn push(queue: &Queue, stream: StreamIndex, numbers: std::ops::Range<u64>) {
    for n in numbers {
        queue.push(stream, record(n)).unwrap();
        if n % 500 == 499 {
            queue.flush().unwrap();
        }
    }
    queue.flush().unwrap();
}

/// What the uplink would send of a stream, line by line.
fn wire(queue: &Queue, stream: StreamIndex, name: &str, tags: &BTreeMap<String, String>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut after = None;
    while let Some(batch) = queue.peek(stream, after, Limit { records: 1_000, bytes: 1 << 20 }).unwrap() {
        for record in &batch.records {
            let mut line = Vec::new();
            encode_json(&mut line, name, &batch.lineage, record, tags);
            lines.push(String::from_utf8(line).unwrap());
        }
        after = batch.records.last().map(|record| record.position);
    }
    lines
}

fn forebay(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forebay")).arg("queue").args(arguments).arg("--dir").arg(dir).output().unwrap()
}

/// Standard output of a command that must end with `code`.
fn output(dir: &Path, arguments: &[&str], code: i32) -> String {
    let output = forebay(dir, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn beside_an_open_queue_export_gives_what_the_uplink_would_send() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    push(&queue, TELEMETRY, 0..3_000);
    push(&queue, ALARMS, 0..40);
    let none = BTreeMap::new();
    let (telemetry, alarms) = (wire(&queue, TELEMETRY, "telemetry", &none), wire(&queue, ALARMS, "alarms", &none));
    assert_eq!((telemetry.len(), alarms.len()), (3_000, 40));
    assert_eq!(lines(&output(dir.path(), &["export", "--stream", "telemetry"], 0)), telemetry);
    assert_eq!(lines(&output(dir.path(), &["export", "--stream", "alarms"], 0)), alarms);
    assert_eq!(output(dir.path(), &["export"], 0).lines().count(), 3_040);

    let status = json(&output(dir.path(), &["status", "--json"], 0));
    assert_eq!(status["agent_pid"], std::process::id(), "{status}");
    assert_eq!((&status["run"], &status["damaged_blocks"]), (&1.into(), &0.into()), "{status}");
    assert!(status["epochs"].as_u64().unwrap() >= 2, "{status}");
    let of = |name: &str| status["streams"].as_array().unwrap().iter().find(|stream| stream["stream"] == name).cloned();
    let telemetry = of("telemetry").unwrap();
    assert_eq!((&telemetry["waiting_records"], &telemetry["delivered_records"]), (&3_000.into(), &0.into()));
    assert_eq!(telemetry["oldest_waiting"], "2026-11-22T12:00:00.000Z");
    assert_eq!(telemetry["newest"], "2026-11-22T12:49:59.000Z");
    assert_eq!(of("alarms").unwrap()["waiting_records"], 40);

    let verdict = json(&output(dir.path(), &["verify", "--json"], 0));
    assert_eq!((&verdict["ok"], &verdict["records"]), (&true.into(), &3_040.into()), "{verdict}");
    assert_eq!(queue.status().streams[0].records, 3_000, "looking changed nothing");
    queue.close().unwrap();
}

#[test]
fn what_is_delivered_is_told_from_what_waits_after_a_crash_and_in_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    push(&queue, TELEMETRY, 0..1_000);
    queue.ack(TELEMETRY, Position::new(1, 249));
    queue.close().unwrap();
    let queue = open(dir.path());
    push(&queue, TELEMETRY, 1_000..1_500);
    let waiting = wire(&queue, TELEMETRY, "telemetry", &BTreeMap::new());
    queue.abandon().unwrap();
    drop(queue);

    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(dir.path().join("queue")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    for place in [dir.path(), copy.path()] {
        assert_eq!(lines(&output(place, &["export"], 0)), waiting);
        let status = json(&output(place, &["status", "--json"], 0));
        assert_eq!(status["agent_pid"], serde_json::Value::Null);
        let stream = &status["streams"][0];
        assert_eq!((&stream["waiting_records"], &stream["cursor"]), (&1_250.into(), &"1:250".into()), "{status}");
        assert_eq!(stream["oldest_waiting"], "2026-11-22T12:04:10.000Z");
        let all = lines(&output(place, &["export", "--include-delivered"], 0));
        assert_eq!(all.len() as u64, 1_250 + stream["delivered_records"].as_u64().unwrap());
        assert_eq!(all[all.len() - 1_250..], waiting);
    }
}

#[test]
fn records_are_chosen_by_position_time_and_count() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    push(&queue, TELEMETRY, 0..900);
    queue.close().unwrap();
    let numbers = |arguments: &[&str]| -> Vec<u64> {
        let lines = lines(&output(dir.path(), arguments, 0));
        lines.iter().map(|line| json(line)["n"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&["export", "--from", "1:100", "--to", "1:105"]), (100..=105).collect::<Vec<_>>());
    let times = ["--from-time", "2026-11-22T12:10:00Z", "--to-time", "2026-11-22T14:10:03+02:00"];
    assert_eq!(numbers(&[&["export"], &times[..]].concat()), [600, 601, 602]);
    assert_eq!(numbers(&["peek", "--json", "--limit", "2", "--from", "1:300"]), [300, 301]);
    assert_eq!(output(dir.path(), &["export", "--stream", "nobody"], 0), "");
    let text = output(dir.path(), &["peek", "--limit", "1"], 0);
    assert!(text.starts_with("telemetry 1:0 2026-11-22T12:00:00.000Z ntp device-0 {\"n\":0,\"noise\":\""), "{text}");

    let listed = lines(&output(dir.path(), &["list", "--json"], 0));
    let listed: Vec<_> = listed.iter().map(|line| json(line)).collect();
    assert_eq!(listed.iter().map(|block| block["records"].as_u64().unwrap()).sum::<u64>(), 900);
    assert!(listed.iter().all(|block| block["delivered"] == "no" && block["gateway"] == "truck"), "{listed:?}");
    assert_eq!((&listed[0]["first"], &listed.last().unwrap()["last"]), (&"1:0".into(), &"1:899".into()));
}

#[test]
fn a_configuration_gives_the_directory_and_the_tags() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    let queue = open(&state_dir);
    push(&queue, TELEMETRY, 0..5);
    let tags = [("site".to_owned(), "north".to_owned())].into();
    let wire = wire(&queue, TELEMETRY, "telemetry", &tags);
    let file = dir.path().join("forebay.toml");
    std::fs::write(&file, configuration(&state_dir)).unwrap();
    let target = dir.path().join("out.jsonl");
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(["queue", "export", "--config"]).arg(&file).arg("--output").arg(&target).output().unwrap()
    };
    assert!(run().status.success());
    assert_eq!(lines(&std::fs::read_to_string(&target).unwrap()), wire);
    let again = run();
    assert_eq!(again.status.code(), Some(1), "an existing file is not overwritten");
    assert_eq!(lines(&std::fs::read_to_string(&target).unwrap()), wire);
    queue.close().unwrap();
}

#[test]
fn epochs_come_and_go_while_it_looks() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    push(&queue, TELEMETRY, 0..1_500);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Delivers and refills: nearly one epoch of 256 KiB goes and comes in each round.
            let mut next = 1_500;
            while !done.load(Ordering::Relaxed) {
                push(&queue, TELEMETRY, next..next + 1_000);
                next += 1_000;
                queue.ack(TELEMETRY, Position::new(1, next - 1_500));
            }
        });
        for _ in 0..4 {
            let exported = lines(&output(dir.path(), &["export"], 0));
            let positions: Vec<u64> = exported.iter().map(|line| json(line)["seq"].as_u64().unwrap()).collect();
            assert!(positions.is_sorted_by(|a, b| a < b), "ascending, none twice");
            output(dir.path(), &["verify"], 0);
            output(dir.path(), &["status"], 0);
        }
        done.store(true, Ordering::Relaxed);
    });
    queue.close().unwrap();
}
