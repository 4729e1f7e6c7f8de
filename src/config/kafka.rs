//! `[kafka]`: the uplink's settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::keys::{BUDGET, SASL, TLS};
use super::names::host_port;
use super::owned_properties::owned_property;
use super::reader::Table;
use super::resolved::{Budget, Delivery, DrainOrder, Kafka, KafkaCompression, Output, Stream, Tls, Transactions};
use super::sasl::read_sasl;
use super::secret::Secrets;
use super::storage;
use super::tree::{Kind, Node, quoted};

/// Exactly once knows one cursor a stream, which newest-first has not.
const NOT_WITH_EXACTLY_ONCE: &str =
    "\"newest-first\", which does not go with kafka.delivery = \"exactly-once\"; allowed: \"oldest-first\"";
/// Most properties in `[kafka.properties]`.
const PROPERTIES_MAX: usize = 64;

/// Properties and values that let anybody pass for a broker.
const UNVERIFIED: [(&str, &str); 2] =
    [("enable.ssl.certificate.verification", "false"), ("ssl.endpoint.identification.algorithm", "none")];

/// Reads `[kafka]`.
pub(super) fn read(
    table: &Table<'_>,
    gateway: Option<&str>,
    streams: &[Stream],
    secrets: Secrets<'_>,
) -> Option<Kafka> {
    let mut brokers = Vec::new();
    for (broker, place) in table.texts("brokers", 1..=32) {
        if host_port(broker, None).is_none() {
            table.error(
                &place,
                "brokers",
                format!("{} is not a broker; allowed: host:port, port 1 to 65535", quoted(broker)),
            );
        }
        brokers.push(broker.to_owned());
    }
    let tls = table.table("tls", &TLS).map(|tls| read_tls(&tls, secrets));
    let sasl = table.table("sasl", &SASL).map(|sasl| read_sasl(&sasl, secrets));
    if let (Some(sasl), None) = (table.get("sasl"), &tls) {
        warn_of_open_secret(table, sasl);
    }
    let compression = match table.word("compression") {
        Some("none") => Some(KafkaCompression::None),
        Some("lz4") => Some(KafkaCompression::Lz4),
        Some(_) => Some(KafkaCompression::Zstd),
        None => None,
    };
    let in_flight_bytes_max = table.size("in-flight-bytes");
    let linger = table.duration("linger");
    let rate = storage::rate(table);
    let budget = table.table("budget", &BUDGET).map(|budget| read_budget(&budget));
    let delivery = read_delivery(table);
    let drain = storage::drain_order(table);
    refuse_newest_first(table, delivery.as_ref(), drain, streams);
    let properties = read_properties(table);
    Some(Kafka {
        brokers,
        client_id: gateway?.to_owned(),
        tls,
        sasl: match sasl {
            Some(read) => Some(read?),
            None => None,
        },
        compression: compression?,
        in_flight_bytes_max: in_flight_bytes_max?,
        linger: linger?,
        drain: drain?,
        rate: rate?,
        budget: match budget {
            Some(read) => Some(read?),
            None => None,
        },
        delivery: delivery?,
        properties,
        output: Output::default(),
    })
}

/// SCRAM proves a password without showing it; the others send what logs in.
fn warn_of_open_secret(table: &Table<'_>, sasl: &Node) {
    let Kind::Table(entries) = &sasl.kind else { return };
    let mechanism = entries.iter().find(|entry| entry.key == "mechanism").map(|entry| &entry.value.kind);
    let secret = match mechanism {
        Some(Kind::Text(word)) if word == "PLAIN" => "password",
        Some(Kind::Text(word)) if word == "OAUTHBEARER" => "token",
        _ => return,
    };
    table.report.warning(&sasl.at, table.path_of("sasl"), format!("sends the {secret} in clear without kafka.tls"));
}

/// Longest `transactional-id`: the group ids that begin with it stay below Kafka's limit for names of files and topics.
const TRANSACTIONAL_ID_CHARS_MAX: usize = 200;

