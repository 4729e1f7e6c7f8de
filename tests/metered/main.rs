//! The uplink on a metered and on a slow link: what it believes it has used against a packet counter, and an alarm on
//! 64 kbit/s before a backlog.
//!
//! Needs root, `unshare`, `ip`, `nft` and `tc`: each test runs in a network namespace of its own, on its loopback
//! interface with the frame size of an Ethernet. `./x metered` runs it; `cargo test` leaves it out.
#![allow(clippy::unwrap_used, reason = "unwrap is how a test fails")]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::config::{self, Compression, Durability, Gateway, Kafka, KafkaCompression, Retention, Stream};
use forebay::demo::kafka::EmbeddedKafka;
use forebay::metrics::{ByKind, ByStream, Metrics};
use forebay::queue::{NewRecord, Queue, StreamIndex};
use forebay::reading::{Field, Stamp, Trust, Value};
use forebay::uplink::{Pace, Settings, Uplink};
use tokio_util::sync::CancellationToken;

/// Says to the test's second process that it is in its namespace.
const INSIDE: &str = "FOREBAY_TEST_INSIDE_NAMESPACE";
/// How much waits in front of the alarm, in MiB.
const BACKLOG_MIB: &str = "FOREBAY_TEST_BACKLOG_MIB";
const PATIENCE: Duration = Duration::from_secs(120);

/// Frames as on an Ethernet: no offloading, which would let a counter see few large packets.
const LOOPBACK: &str = "ip link set lo up mtu 1500 gso_max_segs 1 gso_max_size 1500";
const COUNTER: &str = "nft 'add table inet traffic; add counter inet traffic moved; \
    add chain inet traffic out { type filter hook output priority 0; }; add rule inet traffic out counter name moved'";
/// Both directions share it.
const SLOW: &str = "tc qdisc add dev lo root tbf rate 64kbit burst 3kb latency 2s";

/// Runs this test once more in a namespace that the commands have set up. True in there.
fn in_namespace(test: &str, commands: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = format!("{} && exec \"$0\" --exact {test} --nocapture", commands.join(" && "));
    let binary = std::env::current_exe().unwrap();
    let status = Command::new("unshare").args(["--net", "sh", "-c", &script]).arg(binary).env(INSIDE, "1").status();
    assert!(
        status.expect("unshare is installed (apt install util-linux)").success(),
        "{test} failed, or this is not root"
    );
    false
}

