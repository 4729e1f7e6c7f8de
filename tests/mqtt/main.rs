//! The publisher against a real broker, with the connection cut and the broker replaced under it.
#![cfg(feature = "demo")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use forebay::config::{Broker, Mqtt};
use forebay::demo::broker;
use forebay::metrics::{ByKind, Metrics};
use forebay::mqtt::{self, Publisher};
use forebay::reading::{Field, Name, Reading, Stamp, Trust, Value};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, Publish, QoS};
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

/// Passes TCP on to the port in `target`; port 0 refuses; each change cuts all connections.
async fn proxy(target: watch::Receiver<u16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut inbound, _)) = listener.accept().await {
            let mut target = target.clone();
            tokio::spawn(async move {
                let to = *target.borrow_and_update();
                if to == 0 {
                    return;
                }
                let mut outbound = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound) => {}
                    _ = target.changed() => {}
                }
            });
        }
    });
    port
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

fn start(port: u16, records: usize) -> (Publisher, tokio::task::JoinHandle<()>, Arc<Metrics>, CancellationToken) {
    let (metrics, _) = Metrics::new();
    let stop = CancellationToken::new();
    let config = Mqtt { outbox_records: records, ..config(port) };
    let (publisher, task) = mqtt::spawn(&config, &Name::from("gw"), metrics.clone(), stop.clone());
    (publisher, task, metrics, stop)
}

#[tokio::test]
async fn all_readings_arrive_although_the_broker_is_lost_and_a_new_one_knows_nothing() {
    let first = broker::start(0).unwrap();
    let second = broker::start(0).unwrap();
    let mut on_first = Subscriber::new(first, "test-first", "forebay/gw/boiler").await;
    let mut on_second = Subscriber::new(second, "test-second", "forebay/gw/boiler").await;
    let (target, follow) = watch::channel(first);
    let (publisher, task, metrics, stop) = start(proxy(follow).await, 1_000);

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
