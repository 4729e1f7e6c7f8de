//! `[[source]]` as the agent uses it: ports, lines, formats, units and registers.

use std::path::PathBuf;
use std::time::Duration;

use crate::reading::Name;

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
