//! A gateway without a clock chip: it boots in 1970, records, loses power, boots in 1970 again, and then its clock is set.
//! What Kafka gets bears the true time.
//!
//! `./x real clock` runs this as root. A boot is made of what the kernel has for that: a time namespace whose
//! `CLOCK_BOOTTIME` begins anew, and a boot id of its own. Only the wall clock and what the kernel says of it are doubles
//! (`environment/clock.c`), as nobody's real clock may be moved for a test.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::agent::Agent;
use crate::line::Receiver;
use crate::process::{output, tool, wait_for};
use crate::scene::{Scene, gnss_source, wait_until_up};

const FLEET: &str = "[[source]]\nname = \"fleet\"\ntype = \"simulated\"\ndevices = 5\nevery = \"100ms\"\n";
const PATIENCE: Duration = Duration::from_secs(60);
/// How old a boot is when the agent starts.
const BOOT_S: u64 = 1;

/// The machine around the agent.
struct Machine {
    clock: PathBuf,
    shim: PathBuf,
    boot_id: PathBuf,
    config: PathBuf,
    boots: u32,
}

impl Machine {
    fn new(scene: &Scene) -> Self {
        let file = |name: &str| scene.dir().join(name);
        let shim = file("clock.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/environment/clock.c");
        output(tool("cc", "gcc").args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).arg(&shim).arg(source));
        Self { clock: file("clock"), shim, boot_id: file("boot-id"), config: file("forebay.toml"), boots: 0 }
    }

    /// The wall clock shows 1970, and nobody vouches for it.
    fn lose_clock(&self) {
        std::fs::write(&self.clock, format!("-{} 0", now_us() / 1_000_000 - 60)).unwrap();
    }

    /// A time server has answered.
    fn set_clock(&self) {
        // Renamed into its place, so that nobody reads half of it.
        let new = self.clock.with_extension("new");
        std::fs::write(&new, "0 1").unwrap();
        std::fs::rename(new, &self.clock).unwrap();
    }

    /// Powers it on with a clock that is not set. Gives the agent and when the boot began.
    fn boot(&mut self, scene: &Scene) -> (Agent, i64) {
        self.boots += 1;
        self.lose_clock();
        std::fs::write(&self.boot_id, format!("{:08}-0000-4000-8000-000000000000\n", self.boots)).unwrap();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime_s: u64 = uptime.split('.').next().unwrap().parse().unwrap();
        let mut command = tool("unshare", "util-linux");
        command
            .arg(format!("--boottime=-{}", uptime_s.saturating_sub(BOOT_S)))
            .args(["--time", "--mount", "--fork", "--kill-child", "sh", "-c"])
            .arg("mount --bind \"$1\" /proc/sys/kernel/random/boot_id && LD_PRELOAD=$2 && export LD_PRELOAD && exec \"$3\" run --config \"$4\"")
            .args(["sh".as_ref(), self.boot_id.as_os_str(), self.shim.as_os_str()])
            .args([env!("CARGO_BIN_EXE_forebay").as_ref(), self.config.as_os_str()])
            .env("FOREBAY_TEST_CLOCK", &self.clock);
        let began_us = now_us() - i64::try_from(BOOT_S).unwrap() * 1_000_000;
        (Agent::start_as(command, &scene.dir().join(format!("boot-{}.log", self.boots))), began_us)
    }
}

fn now_us() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

fn demand_root() {
    let user = output(Command::new("id").arg("-u"));
    assert_eq!(user.trim(), "0", "this makes boots of the machine: run it by ./x real clock, as root");
}

/// A record in Kafka: run, place in it, time, trust, and the message's own time.
#[derive(Debug)]
struct Dated {
    run: u64,
    time_us: i64,
    clock: String,
    timestamp_ms: i64,
}

fn dated(scene: &Scene) -> Vec<Dated> {
    let mut records = Vec::new();
    scene.each_of("telemetry", |received| {
        let value: Value = serde_json::from_slice(&received.value).unwrap();
        let time: jiff::Timestamp = value["time"].as_str().unwrap().parse().unwrap();
        records.push(Dated {
            run: value["run"].as_u64().unwrap(),
            time_us: time.as_microsecond(),
            clock: value["clock"].as_str().unwrap().to_owned(),
            timestamp_ms: received.timestamp_ms.unwrap(),
        });
    });
    records
}

