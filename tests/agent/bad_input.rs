//! What is broken outside is said, counted, and costs nobody else anything.

use std::net::SocketAddr;

use forebay::demo::broker;
use forebay::metrics::ByKind;
use forebay::reading::Value;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::ground::{Ground, Wire, errors, is_up, queued, readings, start, until, until_drained, until_up};

const SIMULATED: &str = "[[source]]\nname = \"sim\"\ntype = \"simulated\"\nevery = \"20ms\"\n";

/// Accepts, reads what comes, and answers each read with `answer`.
async fn answering(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; 1024];
                while connection.read(&mut asked).await.is_ok_and(|bytes| bytes > 0) {
                    if connection.write_all(answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_counted_and_the_others_go_on() {
    let ground = Ground::new();
    let (silent, garbage) = (nobody().await, answering(b"HTTP/1.1 400 Bad Request\r\n\r\n").await);
    let mut noise = Wire::new();
    let broken = format!(
        r#"[[source]]
name = "missing"
type = "serial"
port = "/dev/forebay-none"
preset = "pms5003"
[[source]]
name = "refusing"
type = "modbus"
connect = "tcp://{silent}"
  [[source.unit]]
  id = 1
  device = "a"
  every = "20ms"
  registers = [{{ name = "v", holding = 0 }}]
[[source]]
name = "nonsense"
type = "modbus"
connect = "tcp://{garbage}"
  [[source.unit]]
  id = 1
  device = "b"
  every = "20ms"
  timeout = "50ms"
  registers = [{{ name = "v", holding = 0 }}]
"#
    );
    let text = ground.with_kafka(&[broken, noise.csv("noise", ""), SIMULATED.to_owned()].concat());
    let mut agent = start(&text).await;
    until_up(&agent, &["noise", "sim"]).await;
    // The first end of a line: what comes before it may be the rest of one.
    noise.write(b"\n\xff\xfe\x00garbage\n1,2,3,4\n").await;
    noise.write(&vec![b'x'; 1 << 20]).await;
    noise.write(b"\n42\n").await;

    until("the good line after the garbage", || readings(&agent, "noise") == 1).await;
    assert_eq!(errors(&agent, "noise", "malformed"), 2);
    assert_eq!(errors(&agent, "noise", "too_long"), 1);
    until("the missing port is counted", || errors(&agent, "missing", "open") > 0).await;
    until("the closed TCP port is counted", || errors(&agent, "refusing", "open") > 0).await;
    until("the nonsense is counted", || {
        ["frame", "lost", "timeout"].iter().any(|kind| errors(&agent, "nonsense", kind) > 0)
    })
    .await;
    for nothing in ["missing", "refusing", "nonsense"] {
        assert_eq!(readings(&agent, nothing), 0, "{nothing} made a reading of nothing");
    }
    assert!(!is_up(&agent, "missing") && is_up(&agent, "noise"));
    until("the rest goes on", || readings(&agent, "sim") >= 10).await;

    agent.stop_sources().await;
    until_drained(&agent).await;
    let made = readings(&agent, "sim");
    agent.stop().await.unwrap();
    let delivered = ground.read_back().await;
    assert_eq!(delivered.by_source.get("sim").copied(), Some(made));
    assert_eq!(delivered.by_source.get("noise").copied(), Some(1));
    assert_eq!(delivered.account.missing(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_refuse_are_counted_and_the_queue_keeps_everything() {
    let ground = Ground::new();
    // CONNACK with return code 5, not authorised (MQTT 3.1.1, 3.2.2.3).
    let refuses = answering(&[0x20, 2, 0, 5]).await;
    let kafka = nobody().await;
    let text =
        ground.local(&format!("[mqtt]\nbroker = \"mqtt://{refuses}\"\n[kafka]\nbrokers = [\"{kafka}\"]\n{SIMULATED}"));
    let agent = start(&text).await;
    let refused = || agent.metrics().mqtt_errors.get_or_create(&ByKind { kind: "refused" }).get();
    until("the local broker's refusal is counted", || refused() > 0).await;
    until("the uplink is down", || agent.uplink_status().is_some_and(|uplink| uplink.state == "down")).await;
    let error = agent.uplink_status().unwrap().last_error.unwrap_or_default();
    assert!(error.contains(&kafka.to_string()), "the broker is named: {error:?}");
    until("readings are kept", || readings(&agent, "sim") >= 20).await;
    assert_eq!(agent.metrics().mqtt_up.get(), 0);
    agent.stop().await.unwrap();

    let agent = start(&ground.with_kafka("")).await;
    until_drained(&agent).await;
    agent.stop().await.unwrap();
    let delivered = ground.read_back().await;
    assert!(delivered.by_source["sim"] >= 20);
    assert_eq!((delivered.account.missing(), delivered.account.out_of_order()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_is_no_json_is_counted_acknowledged_and_the_next_is_read() {
    let ground = Ground::new();
    let port = tokio::task::spawn_blocking(|| broker::start(0)).await.unwrap().unwrap();
    let agent = start(&ground.local(&format!(
        "[mqtt]\nbroker = \"mqtt://127.0.0.1:{port}\"\n[[source]]\nname = \"yard\"\ntype = \"mqtt\"\ntopics = [\"sensors/#\"]\n"
    )))
    .await;
    until_up(&agent, &["yard"]).await;
    let (client, mut events) = AsyncClient::new(MqttOptions::new("sensor", "127.0.0.1", port), 16);
    for payload in ["no json", "[1]", "{\"n\":", "{\"n\": 3}"] {
        client.publish("sensors/a", QoS::AtLeastOnce, false, payload).await.unwrap();
    }
    let mut acknowledged = 0;
    while acknowledged < 4 {
        if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
            acknowledged += 1;
        }
    }
    until("the good one is read", || readings(&agent, "yard") == 1).await;
    assert_eq!(errors(&agent, "yard", "payload"), 3);
    assert_eq!(queued(&agent).await[0].fields[0].value, Value::Integer(3));
    agent.stop().await.unwrap();
}
