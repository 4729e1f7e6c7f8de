//! librdkafka's properties for an uplink that fails often and may be metered.
//!
//! The queue on disk is the retry store; librdkafka is only a small bounded window of records in flight. Names and
//! defaults: librdkafka 2.12 `CONFIGURATION.md`.

use std::time::Duration;

use crate::config::{Kafka, KafkaCompression, Sasl};

/// How often the client reports its connections and what it sent.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait for an answer to a request on a dead link: the largest batch needs it on the slowest.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(20);
/// Most records of one stream inside the client, beside the limit in bytes: each costs about 300 bytes of its own.
const IN_FLIGHT_RECORDS_MAX: usize = 10_000;
/// Most records inside the client over all streams.
const CLIENT_RECORDS_MAX: usize = 40_000;
/// Most bytes of records inside the client over all streams.
const CLIENT_BYTES_MAX: usize = 64 << 20;
/// Largest batch: 256 KiB leaves a 128 kbit/s link inside the socket timeout, and is enough for full compression.
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// How long a careful client gathers: all records that are handed over in one go are to be one batch.
const CAREFUL_LINGER: Duration = Duration::from_millis(100);
/// Most bytes handed to a careful client in one go: with the client's overhead they still are one batch.
pub(crate) const CAREFUL_BYTES_MAX: usize = BATCH_BYTES_MAX / 2;

/// How long a transactional client gathers.
const TRANSACTION_LINGER: Duration = Duration::from_millis(2);

/// What the client does when Kafka refuses a batch for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It stops. The batches behind are refused by the broker as out of sequence or were not sent, so none of them
    /// overtakes the records that have to be sent again.
    Stops,
    /// It goes on: while a record is isolated or a hold is probed. All streams are sent one batch at a time then, as what
    /// is behind a refused one would overtake it.
    Careful,
}

impl Refusal {
    /// The properties that make it so, to be set after all others.
    pub(super) fn properties(self, kafka: &Kafka) -> Vec<(&'static str, String)> {
        match self {
            Self::Stops => vec![("enable.gapless.guarantee", "true".into())],
            Self::Careful => vec![
                ("linger.ms", kafka.linger.max(CAREFUL_LINGER).as_millis().to_string()),
                ("batch.size", BATCH_BYTES_MAX.to_string()),
                ("batch.num.messages", "10000".into()),
            ],
        }
    }
}

/// Largest batch that the producer makes, as configured.
pub(crate) fn batch_bytes_max(kafka: &Kafka) -> u64 {
    let written = kafka.properties.get("batch.size").and_then(|text| text.parse().ok());
    written.unwrap_or(BATCH_BYTES_MAX as u64)
}

/// Most bytes handed to a careful client in one go, where batches may be smaller than usual: none is larger than
/// `message.max.bytes`.
pub(super) fn careful_bytes_max(kafka: &Kafka) -> usize {
    let written = kafka.properties.get("message.max.bytes").and_then(|text| text.parse().ok());
    CAREFUL_BYTES_MAX.min(written.map_or(usize::MAX, |bytes: usize| bytes / 2))
}

/// How long a request may wait for its answer, as configured.
pub(crate) fn socket_timeout(kafka: &Kafka) -> Duration {
    let written = kafka.properties.get("socket.timeout.ms").and_then(|text| text.parse().ok());
    written.map_or(SOCKET_TIMEOUT, Duration::from_millis)
}

/// What one stream may have inside the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Records handed over and not yet reported.
    pub records_max: usize,
    /// Their bytes, beyond which none is added.
    pub bytes_max: usize,
}

/// The window of each of `streams` that share a client: small enough that streams whose topics are stuck leave room
/// for the others.
pub(crate) fn stream_window(kafka: &Kafka, streams: usize) -> Window {
    let streams = streams.max(1);
    Window {
        records_max: IN_FLIGHT_RECORDS_MAX.min(CLIENT_RECORDS_MAX / streams),
        bytes_max: kafka.in_flight_bytes_max.min(CLIENT_BYTES_MAX / streams),
    }
}

