//! The publisher against a real broker, with the connection cut and the broker replaced under it.
#![cfg(feature = "demo")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay::config::{Broker, Mqtt};
use forebay::demo::broker;
use forebay::metrics::{ByKind, Metrics};
use forebay::mqtt::{self, Publisher};
use forebay::reading::{Field, Name, Reading, Stamp, Trust, Value};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, Publish, QoS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(20);

fn config(port: u16) -> Mqtt {
    Mqtt {
        broker: Broker::Tcp { host: "127.0.0.1".into(), port },
        topic: "forebay/{gateway}/{device}".into(),
        qos: 1,
        retain: false,
        outbox_records: 1_000,
        keep_alive: Duration::from_secs(5),
        username: None,
        password: None,
    }
}

fn publish(publisher: &Publisher, number: i64) {
    let reading = Reading {
        source: "plc".into(),
        device: "boiler".into(),
        stream: "telemetry".into(),
        boot_ns: 1,
        measured_us: None,
        from_mqtt: false,
        fields: vec![Field::new("n", Value::Integer(number))],
    };
    publisher.publish(&reading, Stamp { boot_ns: 1, wall_us: 0, trust: Trust::Ntp }, None);
}

/// A subscriber that has its SUBACK.
struct Subscriber {
    _client: AsyncClient,
    events: rumqttc::EventLoop,
}

impl Subscriber {
    async fn new(port: u16, id: &str, filter: &str) -> Self {
        let (client, mut events) = AsyncClient::new(MqttOptions::new(id, "127.0.0.1", port), 10);
        client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        while !matches!(timeout(LONG, events.poll()).await.unwrap().unwrap(), Event::Incoming(Packet::SubAck(_))) {}
        Self { _client: client, events }
    }

    async fn next(&mut self) -> Publish {
        loop {
            if let Event::Incoming(Packet::Publish(publish)) = timeout(LONG, self.events.poll()).await.unwrap().unwrap()
            {
                return publish;
            }
        }
    }

    async fn numbers(&mut self, wanted: std::ops::Range<i64>) {
        let mut missing: BTreeSet<i64> = wanted.collect();
        while !missing.is_empty() {
            let publish = self.next().await;
            let json: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
            missing.remove(&json["n"].as_i64().unwrap());
        }
    }
}

/// What clients have sent through a proxy, connection by connection.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<Vec<u8>>>>);

impl Wire {
    /// The QoS of every reading that was published, in the fixed headers of its packets (MQTT 3.1.1, 3.3.1).
    fn publish_qos(&self) -> Vec<u8> {
        self.0.lock().unwrap().iter().flat_map(|sent| publish_qos(sent)).collect()
    }
}

fn publish_qos(mut sent: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    while let Some((head, rest)) = sent.split_first() {
        // The remaining length: seven bits a byte, the lowest first (2.2.3).
        let Some(last) = rest.iter().position(|byte| byte & 0x80 == 0) else { break };
        let length = rest[..=last].iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
        // A connection may be cut within a packet.
        let Some((body, next)) = rest[last + 1..].split_at_checked(length) else { break };
        let topic = |body: &[u8]| body[2..2 + usize::from(u16::from_be_bytes([body[0], body[1]]))].to_vec();
        if head >> 4 == 3 && topic(body) == b"forebay/gw/boiler" {
            found.push(head >> 1 & 3);
        }
        sent = next;
    }
    found
}

/// Passes TCP on to the port in `target`; port 0 refuses; each change cuts all connections.
async fn proxy(target: watch::Receiver<u16>) -> u16 {
    listening_proxy(target).await.0
}

/// The same, and what goes through it to the broker.
async fn listening_proxy(target: watch::Receiver<u16>) -> (u16, Wire) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let wire = Wire::default();
    let heard = wire.clone();
    tokio::spawn(async move {
        while let Ok((inbound, _)) = listener.accept().await {
            let (mut target, heard) = (target.clone(), heard.clone());
            tokio::spawn(async move {
                let to = *target.borrow_and_update();
                if to == 0 {
                    return;
                }
                let outbound = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let ((mut from_client, mut to_client), (mut from_broker, mut to_broker)) =
                    (inbound.into_split(), outbound.into_split());
                tokio::select! {
                    () = pass_on(&mut from_client, &mut to_broker, &heard) => {}
                    _ = tokio::io::copy(&mut from_broker, &mut to_client) => {}
                    _ = target.changed() => {}
                }
            });
        }
    });
    (port, wire)
}

