//! A backlog drained into a real Apache Kafka by the agent, against a bare librdkafka producer that sends the same
//! records with the same settings in the same run: `./x bench drain [--mib N] [--exactly-once] [--level N]`; the level
//! is zstd's, for both.
//!
//! The agent is the built binary, so its memory and processor time are its own. The backlog is put into its queue
//! before, and the agent takes 1000 new readings a second during the drain. The bare producer sends before and after it,
//! so that a machine that changes its speed is seen. Both are timed from the first delivered record to the last. Then the
//! broker is stopped for a while: how soon after its return is something delivered? Needs Java and Maven, as
//! `./x real`.
#![allow(clippy::unwrap_used, missing_docs)]

mod readings;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use forebay::config::{self, Config};
use forebay::kafka::producer_properties;
use forebay::metrics::Metrics;
use forebay::queue::{NewRecord, Pushed, Queue, Settings, StreamIndex};
use forebay::reading::{Position, Record};
use forebay::uplink::encode::encode_json;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};

/// Devices of the backlog: as many keys.
const DEVICES: u64 = 50;
/// Records whose JSON the bare producer repeats: more than any window of a compressor.
const SAMPLE: u64 = 60_000;
/// Records pushed between two flushes, so that the queue's memory never has to drop any.
const FLUSH_EVERY: u64 = 5_000;
const DRAIN_MAX: Duration = Duration::from_secs(3_600);
/// How often the agent is asked how far it is; each question costs it something too.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Records that wait in an agent that is done: what came in since, and what is in flight.
const WAITING_MAX: u64 = 5_000;
/// How long the broker is away in the end.
const AWAY: Duration = Duration::from_secs(10);
/// Longest pause of the client between two attempts to connect in this benchmark, by configuration; librdkafka adds up to
/// half of it by chance.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|arg| arg == name).and_then(|at| arguments.get(at + 1)).cloned();
    let mib: u64 = value("--mib").map_or(1_024, |text| text.parse().expect("--mib takes a number"));
    let exactly_once = arguments.iter().any(|argument| argument == "--exactly-once");
    let dir = tempfile::Builder::new()
        .prefix("forebay-drain-")
        .tempdir_in(std::env::var("TMPDIR").unwrap_or("/var/tmp".into()))
        .unwrap();
    let kafka = Kafka::start(dir.path());
    let level = value("--level").map_or(String::new(), |level| format!("\"compression.level\" = \"{level}\"\n"));
    let config = configure(dir.path(), &kafka.bootstrap, exactly_once, &level);
    println!("filling the queue with {mib} MiB of JSON ...");
    let (records, json_bytes) = fill(&config, mib << 20);
    let disk_bytes = size_of(&config.gateway.state_dir);
    println!("  {records} records, {json_bytes} bytes as JSON, {disk_bytes} bytes on disk");

    let before = bare_producer(&config, "bare-before", records);
    let (mut agent, drained) = drain(dir.path(), records);
    let (bytes, batches) = kafka.log("telemetry");
    let sent = Sent::of(bytes, batches, agent.delivered());
    let returned = outage(&kafka, &agent);
    agent.stop();
    let after = bare_producer(&config, "bare-after", records);
    println!("bare producer before {:.0}, after {:.0} records a second", before.rate(), after.rate());
    let bare = before.and(&after);
    let logs = ["bare-before", "bare-after"].map(|topic| kafka.log(topic));
    let bare_sent = Sent::of(logs[0].0 + logs[1].0, logs[0].1 + logs[1].1, bare.records);
    report((&bare, &bare_sent), (&drained, &sent));
    println!("{:<46} {:>14} {:>14.2}", "broker back to first delivery, s", "", returned.as_secs_f64());
    println!("  of which the client's pause between attempts is at most {:.1} s", RECONNECT_MAX.as_secs_f64() * 1.5);
    println!("{records} records of {} bytes JSON on average", json_bytes / records);
}

/// What a sender took.
struct Run {
    seconds: f64,
    cpu_seconds: f64,
    records: u64,
    resident_kib_max: u64,
    /// From the start of the process to its first answer.
    start_seconds: f64,
}

