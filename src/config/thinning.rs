//! A stream that is thinned needs room for a coarse history of each device: a warning where it certainly has too little.

use super::problem::Report;
use super::resolved::{Format, Queue, Source, SourceKind, Stream, WhenFull};
use super::tree::{Kind, Node};

/// Intervals of a coarse history: each tenth of the time covered has records of each device.
const INTERVALS: u64 = 10;
/// Bytes of a record, and of a field in it, before compression.
const RECORD_BYTES: u64 = 24;
const FIELD_BYTES: u64 = 12;
/// Fields of a GNSS receiver's record with a fix, and of a made-up device's; of those that are not configured.
const FIX_FIELDS: u64 = 12;
const SIMULATED_FIELDS: u64 = 7;

/// What a stream's devices need at the coarsest: `devices × 10 × (2 + 2 × fields) × record`, as far as sources say what
/// devices and fields they have. Topics of the local broker do not.
fn needed_bytes(stream: &Stream, sources: &[Source]) -> u64 {
    let of_device = |fields: u64| INTERVALS * (2 + 2 * fields) * (RECORD_BYTES + fields * FIELD_BYTES);
    let of_source = |source: &Source| match &source.kind {
        SourceKind::Modbus(modbus) => {
            let fields = modbus
                .units
                .iter()
                .map(|unit| unit.registers.iter().filter(|register| register.stream == stream.name).count() as u64);
            fields.filter(|fields| *fields > 0).map(of_device).sum()
        }
        _ if source.stream != stream.name => 0,
        SourceKind::Gnss(_) => of_device(FIX_FIELDS),
        SourceKind::Simulated(simulated) => u64::from(simulated.devices) * of_device(SIMULATED_FIELDS),
        SourceKind::Serial(serial) => match &serial.format {
            Format::Csv { columns, .. } => {
                of_device(columns.iter().filter(|column| !column.name.is_empty()).count() as u64)
            }
            Format::KeyValue { .. } | Format::Preset(_) => of_device(1),
        },
        SourceKind::Mqtt(_) => 0,
    };
    sources.iter().map(of_source).sum()
}

/// Warns of streams whose size, or the queue's, is below what they need.
pub(super) fn warn(
    written: &[(&Node, String)],
    streams: &[Stream],
    queue: Option<&Queue>,
    sources: &[Source],
    report: &Report,
) {
    for stream in streams.iter().filter(|stream| stream.retention.when_full == WhenFull::Thin) {
        let of_queue = queue.and_then(|queue| queue.quota_bytes);
        let Some(limit) = stream.retention.size_bytes.into_iter().chain(of_queue).min() else { continue };
        let needed = needed_bytes(stream, sources);
        if needed <= limit {
            continue;
        }
        if let Some((node, path)) = written.iter().find_map(|(node, path)| retention(node, path, &stream.name)) {
            let message = format!(
                "is thinned to at most {limit} bytes; the coarsest history of its devices may need {needed} (devices × \
                 {INTERVALS} × (2 + 2 × fields) × bytes of a record), below which the oldest records are dropped"
            );
            report.warning(&node.at, path, message);
        }
    }
}

/// The retention of the stream of this name, if it is written in this table.
fn retention<'a>(table: &'a Node, path: &str, stream: &str) -> Option<(&'a Node, String)> {
    let Kind::Table(entries) = &table.kind else { return None };
    let value = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    let is_named = matches!(&value("name")?.kind, Kind::Text(name) if name == stream);
    is_named.then(|| value("retention")).flatten().map(|node| (node, format!("{path}.retention")))
}
