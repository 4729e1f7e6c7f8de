//! The right to the dead-letter topic: with it letters are there, without it in the file; the stream goes on in both cases.

use std::time::Instant;

use super::stage::{FLEET, Stage, UP_MAX};
use crate::agent::Agent;
use crate::process::wait_for;
use crate::scene::{MQTT_SOURCE, wait_until_up};
use crate::servers::Mosquitto;

const AT_LEAST_ONCE: &str = "dead-letter-topic = \"dead-letters\"\nproperties = { \"batch.size\" = 3000 }";
const EXACTLY_ONCE: &str = "dead-letter-topic = \"dead-letters\"\nproperties = { \"batch.size\" = 3000 }\n\
                            delivery = \"exactly-once\"";
/// Bytes of text that do not compress much: too large for `telemetry`.
const LARGE: usize = 6_000;
const SAID: &str = "record that kafka refuses is in the dead-letter topic";

#[test]
fn dead_letters() {
    let mut stage = Stage::new("secure::dead_letters");
    stage.certificate("gateway", "gateway-1", 20);
    stage.by_certificate("gateway");
    stage.scene.kafka.delete_topic("telemetry");
    stage.scene.kafka.topic(&["telemetry", "3", "max.message.bytes=4000"]);
    stage.scene.kafka.topic(&["dead-letters", "1"]);
    stage.cluster.grant("For exactly-once delivery");
    let mosquitto = Mosquitto::start(stage.scene.dir());
    for lines in [AT_LEAST_ONCE, EXACTLY_ONCE] {
        stage.scene.kafka_lines = lines;
        stage.scene.configure(&(FLEET.to_owned() + MQTT_SOURCE), Some(&mosquitto));
        let agent = stage.scene.agent();
        wait_until_up(&agent, &["fleet", "yard"]);

        let before = in_file(&stage);
        one_letter(&stage, &agent, &mosquitto);
        goes_on(&agent);
        assert_eq!(in_file(&stage), before + 1, "without the right there is not one more in the file");
        assert!(!agent.log_text().contains(SAID), "without the right it is in the topic");

        stage.cluster.grant("For a dead-letter topic");
        // The client finds out by asking for the topic again: letters until then are in the file too.
        let until = Instant::now() + UP_MAX;
        while !agent.log_text().contains(SAID) {
            assert!(Instant::now() < until, "with the right no letter is in the topic");
            one_letter(&stage, &agent, &mosquitto);
        }
        let filed = in_file(&stage);
        one_letter(&stage, &agent, &mosquitto);
        goes_on(&agent);
        assert_eq!(in_file(&stage), filed, "with the right it is in the file");
        agent.terminate();
        println!("  {}: in the file, with the right in the topic", lines.lines().last().unwrap());
        let right = ["--allow-principal", "User:gateway-1", "--operation", "Write", "--topic", "dead-letters"];
        stage.cluster.acls(&[&["--remove", "--force"][..], &right[..]].concat());
    }
}

fn speak(mosquitto: &Mosquitto) {
    let text: String = std::iter::repeat_with(fastrand::alphanumeric).take(LARGE).collect();
    mosquitto.publish("sensors/pump/data", [format!("{{\"text\":\"{text}\"}}")].into_iter());
}

/// A record that is refused, and its letter in the topic or the file.
fn one_letter(stage: &Stage, agent: &Agent, mosquitto: &Mosquitto) {
    let letters = || agent.log_text().matches(SAID).count() + in_file(stage);
    let before = letters();
    speak(mosquitto);
    wait_for("a letter", UP_MAX, || (letters() > before).then_some(()));
}

fn in_file(stage: &Stage) -> usize {
    let file = stage.scene.dir().join("state/queue/dead-letter.jsonl");
    std::fs::read_to_string(file).unwrap_or_default().lines().count()
}

/// What is pushed by now is delivered.
fn goes_on(agent: &Agent) {
    let last = agent.streams()[0].pushed - 1;
    wait_for("the stream to go on", UP_MAX, || (agent.streams()[0].acknowledged >= Some(last)).then_some(()));
    assert!(agent.status()["uplink"]["held"].as_array().unwrap().is_empty(), "{}", agent.status()["uplink"]["held"]);
}
