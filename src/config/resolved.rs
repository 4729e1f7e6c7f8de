//! The configuration as the agent uses it: every default filled in, every unit converted, every name checked.
//!
//! Plain data, one struct a section. It is made by `config::file` from what the user wrote and never changes after.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::queue_key::QueueKeys;
use crate::reading::Name;

mod output;
mod sources;

pub use output::*;
pub use sources::*;

/// Everything `forebay run` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Who this gateway is and where it keeps its state.
    pub gateway: Gateway,
    /// The enabled sources, in the order written.
    pub sources: Vec<Source>,
    /// The local broker.
    pub mqtt: Option<Mqtt>,
    /// The store-and-forward queue.
    pub queue: Queue,
    /// All streams, the one named `telemetry` included; at most [`STREAMS_MAX`].
    pub streams: Vec<Stream>,
    /// The uplink. `None`: readings are queued and published locally only.
    pub kafka: Option<Kafka>,
    /// What to do while the clock is not set.
    pub clock: Clock,
    /// The status listener. `None`: off.
    pub status: Option<Status>,
}

/// Most streams of one gateway.
pub const STREAMS_MAX: usize = 16;

/// `[gateway]`
#[derive(Debug, Clone, PartialEq)]
pub struct Gateway {
    /// Names this gateway in every record.
    pub id: Name,
    /// Where the queue and small state live.
    pub state_dir: PathBuf,
    /// Constant members of every record.
    pub tags: BTreeMap<String, String>,
}

/// `[mqtt]`
#[derive(Debug, Clone, PartialEq)]
pub struct Mqtt {
    /// Where the local broker is.
    pub broker: Broker,
    /// Topic template with `{gateway}`, `{source}`, `{stream}`, `{device}`.
    pub topic: String,
    /// QoS of publications, 0 to 2.
    pub qos: u8,
    /// Whether readings are retained.
    pub retain: bool,
    /// Most publications waiting for the broker; the oldest makes room, counted.
    pub outbox_records: usize,
    /// Keep-alive interval.
    pub keep_alive: Duration,
    /// User name.
    pub username: Option<String>,
    /// Password, read from `password-file`.
    pub password: Option<Secret>,
}

/// Where the local broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broker {
    /// `mqtt://host:port`
    Tcp {
        /// Host name or address.
        host: String,
        /// TCP port, 1883 unless written.
        port: u16,
    },
    /// Inside the agent (feature `demo`), listening on loopback.
    Embedded {
        /// TCP port on loopback; 0: any.
        port: u16,
    },
}

/// A secret: shown as `***` wherever it is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("***")
    }
}

/// `[queue]`
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Most disk the state directory may take, in bytes as the file system counts them. `None`: the smaller of 2 GiB
    /// and half of what is free at the first start.
    pub quota_bytes: Option<u64>,
    /// Durability window: what a power cut may cost, counted from hand-over to the queue.
    pub window: Duration,
    /// The same once the uplink has been down for 60 s; at least `window`.
    pub window_outage: Duration,
    /// Most memory for records that are not on disk.
    pub tail_bytes_max: usize,
    /// Of sealed blocks.
    pub compression: Compression,
    /// Encryption at rest.
    pub keys: QueueKeys,
}

/// Compression of sealed blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// None.
    None,
    /// LZ4: little CPU.
    Lz4,
    /// Zstandard: fewer bytes on flash.
    #[default]
    Zstd,
}

/// `[[stream]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Its name.
    pub name: Name,
    /// Its Kafka topic.
    pub topic: String,
    /// Higher drains first.
    pub priority: u8,
    /// Every record is made durable at once instead of within the window.
    pub durability: Durability,
    /// How much of it is kept for how long.
    pub retention: Retention,
    /// In what order its backlog is sent; `None`: as `[kafka]` says.
    pub drain: Option<DrainOrder>,
    /// How fast it may be sent.
    pub rate: Rate,
}

/// In what order a backlog is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DrainOrder {
    /// In the order of positions.
    #[default]
    OldestFirst,
    /// After an outage what is newest, then history.
    NewestFirst,
}

