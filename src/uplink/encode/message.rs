//! One message before it is written: what Avro and Protobuf have in common.

use std::borrow::Cow;

use uuid::fmt::Simple;

use super::columns::Cell;
use crate::reading::{Field, Lineage, Record, Value};

/// Whole numbers up to here are exact as floats.
pub const EXACT_MAX: u64 = 1 << 53;

/// A message's members, in the types they are written in.
#[derive(Debug)]
pub struct Message<'a> {
    /// What every record has.
    pub own: Own<'a>,
    /// The one field of a narrow message.
    pub metric: Option<Metric<'a>>,
    /// A cell or nothing for each column of the schema.
    pub cells: Vec<Option<Cell<'a>>>,
}

/// What every record has.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    /// The gateway's id.
    pub gateway: &'a str,
    /// The stream's name.
    pub stream: &'a str,
    /// What the record is about.
    pub device: &'a str,
    /// The source's name.
    pub source: &'a str,
    /// Time of measurement, microseconds since 1970 UTC.
    pub wall_us: i64,
    /// How far it can be trusted.
    pub clock: &'static str,
    /// First 8 hex digits of the queue's uuid.
    pub queue: &'a str,
    /// The agent's life.
    pub run: u32,
    /// The count inside it.
    pub seq: u64,
    /// Records removed on purpose before this one.
    pub skipped: u64,
    /// How many of these were thinned out.
    pub thinned: u64,
}

impl<'a> Own<'a> {
    /// Of a record; `queue` is [`queue_digits`].
    pub fn new(stream: &'a str, queue: &'a str, lineage: &'a Lineage, record: &'a Record) -> Self {
        Self {
            gateway: &lineage.gateway,
            stream,
            device: &record.device,
            source: &record.source,
            wall_us: record.stamp.wall_us,
            clock: record.stamp.trust.as_str(),
            queue,
            run: record.position.run(),
            seq: record.position.seq(),
            skipped: record.skipped,
            thinned: record.thinned,
        }
    }
}

/// How records name their queue: the first 8 hex digits of its uuid.
pub fn queue_digits<'a>(lineage: &Lineage, digits: &'a mut [u8; Simple::LENGTH]) -> &'a str {
    &lineage.queue.simple().encode_lower(digits)[..8]
}

/// One field as a narrow message has it: at most one of the four is there, none for a null.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metric<'a> {
    /// The field's name; none where the record has no field.
    pub name: Option<&'a str>,
    /// A number that is exact as a float.
    pub value: Option<f64>,
    /// A whole number beyond that.
    pub integer: Option<i64>,
    /// A boolean.
    pub flag: Option<bool>,
    /// Text; or the digits of a whole number above `i64::MAX`.
    pub text: Option<Cow<'a, str>>,
}

impl<'a> From<&'a Field> for Metric<'a> {
    fn from(field: &'a Field) -> Self {
        let named = Self { name: Some(&field.name), ..Self::default() };
        match &field.value {
            Value::Null => named,
            Value::Bool(flag) => Self { flag: Some(*flag), ..named },
            Value::Float(number) => Self { value: Some(*number), ..named },
            Value::Integer(number) if number.unsigned_abs() <= EXACT_MAX => {
                Self { value: Some(*number as f64), ..named }
            }
            Value::Integer(number) => Self { integer: Some(*number), ..named },
            Value::Unsigned(number) if *number <= EXACT_MAX => Self { value: Some(*number as f64), ..named },
            Value::Unsigned(number) => match i64::try_from(*number) {
                Ok(signed) => Self { integer: Some(signed), ..named },
                Err(_) => Self { text: Some(number.to_string().into()), ..named },
            },
            Value::Text(text) => Self { text: Some(text.into()), ..named },
        }
    }
}

/// The sign in the lowest bit, so that small negative numbers are short too.
pub fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

/// Seven bits a byte, the lowest first, the eighth says that more follow.
pub fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
