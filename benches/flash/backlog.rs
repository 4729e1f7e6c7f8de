//! The agent's memory, healthy and while it drains backlogs of two sizes, and how soon a queue with a backlog takes the
//! first record.

use std::path::Path;
use std::time::{Duration, Instant};

use forebay::config::{self, Compression, Durability, Retention};
use forebay::demo::kafka::EmbeddedKafka;
use forebay::metrics::Metrics;
use forebay::queue::{NewRecord, Queue, Settings, StreamIndex};

use crate::agent::Agent;
use crate::disk::LoopDisk;
use crate::engine::STREAM;
use crate::telemetry::noise;

const ONE: StreamIndex = StreamIndex(0);
const BACKLOGS_MIB: [u64; 2] = [128, 1024];
/// Longest drain that is waited for.
const DRAIN_MAX: Duration = Duration::from_secs(900);

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.to_owned(),
        gateway: "bench".into(),
        queue: config::Queue {
            quota_bytes: Some(2 << 30),
            window: Duration::from_secs(1),
            window_outage: Duration::from_secs(1),
            tail_bytes_max: 4 << 20,
            compression: Compression::None,
            keys: Default::default(),
        },
        streams: vec![config::Stream {
            name: STREAM.into(),
            topic: STREAM.to_owned(),
            priority: 0,
            durability: Durability::Window,
            retention: Retention::default(),
            drain: None,
            rate: Default::default(),
        }],
    }
}

fn fill(dir: &Path, mebibytes: u64) -> u64 {
    let queue = Queue::open(settings(dir), Metrics::new().0).unwrap();
    let noise = noise(2_000);
    let record = |record: &forebay::reading::Record| NewRecord {
        stamp: record.stamp,
        source: record.source.clone(),
        device: record.device.clone(),
        fields: record.fields.clone(),
    };
    let mut pushed = 0;
    while queue.status().disk_bytes < mebibytes << 20 {
        for one in &noise {
            queue.push(ONE, record(one)).unwrap();
            pushed += 1;
        }
        queue.flush().unwrap();
    }
    queue.close().unwrap();
    pushed
}

fn start_ms(dir: &Path) -> f64 {
    let record = NewRecord { fields: Vec::new(), ..template() };
    let began = Instant::now();
    let queue = Queue::open(settings(dir), Metrics::new().0).unwrap();
    queue.push(ONE, record).unwrap();
    let took = began.elapsed();
    queue.abandon().unwrap();
    took.as_secs_f64() * 1e3
}

fn template() -> NewRecord {
    let record = &noise(1)[0];
    NewRecord {
        stamp: record.stamp,
        source: record.source.clone(),
        device: record.device.clone(),
        fields: record.fields.clone(),
    }
}

fn configuration(state: &Path, brokers: &str, devices: u64) -> String {
    format!(
        "[gateway]\nid = \"bench\"\nstate-dir = \"{}\"\n[status]\nlisten = \"127.0.0.1:0\"\n\
         [queue]\nsize = \"2 GiB\"\n\
         [[source]]\nname = \"devices\"\ntype = \"simulated\"\ndevices = {devices}\nevery = \"1s\"\n\
         [kafka]\nbrokers = [\"{brokers}\"]\n",
        state.display()
    )
}

fn agent(dir: &Path, state: &Path, kafka: &EmbeddedKafka, devices: u64) -> Agent {
    let config = dir.join("forebay.toml");
    std::fs::write(&config, configuration(state, &kafka.bootstrap(), devices)).unwrap();
    Agent::start(&config, &dir.join("log"))
}

pub fn memory_and_start() {
    let dir = tempfile::tempdir().unwrap();
    let kafka = EmbeddedKafka::start().unwrap();
    kafka.create_topic(STREAM, 4).unwrap();
    for devices in [100, 1_000] {
        let state = dir.path().join(format!("healthy-{devices}"));
        let healthy = agent(dir.path(), &state, &kafka, devices);
        std::thread::sleep(Duration::from_secs(60));
        let mib = |kib: u64| kib as f64 / 1024.0;
        println!(
            "healthy, {devices} readings/s, after 60 s: {:.1} MiB, at most {:.1} MiB",
            mib(healthy.resident_kib()),
            mib(healthy.resident_kib_max())
        );
        healthy.terminate();
    }
    for mebibytes in BACKLOGS_MIB {
        let disk = LoopDisk::make(3 * 1024).unwrap();
        let state = disk.mount_point.join("state");
        let records = fill(&state, mebibytes);
        disk.remount().unwrap();
        println!(
            "{mebibytes} MiB of backlog, {records} records: first record taken {:.0} ms after the start",
            start_ms(&state)
        );
        disk.remount().unwrap();
        let draining = agent(dir.path(), &state, &kafka, 1_000);
        let began = Instant::now();
        draining.wait_for_store();
        let mut rss_kib_max = 0;
        let waiting = || draining.streams()[0].waiting;
        while waiting() > 2_000 && began.elapsed() < DRAIN_MAX {
            rss_kib_max = rss_kib_max.max(draining.resident_kib());
            std::thread::sleep(Duration::from_millis(200));
        }
        println!(
            "  drained beside 1000 readings/s in {:.0} s ({} records left): at most {:.1} MiB resident, peak of the process {:.1} MiB",
            began.elapsed().as_secs_f64(),
            waiting(),
            rss_kib_max as f64 / 1024.0,
            draining.resident_kib_max() as f64 / 1024.0
        );
        draining.terminate();
    }
}
