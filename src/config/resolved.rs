//! The configuration as the agent uses it: every default filled in, every unit converted, every name checked.
//!
//! Plain data, one struct a section. It is made by `config::file` from what the user wrote and never changes after.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::reading::Name;

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

/// `[[source]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Unique among sources.
    pub name: Name,
    /// The stream its readings go to unless a unit or register says otherwise.
    pub stream: Name,
    /// What it is.
    pub kind: SourceKind,
}

impl Source {
    /// Every stream its readings can go to.
    pub fn streams(&self) -> impl Iterator<Item = &Name> {
        let registers = match &self.kind {
            SourceKind::Modbus(modbus) => modbus.units.as_slice(),
            _ => &[],
        };
        let registers = registers.iter().flat_map(|unit| &unit.registers).map(|register| &register.stream);
        std::iter::once(&self.stream).chain(registers)
    }
}

/// The kinds of source.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceKind {
    /// A GNSS receiver on a tty.
    Gnss(Gnss),
    /// A serial sensor that talks by itself.
    Serial(Serial),
    /// Modbus units behind one connection.
    Modbus(Modbus),
    /// Topics of the local broker.
    Mqtt(MqttSource),
    /// Made-up readings, for demos, load and tests.
    Simulated(Simulated),
}

/// Which serial port: by path, or by the USB identity of the adapter, under whatever name it appears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// `/dev/ttyS1`, `/dev/serial/by-id/...`
    Path(PathBuf),
    /// `usb:VENDOR:PRODUCT` or `usb:VENDOR:PRODUCT:SERIAL`, hexadecimal ids as `lsusb` prints them.
    Usb {
        /// USB vendor id.
        vendor: u16,
        /// USB product id.
        product: u16,
        /// The adapter's serial number, where two of one kind are plugged in.
        serial: Option<String>,
    },
}

/// How bytes travel on a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Bits per second.
    pub baud: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// Parity bit.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

/// Parity of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit.
    None,
    /// Even.
    Even,
    /// Odd.
    Odd,
}

/// `type = "gnss"`
#[derive(Debug, Clone, PartialEq)]
pub struct Gnss {
    /// The receiver's port.
    pub port: Port,
    /// Bits per second; `None`: find out (`"auto"`).
    pub baud: Option<u32>,
    /// What readings are about; the source's name unless written.
    pub device: Name,
    /// How often a receiver without a fix says so; zero: never.
    pub no_fix_every: Duration,
}

/// `type = "serial"`
#[derive(Debug, Clone, PartialEq)]
pub struct Serial {
    /// The sensor's port.
    pub port: Port,
    /// Its line settings.
    pub line: Line,
    /// What readings are about; the source's name unless written.
    pub device: Name,
    /// How its bytes are to be read.
    pub format: Format,
}

/// How a serial sensor's bytes are to be read.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// Lines of separated columns.
    Csv {
        /// Between columns, usually a comma.
        separator: char,
        /// What each column is; an empty name skips the column.
        columns: Vec<Column>,
        /// Longest line.
        line_bytes_max: usize,
    },
    /// Lines of `key=value` pairs.
    KeyValue {
        /// Between pairs.
        separator: char,
        /// Between key and value, usually `=`.
        assign: char,
        /// Longest line.
        line_bytes_max: usize,
    },
    /// A built-in description of a common sensor's frames.
    Preset(Preset),
}

/// One column of a CSV line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The field's name; empty: the column is skipped.
    pub name: Name,
    /// What it holds.
    pub kind: ColumnKind,
}

/// What a text column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// A number with or without a fraction.
    Float,
    /// A whole number.
    Integer,
    /// Anything.
    Text,
    /// `0`, `1`, `true`, `false`, `on`, `off`.
    Bool,
}

/// Sensors whose frames are described in the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Plantower PMS5003 particulate sensor (and PMS7003, HPMA115: the same frames).
    Pms5003,
}

