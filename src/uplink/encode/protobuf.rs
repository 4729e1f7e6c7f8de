//! Protobuf: a topic's schema as proto3 text, and a record as a message in Protobuf's binary encoding
//! (protobuf.dev, "Encoding").
//!
//! Columns are `optional`: what is not in a record is not in its message. Written by hand like Avro: there is no
//! generated code for a schema that grows at run time.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::columns::{Cell, Column, Columns, Kind};
use super::message::{Message, write_varint, zigzag};
use crate::config::Shape;

const WIRE_VARINT: u64 = 0;
const WIRE_64_BIT: u64 = 1;
const WIRE_BYTES: u64 = 2;

/// Members that every record has: type, name, number. `kafka::account` reads them, and `metric`, by their numbers.
const OWN: [(&str, &str, u32); 11] = [
    ("string", "gateway", 1),
    ("string", "stream", 2),
    ("string", "device", 3),
    ("string", "source", 4),
    ("google.protobuf.Timestamp", "time", 5),
    ("string", "clock", 6),
    ("string", "queue", 7),
    ("uint32", "run", 8),
    ("uint64", "seq", 9),
    ("optional uint64", "skipped", 10),
    ("optional uint64", "thinned", 11),
];

/// Members of a narrow record.
const METRIC: [(&str, &str, u32); 5] = [
    ("optional string", "metric", 16),
    ("optional double", "value", 17),
    ("optional sint64", "integer", 18),
    ("optional bool", "flag", 19),
    ("optional string", "text", 20),
];

/// The schema of a topic: `name` is the message's.
pub fn schema(name: &str, shape: Shape, columns: &Columns) -> String {
    let mut text =
        String::from("syntax = \"proto3\";\npackage forebay;\n\nimport \"google/protobuf/timestamp.proto\";\n\n");
    let metric: &[_] = if shape == Shape::Narrow { &METRIC } else { &[] };
    // Writing to a string does not fail.
    let _ = writeln!(text, "message {name} {{");
    for (kind, name, number) in OWN.iter().chain(metric) {
        let _ = writeln!(text, "  {kind} {name} = {number};");
    }
    let mut shown_before = HashSet::new();
    for column in columns.list() {
        let (kind, name, number) = (type_of(column.kind), &column.name, column.number);
        let shown = json_name(column).filter(|shown| shown_before.insert(shown.clone()));
        let json_name = shown.map_or_else(String::new, |shown| format!(" [json_name = \"{}\"]", escaped(&shown)));
        let _ = writeln!(text, "  optional {kind} {name} = {number}{json_name};");
    }
    text.push_str("}\n");
    text
}

fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Boolean => "bool",
        Kind::Long => "sint64",
        Kind::Unsigned => "uint64",
        Kind::Double => "double",
        Kind::Text => "string",
    }
}

fn kind_of(word: &str) -> Option<Kind> {
    [Kind::Boolean, Kind::Long, Kind::Unsigned, Kind::Double, Kind::Text]
        .into_iter()
        .find(|kind| type_of(*kind) == word)
}

/// The field's name for Protobuf's JSON mapping: as in our own JSON, where the mapping would make
/// something else of it. A second column of a field says its type.
fn json_name(column: &Column) -> Option<String> {
    let is_first = super::columns::schema_name(&column.field) == column.name;
    let shown = if is_first { column.field.clone() } else { format!("{} ({})", column.field, column.kind.word()) };
    let is_default = shown == column.name && !shown.contains('_');
    // Names in brackets are kept for extensions, and a NUL is not allowed: these are shown as Protobuf likes it.
    (!is_default && !shown.starts_with('[') && !shown.contains('\0')).then_some(shown)
}

