//! One MQTT 3.1.1 connection, from CONNECT to its end: the only code that names rumqttc.
//!
//! A session is never revived. rumqttc drops what is unacknowledged when the broker has forgotten the session, reconnects
//! without delay and can hang on a packet id that was never acknowledged; so each connection gets a new event loop, and
//! what must survive it is kept by the caller (the outbox, or the broker for a subscription).

use std::time::Duration;

use rumqttc::{AsyncClient, EventLoop, LastWill, MqttOptions, NetworkOptions, Outgoing, Packet, QoS, SubscribeFilter};
use thiserror::Error;

use super::trim::{self, Relay};
use crate::backoff::Backoff;
use crate::config::{Broker, Mqtt};

/// Packet ids a session cycles through. Far above what is ever in flight, so that an id comes round again only when the
/// broker left it unacknowledged while it acknowledged all others.
const PACKET_IDS: u16 = 256;
/// Requests waiting for the event loop: publications and acknowledgements in flight, a subscription, a disconnect.
const REQUESTS_MAX: usize = 2_048;
/// Delays between tries to connect.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(500);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(30);
/// How long connecting, CONNACK included, and each flush may take.
const NETWORK_TIMEOUT_S: u64 = 10;

/// What a session is opened with.
#[derive(Debug)]
pub(crate) struct Options {
    /// MQTT client id, unique on the broker.
    pub client_id: String,
    /// False: the broker keeps the subscription and what was not acknowledged.
    pub clean: bool,
    /// Topic and payload the broker publishes, retained, QoS 1, when this client is lost.
    pub will: Option<(String, String)>,
    /// Largest packet in either direction.
    pub packet_bytes_max: usize,
    /// Publications that are larger arrive cut by this relay to the broker, instead of ending the session.
    pub through: Option<Relay>,
}

/// Something happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// CONNACK.
    Connected,
    /// The oldest publication handed over and not yet reported went to the socket under this packet id (0 for QoS 0).
    Sent(u16),
    /// PUBACK or PUBCOMP of that id.
    Acknowledged(u16),
    /// SUBACK; how many filters the broker refused.
    Subscribed {
        /// Refused filters.
        refused: usize,
    },
    /// A publication arrived.
    Message(Message),
    /// Nothing of interest.
    Other,
}

/// A publication that arrived; acknowledge it by [`Handle::acknowledge`].
#[derive(Debug)]
pub(crate) struct Message(rumqttc::Publish);

impl Message {
    /// The topic it came on.
    pub fn topic(&self) -> &str {
        &self.0.topic
    }
    /// Its payload.
    pub fn payload(&self) -> &[u8] {
        &self.0.payload
    }
    /// Kept by the broker from before the subscription.
    pub fn retained(&self) -> bool {
        self.0.retain
    }
    /// Whether the broker waits for an acknowledgement.
    pub fn wants_acknowledgement(&self) -> bool {
        self.0.qos != QoS::AtMostOnce
    }
}

/// Why a session ended or would not take a request.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    /// The connection failed, was refused or broke.
    #[error(transparent)]
    Connection(Box<rumqttc::ConnectionError>),
    /// A packet arrived that is larger than [`Options::packet_bytes_max`]; the broker will send it again.
    #[error("packet of {bytes} bytes arrived, limit is {limit_bytes}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// A packet id came round while the broker still owes its acknowledgement.
    #[error("broker never acknowledged packet id {0}")]
    Unacknowledged(u16),
    /// The event loop's queue is full or the request is invalid.
    #[error("mqtt client takes no more requests: {0}")]
    Request(#[source] Box<rumqttc::ClientError>),
}

impl SessionError {
    /// A short word for counters: `refused` (CONNACK says no), `connection`, `protocol`, `too_large`.
    pub fn kind(&self) -> &'static str {
        use rumqttc::ConnectionError::{ConnectionRefused, MqttState, NotConnAck};
        let error = match self {
            Self::Connection(error) => error,
            Self::TooLarge { .. } => return "too_large",
            Self::Unacknowledged(_) | Self::Request(_) => return "protocol",
        };
        match **error {
            ConnectionRefused(_) => "refused",
            MqttState(rumqttc::StateError::Io(_)) => "connection",
            MqttState(_) | NotConnAck(_) => "protocol",
            _ => "connection",
        }
    }
}

impl From<rumqttc::ClientError> for SessionError {
    fn from(error: rumqttc::ClientError) -> Self {
        Self::Request(Box::new(error))
    }
}

/// Gives requests to a session; none of them waits.
#[derive(Debug, Clone)]
pub(crate) struct Handle(AsyncClient);

/// Drives a session.
pub(crate) struct Driver {
    event_loop: EventLoop,
    packet_bytes_max: usize,
    _relay: Option<Relay>,
}

/// The delays between one session and the next.
pub(crate) fn backoff() -> Backoff {
    Backoff::new(RECONNECT_DELAY_MIN, RECONNECT_DELAY_MAX)
}

