//! Exactly once with the rights that `docs/kafka-acls.md` tells for it and no other: it delivers, says which right is
//! missing when one is taken away, and goes on by itself when it is back.

use std::time::Duration;

use super::stage::{BOTH_STREAMS, Stage};
use crate::agent::Agent;
use crate::process::wait_for;

/// A missing right is asked for once a minute at the latest.
const NOTICED_MAX: Duration = Duration::from_secs(100);
pub const EXACTLY_ONCE: &str = "delivery = \"exactly-once\"\ntransaction-timeout = \"10s\"";
pub const GATEWAY: [&str; 2] = ["--allow-principal", "User:gateway-1"];

/// Streams that are held, and why.
pub fn held(agent: &Agent) -> Vec<(String, String)> {
    let status = agent.status();
    let text = |found: &serde_json::Value| found.as_str().unwrap().to_owned();
    let held = status["uplink"]["held"].as_array().unwrap();
    held.iter().map(|found| (text(&found["stream"]), text(&found["why"]))).collect()
}

/// Waits until exactly these streams are held, for something that is named so, in status and log.
fn wait_until_held(agent: &Agent, streams: &[&str], name: &str) {
    let is_so = |found: &[(String, String)]| {
        found.len() == streams.len()
            && found.iter().all(|(stream, why)| streams.contains(&stream.as_str()) && why.contains(name))
            && found.iter().all(|(_, why)| why.contains("uthorization failed") && why.contains("docs/kafka-acls.md"))
    };
    let what = format!("{streams:?} to be held for {name}, now {:?}", held(agent));
    let found = wait_for(&what, NOTICED_MAX, || Some(held(agent)).filter(|found| is_so(found)));
    let log = agent.log_text().replace('\\', "");
    for (stream, why) in found {
        let line = log.lines().find(|line| line.contains("stream is held") && line.contains(name));
        assert!(line.is_some(), "the log does not say that {stream} is held: {why}");
        println!("  held {stream}: {why}");
    }
}

fn wait_until_free(agent: &Agent) {
    wait_for("the end of the hold", NOTICED_MAX, || held(agent).is_empty().then_some(()));
}

#[test]
fn rights() {
    let mut stage = Stage::new("secure::transactions");
    stage.certificate("gateway", "gateway-1", 20);
    stage.by_certificate("gateway");
    stage.scene.kafka_lines = EXACTLY_ONCE;

    // The rights of at least once are not enough, and nothing goes past what is missing.
    let agent = stage.agent(BOTH_STREAMS);
    wait_until_held(&agent, &["telemetry", "alarms"], "cursor of group gateway-1.");
    assert!(agent.streams().iter().all(|stream| stream.acknowledged.is_none() && stream.waiting > 0));
    stage.cluster.grant("For exactly-once delivery");
    wait_until_free(&agent);
    stage.scene.wait_until_delivered(&agent);
    stage.scene.demand_all(&agent);
    agent.terminate();
    stage.delivers("certificate, exactly once, after a restart");

    let agent = stage.agent(BOTH_STREAMS);
    the_transactional_id_is_taken_away(&mut stage, &agent);
    a_group_is_taken_away(&mut stage, agent);
    stage.by_login("mechanism = \"OAUTHBEARER\", token-file = \"token\"");
    stage.delivers("OAUTHBEARER, exactly once");
    stage.by_certificate("gateway");
    stage.scene.drain_rest();
    assert_eq!(stage.scene.settle().repeated(), 0, "a read_committed reader saw records twice");
}

/// From an agent in mid delivery.
fn the_transactional_id_is_taken_away(stage: &mut Stage, agent: &Agent) {
    wait_for("delivery", NOTICED_MAX, || {
        agent.streams().iter().all(|stream| stream.acknowledged.is_some()).then_some(())
    });
    let right =
        ["--operation", "Write", "--transactional-id", "gateway-1.", "--resource-pattern-type", "prefixed"].as_slice();
    stage.cluster.acls(&[&["--remove", "--force"][..], &GATEWAY[..], right].concat());
    wait_until_held(agent, &["telemetry", "alarms"], "transactional id \"gateway-1.");
    stage.scene.note(agent);
    let rebuilt = agent.metric("forebay_uplink_client_rebuilds_total");
    wait_for("another try", NOTICED_MAX, || {
        (agent.metric("forebay_uplink_client_rebuilds_total") > rebuilt).then_some(())
    });
    let said = agent.log_text().matches("stream is held").count();
    assert_eq!(said, 2, "a state is said once for each stream, not at each try");
    stage.cluster.acls(&[&["--add"][..], &GATEWAY[..], right].concat());
    wait_until_free(agent);
    stage.scene.wait_until_delivered(agent);
}

/// The group of one stream, from an agent in mid delivery and from one that starts: the other stream goes on.
fn a_group_is_taken_away(stage: &mut Stage, agent: Agent) {
    let status = agent.status();
    let queue = status["queue"]["id"].as_str().unwrap_or_else(|| panic!("{status:#}")).replace('-', "");
    let group = format!("gateway-1.{}.telemetry", &queue[..8]);
    let denied = ["--deny-principal", "User:gateway-1", "--group", &group, "--operation"];
    stage.cluster.acls(&[&["--add"][..], &denied[..], &["Read"][..]].concat());
    wait_until_held(&agent, &["telemetry"], &group);
    other_stream_goes_on(&agent);
    stage.scene.kill(agent);

    stage.cluster.acls(&[&["--add"][..], &denied[..], &["Describe"][..]].concat());
    let agent = stage.agent(BOTH_STREAMS);
    wait_until_held(&agent, &["telemetry"], &group);
    other_stream_goes_on(&agent);
    stage.cluster.acls(&[&["--remove", "--force"][..], &denied[..], &["Read", "--operation", "Describe"][..]].concat());
    wait_until_free(&agent);
    stage.scene.wait_until_delivered(&agent);
    stage.scene.demand_all(&agent);
    agent.terminate();
}

fn other_stream_goes_on(agent: &Agent) {
    let before = agent.streams();
    wait_for("the other stream", NOTICED_MAX, || {
        (agent.streams()[1].acknowledged > before[1].acknowledged).then_some(())
    });
    assert_eq!(agent.streams()[0].acknowledged, before[0].acknowledged, "a stream that is held delivered");
    assert!(agent.streams()[0].waiting > 0);
}
