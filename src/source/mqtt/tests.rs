//! The source against the embedded broker: what it acknowledges, and when.
#![allow(clippy::unwrap_used)] // a test module, which the lint does not see behind `all(test, ...)`

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rumqttc::{AsyncClient, MqttOptions, QoS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::*;
use crate::config::Broker;
use crate::demo::broker;
use crate::metrics::BySourceAndKind;
use crate::reading::{Receipt, Value};

const LONG: Duration = Duration::from_secs(20);

fn mqtt(port: u16) -> Mqtt {
    Mqtt {
        broker: Broker::Tcp { host: "127.0.0.1".into(), port },
        topic: "forebay/{gateway}/{device}".into(),
        qos: 1,
        retain: false,
        outbox_records: 10,
        keep_alive: Duration::from_secs(5),
        username: None,
        password: None,
    }
}

struct Running {
    readings: mpsc::Receiver<Envelope>,
    safe: watch::Sender<Option<Position>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    commits: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

fn start(port: u16) -> Running {
    let (hub, readings) = mpsc::channel(100);
    let (safe, safe_through) = watch::channel(None);
    let of_dropped = watch::channel(Dropped::default()).1;
    let (metrics, _) = Metrics::new();
    let stop = CancellationToken::new();
    let commits = Arc::new(AtomicU32::new(0));
    let (of_task, stop_task, commits_task) = (metrics.clone(), stop.clone(), commits.clone());
    let task = tokio::spawn(async move {
        let config = MqttSource {
            topics: vec!["sensors/+/data".into()],
            qos: 1,
            device: "{topic.1}".into(),
            payload: Payload::Json,
            payload_bytes_max: 1_000,
        };
        let around = Around {
            hub: &hub,
            metrics: &of_task,
            stop: &stop_task,
            gateway: &"gw".into(),
            safe_through,
            dropped: of_dropped,
            request_commit: &|| {
                commits_task.fetch_add(1, Ordering::SeqCst);
            },
        };
        let mut source = Source {
            name: "yard".into(),
            stream: "telemetry".into(),
            config,
            context: around,
            quiet_until: None,
            cut_larger: false,
        };
        source.serve(&mqtt(port)).await;
    });
    Running { readings, safe, metrics, stop, commits, task }
}

impl Running {
    async fn next(&mut self) -> Envelope {
        timeout(LONG, self.readings.recv()).await.unwrap().unwrap()
    }

    async fn up(&self) {
        let source = crate::metrics::BySource { source: "yard".into() };
        until(|| self.metrics.source_up.get_or_create(&source).get() == 1).await;
    }

    fn errors(&self, kind: &'static str) -> u64 {
        self.metrics.source_errors.get_or_create(&BySourceAndKind { source: "yard".into(), kind }).get()
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(LONG, self.task).await.unwrap().unwrap();
    }
}

async fn until(mut reached: impl FnMut() -> bool) {
    timeout(LONG, async {
        while !reached() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

fn client(port: u16) -> AsyncClient {
    let (client, mut events) = AsyncClient::new(MqttOptions::new("sensor", "127.0.0.1", port), 100);
    tokio::spawn(async move { while events.poll().await.is_ok() {} });
    client
}

fn number(envelope: &Envelope) -> Value {
    envelope.reading.fields[0].value.clone()
}

fn queued(envelope: Envelope, seq: u64) {
    let position = Position::new(1, seq);
    envelope.receipt.unwrap().send(Receipt::Queued { stream: "telemetry".into(), position }).unwrap();
}

#[tokio::test]
async fn what_was_not_durable_at_a_stop_is_delivered_again_and_the_durable_is_not() {
    let port = broker::start(0).unwrap();
    let mut running = start(port);
    running.up().await;
    let client = client(port);
    for n in 0..12 {
        client.publish("sensors/a/data", QoS::AtLeastOnce, false, format!("{{\"n\":{n}}}")).await.unwrap();
    }
    for n in 0..12 {
        let envelope = running.next().await;
        assert_eq!((&*envelope.reading.device, number(&envelope)), ("a", Value::Integer(n)));
        queued(envelope, n as u64);
    }
    until(|| running.commits.load(Ordering::SeqCst) > 0).await;
    running.safe.send(Some(Position::new(1, 3))).unwrap();
    running.end().await;

    let mut again = start(port);
    let first = number(&again.next().await);
    assert_eq!(first, Value::Integer(4), "0 to 3 were durable and acknowledged");
    again.end().await;
}

#[tokio::test]
async fn what_is_no_reading_is_counted_and_does_not_stop_the_next() {
    let port = broker::start(0).unwrap();
    let client = client(port);
    let mut running = start(port);
    running.up().await;
    let large = format!("{{\"n\":\"{}\"}}", "x".repeat(2_000));
    for payload in ["not json", "[1]", &large, "{\"n\":1}"] {
        client.publish("sensors/b/data", QoS::AtLeastOnce, false, payload).await.unwrap();
    }
    assert_eq!(number(&running.next().await), Value::Integer(1));
    assert_eq!((running.errors("payload"), running.errors("too_large")), (2, 1));
    running.end().await;
}

#[tokio::test]
async fn a_topic_that_is_not_configured_any_more_is_acknowledged_and_not_passed_on() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut running = start(listener.local_addr().unwrap().port());
    let mut broker = Boundless::accept(&listener).await;
    broker.publish_on("former/a/data", 1).await;
    broker.publish(2).await;
    let envelope = running.next().await;
    assert_eq!(number(&envelope), Value::Integer(2));
    queued(envelope, 0);
    running.safe.send(Some(Position::new(1, 0))).unwrap();
    assert_eq!(broker.packet().await.unwrap(), (0x40, vec![0, 1]));
    assert_eq!(broker.packet().await.unwrap(), (0x40, vec![0, 2]));
    assert_eq!(running.errors("foreign_topic"), 1);
    running.end().await;
}

#[tokio::test]
async fn a_refused_reading_is_delivered_again() {
    let port = broker::start(0).unwrap();
    let mut running = start(port);
    running.up().await;
    client(port).publish("sensors/c/data", QoS::AtLeastOnce, false, "{\"n\":1}").await.unwrap();
    running.next().await.receipt.unwrap().send(Receipt::Refused).unwrap();
    let again = running.next().await;
    assert_eq!(number(&again), Value::Integer(1));
    running.end().await;
}

/// A broker that knows no limit of messages in flight: its end of one connection.
struct Boundless(tokio::net::TcpStream);

impl Boundless {
    /// Takes the connection and its subscription.
    async fn accept(listener: &tokio::net::TcpListener) -> Self {
        let mut connection = Self(timeout(LONG, listener.accept()).await.unwrap().unwrap().0);
        assert_eq!(connection.packet().await.unwrap().0 >> 4, 1, "CONNECT");
        connection.0.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        let (kind, body) = connection.packet().await.unwrap();
        assert_eq!(kind >> 4, 8, "SUBSCRIBE");
        connection.0.write_all(&[0x90, 3, body[0], body[1], 1]).await.unwrap();
        connection
    }

    /// Sends a message with that packet id and number at QoS 1.
    async fn publish(&mut self, id: u16) {
        self.publish_on("sensors/a/data", id).await;
    }

    async fn publish_on(&mut self, topic: &str, id: u16) {
        let payload = format!("{{\"n\":{id}}}");
        let mut packet = vec![0x32, u8::try_from(2 + topic.len() + 2 + payload.len()).unwrap(), 0, topic.len() as u8];
        packet.extend_from_slice(topic.as_bytes());
        packet.extend_from_slice(&id.to_be_bytes());
        packet.extend_from_slice(payload.as_bytes());
        self.0.write_all(&packet).await.unwrap();
    }

    /// The same with a payload of so many bytes, which need four bytes of remaining length.
    async fn publish_large(&mut self, id: u16, payload_bytes: usize) -> std::io::Result<()> {
        let topic = "sensors/a/data";
        let length = 2 + topic.len() + 2 + payload_bytes;
        let mut packet = vec![0x32];
        packet.extend((0..4).map(|at| (length >> (7 * at) & 0x7f) as u8 | if at < 3 { 0x80 } else { 0 }));
        packet.extend_from_slice(&[0, topic.len() as u8]);
        packet.extend_from_slice(topic.as_bytes());
        packet.extend_from_slice(&id.to_be_bytes());
        packet.resize(packet.len() + payload_bytes, b'x');
        self.0.write_all(&packet).await
    }

    /// The first byte and the body of the next packet, all of which are short; `None` at the end of the connection.
    async fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        timeout(LONG, self.0.read_exact(&mut head)).await.unwrap().ok()?;
        let mut body = vec![0; usize::from(head[1])];
        timeout(LONG, self.0.read_exact(&mut body)).await.unwrap().unwrap();
        Some((head[0], body))
    }

    /// Packet ids acknowledged until the source says goodbye.
    async fn acknowledged(&mut self) -> Vec<u16> {
        let mut ids = Vec::new();
        while let Some((kind, body)) = self.packet().await {
            match kind >> 4 {
                4 => ids.push(u16::from_be_bytes([body[0], body[1]])),
                14 => break,
                _ => {}
            }
        }
        ids
    }
}

#[tokio::test]
async fn a_broker_without_a_limit_in_flight_is_served_in_rounds() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut running = start(listener.local_addr().unwrap().port());
    let limit = u16::try_from(WITHHELD_MAX).unwrap();
    let mut broker = Boundless::accept(&listener).await;
    for id in 1..=limit + 5 {
        broker.publish(id).await;
    }
    for id in 1..=limit {
        let envelope = running.next().await;
        assert_eq!(number(&envelope), Value::Integer(i64::from(id)));
        queued(envelope, u64::from(id) - 1);
    }
    running.safe.send(Some(Position::new(1, u64::from(limit) - 1))).unwrap();
    assert_eq!(broker.acknowledged().await, (1..=limit).collect::<Vec<_>>());
    drop(broker);

    let mut broker = Boundless::accept(&listener).await;
    for id in limit + 1..=limit + 5 {
        broker.publish(id).await;
        let envelope = running.next().await;
        assert_eq!(number(&envelope), Value::Integer(i64::from(id)), "passed over and sent again, in order");
        queued(envelope, u64::from(id) - 1);
    }
    running.end().await;
}

#[tokio::test]
async fn a_message_too_large_for_memory_is_counted_and_lets_the_rest_pass() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut running = start(listener.local_addr().unwrap().port());
    let mut broker = Boundless::accept(&listener).await;
    // The session ends over it, perhaps before all of it is written.
    let _ = broker.publish_large(1, 3 << 20).await;
    assert!(broker.acknowledged().await.is_empty());
    drop(broker);

    // As a broker does with what was not acknowledged.
    let mut broker = Boundless::accept(&listener).await;
    broker.publish_large(1, 3 << 20).await.unwrap();
    broker.publish(2).await;
    let envelope = running.next().await;
    assert_eq!(number(&envelope), Value::Integer(2));
    queued(envelope, 0);
    running.safe.send(Some(Position::new(1, 0))).unwrap();
    let mut acknowledged = Vec::new();
    while acknowledged.len() < 2 {
        let (kind, body) = broker.packet().await.unwrap();
        if kind >> 4 == 4 {
            acknowledged.push(u16::from_be_bytes([body[0], body[1]]));
        }
    }
    assert_eq!((acknowledged, running.errors("too_large")), (vec![1, 2], 1));
    running.end().await;
}
