//! What flows through the agent: readings as sources make them, records as the queue keeps them.
//!
//! A leaf: no module of ours stands below this one. The in-memory shapes here are not the disk format (see
//! `queue::block`) nor the wire format (see `uplink::encode`), so that each can change without the others.

pub mod json;

use std::fmt;
use std::sync::Arc;

use tokio::sync::oneshot;

/// A shared, immutable name: of a source, device, stream or field. Cloning is a reference count.
pub type Name = Arc<str>;

/// A field's value. Floats that are not finite are turned into [`Value::Null`] by [`Value::float`], as JSON has none.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Known to be absent: the sensor said "invalid", or the number was not finite.
    Null,
    /// A coil, a discrete input, a flag.
    Bool(bool),
    /// Any integer that fits.
    Integer(i64),
    /// An unsigned integer above `i64::MAX`.
    Unsigned(u64),
    /// A finite floating point number; always printed as a float.
    Float(f64),
    /// UTF-8 text.
    Text(String),
}

impl Value {
    /// A float, or null where `value` is NaN or infinite.
    pub fn float(value: f64) -> Self {
        if value.is_finite() { Self::Float(value) } else { Self::Null }
    }
}

/// One named value of a reading. Names are snake_case and carry their unit last (`speed_m_s`).
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The field's name; see [`is_reserved`] for those it must not bear.
    pub name: Name,
    /// Its value.
    pub value: Value,
}

impl Field {
    /// A field of this name and value.
    pub fn new(name: impl Into<Name>, value: Value) -> Self {
        Self { name: name.into(), value }
    }
}

/// Names that every Kafka record bears itself; fields and tags may not take them.
pub const RESERVED_FIELDS: [&str; 11] =
    ["gateway", "stream", "device", "source", "time", "clock", "queue", "run", "seq", "skipped", "thinned"];

/// Members that a message of a narrow stream has beside those of every record: tags may not take their names there.
pub const NARROW_MEMBERS: [&str; 5] = ["metric", "value", "integer", "flag", "text"];

/// Whether a field of this name would collide with one of the record's own.
pub fn is_reserved(name: &str) -> bool {
    RESERVED_FIELDS.contains(&name)
}

/// How far a record's time can be trusted; the `clock` member of every record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Trust {
    /// The clock was not set; the time is what the kernel said.
    #[default]
    Unknown = 0,
    /// Derived from what is known of neighbouring boots.
    Estimated = 1,
    /// A hardware clock that nobody checked.
    Rtc = 2,
    /// Computed from boot time once the clock of that boot became trusted.
    Corrected = 3,
    /// The kernel says that its clock is synchronised.
    Ntp = 4,
    /// The time a GNSS receiver with a fix gave for this very measurement.
    Gnss = 5,
}

impl Trust {
    /// The word used in records: `gnss`, `ntp`, `rtc`, `corrected`, `estimated`, `unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Estimated => "estimated",
            Self::Rtc => "rtc",
            Self::Corrected => "corrected",
            Self::Ntp => "ntp",
            Self::Gnss => "gnss",
        }
    }

    /// The inverse of `self as u8`; what is not known reads as [`Trust::Unknown`].
    pub fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Estimated,
            2 => Self::Rtc,
            3 => Self::Corrected,
            4 => Self::Ntp,
            5 => Self::Gnss,
            _ => Self::Unknown,
        }
    }
}

/// When something was measured, in both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// `CLOCK_BOOTTIME` in nanoseconds: counts through suspend, never jumps, means nothing in another boot.
    pub boot_ns: u64,
    /// Microseconds since 1970-01-01 UTC, as the clock stood (or as the receiver said).
    pub wall_us: i64,
    /// How far `wall_us` can be trusted.
    pub trust: Trust,
}

/// One measurement event of one device, as a source hands it to the hub.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The configured source's name.
    pub source: Name,
    /// What the reading is about; becomes the Kafka key and the MQTT topic's `{device}`.
    pub device: Name,
    /// The stream it belongs to.
    pub stream: Name,
    /// `CLOCK_BOOTTIME` in nanoseconds when its first byte came in ([`crate::clock::boot_ns`]).
    pub boot_ns: u64,
    /// The time of measurement in microseconds since 1970 UTC, where the device itself knows it (a GNSS fix).
    pub measured_us: Option<i64>,
    /// It came from the local broker, so it is not published there again.
    pub from_mqtt: bool,
    /// Named values, in the order of the device. At most [`FIELDS_MAX`].
    pub fields: Vec<Field>,
}

/// Most fields of one reading.
pub const FIELDS_MAX: usize = 256;

