//! `[[source]]`: what every type has, and each type but Modbus.

use super::keys::{self, COLUMN, GNSS, MODBUS, MQTT_SOURCE, SERIAL, SIMULATED, SOURCE, Section};
use super::names::{self, note_unique};
use super::ports::{read_line, read_port};
use super::problem::Report;
use super::reader::Table;
use super::resolved::{
    Column, ColumnKind, Format, Gnss, MqttSource, Payload, Preset, Serial, Simulated, Source, SourceKind,
};
use super::tree::{Kind, Node, quoted};
use super::{broker, modbus};
use crate::reading::{FIELDS_MAX, Name};

/// Most sources of one gateway.
pub const SOURCES_MAX: usize = 64;

/// What sources are checked against.
pub(super) struct Surroundings<'a> {
    /// Names of the streams there are.
    pub(super) streams: &'a [String],
    /// Names of tags, which fields may not take.
    pub(super) tags: &'a [String],
    /// The topics we publish on; `None` without `[mqtt]`.
    pub(super) publications: Option<&'a broker::Publications>,
}

/// A source as read, and whether it is to run.
pub(super) struct Read {
    pub(super) source: Source,
    pub(super) enabled: bool,
}

/// Reads one element of `[[source]]`.
pub(super) fn read(
    node: &Node,
    path: String,
    around: &Surroundings<'_>,
    taken: &mut Vec<String>,
    report: &Report,
) -> Option<Read> {
    let section = section_of(node).unwrap_or(&SOURCE);
    if std::ptr::eq(section, &SOURCE) {
        // Without a known type only the type can be judged: the other keys may all be right.
        let only_type: Vec<_> = entries(node).iter().filter(|entry| entry.key == "type").cloned().collect();
        let node = match &node.kind {
            Kind::Table(_) => Node { at: node.at.clone(), kind: Kind::Table(only_type) },
            _ => node.clone(),
        };
        Table::new(&node, path, section, report)?.word("type");
        return None;
    }
    let table = Table::new(node, path, section, report)?;
    let name = names::identifier(&table, "name", 64);
    if let Some(name) = &name {
        note_unique(&table, "name", name, taken, "sources");
    }
    let enabled = table.boolean("enabled");
    let stream = names::stream(&table, "stream", around.streams);
    let kind_name = table.word("type")?;
    let fallback: Name = name.clone().unwrap_or_default().into();
    let kind = match kind_name {
        "gnss" => gnss(&table, fallback).map(SourceKind::Gnss),
        "serial" => serial(&table, fallback, around.tags).map(SourceKind::Serial),
        "modbus" => modbus::read(&table, stream.clone(), around).map(SourceKind::Modbus),
        "mqtt" => mqtt(&table, around).map(SourceKind::Mqtt),
        _ => simulated(&table).map(SourceKind::Simulated),
    };
    Some(Read { source: Source { name: name?.into(), stream: stream?, kind: kind? }, enabled: enabled? })
}

fn entries(node: &Node) -> &[super::tree::Entry] {
    match &node.kind {
        Kind::Table(entries) => entries,
        _ => &[],
    }
}

fn section_of(node: &Node) -> Option<&'static Section> {
    let entry = entries(node).iter().find(|entry| entry.key == "type")?;
    let Kind::Text(text) = &entry.value.kind else { return None };
    let sections: [&'static Section; 5] = [&GNSS, &SERIAL, &MODBUS, &MQTT_SOURCE, &SIMULATED];
    keys::TYPES.iter().zip(sections).find(|(name, _)| *name == text).map(|(_, section)| section)
}

fn device_or(table: &Table<'_>, fallback: Name) -> Option<Name> {
    if table.has("device") { names::device(table, "device") } else { Some(fallback) }
}

fn gnss(table: &Table<'_>, fallback: Name) -> Option<Gnss> {
    let port = read_port(table);
    let baud = match table.get("baud").map(|node| &node.kind) {
        None => Some(None),
        Some(Kind::Text(text)) if text == "auto" => Some(None),
        Some(Kind::Integer(baud @ 1_200..=4_000_000)) => Some(u32::try_from(*baud).ok()),
        Some(_) => {
            table.refuse("baud", "is not a speed");
            None
        }
    };
    let device = device_or(table, fallback);
    let no_fix_every = table.duration("no-fix-every");
    Some(Gnss { port: port?, baud: baud?, device: device?, no_fix_every: no_fix_every? })
}

fn serial(table: &Table<'_>, fallback: Name, tags: &[String]) -> Option<Serial> {
    let port = read_port(table);
    let line = read_line(table);
    let device = device_or(table, fallback);
    let preset = table.word("preset");
    let format_word = table.word("format");
    let format = match (table.has("preset"), table.has("format")) {
        (true, false) => {
            for key in ["separator", "assign", "columns", "line-bytes-max"].into_iter().filter(|key| table.has(key)) {
                table.error(&table.place_of(key), key, "does not go with preset; remove it".to_owned());
            }
            preset.map(|_| Format::Preset(Preset::Pms5003))
        }
        (false, true) => lines(table, format_word, tags),
        (both, _) => {
            let what = if both { "preset and format are both written" } else { "neither preset nor format is written" };
            let presets = names::allowed(&SERIAL, "preset");
            let formats = names::allowed(&SERIAL, "format");
            table.error(
                &table.at,
                "format",
                format!("{what}; allowed: one of preset = {presets} or format = {formats}"),
            );
            None
        }
    };
    Some(Serial { port: port?, line: line?, device: device?, format: format? })
}

