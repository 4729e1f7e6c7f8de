//! The dead-letter topic on a real Kafka: records too large for their topic, some of them for the dead-letter topic as
//! well, between others that go on; the agent killed at random moments.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::{BROKER, EXACTLY_ONCE, PATIENCE, fleet, let_run, scene};
use crate::agent::StreamNow;
use crate::ledger::Ledger;
use crate::process::{output, tool, wait_for};
use crate::scene::{MQTT_SOURCE, Scene, wait_until_up};
use crate::servers::Mosquitto;

const LETTERS: &str = "dead-letters";
const KILLS: u32 = 4;
/// Bytes of text that do not compress much: too large for `telemetry`, and for the dead-letter topic too.
const LARGE: usize = 6_000;
const LARGER: usize = 15_500;

#[test]
fn letters_once() {
    letters("once::letters::letters_once", EXACTLY_ONCE);
}

#[test]
fn letters_at_least_once() {
    letters("once::letters::letters_at_least_once", "delivery = \"at-least-once\"");
}

fn letters(name: &'static str, delivery: &str) {
    let seed = fastrand::u64(..);
    println!("{name}: seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut scene = scene(name, &BROKER);
    scene.kafka_lines = "";
    let brokers = &scene.kafka.bootstrap;
    scene.uplink = Some(format!(
        "brokers = [\"{brokers}\"]\n{delivery}\ndead-letter-topic = \"{LETTERS}\"\nproperties = {{ \"batch.size\" = 3000 }}"
    ));
    scene.kafka.delete_topic("telemetry");
    scene.kafka.topic(&["telemetry", "3", "max.message.bytes=4000"]);
    scene.kafka.topic(&[LETTERS, "1", "max.message.bytes=9000"]);
    let mosquitto = Mosquitto::start(scene.dir());
    scene.configure(&(fleet(10) + MQTT_SOURCE), Some(&mosquitto));
    let mut promises = Vec::new();
    for kill in 0..=KILLS {
        let agent = scene.agent();
        wait_until_up(&agent, &["yard"]);
        let mut large = |bytes: usize| {
            let text: String = std::iter::repeat_with(|| random.alphanumeric()).take(bytes).collect();
            mosquitto.publish("sensors/pump/data", [format!("{{\"text\":\"{text}\"}}")].into_iter());
            let_run(Duration::from_millis(random.u64(0..300)));
        };
        for bytes in [LARGE, LARGER, LARGE] {
            large(bytes);
        }
        if kill < KILLS {
            let_run(Duration::from_millis(random.u64(0..3_000)));
            promises.extend(scene.kill(agent));
            continue;
        }
        wait_for("letters of this life", PATIENCE, || {
            (agent.metric("forebay_records_set_aside_total") >= 3.0).then_some(())
        });
        scene.wait_until_delivered(&agent);
        wait_for("the end of holds", PATIENCE, || {
            agent.status()["uplink"]["held"].as_array().unwrap().is_empty().then_some(())
        });
        promises.extend(agent.streams());
        agent.terminate();
    }
    scene.drain_rest();
    check_account(&scene, &promises, delivery == EXACTLY_ONCE);
    check_headers(&scene);
}

/// Each record is delivered or set aside; with exactly-once delivery once.
fn check_account(scene: &Scene, promises: &[StreamNow], exactly_once: bool) {
    let mut telemetry = Ledger::default();
    telemetry.add_topic(&scene.kafka.bootstrap, "telemetry");
    let mut in_topic = Ledger::default();
    in_topic.add_topic(&scene.kafka.bootstrap, LETTERS);
    let (delivered, lettered, filed) = (places(&telemetry), places(&in_topic), in_file(scene));
    println!(
        "  {} delivered, {} in the dead-letter topic, {} in the file",
        delivered.len(),
        lettered.len(),
        filed.len()
    );
    assert!(!lettered.is_empty() && !filed.is_empty(), "nothing was tested");
    assert!(delivered.is_disjoint(&lettered) && delivered.is_disjoint(&filed), "delivered and set aside");
    assert_eq!(telemetry.out_of_order, 0);
    let mut all: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for (run, seq) in delivered.iter().chain(&lettered).chain(&filed) {
        all.entry(*run).or_default().insert(*seq);
    }
    for (run, seqs) in &all {
        assert_eq!(
            seqs.last(),
            Some(&(seqs.len() as u64 - 1)),
            "run {run}: records are neither delivered nor set aside"
        );
    }
    for promise in promises.iter().filter(|promise| promise.name == "telemetry") {
        let Some(safe) = promise.safe() else { continue };
        assert!(all.get(&promise.run).is_some_and(|seqs| seqs.contains(&safe)), "lost: {promise:?}");
    }
    if exactly_once {
        assert_eq!((telemetry.repeated(), in_topic.repeated()), (0, 0), "a read_committed reader saw records twice");
        assert!(lettered.is_disjoint(&filed), "set aside twice");
        let gone = lettered.union(&filed).count() as u64;
        assert_eq!(telemetry.skipped, gone, "the records behind do not say how many were left out");
    }
}

fn places(ledger: &Ledger) -> BTreeSet<(u32, u64)> {
    let lives = ledger.lives.iter().filter(|(life, _)| life.stream == "telemetry");
    lives.flat_map(|(life, kept)| kept.seqs.iter().map(|seq| (life.run, *seq))).collect()
}

fn in_file(scene: &Scene) -> BTreeSet<(u32, u64)> {
    let text = std::fs::read_to_string(scene.dir().join("state/queue/dead-letter.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["run"].as_u64().unwrap() as u32, line["seq"].as_u64().unwrap())).collect()
}

fn check_headers(scene: &Scene) {
    let mut kcat = tool("kcat", "kcat");
    kcat.args(["-b", &scene.kafka.bootstrap, "-C", "-t", LETTERS, "-o", "beginning", "-e", "-q"]);
    kcat.args(["-X", "isolation.level=read_committed", "-f", "%k %h\n"]);
    for line in output(&mut kcat).lines() {
        for part in [
            "pump ",
            "forebay-gateway=gateway-1",
            "forebay-stream=telemetry",
            "forebay-topic=telemetry",
            "forebay-device=pump",
            "forebay-error=MESSAGE_TOO_LARGE",
            "forebay-run=",
            "forebay-seq=",
            "forebay-queue=",
            "forebay-time=20",
            "forebay-set-aside=20",
            "forebay-error-text=",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
}