/// Where a record went: told to a source that must know (an MQTT source acknowledges only what is durable).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// It is in the queue of this stream at this position; durable once the queue says so.
    Queued {
        /// The stream.
        stream: Name,
        /// Its position there.
        position: Position,
    },
    /// It will never be in the queue (too large: set aside), and asking again would not help.
    SetAside,
    /// The queue could not take it now; it was not kept. The source must not acknowledge it.
    Refused,
}

/// What travels from a source to the hub.
#[derive(Debug)]
pub struct Envelope {
    /// The reading.
    pub reading: Reading,
    /// Where the source wants to hear what became of it.
    pub receipt: Option<oneshot::Sender<Receipt>>,
}

impl From<Reading> for Envelope {
    fn from(reading: Reading) -> Self {
        Self { reading, receipt: None }
    }
}

/// A record's place in its stream: `run << 40 | seq`, a positive `i64` when packed.
///
/// `run` counts the agent's lives on one queue, `seq` counts from 0 in each run, so no position is ever given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(u64);

impl Position {
    /// Bits of `seq`.
    pub const SEQ_BITS: u32 = 40;
    /// Largest `seq` of a run.
    pub const SEQ_MAX: u64 = (1 << Self::SEQ_BITS) - 1;
    /// Largest `run` (23 bits, so that a packed position is a positive `i64`).
    pub const RUN_MAX: u32 = (1 << 23) - 1;
    /// The very first position.
    pub const ZERO: Self = Self(0);
    /// Beyond every position that is ever given.
    pub const END: Self = Self(i64::MAX as u64);

    /// The position `seq` of `run`. Values beyond their limits are clamped; neither is reached in a device's life.
    pub fn new(run: u32, seq: u64) -> Self {
        Self((u64::from(run.min(Self::RUN_MAX)) << Self::SEQ_BITS) | seq.min(Self::SEQ_MAX))
    }

    /// From its packed form, as kept on disk and in Kafka's offsets.
    pub fn from_packed(packed: u64) -> Self {
        Self(packed.min(i64::MAX as u64))
    }

    /// The packed form; fits a positive `i64`.
    pub fn packed(self) -> u64 {
        self.0
    }

    /// Which life of the agent gave it.
    pub fn run(self) -> u32 {
        (self.0 >> Self::SEQ_BITS) as u32
    }

    /// The count inside the run.
    pub fn seq(self) -> u64 {
        self.0 & Self::SEQ_MAX
    }

    /// The smallest position after this one.
    pub fn next(self) -> Self {
        Self((self.0 + 1).min(i64::MAX as u64))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.run(), self.seq())
    }
}

/// Text that is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPosition;

impl fmt::Display for NoPosition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "a position is RUN:SEQ, at most {}:{}", Position::RUN_MAX, Position::SEQ_MAX)
    }
}

impl std::error::Error for NoPosition {}

impl std::str::FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let (run, seq) = text.split_once(':').ok_or(NoPosition)?;
        let (run, seq) = (run.parse().map_err(|_| NoPosition)?, seq.parse().map_err(|_| NoPosition)?);
        if run > Self::RUN_MAX || seq > Self::SEQ_MAX {
            return Err(NoPosition);
        }
        Ok(Self::new(run, seq))
    }
}

/// A reading in its stream: what the queue keeps and the uplink sends.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its place.
    pub position: Position,
    /// How many records of the stream were removed on purpose between the previous record and this one.
    pub skipped: u64,
    /// How many of `skipped` were thinned out: the history is coarser there, without a hole.
    pub thinned: u64,
    /// When it was measured.
    pub stamp: Stamp,
    /// The configured source's name.
    pub source: Name,
    /// What it is about; the Kafka key.
    pub device: Name,
    /// Named values.
    pub fields: Vec<Field>,
}

/// What a batch of records has in common; with a record's position it identifies the record for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// The gateway id at the time the records were made.
    pub gateway: Name,
    /// The queue's uuid; records show its first 8 hex digits.
    pub queue: uuid::Uuid,
    /// Which boot of the machine, for the correction of times: an index into the queue's table of boots.
    pub boot_index: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_packs_into_a_positive_i64_and_orders_by_run_then_seq() {
        let last = Position::new(Position::RUN_MAX, Position::SEQ_MAX);
        assert!(i64::try_from(last.packed()).is_ok());
        assert_eq!((last.run(), last.seq()), (Position::RUN_MAX, Position::SEQ_MAX));
        assert!(Position::new(2, 0) > Position::new(1, Position::SEQ_MAX));
        assert_eq!(Position::from_packed(Position::new(17, 48_213).packed()).to_string(), "17:48213");
    }

    #[test]
    fn floats_that_json_cannot_carry_become_null() {
        assert_eq!(Value::float(f64::NAN), Value::Null);
        assert_eq!(Value::float(f64::INFINITY), Value::Null);
        assert_eq!(Value::float(0.5), Value::Float(0.5));
    }
}