fn lines(table: &Table<'_>, format: Option<&str>, tags: &[String]) -> Option<Format> {
    let separator = one_character(table, "separator");
    let line_bytes_max = table.size("line-bytes-max");
    if format? == "key-value" {
        let assign = one_character(table, "assign");
        if table.has("columns") {
            table.error(&table.place_of("columns"), "columns", "goes with format = \"csv\" only; remove it".to_owned());
        }
        if assign.is_some() && assign == separator {
            table.refuse("assign", "is the separator too");
        }
        return Some(Format::KeyValue { separator: separator?, assign: assign?, line_bytes_max: line_bytes_max? });
    }
    if table.has("assign") {
        table.error(&table.place_of("assign"), "assign", "goes with format = \"key-value\" only; remove it".to_owned());
    }
    if !table.has("columns") {
        table.refuse("columns", "is written, and format = \"csv\" needs it");
        return None;
    }
    let columns = columns(table, tags);
    Some(Format::Csv { separator: separator?, columns, line_bytes_max: line_bytes_max? })
}

fn one_character(table: &Table<'_>, key: &str) -> Option<char> {
    let text = table.text(key)?;
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(only), None) if only.is_ascii() && !only.is_ascii_alphanumeric() && !"+-.\r\n\"\0".contains(only) => {
            Some(only)
        }
        _ => {
            table
                .refuse(key, "is not one character that can stand between values (no letter, digit, sign, dot, quote)");
            None
        }
    }
}

fn columns(table: &Table<'_>, tags: &[String]) -> Vec<Column> {
    let mut taken = Vec::new();
    let mut columns = Vec::new();
    for (index, node) in table.list("columns", 1..=FIELDS_MAX).iter().enumerate() {
        let path = format!("{}[{}]", table.path_of("columns"), index + 1);
        let column = match &node.kind {
            Kind::Text(name) => {
                if let Some(why) = names::field_fault(name, tags).filter(|_| !name.is_empty()) {
                    table.report.error(&node.at, path.as_str(), format!("{} {why}", quoted(name)));
                }
                Some(Column { name: name.as_str().into(), kind: ColumnKind::Float })
            }
            _ => Table::new(node, path.clone(), &COLUMN, table.report).and_then(|column| column_of(&column, tags)),
        };
        let Some(column) = column else { continue };
        if !column.name.is_empty() && taken.contains(&column.name) {
            table.report.error(
                &node.at,
                path,
                format!("{} is taken; columns need names of their own", quoted(&column.name)),
            );
        }
        taken.push(column.name.clone());
        columns.push(column);
    }
    if !taken.is_empty() && taken.iter().all(|name| name.is_empty()) {
        table.refuse("columns", "names no column, so there is nothing to record");
    }
    columns
}

fn column_of(table: &Table<'_>, tags: &[String]) -> Option<Column> {
    let name = names::field(table, "name", tags);
    let kind = match table.word("type")? {
        "integer" => ColumnKind::Integer,
        "text" => ColumnKind::Text,
        "bool" => ColumnKind::Bool,
        _ => ColumnKind::Float,
    };
    Some(Column { name: name?, kind })
}

fn mqtt(table: &Table<'_>, around: &Surroundings<'_>) -> Option<MqttSource> {
    if around.publications.is_none() {
        table.error(
            &table.at,
            "type",
            "\"mqtt\" needs the local broker; write [mqtt] with broker = \"mqtt://host\"".to_owned(),
        );
    }
    let mut topics = Vec::new();
    for (topic, place) in table.texts("topics", 1..=64) {
        let shown = quoted(topic);
        if !names::is_topic_filter(topic) {
            let allowed = "\"+\" alone in a level, \"#\" alone in the last one";
            table.error(&place, "topics", format!("{shown} is not an MQTT topic filter; allowed: {allowed}"));
        } else if let Some(ours) = around.publications.and_then(|published| published.taken_in_by(topic)) {
            table.error(
                &place,
                "topics",
                format!("{shown} takes in our own publications on {ours}; write a narrower filter"),
            );
        }
        topics.push(topic.to_owned());
    }
    let qos = table.integer("qos");
    let device = table.text("device");
    let is_level = |part: &str| {
        part.strip_prefix("topic.")
            .is_some_and(|level| (1..=3).contains(&level.len()) && level.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if let Some(fault) = device.as_deref().and_then(|device| names::template_fault(device, &["topic"], is_level)) {
        table.refuse("device", &fault);
    }
    let payload = table.word("payload").map(|word| if word == "raw" { Payload::Raw } else { Payload::Json });
    let payload_bytes_max = table.size("payload-bytes-max");
    Some(MqttSource { topics, qos: qos?, device: device?, payload: payload?, payload_bytes_max: payload_bytes_max? })
}

fn simulated(table: &Table<'_>) -> Option<Simulated> {
    let devices = table.integer("devices");
    let every = table.duration("every");
    Some(Simulated { devices: devices?, every: every? })
}
