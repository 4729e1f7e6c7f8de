//! A client that is told of no broker, by a stand-in that speaks as much of Kafka's protocol as that takes.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::*;
use crate::config::KafkaCompression;

#[test]
fn a_client_is_stranded_after_more_than_one_moment_and_then_counts_anew() {
    let context = Context::default();
    let mut tell = |brokers: &str| {
        context.stats_raw(format!(r#"{{"brokers":{{{brokers}}}}}"#).as_bytes());
        context.take_stranded()
    };
    let (role, broker) = (r#""a":{"source":"logical"}"#, r#""b":{"source":"learned"}"#);
    let told = [broker, role, broker, role, "", role, role, role].map(&mut tell);
    assert_eq!(told, [false, false, false, false, true, false, true, false]);
}

const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;

/// The only broker; while `is_fenced` its cluster names none.
struct StandIn {
    port: u16,
    is_fenced: Arc<AtomicBool>,
    /// Answers that named it.
    named: Arc<AtomicU32>,
}

impl StandIn {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, is_fenced) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let named = Arc::new(AtomicU32::new(0));
        let (fenced, count) = (Arc::clone(&is_fenced), Arc::clone(&named));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (fenced, count) = (Arc::clone(&fenced), Arc::clone(&count));
                // The client's end ends it.
                std::thread::spawn(move || serve(&mut connection.unwrap(), port, &fenced, &count));
            }
        });
        Self { port, is_fenced, named }
    }

    fn kafka(&self) -> Kafka {
        let properties = [
            // The stand-in gives no producer ids.
            ("enable.idempotence", "false"),
            ("statistics.interval.ms", "50"),
            ("topic.metadata.refresh.interval.ms", "100"),
            ("reconnect.backoff.ms", "50"),
        ];
        kafka(&format!("127.0.0.1:{}", self.port), &properties)
    }
}

/// The way to a cluster of these brokers, separated by commas.
pub(in crate::kafka) fn kafka(brokers: &str, properties: &[(&str, &str)]) -> Kafka {
    Kafka {
        brokers: brokers.split(',').map(str::to_owned).collect(),
        client_id: "test".into(),
        tls: None,
        sasl: None,
        compression: KafkaCompression::None,
        in_flight_bytes_max: 64 * 1024,
        linger: Duration::from_millis(5),
        drain: Default::default(),
        rate: Default::default(),
        budget: None,
        delivery: Delivery::AtLeastOnce,
        properties: properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        output: Default::default(),
    }
}

fn serve(connection: &mut TcpStream, port: u16, is_fenced: &AtomicBool, named: &AtomicU32) -> Option<()> {
    loop {
        let mut length = [0; 4];
        connection.read_exact(&mut length).ok()?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        connection.read_exact(&mut request).ok()?;
        let (key, version) = (&request[..2], &request[2..4]);
        let mut answer = request[4..8].to_vec();
        match (i16::from_be_bytes(key.try_into().unwrap()), i16::from_be_bytes(version.try_into().unwrap())) {
            // No error, two requests with their versions, no throttling; lengths are one more than they say.
            (API_VERSIONS, 3..) => {
                answer.extend([0, 0, 3]);
                answer.extend([0, 3, 0, 1, 0, 1, 0]);
                answer.extend([0, 18, 0, 0, 0, 3, 0]);
                answer.extend([0; 5]);
            }
            (METADATA, 1) => {
                let is_fenced = is_fenced.load(Ordering::Relaxed);
                metadata(&mut answer, port, is_fenced);
                named.fetch_add(u32::from(!is_fenced), Ordering::Relaxed);
            }
            other => panic!("the stand-in was asked for {other:?}"),
        }
        connection.write_all(&u32::try_from(answer.len()).unwrap().to_be_bytes()).ok()?;
        connection.write_all(&answer).ok()?;
    }
}

/// Of the first version: brokers, the controller, and the topic with one partition, which nobody leads while no broker
/// is named.
fn metadata(answer: &mut Vec<u8>, port: u16, is_fenced: bool) {
    let text = |answer: &mut Vec<u8>, text: &str| {
        answer.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        answer.extend(text.as_bytes());
    };
    answer.extend(u32::from(!is_fenced).to_be_bytes());
    if !is_fenced {
        answer.extend(1_i32.to_be_bytes());
        text(answer, "127.0.0.1");
        answer.extend(i32::from(port).to_be_bytes());
        answer.extend((-1_i16).to_be_bytes());
    }
    answer.extend(1_i32.to_be_bytes());
    answer.extend(1_i32.to_be_bytes());
    answer.extend(if is_fenced { 5_i16 } else { 0 }.to_be_bytes());
    text(answer, "telemetry");
    answer.push(0);
    let partitions = u32::from(!is_fenced);
    answer.extend(partitions.to_be_bytes());
    if !is_fenced {
        answer.extend(0_i16.to_be_bytes());
        answer.extend(0_i32.to_be_bytes());
        answer.extend(1_i32.to_be_bytes());
        for _replicas_then_in_sync in 0..2 {
            answer.extend(1_i32.to_be_bytes());
            answer.extend(1_i32.to_be_bytes());
        }
    }
}

/// By itself it would never connect again.
#[test]
fn a_client_that_was_told_of_no_broker_finds_them_again() {
    const LONG: Duration = Duration::from_secs(30);
    let broker = StandIn::start();
    let client = Producer::new(&broker.kafka(), 1, Refusal::Careful).unwrap();
    let (mut reports, mut notices) = (Vec::new(), Vec::new());
    let record = Outgoing { topic: "telemetry", key: "a", payload: b"b", timestamp_ms: 1, headers: &[], token: 1 };
    client.send(record).unwrap();
    let mut wait_for = |what: &str, is_there: &dyn Fn(&[Notice]) -> bool| {
        let begun = Instant::now();
        notices.clear();
        while !is_there(&notices) {
            assert!(begun.elapsed() < LONG, "waited in vain for: {what}");
            client.poll(Duration::from_millis(5), &mut reports, &mut notices);
        }
    };
    for _ in 0..3 {
        let goal = broker.named.load(Ordering::Relaxed) + 3;
        wait_for("the broker to be named", &|_| broker.named.load(Ordering::Relaxed) >= goal);
        broker.is_fenced.store(true, Ordering::Relaxed);
        wait_for("the loss", &|notices| notices.contains(&Notice::AllBrokersDown));
        broker.is_fenced.store(false, Ordering::Relaxed);
    }
    wait_for("a connection in the end", &|notices| notices.contains(&Notice::Connected));
}
