//! Stops and starts: nothing accepted is lost, and a directory belongs to one agent.

use std::time::{Duration, Instant};

use forebay::agent::{Agent, STOP_SECONDS_MAX};
use forebay::reading::Value;

use super::ground::{Ground, Wire, parse, queued, readings, start, until, until_drained, until_up};

const SIMULATED: &str = "[[source]]\nname = \"sim\"\ntype = \"simulated\"\ndevices = 50\nevery = \"20ms\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_an_outage_loses_nothing() {
    let ground = Ground::new();
    ground.kafka.down().unwrap();
    let agent = start(&ground.with_kafka(SIMULATED)).await;
    let metrics = agent.metrics().clone();
    until("500 readings", || readings(&agent, "sim") >= 500).await;
    let began = Instant::now();
    agent.stop().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(STOP_SECONDS_MAX));
    let label = forebay::metrics::BySource { source: "sim".to_owned() };
    let accepted = metrics.readings_in.get_or_create(&label).get();

    ground.kafka.up().unwrap();
    let agent = start(&ground.with_kafka("")).await;
    until_drained(&agent).await;
    agent.stop().await.unwrap();
    let delivered = ground.read_back().await;
    assert_eq!(delivered.by_source.get("sim").copied(), Some(accepted));
    assert_eq!((delivered.account.missing(), delivered.account.out_of_order()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_directory_is_told_so_and_the_first_goes_on() {
    let ground = Ground::new();
    let mut wire = Wire::new();
    let first = start(&ground.local(&wire.csv("lines", ""))).await;
    until_up(&first, &["lines"]).await;
    let Err(error) = Agent::start(parse(&ground.local(""))).await else { panic!("two agents on one directory") };
    let error = format!("{error:#}");
    assert!(error.contains(&ground.state.path().display().to_string()), "{error}");
    assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    wire.write(b"\n7\n").await;
    until("the first agent reads on", || readings(&first, "lines") == 1).await;
    assert_eq!(queued(&first).await[0].fields[0].value, Value::Integer(7));
    first.stop().await.unwrap();
}
