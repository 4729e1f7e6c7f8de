//! An MQTT broker inside the agent (rumqttd), on loopback: for demos, tests, and gateways without a broker of their own.
//! It keeps everything in memory and knows no access control; production wants Mosquitto.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rumqttd::{Config, ConnectionSettings, RouterConfig, ServerSettings};

/// Per topic filter: two segments of 256 KiB, so that memory is bounded by the number of filters.
const SEGMENT_BYTES_MAX: usize = 256 << 10;
const SEGMENTS_MAX: usize = 2;
const CONNECTIONS_MAX: usize = 64;
const PAYLOAD_BYTES_MAX: usize = 256 << 10;
const IN_FLIGHT_MAX: usize = 100;
/// How long the listener may take to come up.
const START_MAX: Duration = Duration::from_secs(5);
/// Attempts at finding a free port.
const ATTEMPTS: u32 = 3;

/// Starts a broker on `127.0.0.1:port` (0: any free port) and returns the port once it accepts connections.
///
/// It runs in threads of its own until the process ends; rumqttd cannot be stopped.
///
/// # Errors
/// The port is taken, or the broker does not come up within 5 s.
pub fn start(port: u16) -> anyhow::Result<u16> {
    let mut attempt = 1;
    loop {
        match start_once(port) {
            // Between our look at a free port and the broker's bind somebody else may take it.
            Err(_) if port == 0 && attempt < ATTEMPTS => attempt += 1,
            outcome => return outcome,
        }
    }
}

fn start_once(port: u16) -> anyhow::Result<u16> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("embedded mqtt broker: cannot listen on 127.0.0.1:{port}"))?;
    let listen = probe.local_addr().context("embedded mqtt broker: no local address")?;
    drop(probe);
    let mut broker = rumqttd::Broker::new(settings(listen));
    let thread = std::thread::Builder::new()
        .name("mqtt-broker".to_owned())
        .spawn(move || {
            if let Err(error) = broker.start() {
                tracing::error!(%error, "embedded mqtt broker ended");
            }
        })
        .context("embedded mqtt broker: no thread")?;
    let deadline = Instant::now() + START_MAX;
    // rumqttd says nothing when it listens, so it is asked until it answers or its server thread has ended.
    while TcpStream::connect_timeout(&listen, Duration::from_millis(200)).is_err() {
        if thread.is_finished() || Instant::now() >= deadline {
            bail!("embedded mqtt broker does not accept connections on {listen}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(listen.port())
}

fn settings(listen: SocketAddr) -> Config {
    let server = ServerSettings {
        name: "mqtt".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: PAYLOAD_BYTES_MAX,
            max_inflight_count: IN_FLIGHT_MAX,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    Config {
        router: RouterConfig {
            max_connections: CONNECTIONS_MAX,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_BYTES_MAX,
            max_segment_count: SEGMENTS_MAX,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("mqtt".to_owned(), server)])),
        ..Config::default()
    }
}
