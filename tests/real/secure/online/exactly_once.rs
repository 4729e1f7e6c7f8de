//! `forebay check --online` of a gateway that delivers exactly once: nothing is found with the rights that
//! `docs/kafka-acls.md` tells, each that is missing is named, and the agent that runs beside it does not notice.

use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::super::stage::{BOTH_STREAMS, Stage};
use super::super::transactions::{EXACTLY_ONCE, GATEWAY, held};
use super::{check_file, demand, demand_none};
use crate::agent::Agent;

const STAND_IN: &str = "problem - right to Write on transactional id gateway-1.forebay-check";
const ID: [&str; 6] =
    ["--operation", "Write", "--transactional-id", "gateway-1.", "--resource-pattern-type", "prefixed"];

/// What is found with these lines of `[kafka]`.
fn check(stage: &mut Stage, kafka_lines: &'static str) -> (Option<i32>, Vec<String>) {
    stage.scene.kafka_lines = kafka_lines;
    check_file(&stage.scene.configure(BOTH_STREAMS, None))
}

/// Nothing is found but what a single broker brings.
#[track_caller]
fn demand_nothing((code, found): (Option<i32>, Vec<String>), what: &str) {
    assert_eq!(code, Some(0), "{what}: {found:#?}");
    demand_none(&found, &["problem", "unknown"]);
    println!("  nothing is found: {what}");
}

/// This alone is a problem.
#[track_caller]
fn demand_alone((code, found): (Option<i32>, Vec<String>), problem: &str) {
    assert_eq!(code, Some(1), "{found:#?}");
    let problems: Vec<&String> = found.iter().filter(|line| line.starts_with("problem")).collect();
    assert_eq!(problems, [problem], "{found:#?}");
    println!("  found: {problem}");
}

fn acls(stage: &Stage, what: &[&str], right: &[&str]) {
    stage.cluster.acls(&[what, &GATEWAY[..], right].concat());
}

#[test]
fn rights() {
    let mut stage = Stage::new("secure::online::exactly_once");
    stage.certificate("gateway", "gateway-1", 20);
    stage.by_certificate("gateway");
    stage.cluster.grant("For `forebay check --online`");

    // Before the agent has run: the queue has no name yet.
    let (code, found) = check(&mut stage, EXACTLY_ONCE);
    assert_eq!(code, Some(1));
    demand(&found, &[STAND_IN, "unknown telemetry right to Read"]);
    let groups = ["telemetry", "alarms"]
        .map(|stream| format!("problem {stream} right to Read on group gateway-1.forebay-check.{stream}"));
    demand(&found, &groups.each_ref().map(String::as_str));
    assert_eq!(found.iter().filter(|line| line.starts_with("problem")).count(), 3, "{found:#?}");
    stage.cluster.grant("For exactly-once delivery");
    demand_nothing(check(&mut stage, EXACTLY_ONCE), "all rights, no queue yet");

    let queue = beside_an_agent(&mut stage);
    every_login(&mut stage);
    let two_minutes = "delivery = \"exactly-once\"\ntransaction-timeout = \"2min\"";
    demand_alone(check(&mut stage, two_minutes), "problem - kafka.transaction-timeout");
    an_id_of_its_own(&mut stage);
    each_right_is_taken_away(&mut stage, &queue);
}

/// Checks while the agent delivers; gives the first digits of its queue's identity.
fn beside_an_agent(stage: &mut Stage) -> String {
    stage.scene.kafka_lines = EXACTLY_ONCE;
    let agent = stage.agent(BOTH_STREAMS);
    stage.scene.wait_until_delivered(&agent);
    let rebuilt = |agent: &Agent| agent.metric("forebay_uplink_client_rebuilds_total");
    let before = rebuilt(&agent);
    for _ in 0..2 {
        demand_nothing(check(stage, EXACTLY_ONCE), "all rights, beside the agent");
        stage.scene.wait_until_delivered(&agent);
    }
    assert_eq!((agent.metric("forebay_uplink_fenced"), rebuilt(&agent)), (0.0, before), "the agent was disturbed");
    assert_eq!(held(&agent), []);
    let queue = agent.status()["queue"]["id"].as_str().unwrap().replace('-', "");
    stage.scene.demand_all(&agent);
    agent.terminate();
    stage.scene.drain_rest();
    assert_eq!(stage.scene.settle().repeated(), 0, "a read_committed reader saw records twice");
    let group = format!("gateway-1.{}.telemetry", &queue[..8]);
    assert!(matches!(offset(stage, &group, 0), Offset::Offset(_)), "that is where the agent keeps its cursor");
    assert_eq!(offset(stage, &group, i32::MAX), Offset::Invalid, "it asked whether it may commit, and did");
    queue[..8].to_owned()
}

