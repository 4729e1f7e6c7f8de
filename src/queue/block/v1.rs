//! Block body, version 1. Frozen: what is here describes bytes that are on gateways' flash, and never changes.
//!
//! postcard of a dictionary and of records that refer to it. Positions and times are differences from the record
//! before, so that they take a byte or two. A block under the flag of thinned records has one number more in each.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::Header;
use crate::reading::{FIELDS_MAX, Name, Position, Record, Stamp, Trust, Value};

/// The number that a record has only under the flag of thinned records; without it there is no byte of it.
trait Thinned: Copy {
    fn new(thinned: u64) -> Self;
    fn count(self) -> u64;
}

impl Thinned for () {
    fn new(_: u64) -> Self {}

    fn count(self) -> u64 {
        0
    }
}

impl Thinned for u64 {
    fn new(thinned: u64) -> Self {
        thinned
    }

    fn count(self) -> u64 {
        self
    }
}

#[derive(Serialize, Deserialize)]
struct Body<'a, T> {
    /// Source, device and field names, each once, in order of first use.
    #[serde(borrow)]
    names: Vec<&'a str>,
    #[serde(borrow)]
    records: Vec<RecordV1<'a, T>>,
}

#[derive(Serialize, Deserialize)]
struct RecordV1<'a, T> {
    /// From the position before (the first: from the header's `first`).
    position_delta: u64,
    skipped: u64,
    thinned: T,
    /// From the record before (the first: from 0), wrapping.
    boot_delta_ns: i64,
    /// `wall_us - boot_ns / 1000` less that of the record before (the first: 0), wrapping.
    offset_delta_us: i64,
    trust: u8,
    /// Indexes into `names`.
    source: u32,
    device: u32,
    #[serde(borrow)]
    fields: Vec<(u32, ValueV1<'a>)>,
}

#[derive(Serialize, Deserialize)]
enum ValueV1<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Text(&'a str),
}

#[derive(Default)]
struct Dictionary<'a> {
    names: Vec<&'a str>,
    indexes: HashMap<&'a str, u32>,
}

impl<'a> Dictionary<'a> {
    fn index(&mut self, name: &'a str) -> u32 {
        let names = &mut self.names;
        *self.indexes.entry(name).or_insert_with(|| {
            names.push(name);
            (names.len() - 1) as u32 // a block has far fewer names than 2^32
        })
    }
}

fn offset_us(stamp: &Stamp) -> i64 {
    stamp.wall_us.wrapping_sub((stamp.boot_ns / 1_000) as i64)
}

/// The body of these records, which ascend; `with_thinned` is the flag of the header.
pub(super) fn encode(records: &[Record], with_thinned: bool) -> anyhow::Result<Vec<u8>> {
    if with_thinned { encode_as::<u64>(records) } else { encode_as::<()>(records) }
}

fn encode_as<T: Thinned + Serialize>(records: &[Record]) -> anyhow::Result<Vec<u8>> {
    let mut dictionary = Dictionary::default();
    let mut encoded = Vec::with_capacity(records.len());
    let mut position = records.first().map(|record| record.position.packed()).unwrap_or_default();
    let (mut boot_ns, mut offset) = (0u64, 0i64);
    for (index, record) in records.iter().enumerate() {
        let packed = record.position.packed();
        ensure!(index == 0 || packed > position, "record {} does not come after the one before", record.position);
        let fields =
            record.fields.iter().map(|field| (dictionary.index(&field.name), value_v1(&field.value))).collect();
        encoded.push(RecordV1 {
            position_delta: packed - position,
            skipped: record.skipped,
            thinned: T::new(record.thinned),
            boot_delta_ns: record.stamp.boot_ns.wrapping_sub(boot_ns) as i64,
            offset_delta_us: offset_us(&record.stamp).wrapping_sub(offset),
            trust: record.stamp.trust as u8,
            source: dictionary.index(&record.source),
            device: dictionary.index(&record.device),
            fields,
        });
        (position, boot_ns, offset) = (packed, record.stamp.boot_ns, offset_us(&record.stamp));
    }
    postcard::to_stdvec(&Body { names: dictionary.names, records: encoded }).context("encode block")
}

fn value_v1(value: &Value) -> ValueV1<'_> {
    match value {
        Value::Null => ValueV1::Null,
        Value::Bool(flag) => ValueV1::Bool(*flag),
        Value::Integer(number) => ValueV1::Integer(*number),
        Value::Unsigned(number) => ValueV1::Unsigned(*number),
        Value::Float(number) => ValueV1::Float(*number),
        Value::Text(text) => ValueV1::Text(text),
    }
}

/// The records of a body; checked against the header, whose flag is `with_thinned`.
pub(super) fn decode(header: &Header, plain: &[u8], with_thinned: bool) -> anyhow::Result<Vec<Record>> {
    if with_thinned { decode_as::<u64>(header, plain) } else { decode_as::<()>(header, plain) }
}

fn decode_as<'a, T: Thinned + Deserialize<'a>>(header: &Header, plain: &'a [u8]) -> anyhow::Result<Vec<Record>> {
    let (body, rest) = postcard::take_from_bytes::<Body<'a, T>>(plain).context("decode block")?;
    ensure!(rest.is_empty(), "{} bytes follow the block's records", rest.len());
    ensure!(body.records.len() == header.count as usize, "block has {} records", body.records.len());
    let names: Vec<Name> = body.names.iter().map(|name| Name::from(*name)).collect();
    let name = |index: u32| {
        names.get(index as usize).cloned().with_context(|| format!("name {index} of {} names", names.len()))
    };
    let mut position = header.first.packed();
    let (mut boot_ns, mut offset) = (0u64, 0i64);
    let mut records = Vec::with_capacity(body.records.len());
    for (index, record) in body.records.into_iter().enumerate() {
        ensure!((record.position_delta == 0) == (index == 0), "positions do not ascend");
        ensure!(record.fields.len() <= FIELDS_MAX, "{} fields, limit is {FIELDS_MAX}", record.fields.len());
        position = position.checked_add(record.position_delta).context("position out of range")?;
        boot_ns = boot_ns.wrapping_add(record.boot_delta_ns as u64);
        offset = offset.wrapping_add(record.offset_delta_us);
        let fields = record.fields.into_iter().map(|(index, value)| Ok(super::field(name(index)?, value_of(value))));
        records.push(Record {
            position: Position::from_packed(position),
            skipped: record.skipped,
            thinned: record.thinned.count(),
            stamp: Stamp {
                boot_ns,
                wall_us: offset.wrapping_add((boot_ns / 1_000) as i64),
                trust: Trust::from_u8(record.trust),
            },
            source: name(record.source)?,
            device: name(record.device)?,
            fields: fields.collect::<anyhow::Result<_>>()?,
        });
    }
    ensure!(position == header.last.packed(), "last record is not the header's last position");
    Ok(records)
}

fn value_of(value: ValueV1<'_>) -> Value {
    match value {
        ValueV1::Null => Value::Null,
        ValueV1::Bool(flag) => Value::Bool(flag),
        ValueV1::Integer(number) => Value::Integer(number),
        ValueV1::Unsigned(number) => Value::Unsigned(number),
        ValueV1::Float(number) => Value::float(number),
        ValueV1::Text(text) => Value::Text(text.to_owned()),
    }
}
