//! Exactly once: the agent and Kafka killed at random moments of a drain, cut off in mid transaction, forgotten,
//! recreated, copied. Judged is what a `read_committed` reader sees.

use std::time::Duration;

use crate::agent::Agent;
use crate::process::wait_for;
use crate::scene::Scene;

/// Longest wait for a few transactions, those of a client that is built anew included.
const PATIENCE: Duration = Duration::from_secs(60);
/// What every scenario configures.
const EXACTLY_ONCE: &str = "delivery = \"exactly-once\"\ntransaction-timeout = \"10s\"";
/// Broker settings with which Kafka looks at old transactions and offsets often.
const BROKER: [&str; 1] = ["transaction.abort.timed.out.transaction.cleanup.interval.ms=1000"];

/// Made-up vehicles that say something 20 times a second each, into `telemetry`, and fewer into `alarms`.
fn fleet(vehicles: u32) -> String {
    let source = |name: &str, devices: u32, stream: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\ntype = \"simulated\"\nevery = \"50ms\"\ndevices = {devices}\n\
             stream = \"{stream}\"\n"
        )
    };
    source("fleet", vehicles, "telemetry") + &source("siren", 1, "alarms")
}

fn let_run(time: Duration) {
    std::thread::sleep(time);
}

/// Kills the agent at random moments, and Kafka at every so many of these; then all of it must be there, once.
fn storm(name: &'static str, agent_kills: u32, broker_kills: u32) {
    let seed = fastrand::u64(..);
    println!("{name}: seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::with(name, &BROKER, EXACTLY_ONCE);
    scene.configure(&fleet(25), None);
    let (mut transactions, mut unknown) = (0.0, 0.0);
    for kill in 0..agent_kills {
        let agent = scene.agent();
        // Often enough before the first transaction is over, mostly among many.
        let_run(Duration::from_millis(random.u64(50..2_500)));
        if (kill + 1) * broker_kills / agent_kills > kill * broker_kills / agent_kills {
            scene.note(&agent);
            scene.kafka.kill();
            let_run(Duration::from_millis(random.u64(0..2_000)));
            scene.kafka.up();
            let_run(Duration::from_millis(random.u64(0..3_000)));
        }
        transactions += agent.metric("forebay_uplink_transactions_total");
        unknown += agent.metric("forebay_uplink_possible_duplicates_total");
        scene.kill(agent);
    }
    let agent = scene.agent();
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    println!("  {agent_kills} kills of the agent, {broker_kills} of Kafka, among {transactions} transactions");
    assert_eq!(unknown, 0.0, "Kafka has forgotten nothing, so nothing may be marked");
    let ledger = scene.settle();
    assert_eq!(ledger.repeated(), 0, "a read_committed reader saw records twice");
}

#[test]
fn storm_of_kills() {
    storm("once::storm_of_kills", 15, 3);
}

#[test]
#[ignore = "10 minutes: ./x real once-storm"]
fn full_storm() {
    storm("once::full_storm", 100, 20);
}

/// The agent's counter of transactions with this outcome.
fn transactions(agent: &Agent, kind: &str) -> u64 {
    let text = agent.get("/metrics");
    let name = format!("forebay_uplink_transactions_total{{kind=\"{kind}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

fn wait_for_transactions(agent: &Agent, more: u64) {
    let goal = transactions(agent, "committed") + more;
    wait_for("transactions", PATIENCE, || (transactions(agent, "committed") >= goal).then_some(()));
}

fn finish(mut scene: Scene, agent: Agent) {
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    assert_eq!(scene.settle().repeated(), 0, "a read_committed reader saw records twice");
}

/// Kafka hangs in the middle of transactions, for less than the transaction timeout and for more; then the agent's
/// client is fenced for being late, which is no other agent.
#[test]
fn outage_in_mid_transaction() {
    let mut scene = Scene::with("once::outage_in_mid_transaction", &BROKER, EXACTLY_ONCE);
    scene.configure(&fleet(25), None);
    let agent = scene.agent();
    for outage in [Duration::from_secs(4), Duration::from_secs(16)] {
        wait_for_transactions(&agent, 5);
        scene.kafka.pause();
        let_run(outage);
        scene.kafka.resume();
        wait_for_transactions(&agent, 5);
    }
    let kinds = ["committed", "aborted", "unknown"].map(|kind| format!("{} {kind}", transactions(&agent, kind)));
    println!("  transactions: {}", kinds.join(", "));
    assert_eq!(agent.metric("forebay_uplink_fenced"), 0.0, "taken for another agent");
    finish(scene, agent);
}

/// Idle for longer than Kafka remembers a transactional id and a group's offsets; then the agent is killed while it has
/// records on disk, and Kafka has forgotten its cursor again before it comes back. At last a topic is made anew.
#[test]
fn forgotten_and_recreated() {
    let broker = [
        BROKER[0],
        "transactional.id.expiration.ms=3000",
        "transaction.remove.expired.transaction.cleanup.interval.ms=1000",
        "offsets.retention.minutes=1",
        "offsets.retention.check.interval.ms=1000",
    ];
    let mut scene = Scene::with("once::forgotten_and_recreated", &broker, EXACTLY_ONCE);
    scene.configure(&fleet(25), None);
    let agent = scene.agent();
    wait_for_transactions(&agent, 5);
    // Silence beyond the retention of transactional ids and offsets.
    scene.configure("", None);
    agent.reload();
    wait_for("the reload", Duration::from_secs(10), || agent.log_text().contains("reloaded").then_some(()));
    scene.wait_until_delivered(&agent);
    let_run(Duration::from_secs(64));
    scene.configure(&fleet(25), None);
    agent.reload();
    wait_for_transactions(&agent, 5);
    scene.kill(agent);
    let agent = scene.agent();
    wait_for_transactions(&agent, 5);
    assert_eq!(agent.metric("forebay_uplink_possible_duplicates_total"), 0.0, "nothing was in doubt");
    finish(scene, agent);
}