/// What the group has for this partition of `telemetry`, by the open listener.
fn offset(stage: &Stage, group: &str, partition: i32) -> Offset {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &stage.scene.kafka.bootstrap).set("group.id", group);
    let reader: BaseConsumer = config.create().unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition("telemetry", partition);
    let found = reader.committed_offsets(asked, Duration::from_secs(20)).unwrap();
    found.find_partition("telemetry", partition).unwrap().offset()
}

/// A token logs in all the clients that ask.
fn every_login(stage: &mut Stage) {
    let token = stage.scene.dir().join("token");
    let printed = |file: &Path| format!("token-command = [\"cat\", \"{}\"]", file.display());
    for (what, origin) in [("file", "token-file = \"token\"".to_owned()), ("command", printed(&token))] {
        stage.by_login(&format!("mechanism = \"OAUTHBEARER\", {origin}"));
        demand_nothing(check(stage, EXACTLY_ONCE), &format!("OAUTHBEARER from a {what}"));
    }
    stage.by_certificate("gateway");
}

/// Rights by full name cannot all be looked at, and that is said.
fn an_id_of_its_own(stage: &mut Stage) {
    const OWN: &str = "delivery = \"exactly-once\"\ntransactional-id = \"own\"\ntransaction-timeout = \"2min\"";
    let unseen = "unknown - right to Write on transactional id own";
    let literal = ["--operation", "Write", "--transactional-id", "own"];
    acls(stage, &["--add"], &literal);
    for group in ["own.telemetry", "own.alarms"] {
        acls(stage, &["--add"], &["--operation", "Read", "--group", group]);
    }
    let (code, found) = check(stage, OWN);
    assert_eq!(code, Some(0), "{found:#?}");
    demand(&found, &[unseen, "unknown - kafka.transaction-timeout"]);
    acls(stage, &["--add"], &["--operation", "Write", "--transactional-id", "own.forebay-check"]);
    let (code, found) = check(stage, OWN);
    demand(&found, &[unseen]);
    demand_alone((code, found), "problem - kafka.transaction-timeout");
}

fn each_right_is_taken_away(stage: &mut Stage, queue: &str) {
    let group = format!("gateway-1.{queue}.telemetry");
    let of_group = format!("problem telemetry right to Read on group {group}");
    // The right to Describe alone is enough to read an offset, and not to commit one.
    let mut denied = vec!["--deny-principal", "User:gateway-1", "--group", &group];
    for operation in ["Read", "Describe"] {
        stage.cluster.acls(&[&["--add"][..], &denied, &["--operation", operation]].concat());
        demand_alone(check(stage, EXACTLY_ONCE), &of_group);
    }
    denied.extend(["--operation", "Read", "--operation", "Describe"]);
    stage.cluster.acls(&[&["--remove", "--force"][..], &denied].concat());

    let of_topic = ["--operation", "Read", "--topic", "alarms"];
    acls(stage, &["--remove", "--force"], &of_topic);
    demand_alone(check(stage, EXACTLY_ONCE), "problem alarms right to Read");
    acls(stage, &["--add"], &of_topic);

    acls(stage, &["--remove", "--force"], &ID);
    demand_alone(check(stage, EXACTLY_ONCE), STAND_IN);
    acls(stage, &["--add"], &ID);
    demand_nothing(check(stage, EXACTLY_ONCE), "all rights again");
}