/// As it stands inside a proto string.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '"' => escaped.extend(['\\', c]),
            c if c.is_ascii_control() => {
                let _ = write!(escaped, "\\{:03o}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// The columns of a registered schema of ours, as far as they can be made out. A registry may have laid the text out
/// anew; one member a line is what they all do.
pub fn columns(schema: &str) -> Columns {
    Columns::from_list(schema.lines().filter_map(column).collect())
}

fn column(line: &str) -> Option<Column> {
    let rest = line.trim().strip_prefix("optional ")?;
    let (kind, rest) = rest.split_once(' ')?;
    let kind = kind_of(kind)?;
    let (name, rest) = rest.split_once('=')?;
    let name = name.trim().to_owned();
    let digits = rest.trim_start();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let number = digits[..end].parse().ok()?;
    let shown = digits[end..].split_once("json_name").and_then(|(_, value)| quoted(value));
    let of_second = |shown: &str| Some(shown.strip_suffix(&format!(" ({})", kind.word()))?.to_owned());
    let field = shown.map_or_else(|| name.clone(), |shown| of_second(&shown).unwrap_or(shown));
    Some(Column { field, name, kind, number })
}

/// The first proto string of `text`.
fn quoted(text: &str) -> Option<String> {
    let mut inside = text.split_once('"')?.1.chars();
    let mut plain = String::new();
    loop {
        match inside.next()? {
            '"' => return Some(plain),
            '\\' => match inside.next()? {
                digit @ '0'..='7' => {
                    let code = [Some(digit), inside.next(), inside.next()];
                    let code = code.into_iter().try_fold(0, |code, digit| Some(code * 8 + digit?.to_digit(8)?));
                    plain.push(char::from_u32(code?)?);
                }
                other => plain.push(other),
            },
            other => plain.push(other),
        }
    }
}

/// Appends a record as a message of [`schema`]; `columns` are those its cells are of.
pub fn write(out: &mut Vec<u8>, message: &Message<'_>, columns: &Columns) {
    let own = &message.own;
    for (number, text) in [(1, own.gateway), (2, own.stream), (3, own.device), (4, own.source)] {
        write_plain_text(out, number, text);
    }
    write_time(out, 5, own.wall_us);
    write_plain_text(out, 6, own.clock);
    write_plain_text(out, 7, own.queue);
    for (number, value) in [(8, u64::from(own.run)), (9, own.seq), (10, own.skipped), (11, own.thinned)] {
        // proto3 leaves the default out; the last two are 0 where there is nothing to tell.
        if value > 0 {
            write_cell(out, number, Cell::Unsigned(value));
        }
    }
    if let Some(metric) = &message.metric {
        let cells = [
            (16, metric.name.map(Cell::Text)),
            (17, metric.value.map(Cell::Double)),
            (18, metric.integer.map(Cell::Long)),
            (19, metric.flag.map(Cell::Boolean)),
            (20, metric.text.as_deref().map(Cell::Text)),
        ];
        cells.iter().for_each(|(number, cell)| write_optional(out, *number, *cell));
    }
    for (column, cell) in columns.list().iter().zip(&message.cells) {
        write_optional(out, column.number, *cell);
    }
}

fn write_optional(out: &mut Vec<u8>, number: u32, cell: Option<Cell<'_>>) {
    if let Some(cell) = cell {
        write_cell(out, number, cell);
    }
}

fn write_cell(out: &mut Vec<u8>, number: u32, cell: Cell<'_>) {
    match cell {
        Cell::Boolean(flag) => write_number(out, number, u64::from(flag)),
        Cell::Long(value) => write_number(out, number, zigzag(value)),
        Cell::Unsigned(value) => write_number(out, number, value),
        Cell::Double(value) => {
            write_tag(out, number, WIRE_64_BIT);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Cell::Text(text) => write_bytes(out, number, text.as_bytes()),
    }
}

fn write_plain_text(out: &mut Vec<u8>, number: u32, text: &str) {
    if !text.is_empty() {
        write_bytes(out, number, text.as_bytes());
    }
}

fn write_number(out: &mut Vec<u8>, number: u32, value: u64) {
    write_tag(out, number, WIRE_VARINT);
    write_varint(out, value);
}

fn write_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    write_tag(out, number, WIRE_BYTES);
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A `google.protobuf.Timestamp`: seconds as int64 (1), nanoseconds as int32 (2), which is never negative.
fn write_time(out: &mut Vec<u8>, number: u32, wall_us: i64) {
    let (seconds, micros) = (wall_us.div_euclid(1_000_000), wall_us.rem_euclid(1_000_000));
    let mut inner = Vec::with_capacity(16);
    if seconds != 0 {
        write_number(&mut inner, 1, seconds.cast_unsigned());
    }
    if micros != 0 {
        write_number(&mut inner, 2, micros.cast_unsigned() * 1_000);
    }
    write_bytes(out, number, &inner);
}

fn write_tag(out: &mut Vec<u8>, number: u32, wire: u64) {
    write_varint(out, u64::from(number) << 3 | wire);
}
