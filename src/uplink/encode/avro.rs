//! Avro: a topic's schema as JSON, and a record as a datum in Avro's binary encoding (Avro 1.12 specification).
//!
//! Written by hand: a datum is varints and length-prefixed text, and the library's value tree would cost an allocation
//! a field and a sixth of the size that a gateway's binary has left. Tests read it back with the library.

use serde_json::Value as Json;

use super::columns::{Cell, Column, Columns, Kind};
use super::message::{Message, Metric, Own};
use crate::config::Shape;

/// Namespace of all schemas.
const NAMESPACE: &str = "forebay";
const DECIMAL: &str = r#"{"type":"bytes","logicalType":"decimal","precision":20,"scale":0}"#;
const NULLABLE_LONG: &str = r#"["null","long"],"default":null"#;

/// Members that every record has: name, and type with what follows it. Never moved: `kafka::account` reads them, and
/// `metric` behind them, by their order alone.
const OWN: [(&str, &str); 11] = [
    ("gateway", r#""string""#),
    ("stream", r#""string""#),
    ("device", r#""string""#),
    ("source", r#""string""#),
    ("time", r#"{"type":"long","logicalType":"timestamp-micros"}"#),
    ("clock", r#""string""#),
    ("queue", r#""string""#),
    ("run", r#""int""#),
    ("seq", r#""long""#),
    ("skipped", NULLABLE_LONG),
    ("thinned", NULLABLE_LONG),
];

/// Members of a narrow record.
const METRIC: [(&str, &str); 5] = [
    ("metric", r#"["null","string"],"default":null"#),
    ("value", r#"["null","double"],"default":null"#),
    ("integer", NULLABLE_LONG),
    ("flag", r#"["null","boolean"],"default":null"#),
    ("text", r#"["null","string"],"default":null"#),
];

/// The schema of a topic: `name` is the record's.
pub fn schema(name: &str, shape: Shape, columns: &Columns) -> String {
    let mut fields: Vec<String> =
        own(shape).map(|(name, kind)| format!(r#"{{"name":"{name}","type":{kind}}}"#)).collect();
    for column in columns.list() {
        let (name, kind) = (&column.name, type_of(column.kind));
        // A property that Avro does not know is kept and ignored by its readers.
        let field = if column.field == *name { String::new() } else { format!(r#","field":{}"#, text(&column.field)) };
        fields.push(format!(r#"{{"name":"{name}","type":["null",{kind}],"default":null{field}}}"#));
    }
    format!(r#"{{"type":"record","name":"{name}","namespace":"{NAMESPACE}","fields":[{}]}}"#, fields.join(","))
}

fn own(shape: Shape) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let metric: &[_] = if shape == Shape::Narrow { &METRIC } else { &[] };
    OWN.iter().chain(metric)
}

fn text(text: &str) -> String {
    Json::from(text).to_string()
}

fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Boolean => r#""boolean""#,
        Kind::Long => r#""long""#,
        Kind::Unsigned => DECIMAL,
        Kind::Double => r#""double""#,
        Kind::Text => r#""string""#,
    }
}

/// The columns of a registered schema of ours, as far as they can be made out; numbers are given anew.
pub fn columns(schema: &str, shape: Shape) -> Columns {
    let Ok(Json::Object(schema)) = serde_json::from_str::<Json>(schema) else { return Columns::default() };
    let fields = schema.get("fields").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let known = fields.iter().filter_map(|field| {
        let name = field.get("name")?.as_str()?;
        if own(shape).any(|(own, _)| *own == name) {
            return None;
        }
        let [Json::String(null), kind] = field.get("type")?.as_array()?.as_slice() else { return None };
        let kind = (null == "null").then(|| kind_of(kind)).flatten()?;
        let shown = field.get("field").and_then(Json::as_str).unwrap_or(name);
        Some((shown.to_owned(), name.to_owned(), kind))
    });
    let numbered = known.zip(super::columns::FIRST_NUMBER..);
    Columns::from_list(numbered.map(|((field, name, kind), number)| Column { field, name, kind, number }).collect())
}

fn kind_of(json: &Json) -> Option<Kind> {
    match json.as_str() {
        Some("boolean") => Some(Kind::Boolean),
        Some("long") => Some(Kind::Long),
        Some("double") => Some(Kind::Double),
        Some("string") => Some(Kind::Text),
        Some(_) => None,
        None => (json.get("logicalType")?.as_str()? == "decimal").then_some(Kind::Unsigned),
    }
}

/// Appends a record as a datum of [`schema`].
pub fn write(out: &mut Vec<u8>, message: &Message<'_>) {
    write_own(out, &message.own);
    if let Some(metric) = &message.metric {
        write_metric(out, metric);
    }
    message.cells.iter().for_each(|cell| write_optional(out, *cell));
}

fn write_own(out: &mut Vec<u8>, own: &Own<'_>) {
    for text in [own.gateway, own.stream, own.device, own.source] {
        write_text(out, text);
    }
    write_long(out, own.wall_us);
    write_text(out, own.clock);
    write_text(out, own.queue);
    write_long(out, i64::from(own.run));
    write_long(out, own.seq.cast_signed());
    for count in [own.skipped, own.thinned] {
        write_optional(out, (count > 0).then(|| Cell::Long(count.cast_signed())));
    }
}

fn write_metric(out: &mut Vec<u8>, metric: &Metric<'_>) {
    write_optional(out, metric.name.map(Cell::Text));
    write_optional(out, metric.value.map(Cell::Double));
    write_optional(out, metric.integer.map(Cell::Long));
    write_optional(out, metric.flag.map(Cell::Boolean));
    write_optional(out, metric.text.as_deref().map(Cell::Text));
}

fn write_optional(out: &mut Vec<u8>, cell: Option<Cell<'_>>) {
    match cell {
        None => out.push(0),
        Some(cell) => {
            out.push(2);
            write_cell(out, cell);
        }
    }
}

fn write_cell(out: &mut Vec<u8>, cell: Cell<'_>) {
    match cell {
        Cell::Boolean(flag) => out.push(u8::from(flag)),
        Cell::Long(number) => write_long(out, number),
        Cell::Unsigned(number) => {
            // Two's complement, big endian: a zero before it keeps the highest bit from being a sign.
            write_long(out, 9);
            out.push(0);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Cell::Double(number) => out.extend_from_slice(&number.to_le_bytes()),
        Cell::Text(text) => write_text(out, text),
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    // No text of a record is anywhere near the end of an i64.
    write_long(out, i64::try_from(text.len()).unwrap_or(i64::MAX));
    out.extend_from_slice(text.as_bytes());
}

fn write_long(out: &mut Vec<u8>, number: i64) {
    super::message::write_varint(out, super::message::zigzag(number));
}
