//! The parts around the agent, and the configuration that names them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::devices::{self, Device};
use super::kafka::EmbeddedKafka;
use super::listener::Listener;
use super::{Options, START_MAX, broker, modbus};
use crate::agent::Agent;
use crate::config;
use crate::metrics::BySource;

/// The topic of the demo's only stream.
pub(super) const TOPIC: &str = "telemetry";
/// The Modbus source, as the configuration names it.
const PLANT: &str = "plant";
/// Longest wait for the agent to decode what the devices wrote last.
const SETTLE_MAX: Duration = Duration::from_secs(3);
/// How often the receiver and the particulate sensor speak, and the plant is asked.
pub(super) const READINGS_PER_SECOND: u64 = 10;
const DEVICE_EVERY: Duration = Duration::from_millis(1_000 / READINGS_PER_SECOND);

/// Everything around the agent.
pub(super) struct Scene {
    pub(super) configuration: String,
    pub(super) kafka: EmbeddedKafka,
    pub(super) kafka_config: config::Kafka,
    pub(super) listener: Listener,
    serial: Vec<SerialDevice>,
    mqtt_port: u16,
    talking: watch::Sender<bool>,
    _devices_stop: DropGuard,
    _state: tempfile::TempDir,
}

/// A simulated device on a pseudo-terminal.
struct SerialDevice {
    /// Its source, as the configuration names it.
    source: &'static str,
    /// How the configuration describes it.
    described: &'static str,
    device: Device,
}

/// How many readings each source made.
pub(super) type Made = Vec<(&'static str, u64)>;

impl Scene {
    /// The parts, started.
    pub(super) async fn build() -> anyhow::Result<Self> {
        let state = tempfile::Builder::new().prefix("forebay-demo-").tempdir().context("a folder for the queue")?;
        let mqtt_port = tokio::task::spawn_blocking(|| broker::start(0)).await??;
        let kafka = EmbeddedKafka::start()?;
        kafka.create_topic(TOPIC, 3)?;
        let stop = CancellationToken::new();
        let talking = watch::Sender::new(false);
        let serial = serial_devices(&talking, &stop)?;
        let plant = modbus::Plant::boiler();
        let plant_listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the Modbus plant")?;
        let plant_address = plant_listener.local_addr()?;
        tokio::spawn(plant.serve_tcp(plant_listener, stop.clone()));
        let configuration = configuration(&Addresses {
            state: state.path(),
            serial: &serial,
            plant: plant_address,
            mqtt_port,
            bootstrap: &kafka.bootstrap(),
        });
        let parsed =
            config::parse(&configuration, Path::new("demo.toml")).map_err(|errors| anyhow::anyhow!("{errors}"))?.config;
        let listener = Listener::start(parsed.mqtt.as_ref().context("the demo has an [mqtt] section")?).await?;
        Ok(Self {
            configuration,
            kafka,
            kafka_config: parsed.kafka.context("the demo has a [kafka] section")?,
            listener,
            serial,
            mqtt_port,
            talking,
            _devices_stop: stop.drop_guard(),
            _state: state,
        })
    }

    /// Says what is about to happen, and shows the configuration it happens with.
    pub(super) fn introduce(&self, options: &Options) {
        println!(
            "Forebay demo: readings for {}, the uplink away for {} of it.",
            seconds(options.run),
            seconds(options.outage)
        );
        println!(
            "Parts: an embedded MQTT broker (rumqttd), an embedded Kafka (librdkafka's mock cluster), a simulated GNSS"
        );
        println!(
            "receiver and PMS5003 sensor on pseudo-terminals, a simulated Modbus plant on TCP. No server, no root."
        );
        println!("\nThe configuration, as `forebay run` would read it:\n");
        for line in self.configuration.lines() {
            println!("    {line}");
        }
    }

    /// Lines to try in another terminal while the demo runs.
    pub(super) fn say_where_to_look(&self, agent: &Agent) {
        println!("\nTo look in from outside while it runs:");
        println!("    mosquitto_sub -h 127.0.0.1 -p {} -v -t 'forebay/#'", self.mqtt_port);
        println!("    kcat -b {} -C -t {TOPIC} -f '%k %s\\n'", self.kafka.bootstrap());
        if let Some(address) = agent.status_address() {
            println!("    curl -s http://{address}/metrics        (a page for people: http://{address}/)");
        }
        println!();
    }

    /// Lets the devices talk once the agent has every port open, so that each frame has somebody to read it.
    pub(super) async fn start_devices(&self, agent: &Agent) -> anyhow::Result<()> {
        let all_up = || self.sources().all(|source| agent.metrics().source_up.get_or_create(&label(source)).get() == 1);
        anyhow::ensure!(
            until(START_MAX, all_up).await,
            "the agent did not open all ports within {}",
            seconds(START_MAX)
        );
        self.talking.send_replace(true);
        Ok(())
    }

    /// Silences the devices and waits until the agent has decoded what they had sent.
    pub(super) async fn silence_devices(&self, agent: &Agent) {
        self.talking.send_replace(false);
        let decoded = || self.written().iter().all(|(source, written)| readings(agent, source) >= *written);
        until(SETTLE_MAX, decoded).await;
    }

    /// Epochs and frames the serial devices wrote: what the agent should have made readings of.
    pub(super) fn written(&self) -> Made {
        self.serial.iter().map(|serial| (serial.source, serial.device.emitted.load(Ordering::Relaxed))).collect()
    }

    /// Readings each source made in this run of the agent.
    pub(super) fn made(&self, agent: &Agent) -> Made {
        self.sources().map(|source| (source, readings(agent, source))).collect()
    }

    fn sources(&self) -> impl Iterator<Item = &'static str> {
        self.serial.iter().map(|serial| serial.source).chain([PLANT])
    }
}