/// `type = "modbus"`
#[derive(Debug, Clone, PartialEq)]
pub struct Modbus {
    /// Where the units are.
    pub connect: ModbusConnect,
    /// The units behind the connection.
    pub units: Vec<Unit>,
}

/// How a Modbus bus is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum ModbusConnect {
    /// `tcp://host:port`
    Tcp {
        /// Host name or address.
        host: String,
        /// TCP port, 502 unless written.
        port: u16,
    },
    /// `rtu:///dev/ttyUSB0?baud=19200&parity=even`
    Rtu {
        /// The RS-485 adapter's port.
        port: Port,
        /// Its line settings.
        line: Line,
    },
}

/// `[[source.unit]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// Unit id, 1 to 247 (0 to 255 over TCP).
    pub id: u8,
    /// What readings are about.
    pub device: Name,
    /// Poll interval.
    pub every: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Silence after each answer before the next request on the bus.
    pub pause: Duration,
    /// What to read.
    pub registers: Vec<Register>,
}

/// One value of a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Register {
    /// The field's name.
    pub name: Name,
    /// Which of the four tables.
    pub table: Table,
    /// Address as on the wire, from 0.
    pub address: u16,
    /// How its bits are to be read; [`Number::Bit`] for coils and discrete inputs.
    pub number: Number,
    /// Order of the 16-bit words (and bytes) of 32-bit values.
    pub order: WordOrder,
    /// Multiplied in; 1 keeps integers integers.
    pub scale: f64,
    /// The stream its value goes to.
    pub stream: Name,
}

/// The four Modbus tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Holding registers, function code 3.
    Holding,
    /// Input registers, function code 4.
    Input,
    /// Coils, function code 1.
    Coil,
    /// Discrete inputs, function code 2.
    Discrete,
}

/// How a register's bits are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// One coil or discrete input.
    Bit,
    /// Signed 16 bit.
    I16,
    /// Unsigned 16 bit.
    U16,
    /// Signed 32 bit, two registers.
    I32,
    /// Unsigned 32 bit, two registers.
    U32,
    /// IEEE 754 single, two registers.
    F32,
}

impl Number {
    /// Registers it takes.
    pub fn registers(self) -> u16 {
        match self {
            Self::Bit | Self::I16 | Self::U16 => 1,
            Self::I32 | Self::U32 | Self::F32 => 2,
        }
    }
}

/// Byte order of 32-bit values, named as the field does: A is the most significant byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WordOrder {
    /// Big endian, the standard's order.
    #[default]
    Abcd,
    /// Words swapped.
    Cdab,
    /// Bytes swapped inside words.
    Badc,
    /// Little endian.
    Dcba,
}

/// `type = "mqtt"`
#[derive(Debug, Clone, PartialEq)]
pub struct MqttSource {
    /// Topic filters; none takes in our own publications.
    pub topics: Vec<String>,
    /// QoS of the subscription, 0 to 2.
    pub qos: u8,
    /// Where the device's name comes from: text with `{topic.N}` parts (N from 0) or `{topic}`.
    pub device: String,
    /// What payloads are.
    pub payload: Payload,
    /// Largest payload taken.
    pub payload_bytes_max: usize,
}

/// What an MQTT source's payloads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// A JSON object; nested objects become `outer_inner`.
    Json,
    /// One number, boolean or text; the field is named `value`.
    Raw,
}

/// `type = "simulated"`
#[derive(Debug, Clone, PartialEq)]
pub struct Simulated {
    /// Devices to make up.
    pub devices: u32,
    /// One reading of each device so often.
    pub every: Duration,
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
    /// Most memory for records that are not on disk.
    pub tail_bytes_max: usize,
    /// Of sealed blocks.
    pub compression: Compression,
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
    /// librdkafka properties the user set (`[kafka.properties]`), checked against what the agent needs.
    pub properties: BTreeMap<String, String>,
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

/// SASL by user name and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// User name.
    pub username: String,
    /// Password, read from `password-file`.
    pub password: Secret,
}

/// `[status]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where to listen.
    pub listen: SocketAddr,
}
