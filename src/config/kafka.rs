//! `[kafka]`: the uplink's settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::keys::{SASL, TLS};
use super::names::host_port;
use super::owned_properties::owned_property;
use super::reader::Table;
use super::resolved::{Delivery, Kafka, KafkaCompression, Output, Tls, Transactions};
use super::sasl::read_sasl;
use super::secret::Secrets;
use super::tree::{Kind, Node, quoted};

/// Most properties in `[kafka.properties]`.
const PROPERTIES_MAX: usize = 64;

/// Properties and values that let anybody pass for a broker.
const UNVERIFIED: [(&str, &str); 2] =
    [("enable.ssl.certificate.verification", "false"), ("ssl.endpoint.identification.algorithm", "none")];

/// Reads `[kafka]`.
pub(super) fn read(table: &Table<'_>, gateway: Option<&str>, secrets: Secrets<'_>) -> Option<Kafka> {
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
    let delivery = read_delivery(table);
    table.word("drain");
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
