//! Apache Kafka stopped, killed and frozen; the agent killed beside it.

use std::time::{Duration, Instant};

use crate::agent::StreamNow;
use crate::process::wait_for;
use crate::scene::{Plant, Scene};

/// Made-up vehicles of a scenario: 500 readings a second, which a debug build drains on a busy machine too.
const VEHICLES: u32 = 25;

/// Lets the scenario go on for a while. Time is what is being tested here: nothing is waited for.
fn let_run(time: Duration) {
    std::thread::sleep(time);
}

fn waiting(agent: &crate::agent::Agent) -> u64 {
    agent.streams().iter().map(|stream| stream.waiting).sum()
}

/// Publishes a hundred messages; comes back when the broker has them.
fn devices_speak(plant: &Plant) {
    plant.mosquitto.publish("sensors/pump/data", (0..100).map(|count| format!("{{\"count\":{count}}}")));
}

#[test]
fn steady() {
    let mut scene = Scene::new("kafka::steady");
    let plant = Plant::start(scene.dir());
    let heard = plant.mosquitto.subscribe("forebay/#", &scene.dir().join("heard"));
    scene.configure(&plant.sources(VEHICLES), Some(&plant.mosquitto));
    let agent = scene.agent();
    plant.wait_until_up(&agent);
    devices_speak(&plant);
    let_run(Duration::from_secs(15));
    plant.receiver.talk(false);
    let epochs = plant.receiver.epochs();
    wait_for("the receiver's last epoch", Duration::from_secs(5), || {
        (agent.source("position").1 >= epochs).then_some(())
    });
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    assert_eq!(agent.metric("forebay_mqtt_dropped_total"), 0.0, "the local broker was not away");
    println!(
        "bytes written to flash {}, longest wait to be durable or sent {:.2} s, memory {} KiB",
        agent.metric("forebay_queue_written_bytes_total"),
        agent.metric("forebay_queue_undurable_age_seconds_max"),
        agent.resident_kib()
    );
    agent.terminate();
    scene.drain_rest();
    let ledger = scene.settle();

    assert_eq!(ledger.repeated(), 0, "nothing failed, so nothing may come twice");
    let altitude = |record: &serde_json::Value| (record["altitude_m"].as_f64().unwrap() * 10.0).round() as u64;
    let seen: Vec<u64> = ledger.of_source("position").map(altitude).collect();
    assert_eq!(seen, (0..epochs).collect::<Vec<_>>(), "each navigation epoch is one record, in order");
    assert_eq!(ledger.of_source("yard").count(), 100);
    let published = heard.lines();
    let of_receiver = published.iter().filter(|line| line.starts_with("forebay/gateway-1/position ")).count() as u64;
    assert_eq!(of_receiver, epochs, "every reading is on the local broker too");
}

#[test]
fn stopped_30s() {
    let mut scene = Scene::new("kafka::stopped_30s");
    let plant = Plant::start(scene.dir());
    scene.configure(&plant.sources(VEHICLES), Some(&plant.mosquitto));
    let agent = scene.agent();
    plant.wait_until_up(&agent);
    let_run(Duration::from_secs(8));
    scene.kafka.stop();
    devices_speak(&plant);
    let_run(Duration::from_secs(30));
    let queued = waiting(&agent);
    assert!(queued > 10_000, "only {queued} records wait after 30 s at 500 a second");
    let back = Instant::now();
    scene.kafka.up();
    devices_speak(&plant);
    let took = scene.wait_until_delivered(&agent);
    println!(
        "{queued} records waited; delivered {:.1} s after Kafka served again ({:.1} s with its start)",
        took.as_secs_f64(),
        back.elapsed().as_secs_f64()
    );
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    assert_eq!(scene.settle().of_source("yard").count(), 200);
}

#[test]
fn killed_sigkill() {
    let mut scene = Scene::new("kafka::killed_sigkill");
    let plant = Plant::start(scene.dir());
    scene.configure(&plant.sources(VEHICLES), Some(&plant.mosquitto));
    let agent = scene.agent();
    plant.wait_until_up(&agent);
    let_run(Duration::from_secs(6));
    scene.note(&agent);
    scene.kafka.kill();
    let_run(Duration::from_secs(5));
    scene.kafka.up();
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    scene.settle();
}

#[test]
fn frozen_20s() {
    let mut scene = Scene::new("kafka::frozen_20s");
    let plant = Plant::start(scene.dir());
    scene.configure(&plant.sources(VEHICLES), Some(&plant.mosquitto));
    let agent = scene.agent();
    plant.wait_until_up(&agent);
    let_run(Duration::from_secs(5));
    scene.kafka.pause();
    let_run(Duration::from_secs(20));
    let queued = waiting(&agent);
    assert!(queued > 5_000, "only {queued} records wait");
    scene.kafka.resume();
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    scene.settle();
}

#[test]
fn agent_killed_in_outage() {
    let mut scene = Scene::new("kafka::agent_killed_in_outage");
    let plant = Plant::start(scene.dir());
    scene.configure(&plant.sources(VEHICLES), Some(&plant.mosquitto));
    let agent = scene.agent();
    plant.wait_until_up(&agent);
    let_run(Duration::from_secs(5));
    scene.kafka.stop();
    let_run(Duration::from_secs(8));
    let before = agent.streams();
    // A window of 1 s and a flush.
    let began = Instant::now();
    let is_safe = |(before, now): (&StreamNow, &StreamNow)| now.safe() >= before.pushed.checked_sub(1);
    wait_for("what was pushed to be durable", Duration::from_millis(2_500), || {
        before.iter().zip(&agent.streams()).all(is_safe).then_some(())
    });
    println!("a window of 1 s: durable {:.1} s after it was asked for", began.elapsed().as_secs_f64());
    for stream in scene.kill(agent) {
        assert!(stream.durable > stream.acknowledged, "nothing of the outage is on disk: {stream:?}");
    }
    let agent = scene.agent();
    plant.wait_until_up(&agent);
    let_run(Duration::from_secs(4));
    scene.kill(agent);
    let agent = scene.agent();
    plant.wait_until_up(&agent);
    scene.kafka.up();
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    scene.settle();
}

#[test]
fn agent_killed_in_drain() {
    let mut scene = Scene::new("kafka::agent_killed_in_drain");
    let plant = Plant::start(scene.dir());
    scene.configure(&plant.sources(8 * VEHICLES), Some(&plant.mosquitto));
    let agent = scene.agent();
    plant.wait_until_up(&agent);
    scene.kafka.stop();
    wait_for("a backlog", Duration::from_secs(90), || (waiting(&agent) > 40_000).then_some(()));
    // The fleet falls silent, so that the drain is the faster side on any machine.
    scene.configure(&plant.sources(0), Some(&plant.mosquitto));
    agent.reload();
    wait_for("the reload", Duration::from_secs(10), || agent.log_text().contains("reloaded").then_some(()));
    scene.kafka.up();
    // Twice: the second drain begins where the first was cut off.
    let mut agent = agent;
    for cut in 1..=2 {
        agent.wait_for_store();
        let backlog = waiting(&agent);
        wait_for("the drain", Duration::from_secs(100), || (waiting(&agent) + 3_000 < backlog).then_some(()));
        let left = waiting(&agent);
        scene.kill(agent);
        println!("  cut {cut}: killed with {left} of {backlog} records waiting");
        assert!(left > 1000, "the drain was over before it could be cut");
        agent = scene.agent();
    }
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    scene.settle();
}
