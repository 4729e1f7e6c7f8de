//! Certificate, key and trust anchors renewed under load: nothing lost, nothing out of order, no restart.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use crate::agent::Agent;
use crate::ledger::Ledger;
use crate::once::EXACTLY_ONCE;
use crate::process::wait_for;
use crate::scene::{Scene, wait_until_up};

/// How many, unless the environment says otherwise (`./x real rotations 100`).
const ROTATIONS: u32 = 5;
/// The files are glanced at every 2 s, and what is in flight may take 10 s to arrive.
const TAKEN_UP_MAX: Duration = Duration::from_secs(25);
const FLEET: &str = "[[source]]\nname = \"fleet\"\ntype = \"simulated\"\nevery = \"50ms\"\ndevices = 25\n";

/// The gateway's TLS files, beneath a link as certificate tools keep it.
struct Files {
    dir: PathBuf,
}

impl Files {
    fn new(dir: &Path, contents: &[(&str, String)]) -> Self {
        let files = Self { dir: dir.join("tls") };
        std::fs::create_dir(&files.dir).unwrap();
        files.switch(0, contents);
        files
    }

    /// Renews them as one of three tools would: in place one after the other, by renaming, by turning a link.
    fn renew(&self, count: u32, contents: &[(&str, String)]) {
        match count % 3 {
            0 => self.switch(count, contents),
            way => {
                for (name, text) in contents {
                    let file = self.dir.join("current").join(name);
                    if way == 1 {
                        std::fs::write(&file, text).unwrap();
                    } else {
                        let new = file.with_extension("new");
                        std::fs::write(&new, text).unwrap();
                        std::fs::rename(&new, &file).unwrap();
                    }
                }
            }
        }
    }

    fn switch(&self, count: u32, contents: &[(&str, String)]) {
        let version = format!("version-{count}");
        std::fs::create_dir(self.dir.join(&version)).unwrap();
        for (name, text) in contents {
            std::fs::write(self.dir.join(&version).join(name), text).unwrap();
        }
        symlink(&version, self.dir.join("next")).unwrap();
        std::fs::rename(self.dir.join("next"), self.dir.join("current")).unwrap();
    }
}

/// A new certificate and key of this issuer, and trust anchors with a comment that makes them new as well.
fn contents(cluster: &Cluster, issuer: usize, trusted: &[usize], count: u32) -> [(&'static str, String); 3] {
    let (cert, key) = cluster.authorities[issuer].issue("gateway-1", 10);
    let trusted: String = trusted.iter().map(|authority| cluster.authorities[*authority].pem()).collect();
    [("ca.pem", format!("# {count}\n{trusted}")), ("cert.pem", cert), ("key.pem", key)]
}

/// Renewals that were taken up.
fn applied(agent: &Agent) -> u64 {
    let text = agent.get("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix("forebay_uplink_tls_renewals_total{kind=\"applied\"} "));
    line.map_or(0, |count| count.parse().unwrap())
}

fn delivered(agent: &Agent) -> f64 {
    agent.metric("forebay_uplink_records_delivered_total")
}

#[test]
fn under_load() {
    rotate("secure::rotations::under_load", "");
}

#[test]
fn under_load_exactly_once() {
    let ledger = rotate("secure::rotations::under_load_exactly_once", EXACTLY_ONCE);
    assert_eq!(ledger.repeated(), 0, "a read_committed reader saw records twice");
}

/// The same with these further lines of `[kafka]`.
fn rotate(name: &'static str, delivery: &'static str) -> Ledger {
    let rotations = std::env::var("FOREBAY_ROTATIONS").map_or(ROTATIONS, |count| count.parse().unwrap());
    let dir = tempfile::Builder::new().prefix("forebay-real-").tempdir().unwrap();
    let (cluster, kafka) = Cluster::start(dir.path());
    if !delivery.is_empty() {
        cluster.grant("For exactly-once delivery");
    }
    let files = Files::new(dir.path(), &contents(&cluster, 0, &[0], 0));
    let tls = ["ca", "cert", "key"].map(|name| format!("{name} = \"tls/current/{name}.pem\"")).join(", ");
    let uplink = format!("brokers = [\"{}\"]\ntls = {{ {tls} }}", cluster.by_certificate);
    let mut scene = Scene::logging_in(name, dir, kafka, uplink);
    scene.kafka_lines = delivery;
    scene.configure(FLEET, None);
    let agent = scene.agent();
    wait_until_up(&agent, &["fleet"]);
    let mut longest = Duration::ZERO;
    for count in 1..=rotations {
        wait_for("delivery before the renewal", TAKEN_UP_MAX, || (delivered(&agent) > 100.0).then_some(()));
        let (before, began) = (applied(&agent), Instant::now());
        files.renew(count, &contents(&cluster, count as usize % 2, &[0, 1], count));
        wait_for("the renewal", TAKEN_UP_MAX, || (applied(&agent) > before).then_some(()));
        let at_renewal = delivered(&agent);
        wait_for("delivery after the renewal", TAKEN_UP_MAX, || (delivered(&agent) > at_renewal).then_some(()));
        longest = longest.max(began.elapsed());
    }
    println!("{rotations} renewals, each in use within {:.1} s at 500 readings a second", longest.as_secs_f64());

    // The last ones are not only read but used: from now on the node and the gateway have nothing but authority 2.
    let before = applied(&agent);
    files.renew(rotations + 1, &contents(&cluster, 1, &[0, 1], rotations + 1));
    wait_for("the last but one renewal", TAKEN_UP_MAX, || (applied(&agent) > before).then_some(()));
    wait_for("all of it", TAKEN_UP_MAX, || (files_in_use(&agent) == 2.0).then_some(()));
    scene.kafka.stop();
    cluster.present(1, &[1]);
    scene.kafka.up();
    scene.wait_until_delivered(&agent);
    // After two minutes the watchdog would make a client of the new files as well: it must not be what saved us.
    assert_eq!(agent.metric("forebay_uplink_watchdog_rebuilds_total"), 0.0, "the client went on with the old files");
    let renewed = applied(&agent);
    let rebuilt = agent.metric("forebay_uplink_client_rebuilds_total");
    scene.demand_all(&agent);
    let (_, log) = agent.terminate();
    assert!(rebuilt >= renewed as f64, "{renewed} renewals, {rebuilt} clients");
    assert!(!log.contains("certificate expires within days days=7"), "10 days are more than 7:\n{log}");
    assert!(log.contains("days=30"), "10 days are less than 30:\n{log}");
    scene.drain_rest();
    scene.settle()
}

/// Files of certificates whose expiry the metrics tell.
fn files_in_use(agent: &Agent) -> f64 {
    let text = agent.get("/metrics");
    let lines = text.lines().filter(|line| line.starts_with("forebay_tls_certificate_expiry_seconds{"));
    lines.filter(|line| line.rsplit(' ').next().unwrap().parse::<i64>().unwrap() > 0).count() as f64
}
