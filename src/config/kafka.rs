//! `[kafka]`: the uplink's settings, and which librdkafka properties the agent keeps for itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::{SASL, TLS};
use super::names::host_port;
use super::reader::Table;
use super::resolved::{Kafka, KafkaCompression, Sasl, Tls};
use super::secret::{self, Secrets};
use super::tree::{Kind, quoted};

/// Most properties in `[kafka.properties]`.
const PROPERTIES_MAX: usize = 64;

/// librdkafka properties that the agent sets, and why a user may not: (name, where it is configured or what rests on it).
pub(super) const OWNED_PROPERTIES: [(&str, &str); 32] = [
    ("acks", "nothing leaves the queue before all in-sync replicas have it"),
    ("request.required.acks", "nothing leaves the queue before all in-sync replicas have it"),
    ("enable.idempotence", "order and at-least-once delivery rest on it"),
    ("enable.gapless.guarantee", "the queue keeps order itself"),
    ("max.in.flight", "order rests on it"),
    ("max.in.flight.requests.per.connection", "order rests on it"),
    ("message.timeout.ms", "the queue is the retry store; the client must not give up"),
    ("delivery.timeout.ms", "the queue is the retry store; the client must not give up"),
    ("retries", "the queue is the retry store; the client must not give up"),
    ("message.send.max.retries", "the queue is the retry store; the client must not give up"),
    ("transactional.id", "not yet supported"),
    ("transaction.timeout.ms", "not yet supported"),
    ("bootstrap.servers", "write kafka.brokers"),
    ("metadata.broker.list", "write kafka.brokers"),
    ("client.id", "it is the gateway id"),
    ("compression.type", "write kafka.compression"),
    ("compression.codec", "write kafka.compression"),
    ("linger.ms", "write kafka.linger"),
    ("queue.buffering.max.ms", "write kafka.linger"),
    ("queue.buffering.max.messages", "write kafka.in-flight-bytes"),
    ("queue.buffering.max.kbytes", "write kafka.in-flight-bytes"),
    ("security.protocol", "write kafka.tls and kafka.sasl"),
    ("sasl.mechanism", "write kafka.sasl.mechanism"),
    ("sasl.mechanisms", "write kafka.sasl.mechanism"),
    ("sasl.username", "write kafka.sasl.username"),
    ("sasl.password", "secrets come from files: write kafka.sasl.password-file"),
    ("ssl.ca.location", "write kafka.tls.ca"),
    ("ssl.certificate.location", "write kafka.tls.cert"),
    ("ssl.key.location", "write kafka.tls.key"),
    ("ssl.key.password", "secrets come from files: give the key in a file without password"),
    ("plugin.library.paths", "the agent loads no foreign code"),
    ("partitioner", "a device's order rests on its partition"),
];

/// Reads `[kafka]`.
pub(super) fn read(
    table: &Table<'_>,
    gateway: Option<&str>,
    window: Option<Duration>,
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
    if let Some(Some(sasl)) = &sasl
        && sasl.mechanism == "PLAIN"
        && tls.is_none()
    {
        let message = "sends the password in clear without kafka.tls".to_owned();
        table.report.warning(&table.place_of("sasl"), table.path_of("sasl"), message);
    }
    let compression = match table.word("compression") {
        Some("none") => Some(KafkaCompression::None),
        Some("lz4") => Some(KafkaCompression::Lz4),
        Some(_) => Some(KafkaCompression::Zstd),
        None => None,
    };
    let in_flight_bytes_max = table.size("in-flight-bytes");
    let linger = table.duration("linger");
    if let (Some(linger), Some(window)) = (linger, window)
        && linger > window / 10
    {
        let message =
            "is more than a tenth of queue.window; records will be written to flash while the uplink is healthy";
        table.report.warning(&table.place_of("linger"), table.path_of("linger"), message);
    }
    for key in ["delivery", "drain", "encoding"] {
        table.word(key);
    }
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
        properties,
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

fn read_sasl(table: &Table<'_>, secrets: Secrets<'_>) -> Option<Sasl> {
    let mechanism = table.word("mechanism");
    let username = table.text("username");
    let password = secret::read(table, secrets);
    if !table.has("password-file") && !table.has("password-credential") {
        table.error(&table.at, "password-file", "missing; needed: password-file or password-credential".to_owned());
    }
    Some(Sasl { mechanism: mechanism?.to_owned(), username: username?, password: password? })
}

fn read_properties(table: &Table<'_>) -> BTreeMap<String, String> {
    let entries = table.entries_of("properties");
    if entries.len() > PROPERTIES_MAX {
        table.refuse("properties", &format!("has {} properties", entries.len()));
    }
    let mut properties = BTreeMap::new();
    for entry in entries.iter().take(PROPERTIES_MAX) {
        let path = format!("{}.{}", table.path_of("properties"), quoted(&entry.key));
        if let Some((name, why)) = OWNED_PROPERTIES.iter().find(|(name, _)| *name == entry.key) {
            table.report.error(&entry.at, path.as_str(), format!("{name} is set by the agent: {why}"));
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
        properties.insert(entry.key.clone(), value);
    }
    properties
}
