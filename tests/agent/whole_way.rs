//! The main job once: every kind of source, an outage in the middle, and the account of what came out at both ends.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay::demo::{broker, devices, modbus::Plant};
use jiff::Timestamp;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ground::{Ground, Wire, is_up, readings, start, until, until_drained, until_up};

const SOURCES: [&str; 6] = ["position", "air", "lines", "plant", "meter", "yard"];
const EVERY: Duration = Duration::from_millis(25);

/// Counts what comes on `forebay/gw/+`, the status apart, from its SUBACK on; also publishes for the test.
async fn listener(port: u16) -> (AsyncClient, Arc<AtomicU64>) {
    let (client, mut events) = AsyncClient::new(MqttOptions::new("listener", "127.0.0.1", port), 64);
    client.subscribe("forebay/gw/+", QoS::AtLeastOnce).await.unwrap();
    while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::Publish(publish)) = event
                && publish.topic != "forebay/gw/status"
            {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (client, seen)
}

/// Where the parts are.
struct Places<'a> {
    mqtt: u16,
    plant: SocketAddr,
    bus: &'a Path,
    receiver: &'a Path,
    sensor: &'a Path,
    lines: &'a Wire,
}

/// One source of each kind.
fn configuration(places: &Places<'_>) -> String {
    let Places { mqtt, plant, .. } = places;
    let [bus, receiver, sensor] = [places.bus, places.receiver, places.sensor].map(Path::display);
    format!(
        r#"
[mqtt]
broker = "mqtt://127.0.0.1:{mqtt}"
[[source]]
name = "position"
type = "gnss"
port = "{receiver}"
baud = 9600
[[source]]
name = "air"
type = "serial"
port = "{sensor}"
preset = "pms5003"
[[source]]
name = "plant"
type = "modbus"
connect = "tcp://{plant}"
  [[source.unit]]
  id = 1
  device = "boiler"
  every = "50ms"
  registers = [{{ name = "temperature_c", holding = 100, type = "i16", scale = 0.1 }}, {{ name = "pump_on", coil = 3 }}]
[[source]]
name = "meter"
type = "modbus"
connect = "rtu://{bus}?parity=none"
  [[source.unit]]
  id = 1
  device = "meter"
  every = "50ms"
  registers = [{{ name = "mains_v", holding = 102, type = "f32" }}, {{ name = "alarm", discrete = 0 }}]
[[source]]
name = "yard"
type = "mqtt"
topics = ["sensors/+/data"]
device = "{{topic.1}}"
{csv}"#,
        csv = places.lines.csv("lines", "")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_of_every_source_reach_the_broker_and_through_an_outage_kafka() {
    let ground = Ground::new();
    let stop = CancellationToken::new();
    let talking = watch::Sender::new(false);
    let receiver = devices::gnss(Timestamp::now(), EVERY * 10, talking.subscribe(), stop.clone()).unwrap();
    let sensor = devices::pms5003(EVERY, talking.subscribe(), stop.clone()).unwrap();
    let mut lines = Wire::new();
    let plant = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plant_at = plant.local_addr().unwrap();
    tokio::spawn(Plant::boiler().serve_tcp(plant, stop.clone()));
    let (bus, _held, bus_path) = devices::pseudo_terminal().unwrap();
    tokio::spawn(Plant::boiler().serve_rtu(bus, stop.clone()));
    let mqtt = tokio::task::spawn_blocking(|| broker::start(0)).await.unwrap().unwrap();
    let (client, published) = listener(mqtt).await;

    let text = ground.with_kafka(&configuration(&Places {
        mqtt,
        plant: plant_at,
        bus: &bus_path,
        receiver: &receiver.path,
        sensor: &sensor.path,
        lines: &lines,
    }));
    let mut agent = start(&text).await;
    until_up(&agent, &SOURCES).await;
    talking.send_replace(true);
    // What comes before the first end of a line may be the rest of one.
    lines.write(b"\n").await;

    for (phase, wanted) in [(0_u64, 5_u64), (1, 10)] {
        if phase == 1 {
            until("Kafka has acknowledged something", || agent.queue().status().streams[0].acknowledged.is_some())
                .await;
            ground.kafka.down().unwrap();
        }
        for number in 0..5 {
            lines.write(format!("{}\n", phase * 5 + number).as_bytes()).await;
            let payload = format!("{{\"level\": {number}}}");
            client.publish("sensors/tank/data", QoS::AtLeastOnce, false, payload).await.unwrap();
        }
        let all = || SOURCES.iter().all(|source| readings(&agent, source) >= wanted);
        until(&format!("{wanted} readings of each source"), all).await;
    }
    until("the outage is seen", || agent.uplink_status().is_some_and(|uplink| uplink.state == "down")).await;
    assert!(SOURCES.iter().all(|source| is_up(&agent, source)), "no source waits for the uplink");
    assert!(agent.queue().status().streams[0].records > 0);

    ground.kafka.up().unwrap();
    talking.send_replace(false);
    agent.stop_sources().await;
    until_drained(&agent).await;
    assert_eq!(agent.uplink_status().unwrap().state, "up");
    let made = SOURCES.map(|source| (source, readings(&agent, source)));
    let of_others: u64 = made.iter().filter(|(source, _)| *source != "yard").map(|(_, made)| made).sum();
    until("the broker has every reading but those that came from it", || published.load(Ordering::SeqCst) == of_others)
        .await;
    agent.stop().await.unwrap();

    let delivered = ground.read_back().await;
    for (source, made) in made {
        assert_eq!(delivered.by_source.get(source).copied(), Some(made), "{source}");
    }
    let account = &delivered.account;
    assert_eq!((account.missing(), account.out_of_order(), account.unreadable()), (0, 0, 0));
    stop.cancel();
}
