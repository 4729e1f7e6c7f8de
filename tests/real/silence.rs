//! An uplink that falls silent: packets are dropped, no port is closed and nobody says goodbye, as on a radio link.
//!
//! `./x real silence` runs this as root in a network namespace of its own, whose loopback it cuts.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::ledger::Ledger;
use crate::process::{output, tool, wait_for};
use crate::scene::{Scene, wait_until_up};

const FLEET: &str = "[[source]]\nname = \"fleet\"\ntype = \"simulated\"\ndevices = 10\nevery = \"50ms\"\n";
const NOTICE_MAX: Duration = Duration::from_secs(90);

/// Packets of a port, dropped in both directions until this is gone.
struct Silence {
    table: String,
}

impl Silence {
    fn of(port: &str) -> Self {
        let table = format!("forebay_test_{port}");
        let rules = format!(
            "table inet {table} {{ chain cut {{ type filter hook output priority 0; \
             tcp dport {port} drop; tcp sport {port} drop; }}; }}"
        );
        output(tool("nft", "nftables").arg(rules));
        Self { table }
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tool("nft", "nftables").args(["delete", "table", "inet", &self.table]).status();
    }
}

/// Nothing but a loopback: so what is cut here is cut for nobody else.
fn demand_own_network() {
    let links = output(Command::new("ip").args(["-brief", "link"]));
    assert!(
        links.lines().all(|link| link.starts_with("lo")),
        "this cuts its network: run it by ./x real silence, as root, in a namespace of its own. Here are:\n{links}"
    );
}

fn waiting(agent: &Agent) -> u64 {
    agent.streams().iter().map(|stream| stream.waiting).sum()
}

fn silence(name: &'static str, kafka_lines: &'static str) -> Ledger {
    demand_own_network();
    let mut scene = Scene::new(name);
    scene.kafka_lines = kafka_lines;
    scene.configure(FLEET, None);
    let agent = scene.agent();
    wait_until_up(&agent, &["fleet"]);
    scene.wait_until_delivered(&agent);
    let port = scene.kafka.bootstrap.rsplit(':').next().unwrap().to_owned();
    for (cut, readings) in [(1, 6_000), (2, 600)] {
        let silence = Silence::of(&port);
        let before = agent.source("fleet").1;
        wait_for("readings in the silence", NOTICE_MAX, || {
            (agent.source("fleet").1 >= before + readings).then_some(())
        });
        let waits = waiting(&agent);
        assert!(waits as f64 > readings as f64 * 0.9, "only {waits} of {readings} records wait");
        drop(silence);
        let back = Instant::now();
        wait_for("the first record after the silence", NOTICE_MAX, || (waiting(&agent) < waits).then_some(()));
        let first = back.elapsed();
        scene.wait_until_delivered(&agent);
        println!(
            "  {name}, cut {cut}: {waits} records waited; the first was delivered {:.1} s after packets passed again, all {:.1} s",
            first.as_secs_f64(),
            back.elapsed().as_secs_f64()
        );
    }
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    scene.settle()
}

#[test]
fn packets_are_dropped_and_come_back() {
    silence("silence::packets_are_dropped_and_come_back", "");
}

#[test]
fn and_exactly_once() {
    let ledger = silence("silence::and_exactly_once", "delivery = \"exactly-once\"");
    assert_eq!(ledger.repeated(), 0);
}
