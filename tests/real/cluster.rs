//! Three Kafka nodes that come and go, move and lose their topics; two must have a record before it counts.

use std::time::Duration;

use forebay::kafka::{Doubt, can_take_records};

use crate::agent::Agent;
use crate::ledger::Ledger;
use crate::process::wait_for;
use crate::scene::{Scene, wait_until_up};
use crate::servers::Kafka;

/// Made-up vehicles that say 200 readings a second.
const FLEET: &str = "[[source]]\nname = \"fleet\"\ntype = \"simulated\"\ndevices = 10\nevery = \"50ms\"\n";
const LOOK_MAX: Duration = Duration::from_secs(60);

fn start(name: &'static str, kafka_lines: &'static str) -> (Scene, Agent) {
    let mut scene = Scene::with(name, Kafka::cluster);
    scene.kafka_lines = kafka_lines;
    scene.configure(FLEET, None);
    let agent = scene.agent();
    wait_until_up(&agent, &["fleet"]);
    scene.wait_until_delivered(&agent);
    (scene, agent)
}

fn waiting(agent: &Agent) -> u64 {
    agent.streams().iter().map(|stream| stream.waiting).sum()
}

/// Lets so many more readings come in.
fn let_come(agent: &Agent, readings: u64) {
    let before = agent.source("fleet").1;
    wait_for("more readings", LOOK_MAX, || (agent.source("fleet").1 >= before + readings).then_some(()));
}

/// The reason why the stream `telemetry` waits, if it does.
fn held(agent: &Agent) -> Option<String> {
    let status = agent.status();
    let held = status["uplink"]["held"].as_array()?.iter().find(|held| held["stream"] == "telemetry")?.clone();
    Some(held["why"].as_str()?.to_owned())
}

fn end(mut scene: Scene, agent: Agent) -> Ledger {
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    scene.settle()
}

/// What the watchdog asks for a client that makes no headway: whether the cluster could take records of the agent's
/// topic, which needs two replicas in sync, of one that needs three, and of one that needs one.
fn wait_for_judgement(scene: &Scene, expected: [bool; 3]) {
    let kafka = scene.reader();
    let doubts = ["telemetry", "strict", "lenient"].map(|topic| Doubt { topic: topic.into(), partitions: Vec::new() });
    wait_for("the cluster to notice", LOOK_MAX, || {
        let answers = can_take_records(&kafka, &doubts, Duration::from_secs(10));
        (answers.iter().map(Result::is_ok).collect::<Vec<_>>() == expected).then_some(())
    });
}

#[test]
fn nodes_killed_restarted_and_moved() {
    nodes_come_and_go("cluster::nodes_killed_restarted_and_moved", "");
}

#[test]
fn nodes_killed_restarted_and_moved_exactly_once() {
    let name = "cluster::nodes_killed_restarted_and_moved_exactly_once";
    let ledger = nodes_come_and_go(name, "delivery = \"exactly-once\"");
    assert_eq!(ledger.repeated(), 0);
}

fn nodes_come_and_go(name: &'static str, kafka_lines: &'static str) -> Ledger {
    let (mut scene, agent) = start(name, kafka_lines);
    for (topic, in_sync) in [("strict", "min.insync.replicas=3"), ("lenient", "min.insync.replicas=1")] {
        scene.kafka.create_topic_with(topic, "3", &["--config", in_sync]);
    }
    let leader = scene.kafka.leader("telemetry");
    scene.kafka.kill_node(leader);
    let_come(&agent, 1_000);
    scene.wait_until_delivered(&agent);
    wait_for_judgement(&scene, [true, false, true]);
    println!("  leader {leader} killed: the others went on");

    let second = leader % 3 + 1;
    scene.kafka.kill_node(second);
    let_come(&agent, 1_000);
    // What reached the last node before it noticed may still have been acknowledged, no more.
    let waits = waiting(&agent);
    assert!(waits > 500, "only {waits} records wait, although two of three nodes are gone");
    let_come(&agent, 1_000);
    assert!(waiting(&agent) >= waits + 900, "records were acknowledged by one node alone");
    scene.kafka.up_node(leader);
    scene.wait_until_delivered(&agent);
    assert_eq!(agent.metric("forebay_uplink_watchdog_rebuilds_total"), 0.0, "too few replicas are no stuck client");
    scene.kafka.move_node(second);
    let_come(&agent, 500);
    println!("  {waits} records and more waited for a second node; node {second} came back on another port");

    for node in 1..=3 {
        scene.kafka.stop_node(node);
        let_come(&agent, 300);
        scene.kafka.up_node(node);
    }
    println!("  rolling restart over");
    end(scene, agent)
}

#[test]
fn topic_deleted_recreated_and_widened() {
    let (scene, agent) = start("cluster::topic_deleted_recreated_and_widened", "");
    let_come(&agent, 500);
    scene.kafka.delete_topic("telemetry");
    let reason = wait_for("the stream to wait", LOOK_MAX, || held(&agent));
    println!("  topic deleted: {reason}");
    // What Kafka had acknowledged went with the topic; nothing else may be missing.
    let acknowledged = agent.streams()[0].acknowledged.unwrap();
    let_come(&agent, 1_000);
    assert!(waiting(&agent) >= 1_000, "nothing is dropped for want of a topic");
    scene.kafka.create_topic("telemetry", "3");
    scene.wait_until_delivered(&agent);
    assert!(held(&agent).is_none(), "it still says that it waits");
    reload(&scene, &agent, "");
    let (first, ledger) = contiguous(&scene, &agent);
    assert!(first <= acknowledged + 1, "the new topic begins at {first}, acknowledged was {acknowledged}");
    assert_eq!(ledger.out_of_order, 0);

    reload(&scene, &agent, FLEET);
    scene.kafka.add_partitions("telemetry", "6");
    let_come(&agent, 2_000);
    reload(&scene, &agent, "");
    let (_, ledger) = contiguous(&scene, &agent);
    println!("  three partitions more: {} records, none missing, {} repeated", ledger.kept(), ledger.repeated());
}

/// Changes the sources of the running agent.
fn reload(scene: &Scene, agent: &Agent, sources: &str) {
    scene.configure(sources, None);
    let reloads = |agent: &Agent| agent.log_text().matches("reloaded").count();
    let before = reloads(agent);
    agent.reload();
    wait_for("the reload", LOOK_MAX, || (reloads(agent) > before).then_some(()));
}

/// What Kafka holds of the only life: all from its first record to the last that was pushed.
fn contiguous(scene: &Scene, agent: &Agent) -> (u64, Ledger) {
    scene.wait_until_delivered(agent);
    let mut ledger = Ledger::default();
    ledger.add_topic(&scene.kafka.bootstrap, "telemetry");
    let (_, kept) = ledger.lives.first_key_value().unwrap();
    let (first, last) = (*kept.seqs.first().unwrap(), *kept.seqs.last().unwrap());
    assert_eq!(last + 1, agent.streams()[0].pushed, "the last record");
    assert_eq!(kept.seqs.len() as u64, last + 1 - first, "records are missing");
    (first, ledger)
}
