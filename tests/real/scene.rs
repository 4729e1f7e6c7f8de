//! A gateway and what is around it, for one scenario: Kafka, the configuration, the lives of the agent, the account.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forebay::kafka::account::Account;
use forebay::kafka::{Consumer, Next, Received, Start};

use crate::agent::{Agent, StreamNow};
use crate::ledger::{Ledger, Life};
use crate::line::{Receiver, Relay};
use crate::process::wait_for;
use crate::servers::{Kafka, ModbusUnits, Mosquitto};

/// Longest wait for a backlog to be in Kafka. The uplink's longest pause between two tries is a minute.
pub const DRAIN_MAX: Duration = Duration::from_secs(100);
const TOPICS: [&str; 2] = ["telemetry", "alarms"];
const READ_MAX: Duration = Duration::from_secs(30);

/// A gateway with its Kafka.
pub struct Scene {
    name: &'static str,
    pub kafka: Kafka,
    /// The lines of `[kafka]` that say where it is and how to log in; none: as the node's open listener wants it.
    pub uplink: Option<String>,
    dir: tempfile::TempDir,
    lives: u32,
    promises: Vec<StreamNow>,
    began: Instant,
    /// Further lines of `[kafka]`.
    pub kafka_lines: &'static str,
    pub clock_hold: &'static str,
}

impl Scene {
    pub fn new(name: &'static str) -> Self {
        Self::with(name, Kafka::start)
    }

    /// With a Kafka of the scenario's own.
    pub fn with(name: &'static str, start: impl FnOnce(&Path) -> Kafka) -> Self {
        let dir = tempfile::Builder::new().prefix("forebay-real-").tempdir().unwrap();
        let kafka = start(dir.path());
        Self {
            name,
            kafka,
            uplink: None,
            dir,
            lives: 0,
            promises: Vec::new(),
            began: Instant::now(),
            kafka_lines: "",
            clock_hold: "0s",
        }
    }

