//! No flash while healthy: the built agent with simulated devices and an embedded Kafka, its state directory on a file
//! system of its own whose device counts the sectors written.
//!
//! `cargo test --test flash -- --seconds 600`. Without root there is no such device; then the bytes that the kernel
//! counts for the process (`/proc/PID/io`) stand alone, which is said.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "unwrap is how a test fails")]

use std::path::Path;
use std::time::Duration;

use forebay::demo::kafka::EmbeddedKafka;

#[allow(dead_code, reason = "other tests need the rest")]
#[path = "../real/agent.rs"]
mod agent;
#[path = "../queue_store/disk.rs"]
mod disk;
#[allow(dead_code, reason = "other tests need the rest")]
#[path = "../real/process.rs"]
mod process;

use agent::Agent;
use disk::LoopDisk;

const DEVICES: u64 = 20;
/// Small writes of control state that a day may take.
const STATE_WRITES_A_DAY: u64 = 150;
/// What a small write may cost the device: the state's page, the log's end, the file system's journal.
const STATE_WRITE_BYTES: u64 = 64 * 1024;
/// Until the first metadata of a start is written and the uplink is in its stride.
const SETTLED: u64 = 5 * DEVICES;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == "--seconds");
    let seconds = at.map_or(600, |at| arguments[at + 1].parse().expect("--seconds takes a whole number"));
    let disk = rustix::process::geteuid().is_root().then(|| LoopDisk::make(96).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let state = disk.as_ref().map_or_else(|| dir.path().to_owned(), |disk| disk.mount_point.clone());
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic("telemetry", 3).unwrap();
    let config = dir.path().join("forebay.toml");
    std::fs::write(&config, configuration(&state.join("state"), &kafka.bootstrap())).unwrap();
    let agent = Agent::start(&config, &dir.path().join("log"));
    process::wait_for("readings acknowledged", PATIENCE, || {
        (agent.metric("forebay_records_acknowledged_total") > SETTLED as f64).then_some(())
    });

    let before = Written::now(&agent, disk.as_ref());
    std::thread::sleep(Duration::from_secs(seconds));
    let after = Written::now(&agent, disk.as_ref());
    let done = after.since(&before);
    println!("{seconds} s with a healthy uplink (embedded Kafka): {done:?}");
    if disk.is_none() {
        println!("no root: the device's own count is missing");
    }
    judge(&done, seconds);
    agent.terminate();
}

fn judge(done: &Written, seconds: u64) {
    assert!(done.acknowledged >= seconds * DEVICES * 8 / 10, "{} readings acknowledged", done.acknowledged);
    assert_eq!((done.blocks, done.blocks_while_up, done.queue_bytes), (0, 0, 0), "readings were written");
    let state_writes_max = (STATE_WRITES_A_DAY * seconds).div_ceil(86_400);
    assert!(done.state_writes <= state_writes_max, "{} writes of state, {state_writes_max} at most", done.state_writes);
    let bytes_max = done.state_writes * STATE_WRITE_BYTES;
    assert!(done.process_bytes <= bytes_max, "the process wrote {} bytes", done.process_bytes);
    assert!(done.device_bytes.unwrap_or(0) <= bytes_max, "the device wrote {:?} bytes", done.device_bytes);
}

fn configuration(state: &Path, brokers: &str) -> String {
    format!(
        "[gateway]\nid = \"flash\"\nstate-dir = \"{}\"\n[status]\nlisten = \"127.0.0.1:0\"\n\
         [[source]]\nname = \"devices\"\ntype = \"simulated\"\ndevices = {DEVICES}\nevery = \"1s\"\n\
         [kafka]\nbrokers = [\"{brokers}\"]\n",
        state.display()
    )
}

/// Counts of what went to flash, and of what did not.
#[derive(Debug)]
struct Written {
    acknowledged: u64,
    blocks: u64,
    blocks_while_up: u64,
    queue_bytes: u64,
    state_writes: u64,
    process_bytes: u64,
    device_bytes: Option<u64>,
}

impl Written {
    fn now(agent: &Agent, disk: Option<&LoopDisk>) -> Self {
        let metric = |name: &str| agent.metric(name) as u64;
        // What the kernel still holds back belongs to the time before.
        let device_bytes = disk.map(|disk| {
            disk.sync().unwrap();
            disk.written_bytes().unwrap()
        });
        Self {
            acknowledged: metric("forebay_records_acknowledged_total"),
            blocks: metric("forebay_queue_blocks_sealed_total"),
            blocks_while_up: metric("forebay_queue_blocks_sealed_while_up_total"),
            queue_bytes: metric("forebay_queue_written_bytes_total"),
            state_writes: metric("forebay_queue_state_writes_total"),
            process_bytes: agent.written_bytes(),
            device_bytes,
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            acknowledged: self.acknowledged - before.acknowledged,
            blocks: self.blocks - before.blocks,
            blocks_while_up: self.blocks_while_up - before.blocks_while_up,
            queue_bytes: self.queue_bytes - before.queue_bytes,
            state_writes: self.state_writes - before.state_writes,
            process_bytes: self.process_bytes - before.process_bytes,
            device_bytes: self.device_bytes.zip(before.device_bytes).map(|(now, then)| now - then),
        }
    }
}