/// `[stream.retention]`: what goes when there is no room, and what goes by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Most bytes of this stream on disk; `None`: only the queue's size limits it.
    pub size_bytes: Option<u64>,
    /// Records that are certainly older are not sent any more.
    pub age: Option<Duration>,
    /// What happens at the limit.
    pub when_full: WhenFull,
}

/// What happens to a stream when its size, or the queue's, is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The oldest records make room.
    #[default]
    DropOldest,
    /// New records are refused: MQTT publishers are not acknowledged, polled values are skipped and counted.
    RejectNewest,
    /// Old records are thinned out; where that gains nothing more, the oldest make room.
    Thin,
}

/// When a stream's records are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Within the queue's window.
    #[default]
    Window,
    /// At once.
    EveryRecord,
}

/// `[kafka]`
#[derive(Debug, Clone, PartialEq)]
pub struct Kafka {
    /// Bootstrap brokers, `host:port`.
    pub brokers: Vec<String>,
    /// `client.id`; the gateway id.
    pub client_id: String,
    /// TLS, where configured.
    pub tls: Option<Tls>,
    /// SASL, where configured.
    pub sasl: Option<Sasl>,
    /// Batch compression.
    pub compression: KafkaCompression,
    /// Most bytes handed to the client and not yet reported, per stream.
    pub in_flight_bytes_max: usize,
    /// How long the client gathers a batch while the queue is short.
    pub linger: Duration,
    /// In what order a backlog is sent, where a stream does not say.
    pub drain: DrainOrder,
    /// How fast all streams together may send.
    pub rate: Rate,
    /// How much may go over the link.
    pub budget: Option<Budget>,
    /// How often a record may arrive.
    pub delivery: Delivery,
    /// librdkafka properties the user set (`[kafka.properties]`), checked against what the agent needs.
    pub properties: BTreeMap<String, String>,
    /// How records are written into messages.
    pub output: Output,
}

/// A limit on how fast records are sent; `None`: as fast as the link takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Records a second.
    pub records: Option<u64>,
    /// Bytes of keys and values a second, before compression.
    pub bytes: Option<u64>,
}

/// `[kafka] budget`: bytes in both directions as the network carries them, estimated. At least one limit is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Most in a day of UTC.
    pub day_bytes: Option<u64>,
    /// Most in a month of UTC.
    pub month_bytes: Option<u64>,
    /// Share of both that is kept for streams of high priority, in percent.
    pub reserve_percent: u8,
    /// The lowest priority that may use it.
    pub reserve_priority: u8,
}

/// `kafka.delivery`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Delivery {
    /// Every durable record arrives; after a crash some twice, with the same identity.
    #[default]
    AtLeastOnce,
    /// Every durable record arrives once, for readers with `isolation.level=read_committed`.
    ExactlyOnce(Transactions),
}

/// How transactions are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transactions {
    /// `transactional.id`; `None`: made of the gateway id and the queue's identity.
    pub id: Option<String>,
    /// `transaction.timeout.ms`: how long Kafka waits for a transaction that its agent has left.
    pub timeout: Duration,
}

/// `compression.type` of Kafka batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KafkaCompression {
    /// `none`
    None,
    /// `lz4`
    Lz4,
    /// `zstd`
    #[default]
    Zstd,
}

/// TLS files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Trust anchors; without it the system's are probed for.
    pub ca: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// How the agent says who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sasl {
    /// By user name and password.
    Password {
        /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
        mechanism: String,
        /// User name.
        username: String,
        /// Password, read from `password-file`.
        password: Secret,
    },
    /// By bearer token (`OAUTHBEARER`), fetched again before it expires.
    Token {
        /// Where tokens come from.
        origin: TokenOrigin,
        /// How long a token is used that does not say when it expires.
        lifetime: Duration,
    },
}

/// Where bearer tokens come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOrigin {
    /// A file that something else renews.
    File(PathBuf),
    /// A program and its arguments, which prints a token.
    Command(Vec<String>),
}

/// `[clock]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    /// How long after boot records wait at most for the clock to be set.
    pub hold: Duration,
}

/// `[status]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where to listen.
    pub listen: SocketAddr,
}