impl Run {
    fn rate(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    /// Both as one.
    fn and(&self, other: &Self) -> Self {
        Self {
            seconds: self.seconds + other.seconds,
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            records: self.records + other.records,
            resident_kib_max: self.resident_kib_max.max(other.resident_kib_max),
            start_seconds: self.start_seconds,
        }
    }
}

/// What went over the wire, a record and a batch.
struct Sent {
    record_bytes: f64,
    batch_records: f64,
}

impl Sent {
    fn of(bytes: u64, batches: u64, records: u64) -> Self {
        Self { record_bytes: bytes as f64 / records as f64, batch_records: records as f64 / batches as f64 }
    }
}

fn report((bare, bare_sent): (&Run, &Sent), (agent, sent): (&Run, &Sent)) {
    let cpu_us = |run: &Run| run.cpu_seconds * 1e6 / run.records as f64;
    println!("\n{:<46} {:>14} {:>14} {:>8}", "", "bare producer", "agent", "ratio");
    let row = |what: &str, bare: f64, agent: f64| {
        println!("{what:<46} {bare:>14.2} {agent:>14.2} {:>8.2}", agent / bare);
    };
    row("records a second", bare.rate(), agent.rate());
    row("processor time a record, us", cpu_us(bare), cpu_us(agent));
    row("records a batch", bare_sent.batch_records, sent.batch_records);
    row("bytes on the wire a record", bare_sent.record_bytes, sent.record_bytes);
    row("  against 256 KiB of bare JSON in one zstd frame", one_frame(), sent.record_bytes);
    println!("{:<46} {:>14} {:>14.1}", "memory (RSS), most, MiB", "", agent.resident_kib_max as f64 / 1_024.0);
    println!("{:<46} {:>14} {:>14.2}", "start to first answer with the backlog, s", "", agent.start_seconds);
}

/// The backlog's records in their order, over and over with rising positions and times.
fn record(number: u64, kinds: &[Vec<Record>; 3]) -> Record {
    let kind = &kinds[(number % 3) as usize];
    let mut record = kind[(number / 3 % kind.len() as u64) as usize].clone();
    record.position = Position::new(1, number);
    record.device = format!("device-{}", number % DEVICES).into();
    record
}

fn kinds() -> [Vec<Record>; 3] {
    [readings::gnss(20_000), readings::modbus(20_000), readings::particulates(20_000)]
}

fn json(record: &Record, out: &mut Vec<u8>) {
    out.clear();
    encode_json(out, "telemetry", &readings::lineage(), record, &Default::default());
}

/// Fills the queue as an outage does. Gives the records and their bytes as JSON.
fn fill(config: &Config, json_bytes_least: u64) -> (u64, u64) {
    let (metrics, _) = Metrics::new();
    let settings = Settings {
        dir: config.gateway.state_dir.clone(),
        gateway: config.gateway.id.clone(),
        queue: config.queue.clone(),
        streams: config.streams.clone(),
    };
    let queue = Queue::open(settings, metrics).unwrap();
    let (kinds, mut out, mut number, mut bytes) = (kinds(), Vec::new(), 0, 0);
    while bytes < json_bytes_least {
        let record = record(number, &kinds);
        json(&record, &mut out);
        bytes += out.len() as u64;
        let Record { stamp, source, device, fields, .. } = record;
        let pushed = queue.push(StreamIndex(0), NewRecord { stamp, source, device, fields }).unwrap();
        assert!(matches!(pushed, Pushed::Queued(_)));
        number += 1;
        if number % FLUSH_EVERY == 0 {
            queue.flush().unwrap();
        }
    }
    queue.close().unwrap();
    (number, bytes)
}

/// The same number of the same records by librdkafka alone; the JSON is made before the clock runs.
fn bare_producer(config: &Config, topic: &str, records: u64) -> Run {
    let kinds = kinds();
    let sample: Vec<(String, Vec<u8>, i64)> = (0..SAMPLE.min(records))
        .map(|number| {
            let record = record(number, &kinds);
            let mut out = Vec::new();
            json(&record, &mut out);
            (record.device.to_string(), out, record.stamp.wall_us / 1_000)
        })
        .collect();
    let mut client = ClientConfig::new();
    for (name, value) in producer_properties(config.kafka.as_ref().unwrap(), config.streams.len()) {
        client.set(name, value);
    }
    let producer: ThreadedProducer<_> = client.create().unwrap();
    // The connection, the producer's id and the topic's metadata.
    producer.send(BaseRecord::to(topic).key(sample[0].0.as_str()).payload(sample[0].1.as_slice())).unwrap();
    producer.flush(DRAIN_MAX).unwrap();
    let (began, cpu) = (Instant::now(), cpu_seconds("self"));
    for number in 0..records {
        let (key, payload, time_ms) = &sample[(number % sample.len() as u64) as usize];
        let mut outgoing = BaseRecord::to(topic).key(key.as_str()).payload(payload.as_slice()).timestamp(*time_ms);
        loop {
            match producer.send(outgoing) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    outgoing = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
    }
    producer.flush(DRAIN_MAX).unwrap();
    let (seconds, cpu_seconds) = (began.elapsed().as_secs_f64(), cpu_seconds("self") - cpu);
    Run { seconds, cpu_seconds, records, resident_kib_max: 0, start_seconds: 0.0 }
}

/// The agent drains what is in its queue, and what comes in meanwhile.
fn drain(dir: &Path, backlog: u64) -> (Agent, Run) {
    let started = Instant::now();
    let agent = Agent::start(dir);
    let start_seconds = started.elapsed().as_secs_f64();
    // The store opens behind the first answer; until then no backlog is shown.
    while agent.waiting() < backlog / 2 || agent.delivered() == 0 {
        assert!(started.elapsed() < DRAIN_MAX, "nothing is delivered");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (began, delivered_before, cpu_before) = (Instant::now(), agent.delivered(), agent.cpu_seconds());
    let mut said = Instant::now();
    loop {
        let waiting = agent.waiting();
        if waiting < WAITING_MAX {
            break;
        }
        assert!(began.elapsed() < DRAIN_MAX, "{waiting} records still wait");
        if said.elapsed() > Duration::from_secs(5) {
            said = Instant::now();
            let rate = (agent.delivered() - delivered_before) as f64 / began.elapsed().as_secs_f64();
            println!("  {waiting} records wait, {rate:.0} a second");
        }
        std::thread::sleep(ASK_EVERY);
    }
    let run = Run {
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: agent.cpu_seconds() - cpu_before,
        records: agent.delivered() - delivered_before,
        resident_kib_max: agent.resident_kib_max(),
        start_seconds,
    };
    (agent, run)
}

/// The broker goes and comes back. Gives the time from its first answer to the agent's next delivered record.
fn outage(kafka: &Kafka, agent: &Agent) -> Duration {
    kafka.call("stop", &[]);
    std::thread::sleep(AWAY);
    let before = agent.delivered();
    kafka.call("up", &["0"]);
    let back = Instant::now();
    while agent.delivered() == before {
        assert!(back.elapsed() < Duration::from_secs(120), "nothing is delivered after the outage");
        std::thread::sleep(Duration::from_millis(5));
    }
    back.elapsed()
}

/// The built agent at work.
struct Agent {
    child: Child,
    status: String,
}

impl Agent {
    fn start(dir: &Path) -> Self {
        let log = dir.join("agent.log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(["run", "--config"]).arg(dir.join("forebay.toml")).stderr(std::fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let address = text.split("status=Some(").nth(1).and_then(|rest| rest.split(')').next());
            if let Some(address) = address {
                return Self { child, status: address.to_owned() };
            }
            assert!(child.try_wait().unwrap().is_none(), "the agent ended at its start: {text}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn telemetry(&self) -> serde_json::Value {
        let mut connection = TcpStream::connect(&self.status).unwrap();
        write!(connection, "GET /status HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        let status: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        status["streams"][0].clone()
    }

    fn waiting(&self) -> u64 {
        self.telemetry()["records"].as_u64().unwrap()
    }

    fn delivered(&self) -> u64 {
        self.telemetry()["delivered"].as_u64().unwrap()
    }

    fn cpu_seconds(&self) -> f64 {
        cpu_seconds(&self.child.id().to_string())
    }

    fn resident_kib_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// Processor time of a process so far, in user and kernel (proc_pid_stat(5), fields 14 and 15, in hundredths).
fn cpu_seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Bytes a record of JSON alone, 256 KiB of it compressed at once at librdkafka's level: without Kafka's framing, keys and timestamps.
fn one_frame() -> f64 {
    let (kinds, mut all, mut out, mut records) = (kinds(), Vec::new(), Vec::new(), 0);
    while all.len() < 256 << 10 {
        json(&record(records, &kinds), &mut out);
        all.extend_from_slice(&out);
        records += 1;
    }
    zstd::bulk::compress(&all, 3).unwrap().len() as f64 / records as f64
}

fn size_of(place: &Path) -> u64 {
    let entries = std::fs::read_dir(place).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let meta = entry.metadata().unwrap();
            // Kafka's index files are as large as they may grow.
            let counts = !entry.path().extension().is_some_and(|kind| kind == "index" || kind == "timeindex");
            if meta.is_dir() { size_of(&entry.path()) } else { if counts { meta.len() } else { 0 } }
        })
        .sum()
}

fn configure(dir: &Path, bootstrap: &str, exactly_once: bool, properties: &str) -> Config {
    let delivery = if exactly_once { "exactly-once" } else { "at-least-once" };
    let text = format!(
        "[gateway]\nid = \"truck-17\"\nstate-dir = \"{}\"\n\
         [[source]]\nname = \"fleet\"\ntype = \"simulated\"\ndevices = 50\nevery = \"50ms\"\n\
         [queue]\nsize = \"8 GiB\"\n[[stream]]\nname = \"telemetry\"\n\
         [kafka]\nbrokers = [\"{bootstrap}\"]\nin-flight-bytes = \"4 MiB\"\ndelivery = \"{delivery}\"\n\
         [kafka.properties]\n{properties}\"reconnect.backoff.max.ms\" = \"{}\"\n\
         [status]\nlisten = \"127.0.0.1:0\"\n",
        dir.join("state").display(),
        RECONNECT_MAX.as_millis()
    );
    let file = dir.join("forebay.toml");
    std::fs::write(&file, text).unwrap();
    config::load(&file).unwrap_or_else(|errors| panic!("{errors}")).config
}

/// A node of the kind that the tests among real servers use.
struct Kafka {
    dir: PathBuf,
    bootstrap: String,
}

impl Kafka {
    fn start(dir: &Path) -> Self {
        let mut kafka = Self { dir: dir.join("kafka"), bootstrap: String::new() };
        kafka.bootstrap = kafka.call("up", &["0"]);
        for topic in ["telemetry", "bare-before", "bare-after"] {
            kafka.call("topic", &[topic, "1"]);
        }
        kafka
    }

    /// Runs the nodes' script: a word, this node's directory, the rest. Gives what it printed.
    fn call(&self, word: &str, rest: &[&str]) -> String {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/environment/kafka"));
        command.arg(word).arg(&self.dir).args(rest).stderr(Stdio::inherit());
        let done = command.env("FOREBAY_TEST_PID", std::process::id().to_string()).output().unwrap();
        assert!(done.status.success(), "kafka: {word} {rest:?} failed");
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// Bytes of the batches in the topic, as they came over the wire, and how many they are.
    fn log(&self, topic: &str) -> (u64, u64) {
        let files = std::fs::read_dir(self.dir.join(format!("data/{topic}-0"))).unwrap().map(Result::unwrap);
        let logs = files.filter(|file| file.path().extension().is_some_and(|kind| kind == "log"));
        let (mut bytes, mut batches) = (0, 0);
        for log in logs.map(|file| std::fs::read(file.path()).unwrap()) {
            // Each batch begins with its first offset (8 bytes) and the length of what follows (4 bytes).
            let mut rest = log.as_slice();
            while let Some(length) = rest.get(8..12) {
                let length = 12 + u32::from_be_bytes(length.try_into().unwrap()) as usize;
                let Some(next) = rest.get(length..) else { break };
                (bytes, batches, rest) = (bytes + length as u64, batches + 1, next);
            }
        }
        (bytes, batches)
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/environment/kafka");
        let _ = Command::new(script).arg("kill").arg(&self.dir).output();
    }
}