/// A session that connects when it is driven.
pub(crate) fn open(config: &Mqtt, options: Options) -> (Handle, Driver) {
    let (host, port) = match &options.through {
        Some(relay) => ("127.0.0.1".to_owned(), relay.port),
        None => address(config),
    };
    let mut mqtt = MqttOptions::new(options.client_id, host, port);
    mqtt.set_clean_session(options.clean);
    // MQTT counts keep-alive in whole seconds, up to 65 535 (3.1.1, 3.1.2.10); rumqttc panics below one.
    mqtt.set_keep_alive(config.keep_alive.clamp(Duration::from_secs(1), Duration::from_secs(65_535)));
    mqtt.set_inflight(PACKET_IDS);
    mqtt.set_manual_acks(true);
    mqtt.set_max_packet_size(options.packet_bytes_max, options.packet_bytes_max);
    if let Some((topic, payload)) = options.will {
        mqtt.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, true));
    }
    if let Some(username) = &config.username {
        mqtt.set_credentials(username.clone(), config.password.as_ref().map_or("", |secret| secret.0.as_str()));
    }
    let (client, mut event_loop) = AsyncClient::new(mqtt, REQUESTS_MAX);
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(NETWORK_TIMEOUT_S);
    network.set_tcp_nodelay(true);
    event_loop.set_network_options(network);
    (Handle(client), Driver { event_loop, packet_bytes_max: options.packet_bytes_max, _relay: options.through })
}

fn address(config: &Mqtt) -> (String, u16) {
    match &config.broker {
        Broker::Tcp { host, port } => (host.clone(), *port),
        Broker::Embedded { port } => ("127.0.0.1".to_owned(), *port),
    }
}

/// A relay to the broker that cuts publications to `packet_bytes_max`, for [`Options::through`].
///
/// # Errors
/// When it gets no port on loopback.
pub(crate) fn relay(config: &Mqtt, packet_bytes_max: usize) -> std::io::Result<Relay> {
    let (host, port) = address(config);
    trim::relay(host, port, packet_bytes_max)
}

impl Handle {
    /// Publishes; [`Event::Sent`] and (QoS 1, 2) [`Event::Acknowledged`] follow, the former in the order of calls.
    pub fn publish(&self, topic: &str, payload: &[u8], qos: u8, retain: bool) -> Result<(), SessionError> {
        Ok(self.0.try_publish(topic, quality(qos), retain, payload)?)
    }

    /// Subscribes to all filters at once.
    pub fn subscribe(&self, filters: &[String], qos: u8) -> Result<(), SessionError> {
        let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), quality(qos)));
        Ok(self.0.try_subscribe_many(filters)?)
    }

    /// Acknowledges a message (nothing to do for QoS 0).
    pub fn acknowledge(&self, message: &Message) -> Result<(), SessionError> {
        Ok(self.0.try_ack(&message.0)?)
    }

    /// Says goodbye, so that the broker does not publish the will.
    pub fn disconnect(&self) -> Result<(), SessionError> {
        Ok(self.0.try_disconnect()?)
    }
}

impl Driver {
    /// The next event. After an error the session is over.
    ///
    /// Not to be dropped half way (a packet could be lost between the client and its socket): pin it and poll it beside
    /// other things until it is ready.
    pub async fn next(&mut self) -> Result<Event, SessionError> {
        let event = self.event_loop.poll().await.map_err(|error| self.ended(error))?;
        Ok(match event {
            rumqttc::Event::Incoming(packet) => match packet {
                Packet::ConnAck(_) => Event::Connected,
                Packet::PubAck(ack) => Event::Acknowledged(ack.pkid),
                Packet::PubComp(complete) => Event::Acknowledged(complete.pkid),
                Packet::Publish(publish) => Event::Message(Message(publish)),
                Packet::SubAck(ack) => Event::Subscribed {
                    refused: ack
                        .return_codes
                        .iter()
                        .filter(|code| matches!(code, rumqttc::SubscribeReasonCode::Failure))
                        .count(),
                },
                _ => Event::Other,
            },
            rumqttc::Event::Outgoing(Outgoing::Publish(id)) => Event::Sent(id),
            rumqttc::Event::Outgoing(Outgoing::AwaitAck(id)) => return Err(SessionError::Unacknowledged(id)),
            rumqttc::Event::Outgoing(_) => Event::Other,
        })
    }

    fn ended(&self, error: rumqttc::ConnectionError) -> SessionError {
        use rumqttc::ConnectionError::MqttState;
        use rumqttc::StateError::Deserialization;
        match error {
            MqttState(Deserialization(rumqttc::Error::PayloadSizeLimitExceeded(bytes))) => {
                SessionError::TooLarge { bytes, limit_bytes: self.packet_bytes_max }
            }
            other => SessionError::Connection(Box::new(other)),
        }
    }
}

fn quality(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