fn serial_devices(talking: &watch::Sender<bool>, stop: &CancellationToken) -> anyhow::Result<Vec<SerialDevice>> {
    let receiver = devices::gnss(Timestamp::now(), DEVICE_EVERY, talking.subscribe(), stop.clone())
        .context("a pseudo-terminal for the receiver")?;
    let particulates = devices::pms5003(DEVICE_EVERY, talking.subscribe(), stop.clone())
        .context("a pseudo-terminal for the particulate sensor")?;
    Ok(vec![
        SerialDevice { source: "position", described: "type = \"gnss\"\nbaud = 9600", device: receiver },
        SerialDevice { source: "air", described: "type = \"serial\"\npreset = \"pms5003\"", device: particulates },
    ])
}

/// Where the parts are.
struct Addresses<'a> {
    state: &'a Path,
    serial: &'a [SerialDevice],
    plant: SocketAddr,
    mqtt_port: u16,
    bootstrap: &'a str,
}

/// The configuration that names them, as a user would write it.
fn configuration(at: &Addresses<'_>) -> String {
    let Addresses { plant, mqtt_port, bootstrap, .. } = at;
    let state = at.state.display();
    let section = |device: &SerialDevice| {
        let SerialDevice { source, described, device } = device;
        format!("[[source]]\nname = \"{source}\"\n{described}\nport = \"{}\"\n\n", device.path.display())
    };
    let serial: String = at.serial.iter().map(section).collect();
    format!(
        r#"[gateway]
id = "demo"
state-dir = "{state}"
tags = {{ site = "bench" }}

{serial}[[source]]
name = "{PLANT}"
type = "modbus"
connect = "tcp://{plant}"
  [[source.unit]]
  id = 1
  device = "boiler"
  every = "100ms"
  registers = [
    {{ name = "answers", holding = 0, type = "u32" }},
    {{ name = "temperature_c", holding = 100, type = "i16", scale = 0.1 }},
    {{ name = "mains_v", holding = 102, type = "f32" }},
    {{ name = "pump_on", coil = 3 }},
    {{ name = "alarm", discrete = 0 }},
  ]

[mqtt]
broker = "mqtt://127.0.0.1:{mqtt_port}"
topic = "forebay/{{gateway}}/{{device}}"

[queue]
size = "64 MiB"
window = "1s"

[[stream]]
name = "telemetry"
topic = "{TOPIC}"

[kafka]
brokers = ["{bootstrap}"]

[kafka.properties]
# The client waits ever longer between tries, up to 30 s: right for a fleet, too long for a short demonstration.
"reconnect.backoff.ms" = 100
"reconnect.backoff.max.ms" = 500

[clock]
# So that it also runs on a machine that has just been switched on.
hold = "0s"

[status]
listen = "127.0.0.1:0"
"#,
    )
}

fn readings(agent: &Agent, source: &str) -> u64 {
    agent.metrics().readings_in.get_or_create(&label(source)).get()
}

fn label(source: &str) -> BySource {
    BySource { source: source.to_owned() }
}

pub(super) fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

/// Looks every 20 ms until `holds`, at most for `limit`; says whether it came to hold.
pub(super) async fn until(limit: Duration, holds: impl Fn() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !holds() {
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