/// Waits until the agent shows its stream as held for the clock, and more than this many records as waiting.
fn wait_until_held(agent: &Agent, records: u64) {
    wait_for("records that wait for the clock", PATIENCE, || {
        let status = agent.status();
        let held = status["uplink"]["held"].as_array().unwrap().iter();
        let is_held = held.clone().any(|held| held["why"].as_str().unwrap().contains("clock.hold"));
        let waiting = status["streams"][0]["records"].as_u64().unwrap();
        assert_eq!(status["streams"][0]["delivered"], 0, "it went out before the clock was set");
        (is_held && waiting > records && status["clock_set"] == false).then_some(())
    });
}

/// How the clock is set at last; `set`: what records say that are measured from then on.
struct Setting<'a> {
    sources: String,
    act: &'a dyn Fn(&Machine),
    set: &'static str,
}

fn set_late(name: &'static str, kafka_lines: &'static str, setting: &Setting<'_>) {
    demand_root();
    let mut scene = Scene::new(name);
    scene.kafka_lines = kafka_lines;
    scene.clock_hold = "100s";
    scene.configure(&setting.sources, None);
    let mut machine = Machine::new(&scene);
    let (agent, first_us) = machine.boot(&scene);
    wait_until_up(&agent, &["fleet"]);
    wait_until_held(&agent, 100);
    scene.kill(agent);
    let (agent, began_us) = machine.boot(&scene);
    wait_until_held(&agent, 200);
    (setting.act)(&machine);
    let set_us = now_us();
    scene.wait_until_delivered(&agent);
    // And some that are measured with the clock set.
    let pushed = agent.streams()[0].pushed;
    wait_for("more records", PATIENCE, || (agent.streams()[0].pushed > pushed + 50).then_some(()));
    scene.demand_all(&agent);
    assert!(agent.log_text().contains("clock is set"), "the log does not say so");
    agent.terminate();
    let ended_us = now_us();
    scene.drain_rest();
    scene.settle();

    let records = dated(&scene);
    // Uptime is read in seconds, and the second boot is a second old while the first has just ended.
    let slack_us = 3_000_000;
    for record in &records {
        assert_eq!(record.timestamp_ms, record.time_us / 1_000, "{record:?}");
        let (earliest_us, latest_us) = match (record.run, record.clock.as_str()) {
            // Of the first boot it is known that it was over when the second began. It was off for a moment only.
            (1, "estimated") => (first_us - slack_us, began_us + slack_us),
            (2, "corrected") => (began_us, if setting.set == "ntp" { set_us + slack_us } else { ended_us }),
            (2, set) if set == setting.set => (set_us - slack_us, ended_us),
            _ => panic!("{record:?}"),
        };
        assert!((earliest_us..=latest_us).contains(&record.time_us), "{record:?} {earliest_us} {latest_us}");
    }
    let kinds = ["estimated", "corrected", setting.set].map(|kind| records.iter().filter(|r| r.clock == kind).count());
    println!("  {} estimated, {} corrected, {} measured with the clock set", kinds[0], kinds[1], kinds[2]);
    assert!(kinds.iter().all(|count| *count > 15), "one of them was not tested: {kinds:?}");
    // The pace of the sources is kept: what was measured over seconds is not put into one moment.
    let corrected = records.iter().filter(|record| record.clock == "corrected").map(|record| record.time_us);
    let (first_us, last_us) = corrected.fold((i64::MAX, 0), |(first, last), time| (first.min(time), last.max(time)));
    assert!(last_us - first_us > (set_us - first_us) * 8 / 10, "{first_us} {last_us} {set_us}");
}

#[test]
fn what_was_recorded_before_the_clock_was_set_bears_the_true_time() {
    let setting = Setting { sources: FLEET.to_owned(), act: &Machine::set_clock, set: "ntp" };
    set_late("clock::what_was_recorded_before_the_clock_was_set_bears_the_true_time", "", &setting);
}

/// And exactly once. The machine's own clock stays in 1970.
#[test]
fn a_receivers_fixes_date_what_other_sources_recorded() {
    let receiver = Receiver::start();
    let sources = format!("{}{FLEET}", gnss_source(&receiver));
    let setting = Setting { sources, act: &|_| receiver.talk(true), set: "gnss" };
    let lines = "delivery = \"exactly-once\"";
    set_late("clock::a_receivers_fixes_date_what_other_sources_recorded", lines, &setting);
}
