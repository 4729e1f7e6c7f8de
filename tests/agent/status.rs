//! The status listener over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use forebay::metrics::ByKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ground::{Ground, PATIENCE, Wire, readings, start, until, until_up};

/// Connections at once, as the listener promises.
const CONNECTIONS_MAX: usize = 16;

async fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, connection.read_to_string(&mut answer)).await.unwrap().unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_status_say_what_the_agent_does() {
    let ground = Ground::new();
    let rest = "[[source]]\nname = \"sim\"\ntype = \"simulated\"\nevery = \"20ms\"\n[[source]]\nname = \"gone\"\ntype = \"gnss\"\nport = \"/dev/forebay-none\"\n";
    let agent = start(&ground.with_kafka(rest)).await;
    let address = agent.status_address().unwrap();
    until_up(&agent, &["sim"]).await;
    until("something is acknowledged", || agent.queue().status().streams[0].acknowledged.is_some()).await;
    until("the missing port is noticed", || super::ground::errors(&agent, "gone", "open") > 0).await;
    ground.kafka.down().unwrap();
    until("the outage is seen", || agent.uplink_status().is_some_and(|uplink| uplink.state == "down")).await;
    until("something is durable", || agent.queue().status().streams[0].durable.is_some()).await;

    let (code, answer) = ask(address, "GET /metrics").await;
    assert_eq!(code, 200);
    let value = |name: &str| -> f64 {
        let line = body(&answer).lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{answer}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("forebay_readings_in_total{source=\"sim\"}") > 0.0);
    assert_eq!(value("forebay_readings_in_total{source=\"gone\"}"), 0.0);
    assert_eq!(value("forebay_source_up{source=\"gone\"}"), 0.0);
    assert!(value("forebay_source_errors_total{source=\"gone\",kind=\"open\"}") > 0.0);
    for positive in ["records", "bytes", "oldest_age_seconds", "durable_position", "acknowledged_position"] {
        assert!(value(&format!("forebay_queue_{positive}{{stream=\"telemetry\"}}")) > 0.0, "{positive}");
    }
    for positive in ["undurable_age_seconds_max", "written_bytes_total", "disk_bytes", "quota_bytes"] {
        assert!(value(&format!("forebay_queue_{positive}")) > 0.0, "{positive}");
    }
    assert_eq!(value("forebay_uplink_up"), 0.0);
    for present in ["forebay_uplink_reconnects_total", "forebay_mqtt_reconnects_total", "forebay_mqtt_up"] {
        assert_eq!(value(present), 0.0, "{present}");
    }

    let (code, answer) = ask(address, "GET /status").await;
    assert_eq!(code, 200);
    let status: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(status["gateway"], "gw");
    assert_eq!(status["uplink"]["state"], "down");
    assert_eq!(status["queue"]["store"], "ok");
    assert_eq!(status["streams"][0]["name"], "telemetry");
    assert_eq!(status["streams"][0]["acknowledged"]["run"], agent.queue().status().run);
    assert_eq!(status["sources"][0]["name"], "sim");
    assert!(status["sources"][0]["readings"].as_u64().unwrap() <= readings(&agent, "sim"));
    agent.stop().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the listener ends with the agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_404_and_what_is_not_asked_is_405() {
    let ground = Ground::new();
    let agent = start(&ground.local("")).await;
    let address = agent.status_address().unwrap();
    for path in ["/healthz", "/readyz"] {
        let (code, answer) = ask(address, &format!("GET {path}")).await;
        assert_eq!((code, body(&answer)), (200, "ok\n"), "{path}");
    }
    let (code, answer) = ask(address, "GET /").await;
    assert!(code == 200 && answer.contains("text/html"));
    let (code, answer) = ask(address, "GET /secret").await;
    assert!(code == 404 && answer.contains("/metrics"), "{answer}");
    for method in ["POST /status", "DELETE /metrics", "PUT /"] {
        let (code, answer) = ask(address, method).await;
        assert_eq!(code, 405, "{answer}");
        assert!(answer.to_lowercase().contains("allow: get, head"), "{answer}");
    }
    let (code, answer) = ask(address, "HEAD /metrics").await;
    assert_eq!((code, body(&answer)), (200, ""));
    assert_eq!(agent.metrics().reloads.get_or_create(&ByKind { kind: "applied" }).get(), 0);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_readings_do_not_become_durable_is_unready_until_they_do() {
    let ground = Ground::new();
    let mut wire = Wire::new();
    // Without [kafka]: nothing but the store can make them durable.
    let agent = start(&ground.local(&wire.csv("lines", ""))).await;
    let address = agent.status_address().unwrap();
    until_up(&agent, &["lines"]).await;
    until("the queue is open", || agent.queue().status().recovered).await;
    assert_eq!(ask(address, "GET /readyz").await.0, 200);

    // A plain file where the store makes its first epoch.
    let (queue, aside) = (ground.state.path().join("queue"), ground.state.path().join("aside"));
    std::fs::rename(&queue, &aside).unwrap();
    std::fs::write(&queue, "").unwrap();
    wire.write(b"\n1\n").await;
    let (code, answer) = until_answered(address, "GET /readyz", 503).await;
    assert!(body(&answer).starts_with("records have waited ") && answer.contains("limit is 2.0 s"), "{code} {answer}");
    assert_eq!(ask(address, "GET /healthz").await.0, 200, "a restart would not help");
    assert_eq!(readings(&agent, "lines"), 1);

    std::fs::remove_file(&queue).unwrap();
    std::fs::rename(&aside, &queue).unwrap();
    until_answered(address, "GET /readyz", 200).await;
    assert!(agent.queue().status().streams[0].durable.is_some());
    agent.stop().await.unwrap();
}

/// Asks until the answer has this code.
async fn until_answered(address: SocketAddr, request: &str, wanted: u16) -> (u16, String) {
    let asking = async {
        loop {
            let (code, answer) = ask(address, request).await;
            if code == wanted {
                return (code, answer);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{request}: never {wanted}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seventeenth_connection_waits_until_another_ends() {
    let ground = Ground::new();
    let agent = start(&ground.local("")).await;
    let address = agent.status_address().unwrap();
    let mut others = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut connection = TcpStream::connect(address).await.unwrap();
        // Answered, so it was accepted; kept alive, so it stays.
        connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        timeout(PATIENCE, connection.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        others.push(connection);
    }
    let mut late = Box::pin(ask(address, "GET /healthz"));
    assert!(timeout(Duration::from_millis(300), &mut late).await.is_err(), "one connection too many was served");
    others.pop();
    assert_eq!(late.await.0, 200);
    agent.stop().await.unwrap();
}
