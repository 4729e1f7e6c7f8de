//! What the queue costs: bytes on flash as a block device counts them, memory of the agent, time to start, throughput
//! and CPU, each beside an append-only file with the same flush policy in the same run. Root: it makes loop devices.
//!
//! `./x bench flash` runs all; `./x bench flash outage` and the like one part.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
#[path = "../../tests/real/agent.rs"]
mod agent;
mod backlog;
mod bytes;
#[path = "../../tests/queue_store/disk.rs"]
mod disk;
mod engine;
#[allow(dead_code)]
#[path = "../../tests/real/process.rs"]
mod process;
#[path = "../readings/mod.rs"]
mod readings;
mod speed;
mod telemetry;
#[path = "../../tests/yardstick/mod.rs"]
mod yardstick;

const PARTS: [(&str, fn()); 7] = [
    ("outage", bytes::outage),
    ("drain", bytes::steady_drain),
    ("telemetry", bytes::of_telemetry),
    ("day", bytes::a_day),
    ("speed", speed::engines),
    ("compression", speed::compressions),
    ("memory", backlog::memory_and_start),
];

fn main() {
    assert!(rustix::process::geteuid().is_root(), "loop devices need root");
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = wanted.iter().find(|wanted| PARTS.iter().all(|(name, _)| name != wanted)) {
        panic!("{unknown:?} is no part; there are {:?}", PARTS.map(|(name, _)| name));
    }
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            println!("\n## {name}");
            part();
        }
    }
}