fn read_delivery(table: &Table<'_>) -> Option<Delivery> {
    let timeout = table.duration("transaction-timeout");
    let id = if table.has("transactional-id") { Some(table.text("transactional-id")?) } else { None };
    let exactly_once = table.word("delivery")? == "exactly-once";
    if let Some(id) = &id {
        let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if id.is_empty() || id.len() > TRANSACTIONAL_ID_CHARS_MAX || !id.chars().all(is_allowed) {
            table.refuse("transactional-id", "is no transactional id");
        }
    }
    for key in ["transactional-id", "transaction-timeout"] {
        if table.has(key) && !exactly_once {
            let message = "has no effect without kafka.delivery = \"exactly-once\"".to_owned();
            table.report.warning(&table.place_of(key), table.path_of(key), message);
        }
    }
    Some(if exactly_once {
        Delivery::ExactlyOnce(Transactions { id, timeout: timeout? })
    } else {
        Delivery::AtLeastOnce
    })
}

fn read_tls(table: &Table<'_>, secrets: Secrets<'_>) -> Tls {
    let directory = if let Secrets::Read(directory) = secrets { directory } else { Path::new("") };
    let path = |key: &str| -> Option<PathBuf> {
        if table.has(key) { table.text(key).map(|text| directory.join(text)) } else { None }
    };
    for (one, other) in [("cert", "key"), ("key", "cert")] {
        if table.has(one) && !table.has(other) {
            table.error(&table.place_of(one), one, format!("stands without {other}; allowed: both or none"));
        }
    }
    Tls { ca: path("ca"), cert: path("cert"), key: path("key") }
}

/// All errors at once: also where other keys make no sense.
fn refuse_newest_first(table: &Table<'_>, delivery: Option<&Delivery>, drain: Option<DrainOrder>, streams: &[Stream]) {
    if !matches!(delivery, Some(Delivery::ExactlyOnce(_))) {
        return;
    }
    if drain == Some(DrainOrder::NewestFirst) {
        table.error(&table.place_of("drain"), "drain", NOT_WITH_EXACTLY_ONCE.to_owned());
    }
    if let Some(stream) = streams.iter().find(|stream| stream.drain == Some(DrainOrder::NewestFirst)) {
        let message = format!("stream {} has drain = {NOT_WITH_EXACTLY_ONCE}", quoted(&stream.name));
        table.error(&table.place_of("delivery"), "delivery", message);
    }
}

fn read_budget(table: &Table<'_>) -> Option<Budget> {
    if !table.has("day") && !table.has("month") {
        table.error(&table.at, "day", "missing; needed: day, month or both".to_owned());
    }
    let reserve = table.text("reserve")?;
    let reserve_percent = reserve.strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
    let reserve_percent = reserve_percent.filter(|percent| *percent <= 90);
    if reserve_percent.is_none() {
        table.refuse("reserve", "is not such a percentage");
    }
    Some(Budget {
        day_bytes: if table.has("day") { Some(table.size("day")?) } else { None },
        month_bytes: if table.has("month") { Some(table.size("month")?) } else { None },
        reserve_percent: reserve_percent?,
        reserve_priority: table.integer("reserve-priority")?,
    })
}

fn read_properties(table: &Table<'_>) -> BTreeMap<String, String> {
    let entries = table.entries_of("properties");
    if entries.len() > PROPERTIES_MAX {
        table.refuse("properties", &format!("has {} properties", entries.len()));
    }
    let mut properties = BTreeMap::new();
    for entry in entries.iter().take(PROPERTIES_MAX) {
        let path = format!("{}.{}", table.path_of("properties"), quoted(&entry.key));
        if let Some(why) = owned_property(&entry.key) {
            table.report.error(&entry.at, path.as_str(), format!("{} is set by the agent: {why}", entry.key));
        }
        let value = match &entry.value.kind {
            Kind::Text(text) => text.clone(),
            Kind::Integer(number) => number.to_string(),
            Kind::Boolean(flag) => flag.to_string(),
            _ => {
                let message = format!(
                    "{} is not a property's value; allowed: text, a whole number, true, false",
                    entry.value.shown()
                );
                table.report.error(&entry.value.at, path, format!("{message} (property names with dots need quotes)"));
                continue;
            }
        };
        if UNVERIFIED.contains(&(entry.key.as_str(), value.as_str())) {
            let message =
                "switches off what proves that a broker is the right one: anybody on the way can take its place";
            table.report.warning(&entry.at, path, message.to_owned());
        }
        properties.insert(entry.key.clone(), value);
    }
    properties
}