/// Bytes of IP packets that have left any socket of the namespace: each packet of either direction once.
fn counted_bytes() -> u64 {
    let output = Command::new("nft").args(["list", "counter", "inet", "traffic", "moved"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_ascii_whitespace().skip_while(|word| *word != "bytes").nth(1).unwrap().parse().unwrap()
}

/// The only stream of a backlog where there is one.
const TELEMETRY: usize = 0;
const ALARMS: &str = "alarms";

struct Bench {
    broker: EmbeddedKafka,
    queue: Queue,
    metrics: Arc<Metrics>,
    settings: Settings,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// So many streams that may have a backlog, and `alarms` behind them.
    fn new(backlogs: usize, kafka: impl FnOnce(&mut Kafka)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = EmbeddedKafka::start().unwrap();
        let stream = |name: &str, priority| Stream {
            name: name.into(),
            topic: name.to_owned(),
            priority,
            durability: Durability::Window,
            retention: Retention::default(),
            drain: None,
            rate: config::Rate::default(),
        };
        let mut streams: Vec<Stream> = (0..backlogs).map(|number| stream(&format!("telemetry-{number}"), 0)).collect();
        streams.push(stream(ALARMS, 9));
        for stream in &streams {
            broker.create_topic(&stream.topic, 1).unwrap();
        }
        let of_queue = forebay::queue::Settings {
            dir: dir.path().to_owned(),
            gateway: "test".into(),
            queue: config::Queue {
                quota_bytes: Some(4 << 30),
                window: Duration::from_secs(1),
                window_outage: Duration::from_secs(1),
                tail_bytes_max: 16 << 20,
                compression: Compression::None,
                keys: Default::default(),
            },
            streams: streams.clone(),
        };
        let (metrics, _) = Metrics::new();
        let queue = Queue::open(of_queue, Arc::clone(&metrics)).unwrap();
        let mut settings = Kafka {
            brokers: vec![broker.bootstrap()],
            client_id: "test".into(),
            tls: None,
            sasl: None,
            compression: KafkaCompression::Zstd,
            in_flight_bytes_max: 1 << 20,
            linger: Duration::from_millis(50),
            drain: Default::default(),
            rate: config::Rate::default(),
            budget: None,
            delivery: config::Delivery::AtLeastOnce,
            properties: [].into(),
            output: Default::default(),
        };
        kafka(&mut settings);
        let gateway = Gateway { id: "test".into(), state_dir: dir.path().to_owned(), tags: [].into() };
        let settings = Settings { kafka: settings, streams, gateway };
        Self { broker, queue, metrics, settings, stop: CancellationToken::new(), _dir: dir }
    }

    fn push(&self, stream: usize, text: &str) {
        let fields = vec![
            Field::new("temperature_c", Value::Float(fastrand::f64() * 100.0)),
            Field::new("count", Value::Unsigned(fastrand::u64(..1_000_000))),
            Field::new("text", Value::Text(text.into())),
        ];
        let stamp = Stamp { boot_ns: forebay::clock::boot_ns(), wall_us: forebay::clock::wall_us(), trust: Trust::Ntp };
        let record = NewRecord { stamp, source: "plc".into(), device: "boiler".into(), fields };
        self.queue.push(StreamIndex(stream), record).unwrap();
    }

    fn start(&self) -> Uplink {
        let pace = Pace { first_delay_max: Duration::ZERO, ..Pace::default() };
        let (queue, metrics) = (self.queue.clone(), Arc::clone(&self.metrics));
        Uplink::start_paced(self.settings.clone(), pace, queue, metrics, self.stop.clone()).unwrap()
    }

    /// Names of the streams that may have a backlog.
    fn backlogs(&self) -> impl Iterator<Item = &str> {
        self.settings.streams.iter().map(|stream| &*stream.name).filter(|name| *name != ALARMS)
    }

    fn delivered(&self, stream: &str) -> u64 {
        self.metrics.uplink_records_delivered.get_or_create(&ByStream { stream: stream.into() }).get()
    }

    fn backlog_delivered(&self) -> u64 {
        self.backlogs().map(|stream| self.delivered(stream)).sum()
    }

    fn transactions(&self, kind: &'static str) -> u64 {
        self.metrics.uplink_transactions.get_or_create(&ByKind { kind }).get()
    }

    fn drained(&self) {
        wait_for("the queue to drain", || self.queue.status().streams.iter().all(|stream| stream.records == 0));
    }
}

fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < PATIENCE, "waited for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Lets time pass: it is what is tested here.
fn let_run(time: Duration) {
    std::thread::sleep(time);
}

fn random_text(length: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(length).collect()
}

/// Compares once the client's last statistics are in.
fn compare(bench: &Bench, what: &str, from: (u64, u64)) -> (u64, u64) {
    let_run(Duration::from_millis(700));
    let (counted, believed) = (counted_bytes(), bench.metrics.uplink_wire_bytes.get());
    let (of_counter, of_uplink) = (counted - from.0, believed - from.1);
    let error = (of_uplink as f64 / of_counter as f64 - 1.0) * 100.0;
    println!("{what}: counter {of_counter} bytes, uplink {of_uplink} bytes, {error:+.1} %");
    assert!(error.abs() <= 10.0, "{what}: {error:+.1} %, allowed are 10 %");
    (counted, believed)
}

#[test]
fn what_it_has_used_is_within_a_tenth_of_a_packet_counter() {
    if !in_namespace("what_it_has_used_is_within_a_tenth_of_a_packet_counter", &[LOOPBACK, COUNTER]) {
        return;
    }
    let bench = Bench::new(1, |kafka| {
        kafka.properties.insert("statistics.interval.ms".into(), "250".into());
        kafka.properties.insert("reconnect.backoff.max.ms".into(), "500".into());
    });
    let uplink = bench.start();
    wait_for("the connection", || uplink.status().state == "up");
    let_run(Duration::from_millis(500));
    let mut from = (counted_bytes(), bench.metrics.uplink_wire_bytes.get());
    println!("connecting: counter {} bytes, uplink {} bytes", from.0, from.1);

    for _ in 0..20_000 {
        bench.push(TELEMETRY, "on");
    }
    bench.drained();
    from = compare(&bench, "a backlog of 20000 readings", from);

    for _ in 0..1_000 {
        bench.push(TELEMETRY, &random_text(2_000));
    }
    bench.drained();
    from = compare(&bench, "a backlog of 2 MB that hardly compresses", from);

    for _ in 0..100 {
        bench.push(TELEMETRY, "on");
        let_run(Duration::from_millis(100));
    }
    bench.drained();
    from = compare(&bench, "ten readings a second for ten seconds", from);

    for _ in 0..10 {
        bench.push(TELEMETRY, "on");
        let_run(Duration::from_secs(1));
    }
    bench.drained();
    from = compare(&bench, "one reading a second for ten seconds", from);

    bench.broker.down().unwrap();
    wait_for("the outage to be seen", || uplink.status().state == "down");
    for _ in 0..2_000 {
        bench.push(TELEMETRY, "on");
    }
    let_run(Duration::from_secs(5));
    bench.broker.up().unwrap();
    bench.drained();
    compare(&bench, "an outage of five seconds and what waited", from);
    compare(&bench, "all of it", (0, 0));
    bench.stop.cancel();
    uplink.join();
    bench.queue.close().unwrap();
}

#[test]
fn an_alarm_overtakes_a_backlog_on_64_kbit_a_second_within_ten_seconds() {
    let name = "an_alarm_overtakes_a_backlog_on_64_kbit_a_second_within_ten_seconds";
    if !in_namespace(name, &[LOOPBACK, COUNTER, SLOW]) {
        return;
    }
    let bench = Bench::new(1, |_| {});
    let backlog_bytes = std::env::var(BACKLOG_MIB).map_or(32, |mib| mib.parse::<u64>().unwrap()) << 20;
    let text: Vec<String> = (0..16).map(|_| random_text(4_000)).collect();
    fill(&bench, backlog_bytes, || {
        let text = &text[fastrand::usize(..text.len())];
        text[fastrand::usize(..100)..].to_owned()
    });
    let uplink = bench.start();
    wait_for("the backlog to flow", || bench.backlog_delivered() > 0);
    let_run(Duration::from_millis(fastrand::u64(3_000..9_000)));
    raise_alarms(&bench, 5, 3_000..9_000);
    let before = bench.backlog_delivered();
    let_run(Duration::from_secs(20));
    println!("then {} records of the backlog in 20 s", bench.backlog_delivered() - before);
    assert!(bench.backlog_delivered() > before, "the backlog goes on");
    end(bench, uplink);
}

/// Streams share the link: what each of them has in flight at least is in front of an alarm.
#[test]
fn an_alarm_overtakes_four_backlogs_that_hardly_compress() {
    let name = "an_alarm_overtakes_four_backlogs_that_hardly_compress";
    if !in_namespace(name, &[LOOPBACK, COUNTER, SLOW]) {
        return;
    }
    let bench = Bench::new(4, |_| {});
    overtakes(bench);
}

/// Nothing of an alarm is sent before the open transaction has ended: already the first may not take long.
#[test]
fn an_alarm_overtakes_a_backlog_that_hardly_compresses_exactly_once() {
    let name = "an_alarm_overtakes_a_backlog_that_hardly_compresses_exactly_once";
    if !in_namespace(name, &[LOOPBACK, COUNTER, SLOW]) {
        return;
    }
    let timeout = Duration::from_secs(30);
    let bench = Bench::new(1, |kafka| {
        kafka.delivery = config::Delivery::ExactlyOnce(config::Transactions { id: None, timeout });
    });
    overtakes(bench);
}

/// Alarms before a backlog in random text, the first of them as soon as the backlog begins to flow.
fn overtakes(bench: Bench) {
    fill(&bench, 1 << 20, || random_text(1_000));
    let uplink = bench.start();
    wait_for("the backlog to flow", || bench.metrics.uplink_in_flight_records.get() > 0);
    raise_alarms(&bench, 3, 2_000..6_000);
    let before = bench.backlog_delivered();
    wait_for("the backlog to go on", || bench.backlog_delivered() > before);
    end(bench, uplink);
}

/// Gives each of the backlogs so many bytes on disk.
fn fill(bench: &Bench, bytes: u64, mut text: impl FnMut() -> String) {
    let begun = Instant::now();
    for stream in 0..bench.backlogs().count() {
        while bench.queue.status().streams[stream].bytes < bytes {
            for _ in 0..1_000 {
                bench.push(stream, &text());
            }
            bench.queue.flush().unwrap();
        }
        let status = &bench.queue.status().streams[stream];
        println!("backlog: {} records, {} MiB, after {:?}", status.records, status.bytes >> 20, begun.elapsed());
    }
}

/// One alarm after the other, so many milliseconds after the one before has arrived.
fn raise_alarms(bench: &Bench, count: u64, pauses_ms: std::ops::Range<u64>) {
    let mut longest = Duration::ZERO;
    for alarm in 0..count {
        if alarm > 0 {
            let_run(Duration::from_millis(fastrand::u64(pauses_ms.clone())));
        }
        let (pushed, transactions) = (Instant::now(), bench.transactions("committed"));
        bench.push(bench.backlogs().count(), "door open");
        wait_for("the alarm", || bench.delivered(ALARMS) > alarm);
        // With exactly once the last of them is its own.
        let transactions = bench.transactions("committed") - transactions;
        println!("alarm {alarm}: in Kafka after {:.1} s, {transactions} transactions", pushed.elapsed().as_secs_f64());
        longest = longest.max(pushed.elapsed());
    }
    let of_backlog: Vec<u64> = bench.backlogs().map(|stream| bench.delivered(stream)).collect();
    println!("longest {:.1} s; beside it of the backlog {of_backlog:?} records", longest.as_secs_f64());
    assert!(longest <= Duration::from_secs(10), "{longest:?}");
}

/// Ends it; nothing may have gone wrong on the way.
fn end(bench: Bench, uplink: Uplink) {
    if bench.settings.kafka.delivery == config::Delivery::AtLeastOnce {
        let retried = bench.metrics.uplink_errors.get_or_create(&ByKind { kind: "retried" }).get();
        assert_eq!(retried, 0, "no request outlives the socket timeout");
    }
    assert_eq!((bench.transactions("aborted"), bench.transactions("unknown")), (0, 0));
    assert_eq!(bench.metrics.uplink_client_rebuilds.get(), 0);
    bench.stop.cancel();
    uplink.join();
    bench.queue.close().unwrap();
}
