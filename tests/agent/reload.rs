//! Reload: only what changed is restarted, and a refused one changes nothing.

use forebay::agent::Reloaded;
use tokio_serial::{SerialPortBuilderExt as _, SerialStream};

use super::ground::{Ground, Wire, is_up, parse, queued, readings, start, until, until_up};

/// Opens the port as another program would: refused while the agent has it.
fn open_elsewhere(wire: &Wire) -> tokio_serial::Result<SerialStream> {
    tokio_serial::new(wire.path.to_string_lossy(), 9600).open_native_async()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_source_that_changed_lets_go_of_its_port() {
    let ground = Ground::new();
    let (mut kept, mut changed, removed, added) = (Wire::new(), Wire::new(), Wire::new(), Wire::new());
    let before = [kept.csv("kept", ""), changed.csv("changed", ""), removed.csv("removed", "")].concat();
    let mut agent = start(&ground.local(&before)).await;
    until_up(&agent, &["kept", "changed", "removed"]).await;
    assert!(open_elsewhere(&removed).is_err(), "the agent has it");
    // Half a line each, after the end of one. A port that is closed and opened again forgets its half.
    kept.write(b"\n12").await;
    changed.write(b"\n12").await;

    let after = [kept.csv("kept", ""), changed.csv("changed", "device = \"new\"\n"), added.csv("added", "")].concat();
    let done = agent.reload(parse(&ground.local(&after))).await.unwrap();
    assert_eq!(done, Reloaded { sources_stopped: 2, sources_started: 2, ..Reloaded::default() });
    until_up(&agent, &["kept", "changed", "added"]).await;
    assert!(!is_up(&agent, "removed"));
    drop(open_elsewhere(&removed).expect("the agent has let go of it"));

    kept.write(b"34\n").await;
    changed.write(b"\n34\n").await;
    until("a reading of each", || readings(&agent, "kept") == 1 && readings(&agent, "changed") == 1).await;
    let mut seen: Vec<_> = queued(&agent)
        .await
        .iter()
        .map(|record| (record.device.to_string(), format!("{:?}", record.fields[0].value)))
        .collect();
    seen.sort();
    assert_eq!(seen, [("kept".to_owned(), "Integer(1234)".to_owned()), ("new".to_owned(), "Integer(34)".to_owned())]);

    let again = agent.reload(parse(&ground.local(&after))).await.unwrap();
    assert_eq!(again, Reloaded::default(), "nothing changed, nothing is touched");
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_rest_stands_on_needs_a_restart_and_says_so() {
    let ground = Ground::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let wire = Wire::new();
    let mut agent = start(&ground.local(&wire.csv("lines", ""))).await;
    until_up(&agent, &["lines"]).await;
    let text = ground
        .local(&wire.csv("lines", ""))
        .replace("id = \"gw\"", "id = \"other\"")
        .replace(&ground.state.path().display().to_string(), &elsewhere.path().display().to_string())
        .replace("window = \"200ms\"", "window = \"2s\"")
        + "[[stream]]\nname = \"telemetry\"\ntopic = \"elsewhere\"\n";
    let done = agent.reload(parse(&text)).await.unwrap();
    assert_eq!(done.needs_restart, ["[gateway]", "[queue]", "[[stream]]"]);
    assert!(done.to_string().ends_with("a restart is needed for the changes in [gateway], [queue], [[stream]]"));
    assert_eq!((done.sources_stopped, done.sources_started), (0, 0));
    assert!(!elsewhere.path().join("queue").exists(), "the old directory stays in use");

    // A stream that this run does not have cannot be written to: refused as a whole, all goes on.
    let text = format!("{}[[stream]]\nname = \"new\"\n", ground.local(&wire.csv("lines", "stream = \"new\"\n")));
    let refused = agent.reload(parse(&text)).await.unwrap_err().to_string();
    assert!(refused.contains("\"lines\"") && refused.contains("restart"), "{refused}");
    assert!(is_up(&agent, "lines"));
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_cannot_start_anew_leaves_the_old_one_running() {
    let ground = Ground::new();
    let sim = "[[source]]\nname = \"sim\"\ntype = \"simulated\"\nevery = \"20ms\"\n";
    let mut agent = start(&ground.with_kafka(sim)).await;
    let acknowledged = |agent: &forebay::agent::Agent| agent.queue().status().streams[0].acknowledged;
    until("something is acknowledged", || acknowledged(&agent).is_some()).await;
    // Only librdkafka knows that this is no number.
    let wrong = ground.with_kafka(&format!("\"socket.timeout.ms\" = \"soon\"\n{sim}"));
    let refused = format!("{:#}", agent.reload(parse(&wrong)).await.unwrap_err());
    assert!(refused.contains("socket.timeout.ms"), "{refused}");
    let before = acknowledged(&agent);
    until("the old uplink delivers on", || acknowledged(&agent) > before).await;
    let done = agent.reload(parse(&ground.with_kafka(sim))).await.unwrap();
    assert_eq!(done, Reloaded::default());
    agent.stop().await.unwrap();
}
