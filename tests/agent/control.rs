//! `forebay queue` beside a running agent, and keys that change from start to start.

use std::process::Command;

use forebay::agent::Agent;
use forebay::config::{Config, Delivery, KeyBytes, QueueKeys, Transactions};
use forebay::metrics::BySource;

use super::ground::{Ground, parse, readings, start, until, until_drained};

const SIMULATED: &str = "[[source]]\nname = \"sim\"\ntype = \"simulated\"\ndevices = 50\nevery = \"20ms\"\n";

/// A configuration whose first key is current and whose others only open.
fn keyed(text: &str, keys: &[u8]) -> Config {
    let key = |byte: &u8| KeyBytes::new([*byte; 32]);
    let mut config = parse(text);
    config.queue.keys = QueueKeys { current: keys.first().map(key), old: keys.iter().skip(1).map(key).collect() };
    config
}

/// What the built binary says of the agent's queue, as JSON.
async fn forebay(ground: &Ground, arguments: &'static [&'static str]) -> serde_json::Value {
    let dir = ground.state.path().to_owned();
    let command = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.arg("queue").args(arguments).arg("--json").arg("--dir").arg(dir).output().unwrap()
    };
    let output = tokio::task::spawn_blocking(command).await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// One run of an agent in an outage; gives the readings that it accepted.
async fn run_in_outage(ground: &Ground, keys: &[u8]) -> u64 {
    let agent = Agent::start(keyed(&ground.with_kafka(SIMULATED), keys)).await.unwrap();
    let metrics = agent.metrics().clone();
    until("500 readings", || readings(&agent, "sim") >= 500).await;
    agent.stop().await.unwrap();
    metrics.readings_in.get_or_create(&BySource { source: "sim".to_owned() }).get()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_changed_while_the_agent_runs_and_everything_arrives() {
    let ground = Ground::new();
    ground.kafka.down().unwrap();
    let mut accepted = run_in_outage(&ground, &[1]).await;
    let Err(error) = Agent::start(keyed(&ground.with_kafka(SIMULATED), &[2])).await else { panic!("a wrong key") };
    assert!(format!("{error:#}").contains("is encrypted with key"), "{error:#}");

    let agent = Agent::start(keyed(&ground.with_kafka(SIMULATED), &[2, 1])).await.unwrap();
    let metrics = agent.metrics().clone();
    until("500 readings", || readings(&agent, "sim") >= 500).await;
    let done = forebay(&ground, &["rekey"]).await;
    assert_eq!((&done["held"], &done["agent_pid"]), (&0.into(), &std::process::id().into()), "{done}");
    assert!(done["blocks"].as_u64().unwrap() > 0, "{done}");
    agent.stop().await.unwrap();
    accepted += metrics.readings_in.get_or_create(&BySource { source: "sim".to_owned() }).get();

    // The old key is destroyed.
    ground.kafka.up().unwrap();
    let agent = Agent::start(keyed(&ground.with_kafka(""), &[2])).await.unwrap();
    until_drained(&agent).await;
    agent.stop().await.unwrap();
    let delivered = ground.read_back().await;
    assert_eq!(delivered.by_source.get("sim").copied(), Some(accepted));
    assert_eq!((delivered.account.missing(), delivered.account.out_of_order()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_waits_for_a_missing_key_until_it_is_purged() {
    wait_for_a_missing_key(Delivery::AtLeastOnce).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_waits_for_a_missing_key_in_transactions_too() {
    let timeout = std::time::Duration::from_secs(10);
    wait_for_a_missing_key(Delivery::ExactlyOnce(Transactions { id: None, timeout })).await;
}

async fn wait_for_a_missing_key(delivery: Delivery) {
    let ground = Ground::new();
    ground.kafka.down().unwrap();
    run_in_outage(&ground, &[1]).await;
    run_in_outage(&ground, &[2, 1]).await;
    ground.kafka.up().unwrap();
    let mut config = keyed(&ground.with_kafka(""), &[2]);
    config.kafka.as_mut().unwrap().delivery = delivery;
    let agent = Agent::start(config).await.unwrap();
    until("the stream is held", || agent.uplink_status().is_some_and(|uplink| uplink.state == "held")).await;
    let held = agent.uplink_status().unwrap().held;
    assert!(held[0].1.contains("add it to queue.old-keys"), "{held:?}");
    assert_eq!(agent.queue().status().streams[0].acknowledged, None, "nothing overtakes what waits");
    // The first run's records alone: the second run's open.
    let purged = forebay(&ground, &["purge", "--stream", "telemetry", "--through", "1:9999999", "--yes"]).await;
    assert!(purged["purged_records"].as_u64().unwrap() >= 500, "{purged}");
    until_drained(&agent).await;
    until("the stream is released", || agent.uplink_status().is_some_and(|uplink| uplink.held.is_empty())).await;
    agent.stop().await.unwrap();
    assert!(ground.read_back().await.by_source["sim"] >= 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_socket_cannot_be_made_runs_all_the_same() {
    let ground = Ground::new();
    std::fs::create_dir(ground.state.path().join("control.sock")).unwrap();
    let agent = start(&ground.local(SIMULATED)).await;
    until("readings", || readings(&agent, "sim") > 0).await;
    agent.stop().await.unwrap();
    assert!(ground.state.path().join("control.sock").is_dir(), "what is not ours stays");
}
