//! What the tests stand on: the parts around an agent, its configuration, and looking at what came out.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::agent::Agent;
use forebay::config::{self, Config};
use forebay::demo::devices::pseudo_terminal;
use forebay::demo::kafka::EmbeddedKafka;
use forebay::kafka::Consumer;
use forebay::kafka::account::{Account, Added};
use forebay::metrics::{BySource, BySourceAndKind};
use forebay::queue::{Limit, StreamIndex};
use forebay::reading::Record;
use tokio::io::AsyncWriteExt as _;
use tokio_serial::SerialStream;

/// Longest wait for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The only stream's topic.
pub const TOPIC: &str = "telemetry";

/// A state directory, and a Kafka that may be taken away.
pub struct Ground {
    pub kafka: EmbeddedKafka,
    pub state: tempfile::TempDir,
}

impl Ground {
    pub fn new() -> Self {
        let kafka = EmbeddedKafka::start().unwrap();
        kafka.create_topic(TOPIC, 3).unwrap();
        Self { kafka, state: tempfile::tempdir().unwrap() }
    }

    /// `[gateway]`, `[queue]` and `[status]`, then `rest`.
    pub fn local(&self, rest: &str) -> String {
        local(self.state.path(), rest)
    }

    /// As [`Ground::local`], with `[kafka]`.
    pub fn with_kafka(&self, rest: &str) -> String {
        let kafka = format!(
            "[kafka]\nbrokers = [\"{}\"]\n[kafka.properties]\n\"reconnect.backoff.ms\" = 50\n\"reconnect.backoff.max.ms\" = 200\n",
            self.kafka.bootstrap()
        );
        self.local(&format!("{kafka}{rest}"))
    }

    /// Reads the topic from its beginning to its end.
    pub async fn read_back(&self) -> Delivered {
        let kafka = parse(&self.with_kafka("")).kafka.unwrap();
        tokio::task::spawn_blocking(move || read_back(&kafka)).await.unwrap()
    }
}

pub fn local(state: &Path, rest: &str) -> String {
    format!(
        "[gateway]\nid = \"gw\"\nstate-dir = \"{}\"\n[queue]\nsize = \"32 MiB\"\nwindow = \"200ms\"\n[clock]\nhold = \"0s\"\n[status]\nlisten = \"127.0.0.1:0\"\n{rest}",
        state.display()
    )
}

pub fn parse(text: &str) -> Config {
    config::parse(text, Path::new("test.toml")).unwrap_or_else(|errors| panic!("{errors}\n{text}")).config
}

pub async fn start(text: &str) -> Agent {
    Agent::start(parse(text)).await.unwrap()
}

/// What Kafka holds.
#[derive(Default)]
pub struct Delivered {
    pub account: Account,
    pub by_source: BTreeMap<String, u64>,
}

fn read_back(kafka: &config::Kafka) -> Delivered {
    let consumer = Consumer::open(kafka, TOPIC, PATIENCE).unwrap();
    let watermarks = consumer.watermarks(PATIENCE).unwrap();
    assert!(watermarks.iter().all(|(low, _)| *low == 0), "the mock cluster dropped records: {watermarks:?}");
    let records: i64 = watermarks.iter().map(|(_, high)| high).sum();
    let mut delivered = Delivered::default();
    let (end, mut read) = (Instant::now() + PATIENCE, 0);
    while read < records {
        assert!(Instant::now() < end, "{read} of {records} records read back in time");
        let Some(record) = consumer.poll(Duration::from_millis(200)).unwrap() else { continue };
        read += 1;
        let json: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
        assert_eq!(record.key, json["device"].as_str().unwrap().as_bytes(), "the key is the device");
        if delivered.account.add(&record.value) == Added::New {
            *delivered.by_source.entry(json["source"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    delivered
}

/// Looks until `holds`; fails with `what` when it does not come to hold.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn readings(agent: &Agent, source: &str) -> u64 {
    agent.metrics().readings_in.get_or_create(&BySource { source: source.to_owned() }).get()
}

pub fn is_up(agent: &Agent, source: &str) -> bool {
    agent.metrics().source_up.get_or_create(&BySource { source: source.to_owned() }).get() == 1
}

pub fn errors(agent: &Agent, source: &str, kind: &'static str) -> u64 {
    agent.metrics().source_errors.get_or_create(&BySourceAndKind { source: source.to_owned(), kind }).get()
}

pub async fn until_up(agent: &Agent, sources: &[&str]) {
    until(&format!("{sources:?} up"), || sources.iter().all(|source| is_up(agent, source))).await;
}

/// Everything the queue holds of its first stream.
pub async fn queued(agent: &Agent) -> Vec<Record> {
    let queue = agent.queue().clone();
    let peek_all = move || {
        let (mut records, mut after) = (Vec::new(), None);
        while let Some(batch) = queue.peek(StreamIndex(0), after, Limit { records: 500, bytes: 1 << 20 }).unwrap() {
            after = batch.records.last().map(|record| record.position);
            records.extend(batch.records.into_iter().map(Arc::unwrap_or_clone));
        }
        records
    };
    tokio::task::spawn_blocking(peek_all).await.unwrap()
}

/// Waits until nothing in the queue waits for Kafka, also of what earlier runs left on disk.
pub async fn until_drained(agent: &Agent) {
    until("the queue is empty", || {
        let status = agent.queue().status();
        status.recovered && status.streams.iter().all(|stream| stream.records == 0)
    })
    .await;
}

/// A device of which the test writes every byte.
pub struct Wire {
    pub path: PathBuf,
    device: SerialStream,
    _held: File,
}

impl Wire {
    pub fn new() -> Self {
        let (device, held, path) = pseudo_terminal().unwrap();
        Self { path, device, _held: held }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        tokio::time::timeout(PATIENCE, self.device.write_all(bytes)).await.expect("somebody reads").unwrap();
    }

    /// A source of CSV lines of one whole number `n`.
    pub fn csv(&self, name: &str, more: &str) -> String {
        format!(
            "[[source]]\nname = \"{name}\"\ntype = \"serial\"\nport = \"{}\"\nformat = \"csv\"\ncolumns = [{{ name = \"n\", type = \"integer\" }}]\n{more}",
            self.path.display()
        )
    }
}
