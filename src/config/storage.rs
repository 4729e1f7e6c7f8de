//! `[queue]`, `[[stream]]` and `[status]`.

use std::net::SocketAddr;
use std::time::Duration;

use super::keys::{RATE, RETENTION, STREAM};
use super::names::{self, is_kafka_topic, note_unique};
use super::output::WrittenForm;
use super::problem::Report;
use super::queue_key;
use super::reader::Table;
use super::resolved::{
    Compression, DrainOrder, Durability, Queue, Rate, Retention, STREAMS_MAX, Status, Stream, WhenFull,
};
use super::secret::Secrets;
use super::tree::Node;

/// The stream that exists without being written.
pub(super) const TELEMETRY: &str = "telemetry";

/// Reads `[queue]`.
pub(super) fn queue(table: &Table<'_>, secrets: Secrets<'_>) -> Option<Queue> {
    let keys = queue_key::read(table, secrets);
    let quota_bytes = if table.has("size") { table.size("size").map(Some) } else { Some(None) };
    let window = table.duration("window");
    let window_outage = window_outage(table, window);
    let tail_bytes_max = table.size("tail-bytes");
    let compression = match table.word("compression") {
        Some("none") => Some(Compression::None),
        Some("lz4") => Some(Compression::Lz4),
        Some(_) => Some(Compression::Zstd),
        None => None,
    };
    Some(Queue {
        quota_bytes: quota_bytes?,
        window: window?,
        window_outage: window_outage?,
        tail_bytes_max: tail_bytes_max?,
        compression: compression?,
        keys: keys?,
    })
}

/// The window of an outage; not shorter than that of every day.
fn window_outage(table: &Table<'_>, window: Option<Duration>) -> Option<Duration> {
    if !table.has("window-outage") {
        return window;
    }
    let written = table.duration("window-outage")?;
    if window.is_some_and(|window| written < window) {
        table.refuse("window-outage", "is shorter than queue.window");
        return None;
    }
    Some(written)
}

/// The streams, `telemetry` first unless it is written, their names (also of those that are wrong otherwise), and what
/// they say about their messages.
pub(super) fn streams(written: &[(&Node, String)], report: &Report) -> (Vec<Stream>, Vec<String>, Vec<WrittenForm>) {
    let mut taken = Vec::new();
    let mut forms = Vec::new();
    let mut streams = Vec::new();
    for (node, path) in written {
        let Some(table) = Table::new(node, path.clone(), &STREAM, report) else { continue };
        let stream = stream(&table, &mut taken);
        forms.extend(stream.as_ref().map(|stream| WrittenForm::read(&table, stream)));
        if taken.len() == STREAMS_MAX + 1 {
            table.error(&table.at, "name", format!("is stream {}; allowed: at most {STREAMS_MAX}", STREAMS_MAX + 1));
        }
        streams.extend(stream);
    }
    if !taken.iter().any(|name| name == TELEMETRY) {
        if taken.len() == STREAMS_MAX
            && let Some((node, path)) = written.last()
        {
            let message = format!(
                "is stream {} with \"telemetry\", which always exists; allowed: at most {STREAMS_MAX}",
                STREAMS_MAX + 1
            );
            report.error(&node.at, path.as_str(), message);
        }
        taken.insert(0, TELEMETRY.to_owned());
        streams.insert(
            0,
            Stream {
                name: TELEMETRY.into(),
                topic: TELEMETRY.to_owned(),
                priority: 0,
                durability: Durability::Window,
                retention: Retention::default(),
                drain: None,
                rate: Rate::default(),
            },
        );
    }
    (streams, taken, forms)
}

fn stream(table: &Table<'_>, taken: &mut Vec<String>) -> Option<Stream> {
    let name = names::identifier(table, "name", 64);
    if let Some(name) = &name {
        note_unique(table, "name", name, taken, "streams");
    }
    let topic = if table.has("topic") { table.text("topic") } else { name.clone() };
    if topic.as_deref().is_some_and(|topic| !is_kafka_topic(topic)) {
        table.refuse("topic", "is not a Kafka topic");
    }
    let priority = table.integer("priority");
    let durability = match table.word("durability") {
        Some("every-record") => Some(Durability::EveryRecord),
        Some(_) => Some(Durability::Window),
        None => None,
    };
    let retention = match table.table("retention", &RETENTION) {
        Some(table) => retention(&table),
        None => Some(Retention::default()),
    };
    let drain = if table.has("drain") { drain_order(table) } else { None };
    Some(Stream {
        name: name?.into(),
        topic: topic?,
        priority: priority?,
        durability: durability?,
        retention: retention?,
        drain,
        rate: rate(table)?,
    })
}

/// Reads `drain`.
pub(super) fn drain_order(table: &Table<'_>) -> Option<DrainOrder> {
    match table.word("drain")? {
        "newest-first" => Some(DrainOrder::NewestFirst),
        _ => Some(DrainOrder::OldestFirst),
    }
}

/// Reads `rate`.
pub(super) fn rate(table: &Table<'_>) -> Option<Rate> {
    let Some(rate) = table.table("rate", &RATE) else { return Some(Rate::default()) };
    if !rate.has("records") && !rate.has("bytes") {
        rate.error(&rate.at, "records", "missing; needed: records, bytes or both".to_owned());
    }
    Some(Rate {
        records: if rate.has("records") { Some(rate.integer("records")?) } else { None },
        bytes: if rate.has("bytes") { Some(rate.size("bytes")?) } else { None },
    })
}

fn retention(table: &Table<'_>) -> Option<Retention> {
    let size_bytes = if table.has("size") { table.size("size").map(Some) } else { Some(None) };
    let age = if table.has("age") { table.duration("age").map(Some) } else { Some(None) };
    let when_full = match table.word("when-full") {
        Some("reject-newest") => Some(WhenFull::RejectNewest),
        Some("thin") => Some(WhenFull::Thin),
        Some(_) => Some(WhenFull::DropOldest),
        None => None,
    };
    Some(Retention { size_bytes: size_bytes?, age: age?, when_full: when_full? })
}

/// Reads `[status]`; `Some(None)`: switched off.
pub(super) fn status(table: &Table<'_>) -> Option<Option<Status>> {
    let text = table.text("listen")?;
    if text == "off" {
        return Some(None);
    }
    match text.parse::<SocketAddr>() {
        Ok(listen) => {
            if !listen.ip().is_loopback() {
                let message = "can be reached from other machines, and there is no password".to_owned();
                table.report.warning(&table.place_of("listen"), table.path_of("listen"), message);
            }
            Some(Some(Status { listen }))
        }
        Err(_) => {
            table.refuse("listen", "is not an address and port");
            None
        }
    }
}