/// Every property of the producer, in the order they are set: the agent's, then the user's from `[kafka.properties]`.
/// `streams` is the number of streams that share the client.
pub fn producer_properties(kafka: &Kafka, streams: usize) -> Vec<(String, String)> {
    let mut properties = connection_properties(kafka);
    let mut set = |name: &str, value: String| properties.push((name.to_owned(), value));
    // Order and no duplicate inside a session; implies acks=all and unbounded retries.
    set("enable.idempotence", "true".into());
    // Never give a record up: a local timeout makes a gap that later records overtake.
    set("message.timeout.ms", "0".into());
    // The same partition as Java producers and ksqlDB choose for the same key.
    set("partitioner", "murmur2_random".into());
    // A batch is compressed whole, so what lingers longer costs less on a metered link.
    set("compression.type", compression(kafka.compression).into());
    set("linger.ms", kafka.linger.as_millis().to_string());
    // The default of 1 MB takes longer on a slow link than a request may, and would never arrive.
    set("batch.size", BATCH_BYTES_MAX.to_string());
    // The default of 1 GiB would take a small gateway's whole memory in an outage. Twice the window, as librdkafka
    // counts its own overhead, and as each stream's last record may stand beyond its window.
    let window = stream_window(kafka, streams);
    let windows_bytes = window.bytes_max.saturating_mul(streams.max(1)).saturating_mul(2);
    set("queue.buffering.max.kbytes", windows_bytes.div_ceil(1024).max(1024).to_string());
    set("queue.buffering.max.messages", window.records_max.saturating_mul(streams.max(1)).to_string());
    // What a broker refuses for now (an election, too few replicas in sync) takes seconds to change, and each try is a
    // whole batch on a metered link; the defaults are 100 ms and 1 s. Above 10 s the link would idle once it has changed.
    set("retry.backoff.ms", "500".into());
    set("retry.backoff.max.ms", "10000".into());
    // The connections' states, the traffic, and whether each partition makes headway.
    set("statistics.interval.ms", STATISTICS_INTERVAL.as_millis().to_string());
    properties.extend(kafka.properties.iter().map(|(name, value)| (name.clone(), value.clone())));
    properties
}

/// Every property of the producer of dead letters: single records that nobody else waits for.
pub(super) fn letter_properties(kafka: &Kafka) -> Vec<(String, String)> {
    let mut properties = producer_properties(kafka, 1);
    for (name, value) in [
        // After this the dead-letter file takes the record.
        ("message.timeout.ms", "30000"),
        // A topic that is missing is found out sooner than by default.
        ("topic.metadata.propagation.max.ms", "5000"),
        ("linger.ms", "0"),
    ] {
        properties.push((name.to_owned(), value.to_owned()));
    }
    properties
}

/// Every property of the transactional producer `id`.
pub(super) fn transactional_properties(
    kafka: &Kafka,
    streams: usize,
    id: &str,
    timeout: Duration,
) -> Vec<(String, String)> {
    let mut properties = producer_properties(kafka, streams);
    let mut set = |name: &str, value: String| properties.push((name.to_owned(), value));
    set("transactional.id", id.to_owned());
    set("transaction.timeout.ms", timeout.as_millis().to_string());
    // A transaction is given up before Kafka does it; the records are still in the queue.
    set("message.timeout.ms", timeout.as_millis().to_string());
    // The library takes none that is longer than a transaction.
    set("socket.timeout.ms", socket_timeout(kafka).min(timeout).as_millis().to_string());
    // A transaction's records are gathered before it begins.
    set("linger.ms", TRANSACTION_LINGER.as_millis().to_string());
    properties
}