    /// A gateway in `dir` that logs in as `uplink` says.
    pub fn logging_in(name: &'static str, dir: tempfile::TempDir, kafka: Kafka, uplink: String) -> Self {
        Self {
            name,
            kafka,
            uplink: Some(uplink),
            dir,
            lives: 0,
            promises: Vec::new(),
            began: Instant::now(),
            kafka_lines: "",
            clock_hold: "0s",
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration file, written with these sources and the local broker where there is one.
    pub fn configure(&self, sources: &str, mosquitto: Option<&Mosquitto>) -> PathBuf {
        let mqtt = mosquitto.map_or_else(String::new, |broker| {
            format!(
                "[mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\ntopic = \"forebay/{{gateway}}/{{device}}\"\n",
                broker.port
            )
        });
        let text = format!(
            r#"[gateway]
id = "gateway-1"
state-dir = "{state}"
{sources}
{mqtt}
[queue]
size = "256 MiB"
window = "1s"
[[stream]]
name = "telemetry"
[[stream]]
name = "alarms"
priority = 9
durability = "every-record"
[kafka]
{uplink}
in-flight-bytes = "256 KiB"
{kafka_lines}
[clock]
hold = "{clock_hold}"
[status]
listen = "127.0.0.1:0"
"#,
            state = self.dir().join("state").display(),
            uplink = self.uplink.clone().unwrap_or_else(|| self.open_listener()),
            kafka_lines = self.kafka_lines,
            clock_hold = self.clock_hold,
        );
        let file = self.dir().join("forebay.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    fn open_listener(&self) -> String {
        let brokers: Vec<String> = self.kafka.bootstrap.split(',').map(|broker| format!("{broker:?}")).collect();
        format!("brokers = [{}]", brokers.join(", "))
    }

    /// Starts the agent on the configuration written last.
    pub fn agent(&mut self) -> Agent {
        self.lives += 1;
        let log = self.dir().join(format!("agent-{}.log", self.lives));
        Agent::start(&self.dir().join("forebay.toml"), &log)
    }

    /// Notes what the agent says is safe now: it must be in Kafka at the end.
    pub fn note(&mut self, agent: &Agent) -> Vec<StreamNow> {
        let now = agent.streams();
        self.promises.extend(now.iter().cloned());
        now
    }

    /// SIGKILL for the agent, right after it was asked what is safe.
    pub fn kill(&mut self, agent: Agent) -> Vec<StreamNow> {
        let now = self.note(&agent);
        agent.kill();
        now
    }

    /// Demands that Kafka holds what was pushed by now, whether or not it was durable by now.
    pub fn demand_all(&mut self, agent: &Agent) {
        for mut stream in agent.streams() {
            stream.durable = stream.pushed.checked_sub(1);
            self.promises.push(stream);
        }
    }

    /// Waits until everything pushed by now, and every backlog, is acknowledged by Kafka. Gives the time it took.
    pub fn wait_until_delivered(&self, agent: &Agent) -> Duration {
        let began = Instant::now();
        // Before that it does not know of its backlog.
        agent.wait_for_store();
        let goal = agent.streams();
        wait_for("the backlog to be acknowledged by Kafka", DRAIN_MAX, || {
            let reached = |(now, goal): (&StreamNow, &StreamNow)| match goal.pushed.checked_sub(1) {
                Some(last) => now.acknowledged >= Some(last),
                // A record of this run, as no earlier one is left then; on a busy stream something always waits.
                None => now.waiting == 0 || now.acknowledged.is_some(),
            };
            agent.streams().iter().zip(&goal).all(reached).then_some(())
        });
        began.elapsed()
    }

    /// Starts the agent without sources until nothing is left in the queue, and stops it: the rest of a clean stop.
    pub fn drain_rest(&mut self) {
        self.configure("", None);
        let agent = self.agent();
        agent.wait_for_store();
        wait_for("an empty queue", DRAIN_MAX, || agent.is_drained().then_some(()));
        agent.terminate();
    }

    /// Reads Kafka twice, compares, prints the account, and fails where a promise is broken.
    pub fn settle(&mut self) -> Ledger {
        let mut ledger = Ledger::default();
        let mut account = Account::default();
        for topic in TOPICS {
            ledger.add_topic(&self.kafka.bootstrap, topic);
            self.each_of(topic, |received| {
                account.add(&received.value);
            });
        }
        self.print(&ledger);
        let of_product = (account.received(), account.repeated(), account.missing(), account.out_of_order());
        let of_ledger = (ledger.kept(), ledger.repeated(), ledger.missing(), ledger.out_of_order);
        assert_eq!(of_product, of_ledger, "the product's account and the one taken with kcat differ");
        assert_eq!(account.unreadable(), 0);
        assert!(ledger.kept() > 0, "nothing arrived");
        assert_eq!((ledger.missing(), ledger.skipped), (0, 0), "records are missing in the middle of a run");
        assert_eq!(ledger.out_of_order, 0, "a device's records are out of order");
        assert!(ledger.scattered.is_empty(), "devices in two partitions: {:?}", ledger.scattered);
        for promise in &self.promises {
            let Some(safe) = promise.safe() else { continue };
            let reached = reached(&ledger, &promise.name, promise.run);
            assert!(reached >= Some(safe), "lost: {promise:?}, but Kafka has up to {reached:?}");
        }
        ledger
    }

    /// Whether Kafka has a message of the source `yard` with this count now. Not by kcat, which finds no end of a topic that
    /// grows.
    pub fn has_message(&self, count: u64) -> bool {
        let mut found = false;
        self.each_of("telemetry", |received| {
            let record: serde_json::Value = serde_json::from_slice(&received.value).unwrap();
            found |= record["source"] == "yard" && record["count"] == count;
        });
        found
    }

    /// The way in for who reads, by the node's open listener: a gateway may have no right to.
    pub fn reader(&self) -> forebay::config::Kafka {
        let text = format!("[kafka]\n{}\n", self.open_listener());
        let parsed = forebay::config::parse(&text, Path::new("reader.toml"));
        parsed.unwrap_or_else(|errors| panic!("{errors}")).config.kafka.unwrap()
    }

    /// What the topic has, up to an end of each partition, by the product's consumer.
    pub fn each_of(&self, topic: &str, mut take: impl FnMut(&Received)) {
        let consumer = Consumer::open(&self.reader(), topic, READ_MAX).unwrap();
        // Not every offset holds a record where there were transactions.
        let mut left: Vec<i32> =
            consumer.spans(Start::Beginning, READ_MAX).unwrap().iter().map(|span| span.partition).collect();
        while !left.is_empty() {
            let next =
                || Some(consumer.next(Duration::from_millis(100)).unwrap()).filter(|next| *next != Next::Nothing);
            match wait_for("the next record of the topic", READ_MAX, next) {
                Next::Record(received) => take(&received),
                Next::End(partition) => left.retain(|other| *other != partition),
                Next::Nothing => {}
            }
        }
    }

    fn print(&self, ledger: &Ledger) {
        println!("\naccount of {} after {:.0} s", self.name, self.began.elapsed().as_secs_f64());
        println!(
            "  {:<10} {:>4} {:>12} {:>10} {:>9} {:>8}",
            "stream", "run", "must arrive", "in Kafka", "repeated", "missing"
        );
        for (life, kept) in &ledger.lives {
            let promised =
                self.promises.iter().filter(|promise| (&promise.name, promise.run) == (&life.stream, life.run));
            let must = promised.filter_map(StreamNow::safe).max().map_or(0, |seq| seq + 1);
            let (stream, run, found) = (&life.stream, life.run, kept.seqs.len());
            println!("  {stream:<10} {run:>4} {must:>12} {found:>10} {:>9} {:>8}", kept.repeated, kept.missing());
        }
        println!(
            "  in all {} messages: {} records, {} repeated, {} missing, {} out of order within a device",
            ledger.messages,
            ledger.kept(),
            ledger.repeated(),
            ledger.missing(),
            ledger.out_of_order
        );
    }
}

/// Highest `seq` of the stream's run that Kafka holds.
pub fn reached(ledger: &Ledger, stream: &str, run: u32) -> Option<u64> {
    let of_run = |(life, _): &(&Life, _)| life.stream == stream && life.run == run;
    ledger.lives.iter().filter(of_run).filter_map(|(_, kept)| kept.seqs.last().copied()).max()
}

/// All kinds of sources: a receiver, units on TCP and on a serial line, devices on MQTT, and made-up vehicles for load.
pub struct Plant {
    pub mosquitto: Mosquitto,
    pub receiver: Receiver,
    units: ModbusUnits,
    relay: Relay,
    _bus_units: ModbusUnits,
}

impl Plant {
    pub fn start(dir: &Path) -> Self {
        let relay = Relay::start();
        Self {
            mosquitto: Mosquitto::start(dir),
            receiver: Receiver::start(),
            units: ModbusUnits::tcp(),
            _bus_units: ModbusUnits::rtu(&relay.far),
            relay,
        }
    }

    /// The `[[source]]` tables; `vehicles` made-up ones say something 20 times a second each.
    pub fn sources(&self, vehicles: u32) -> String {
        let mut sources = [
            gnss_source(&self.receiver),
            modbus_source("plc", &format!("tcp://{}", self.units.address), "telemetry"),
            modbus_source("bus", &format!("rtu://{}?baud=19200&parity=none", self.relay.near.display()), "alarms"),
            MQTT_SOURCE.to_owned(),
        ]
        .concat();
        if vehicles > 0 {
            let fleet = "[[source]]\nname = \"fleet\"\ntype = \"simulated\"\nevery = \"50ms\"\ndevices = ";
            sources.push_str(&format!("{fleet}{vehicles}\n"));
        }
        sources
    }

    /// Waits until every source has a connection, then lets the receiver talk.
    pub fn wait_until_up(&self, agent: &Agent) {
        wait_until_up(agent, &["position", "plc", "bus", "yard", "fleet"]);
        self.receiver.talk(true);
    }
}

/// Waits until the sources have their ports and connections open.
pub fn wait_until_up(agent: &Agent, sources: &[&str]) {
    for source in sources {
        wait_for(&format!("source {source}"), Duration::from_secs(60), || agent.source(source).0.then_some(()));
    }
}

/// Devices on local MQTT under `sensors/DEVICE/data`.
pub const MQTT_SOURCE: &str = r#"
[[source]]
name = "yard"
type = "mqtt"
topics = ["sensors/+/data"]
device = "{topic.1}"
"#;

pub fn gnss_source(receiver: &Receiver) -> String {
    let path = receiver.path.display();
    format!("[[source]]\nname = \"position\"\ntype = \"gnss\"\nport = \"{path}\"\nbaud = 9600\n")
}

/// Both units of pymodbus, with registers of every type.
pub fn modbus_source(name: &str, connect: &str, stream: &str) -> String {
    let unit = |id: u8| {
        format!(
            r#"
  [[source.unit]]
  id = {id}
  device = "{name}-{id}"
  every = "100ms"
  registers = [
    {{ name = "temperature_c", holding = 100, type = "i16", scale = 0.1 }},
    {{ name = "offset", holding = 101, type = "i16" }},
    {{ name = "mains_v", holding = 102, type = "f32" }},
    {{ name = "mains_swapped_v", holding = 104, type = "f32", order = "cdab" }},
    {{ name = "energy", holding = 106, type = "i32" }},
    {{ name = "count", holding = 108, type = "u32" }},
    {{ name = "beyond_a_hole", holding = 120 }},
    {{ name = "input_7", input = 7 }},
    {{ name = "pump_on", coil = 3 }},
    {{ name = "valve_open", coil = 4 }},
    {{ name = "alarm", discrete = 6 }},
    {{ name = "fault", discrete = 7 }},
  ]
"#
        )
    };
    let source =
        format!("\n[[source]]\nname = \"{name}\"\ntype = \"modbus\"\nconnect = \"{connect}\"\nstream = \"{stream}\"\n");
    [source, unit(1), unit(2)].concat()
}
