//! Avro and Protobuf in transactions: the agent killed at random moments while the registry comes and goes; read back by
//! Confluent's consumer at `read_committed`, with the schemas that the messages name.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{BROKER, PATIENCE, fleet, let_run, scene, wait_for_transactions};
use crate::agent::{Agent, StreamNow};
use crate::process::{output, script, wait_for};
use crate::scene::Scene;
use crate::stand_in::{Mood, StandIn};

const KILLS: u32 = 6;

#[test]
fn avro_records_once() {
    records_once("once::schemas::avro_records_once", "avro");
}

#[test]
fn protobuf_records_once() {
    records_once("once::schemas::protobuf_records_once", "protobuf");
}

fn records_once(name: &'static str, encoding: &str) {
    let seed = fastrand::u64(..);
    println!("{name}: seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let registry = StandIn::start();
    let mut scene = scene(name, &BROKER);
    scene.uplink = Some(format!(
        "brokers = [\"{}\"]\nencoding = \"{encoding}\"\nregistry = {{ url = \"http://{}\", timeout = \"1s\" }}",
        scene.kafka.bootstrap,
        registry.address()
    ));
    scene.configure(&fleet(25), None);
    registry.mood(Mood::Away);
    let mut promises = Vec::new();
    for kill in 0..KILLS {
        let agent = scene.agent();
        if kill == 0 {
            wait_for("the hold", PATIENCE, || is_held(&agent).then_some(()));
            // Nothing is in Kafka but the streams' cursors, and what waits is kept.
            wait_for("records that wait", PATIENCE, || {
                agent.streams().iter().all(|stream| stream.waiting > 50 && stream.acknowledged.is_none()).then_some(())
            });
            registry.mood(Mood::Willing);
            wait_for("the release", PATIENCE, || (!is_held(&agent)).then_some(()));
        }
        wait_for_transactions(&agent, random.u64(1..8));
        let_run(Duration::from_millis(random.u64(0..1_500)));
        promises.extend(scene.kill(agent));
        // What was registered once needs no registry.
        registry.mood(if kill % 2 == 0 { Mood::Away } else { Mood::Willing });
    }
    registry.mood(Mood::Willing);
    let agent = scene.agent();
    scene.wait_until_delivered(&agent);
    promises.extend(agent.streams());
    agent.terminate();
    scene.drain_rest();
    for topic in ["telemetry", "alarms"] {
        let messages = read(&scene, &registry, topic, encoding);
        judge(topic, encoding, &messages, &promises);
        assert_eq!(registry.versions(&format!("{topic}-value")), 1, "the same fields need one version");
    }
}

fn is_held(agent: &Agent) -> bool {
    !agent.status()["uplink"]["held"].as_array().unwrap().is_empty()
}

fn read(scene: &Scene, registry: &StandIn, topic: &str, encoding: &str) -> Vec<Value> {
    let url = format!("http://{}", registry.address());
    let text = output(script("read-encodings").args([&scene.kafka.bootstrap, &url, topic, encoding]));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every record once, none missing up to what was promised, and each device's in order.
fn judge(topic: &str, encoding: &str, messages: &[Value], promises: &[StreamNow]) {
    let mut seqs: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut last: BTreeMap<String, (u32, u64)> = BTreeMap::new();
    for message in messages {
        let number = |name: &str| message["value"][name].as_u64().unwrap_or(0);
        let (run, seq) = (u32::try_from(number("run")).unwrap(), number("seq"));
        seqs.entry(run).or_default().push(seq);
        let before = last.insert(message["key"].as_str().unwrap().to_owned(), (run, seq));
        assert!(before < Some((run, seq)), "{topic}: out of order: {message}");
    }
    for (run, seqs) in &mut seqs {
        seqs.sort_unstable();
        assert_eq!(*seqs, (0..seqs.len() as u64).collect::<Vec<_>>(), "{topic}, run {run}: missing or repeated");
    }
    for promise in promises.iter().filter(|promise| promise.name == topic) {
        let Some(safe) = promise.safe() else { continue };
        let kept = seqs.get(&promise.run).map_or(0, Vec::len) as u64;
        assert!(kept > safe, "lost: {promise:?}, but Kafka has {kept}");
    }
    println!("  {topic}: {} records in {encoding}, of {} runs, each once", messages.len(), seqs.len());
}