/// What producers and consumers have in common: where the brokers are and how to speak to them.
pub(super) fn connection_properties(kafka: &Kafka) -> Vec<(String, String)> {
    let mut properties = Vec::new();
    let mut set = |name: &str, value: String| properties.push((name.to_owned(), value));
    set("bootstrap.servers", kafka.brokers.join(","));
    // The cluster's quotas and logs go by it.
    set("client.id", kafka.client_id.clone());
    // KIP-714 would ship client metrics over the metered link.
    set("enable.metrics.push", "false".into());
    // Connections that idle are closed on purpose; every log would be full of it.
    set("log.connection.close", "false".into());
    // Without keepalive a flow that a mobile network's NAT forgot is found only by the request timeout.
    set("socket.keepalive.enable", "true".into());
    // The default of 60 s leaves a dead link, and the batch on it, unnoticed for a minute.
    set("socket.timeout.ms", SOCKET_TIMEOUT.as_millis().to_string());
    // TCP, TLS and SASL on a 2G link take longer than 10 s.
    set("socket.connection.setup.timeout.ms", "15000".into());
    // Below the idle limit of NATs and load balancers: close it ourselves rather than find it dead.
    set("connections.max.idle.ms", "240000".into());
    // Each attempt wakes the radio and costs a handshake; the defaults of 100 ms and 10 s are for data centres. Above
    // 30 s a link that is back would be found too late.
    set("reconnect.backoff.ms", "500".into());
    set("reconnect.backoff.max.ms", "30000".into());
    // Changes are noticed by the errors they cause; asking every 5 min, the default, costs data on a link that idles.
    set("topic.metadata.refresh.interval.ms", "900000".into());
    let protocol = match (&kafka.tls, &kafka.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    set("security.protocol", protocol.into());
    if let Some(tls) = &kafka.tls {
        // A static OpenSSL looks for trust anchors where it was built, which no gateway has: without a file of the
        // user's, the usual places must be probed for explicitly.
        let ca = tls.ca.as_ref().map_or_else(|| "probe".into(), |path| path.display().to_string());
        set("ssl.ca.location", ca);
        if let Some(cert) = &tls.cert {
            set("ssl.certificate.location", cert.display().to_string());
        }
        if let Some(key) = &tls.key {
            set("ssl.key.location", key.display().to_string());
        }
    }
    if let Some(sasl) = &kafka.sasl {
        match sasl {
            Sasl::Password { mechanism, username, password } => {
                set("sasl.mechanism", mechanism.clone());
                set("sasl.username", username.clone());
                set("sasl.password", password.0.clone());
            }
            // The tokens come by callback, see `token`.
            Sasl::Token { .. } => set("sasl.mechanism", "OAUTHBEARER".into()),
        }
    }
    properties
}

/// Those of the user's properties that a reader needs too: how the brokers are reached, not how records are written.
pub(super) fn connection_overrides(kafka: &Kafka) -> impl Iterator<Item = (String, String)> {
    const PREFIXES: [&str; 8] =
        ["ssl.", "enable.ssl.", "sasl.", "socket.", "broker.", "reconnect.", "connections.", "client."];
    let concerns = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || name == "https.ca.location";
    kafka.properties.iter().filter(move |(name, _)| concerns(name)).map(|(name, value)| (name.clone(), value.clone()))
}

fn compression(compression: KafkaCompression) -> &'static str {
    match compression {
        KafkaCompression::None => "none",
        KafkaCompression::Lz4 => "lz4",
        KafkaCompression::Zstd => "zstd",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, Tls};

    fn kafka() -> Kafka {
        Kafka {
            brokers: vec!["a:9092".into(), "b:9092".into()],
            client_id: "truck-17".into(),
            tls: None,
            sasl: None,
            compression: KafkaCompression::Zstd,
            in_flight_bytes_max: 4 << 20,
            linger: Duration::from_millis(50),
            drain: Default::default(),
            rate: Default::default(),
            budget: None,
            delivery: crate::config::Delivery::AtLeastOnce,
            properties: [("batch.size".to_owned(), "65536".to_owned())].into(),
            output: Default::default(),
        }
    }

    fn last<'a>(properties: &'a [(String, String)], name: &str) -> Option<&'a str> {
        properties.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What counts in the end, by name.
    fn effective(properties: &[(String, String)]) -> Vec<(&str, &str)> {
        let last: std::collections::BTreeMap<_, _> =
            properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        last.into_iter().collect()
    }

    #[test]
    fn every_property_of_the_producer_has_the_value_that_is_promised() {
        let kafka = Kafka { properties: [].into(), ..kafka() };
        let promised = [
            ("batch.size", "262144"),
            ("bootstrap.servers", "a:9092,b:9092"),
            ("client.id", "truck-17"),
            ("compression.type", "zstd"),
            ("connections.max.idle.ms", "240000"),
            ("enable.idempotence", "true"),
            ("enable.metrics.push", "false"),
            ("linger.ms", "50"),
            ("log.connection.close", "false"),
            ("message.timeout.ms", "0"),
            ("partitioner", "murmur2_random"),
            ("queue.buffering.max.kbytes", "8192"),
            ("queue.buffering.max.messages", "10000"),
            ("reconnect.backoff.max.ms", "30000"),
            ("reconnect.backoff.ms", "500"),
            ("retry.backoff.max.ms", "10000"),
            ("retry.backoff.ms", "500"),
            ("security.protocol", "plaintext"),
            ("socket.connection.setup.timeout.ms", "15000"),
            ("socket.keepalive.enable", "true"),
            ("socket.timeout.ms", "20000"),
            ("statistics.interval.ms", "5000"),
            ("topic.metadata.refresh.interval.ms", "900000"),
        ];
        assert_eq!(effective(&producer_properties(&kafka, 1)), promised);
    }

    #[test]
    fn other_clients_differ_from_the_producer_in_what_they_must() {
        let kafka = Kafka { properties: [].into(), ..kafka() };
        let producer = producer_properties(&kafka, 1);
        let differs = |properties: &[(String, String)]| -> Vec<(String, String)> {
            let of_producer = effective(&producer);
            let own = effective(properties).into_iter().filter(|own| !of_producer.contains(own));
            own.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let owned = |properties: &[(&str, &str)]| -> Vec<(String, String)> {
            properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let letters =
            [("linger.ms", "0"), ("message.timeout.ms", "30000"), ("topic.metadata.propagation.max.ms", "5000")];
        assert_eq!(differs(&letter_properties(&kafka)), owned(&letters));
        let transactional = [
            ("linger.ms", "2"),
            ("message.timeout.ms", "10000"),
            ("socket.timeout.ms", "10000"),
            ("transaction.timeout.ms", "10000"),
            ("transactional.id", "id"),
        ];
        let properties = transactional_properties(&kafka, 1, "id", Duration::from_secs(10));
        assert_eq!(differs(&properties), owned(&transactional));
        let refusal = |refusal: Refusal| -> Vec<(String, String)> {
            refusal.properties(&kafka).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        };
        assert_eq!(refusal(Refusal::Stops), owned(&[("enable.gapless.guarantee", "true")]));
        let careful = [("linger.ms", "100"), ("batch.size", "262144"), ("batch.num.messages", "10000")];
        assert_eq!(refusal(Refusal::Careful), owned(&careful));
    }

    #[test]
    fn the_socket_timeout_is_the_users_where_there_is_one() {
        assert_eq!(socket_timeout(&kafka()), Duration::from_secs(20));
        let patient = Kafka { properties: [("socket.timeout.ms".to_owned(), "60000".to_owned())].into(), ..kafka() };
        assert_eq!(socket_timeout(&patient), Duration::from_secs(60));
        assert_eq!(last(&producer_properties(&patient, 1), "socket.timeout.ms"), Some("60000"));
        let transactional = transactional_properties(&patient, 1, "id", Duration::from_secs(30));
        assert_eq!(last(&transactional, "socket.timeout.ms"), Some("30000"));
    }

    #[test]
    fn the_window_is_bounded_and_the_users_properties_come_last() {
        let properties = producer_properties(&kafka(), 16);
        assert_eq!(last(&properties, "bootstrap.servers"), Some("a:9092,b:9092"));
        assert_eq!(last(&properties, "queue.buffering.max.kbytes"), Some("131072"));
        assert_eq!(last(&properties, "queue.buffering.max.messages"), Some("40000"));
        assert_eq!(last(&properties, "message.timeout.ms"), Some("0"));
        assert_eq!(last(&properties, "security.protocol"), Some("plaintext"));
        assert_eq!(properties.last(), Some(&("batch.size".to_owned(), "65536".to_owned())));
    }

    #[test]
    fn streams_whose_topics_are_stuck_leave_room_for_the_others() {
        let kafka = Kafka { in_flight_bytes_max: 8 << 20, ..kafka() };
        for streams in 1..=16 {
            let window = stream_window(&kafka, streams);
            let properties = producer_properties(&kafka, streams);
            let limit = |name| last(&properties, name).unwrap().parse::<usize>().unwrap();
            assert!(window.records_max * streams <= limit("queue.buffering.max.messages"), "{streams}");
            assert!(window.bytes_max * streams * 2 <= limit("queue.buffering.max.kbytes") * 1024, "{streams}");
            assert!(window.records_max * streams <= CLIENT_RECORDS_MAX && window.records_max >= 2_500);
            assert!(window.bytes_max * streams <= CLIENT_BYTES_MAX && window.bytes_max >= 4 << 20);
        }
    }

    #[test]
    fn tls_without_a_file_probes_for_trust_anchors() {
        let sasl = Sasl::Password { mechanism: "PLAIN".into(), username: "u".into(), password: Secret("p".into()) };
        let kafka = Kafka { tls: Some(Tls::default()), sasl: Some(sasl), ..kafka() };
        let properties = producer_properties(&kafka, 1);
        assert_eq!(last(&properties, "ssl.ca.location"), Some("probe"));
        assert_eq!(last(&properties, "security.protocol"), Some("sasl_ssl"));
        assert_eq!(last(&properties, "sasl.password"), Some("p"));
    }
}