/// Passes on what a client sends, and keeps it.
async fn pass_on(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, heard: &Wire) {
    let index = {
        let mut connections = heard.0.lock().unwrap();
        connections.push(Vec::new());
        connections.len() - 1
    };
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        heard.0.lock().unwrap()[index].extend(&buffer[..bytes]);
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    timeout(LONG, async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never: {what}"));
}

type Started = (Publisher, tokio::task::JoinHandle<()>, Arc<Metrics>, CancellationToken);

fn start(port: u16, records: usize) -> Started {
    start_as(Mqtt { outbox_records: records, ..config(port) })
}

fn start_as(config: Mqtt) -> Started {
    let (metrics, _) = Metrics::new();
    let stop = CancellationToken::new();
    let (publisher, task) = mqtt::spawn(&config, &Name::from("gw"), metrics.clone(), stop.clone());
    (publisher, task, metrics, stop)
}

#[tokio::test]
async fn all_readings_arrive_although_the_broker_is_lost_and_a_new_one_knows_nothing() {
    for qos in [1, 2] {
        through_the_loss_of_a_broker(qos).await;
    }
}

async fn through_the_loss_of_a_broker(qos: u8) {
    let first = broker::start(0).unwrap();
    let second = broker::start(0).unwrap();
    let mut on_first = Subscriber::new(first, "test-first", "forebay/gw/boiler").await;
    let mut on_second = Subscriber::new(second, "test-second", "forebay/gw/boiler").await;
    let (target, follow) = watch::channel(first);
    let (port, wire) = listening_proxy(follow).await;
    let (publisher, task, metrics, stop) = start_as(Mqtt { qos, ..config(port) });

    (0..50).for_each(|n| publish(&publisher, n));
    on_first.numbers(0..50).await;
    until("first 50 acknowledged", || metrics.mqtt_published.get() == 50).await;

    target.send(0).unwrap();
    until("down", || metrics.mqtt_up.get() == 0).await;
    (50..250).for_each(|n| publish(&publisher, n));
    assert_eq!(metrics.mqtt_outbox_records.get(), 200);
    target.send(second).unwrap();
    on_second.numbers(50..250).await;
    until("all acknowledged", || metrics.mqtt_published.get() == 250).await;
    assert_eq!(metrics.mqtt_outbox_records.get(), 0);
    assert_eq!(metrics.mqtt_reconnects.get(), 1);
    assert_eq!(wire.publish_qos(), vec![qos; 250], "each once, as none was on its way at the cut");

    stop.cancel();
    timeout(Duration::from_secs(3), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn with_qos_0_all_readings_arrive_while_the_broker_is_there_and_none_is_waited_for() {
    let port = broker::start(0).unwrap();
    let mut subscriber = Subscriber::new(port, "test-qos-0", "forebay/gw/boiler").await;
    let (_target, follow) = watch::channel(port);
    let (through, wire) = listening_proxy(follow).await;
    let (publisher, task, metrics, stop) = start_as(Mqtt { qos: 0, ..config(through) });
    (0..250).for_each(|n| publish(&publisher, n));
    subscriber.numbers(0..250).await;
    until("all counted as sent", || metrics.mqtt_published.get() == 250).await;
    assert_eq!(metrics.mqtt_outbox_records.get(), 0);
    assert_eq!(wire.publish_qos(), [0; 250]);
    stop.cancel();
    timeout(Duration::from_secs(3), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_outbox_drops_the_oldest_and_counts_them() {
    let port = broker::start(0).unwrap();
    let (target, follow) = watch::channel(0);
    let (publisher, task, metrics, stop) = start(proxy(follow).await, 10);
    (0..25).for_each(|n| publish(&publisher, n));
    assert_eq!(metrics.mqtt_dropped.get_or_create(&ByKind { kind: "outbox_full" }).get(), 15);
    let mut subscriber = Subscriber::new(port, "test-full", "forebay/gw/boiler").await;
    target.send(port).unwrap();
    subscriber.numbers(15..25).await;
    until("ten acknowledged", || metrics.mqtt_published.get() == 10).await;
    stop.cancel();
    timeout(Duration::from_secs(3), task).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_status_says_online_then_offline_by_will_and_by_stop() {
    let port = broker::start(0).unwrap();
    let (target, follow) = watch::channel(port);
    let mut subscriber = Subscriber::new(port, "test-status", "forebay/gw/status").await;
    let (publisher, task, _metrics, stop) = start(proxy(follow).await, 10);
    let expect = async |subscriber: &mut Subscriber, text: &str| {
        assert_eq!(String::from_utf8_lossy(&subscriber.next().await.payload), text);
    };
    expect(&mut subscriber, r#"{"gateway":"gw","status":"online"}"#).await;
    publisher.set_status(r#"{"status":"online","queue":3}"#.into());
    expect(&mut subscriber, r#"{"status":"online","queue":3}"#).await;
    target.send(port).unwrap();
    expect(&mut subscriber, r#"{"gateway":"gw","status":"offline"}"#).await;
    expect(&mut subscriber, r#"{"status":"online","queue":3}"#).await;
    stop.cancel();
    expect(&mut subscriber, r#"{"gateway":"gw","status":"offline"}"#).await;
    timeout(Duration::from_secs(3), task).await.unwrap().unwrap();
    let mut late = Subscriber::new(port, "test-late", "forebay/gw/status").await;
    let kept = late.next().await;
    assert!(kept.retain);
    assert_eq!(&kept.payload[..], br#"{"gateway":"gw","status":"offline"}"#);
}
