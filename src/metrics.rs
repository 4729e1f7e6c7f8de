//! The counters: a leaf that every task writes to and `status` renders.
//!
//! One struct of `prometheus-client` families, registered once at start; handles are cheap to clone and lock-free to
//! count with. Gauges that mirror the queue are set from [`crate::queue::Queue::status`] when somebody looks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A gauge of a real number (seconds).
pub type RealGauge = Gauge<f64, AtomicU64>;

/// Label: which source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BySource {
    /// The source's name.
    pub source: String,
}

/// Labels: which source, what went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BySourceAndKind {
    /// The source's name.
    pub source: String,
    /// A short word: `checksum`, `timeout`, `exception`, `payload`, `open`, `too_long`, ...
    pub kind: &'static str,
}

/// Label: which stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByStream {
    /// The stream's name.
    pub stream: String,
}

/// Labels: which stream, for what reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByStreamAndReason {
    /// The stream's name.
    pub stream: String,
    /// A short word: `quota`, `tail_full`, `too_large`, `poison`, ...
    pub reason: &'static str,
}

/// Label: which file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByFile {
    /// Its path, as configured.
    pub file: String,
}

/// Label: what kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByKind {
    /// A short word.
    pub kind: &'static str,
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ty, $name:literal;)+) => {
        /// Every metric of the agent. Names in the exposition begin with `forebay_`; counters end in `_total`.
        #[derive(Debug, Clone, Default)]
        pub struct Metrics {
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        impl Metrics {
            fn register_all(&self, registry: &mut Registry) {
                $(registry.register($name, concat!($($help),+).trim(), self.$field.clone());)+
            }
        }
    };
}

metrics! {
    /// Readings that sources handed to the hub
    readings_in: Family<BySource, Counter>, "readings_in";
    /// What went wrong at a source, by kind
    source_errors: Family<BySourceAndKind, Counter>, "source_errors";
    /// Whether a source's port or connection is open
    source_up: Family<BySource, Gauge>, "source_up";
    /// Readings the queue could not take and that were not kept
    readings_refused: Family<BySource, Counter>, "readings_refused";
    /// Records pushed into the queue
    records_pushed: Family<ByStream, Counter>, "records_pushed";
    /// Records acknowledged by Kafka and gone from the queue
    records_acknowledged: Family<ByStream, Counter>, "records_acknowledged";
    /// Records removed without acknowledgement, by reason; each is marked by `skipped` in the next one
    records_dropped: Family<ByStreamAndReason, Counter>, "records_dropped";
    /// Records thinned out to make room; each is marked by `skipped` and `thinned` in the next one
    records_thinned: Family<ByStream, Counter>, "records_thinned";
    /// Records set aside, by reason (`poison_topic`: in the dead-letter topic; the others: in the dead-letter file)
    records_set_aside: Family<ByStreamAndReason, Counter>, "records_set_aside";
    /// Records found missing at recovery that nothing explains
    records_lost: Family<ByStream, Counter>, "records_lost";
    /// Whether the clock of this machine is known to be right (1), by the kernel or by GNSS fixes, or not (0)
    clock_set: Gauge, "clock_set";
    /// Records in the queue
    queue_records: Family<ByStream, Gauge>, "queue_records";
    /// Uncompressed bytes of the records in memory plus sealed bytes on disk
    queue_bytes: Family<ByStream, Gauge>, "queue_bytes";
    /// Age of the oldest record in the queue
    queue_oldest_age_seconds: Family<ByStream, RealGauge>, "queue_oldest_age_seconds";
    /// Highest position on disk, packed as run << 40 | seq
    queue_durable_position: Family<ByStream, Gauge>, "queue_durable_position";
    /// Highest contiguously acknowledged position, packed as run << 40 | seq
    queue_acknowledged_position: Family<ByStream, Gauge>, "queue_acknowledged_position";
    /// Parts in which what waits is delivered; more than one where the newest went first or records wait for a newer agent
    queue_lanes: Family<ByStream, Gauge>, "queue_lanes";
    /// Records in blocks of a newer version that have been met and wait for a newer agent
    queue_newer_records: Family<ByStream, Gauge>, "queue_newer_records";
    /// Largest age a record reached in memory before it was durable or acknowledged
    queue_undurable_age_seconds_max: RealGauge, "queue_undurable_age_seconds_max";
    /// Bytes the agent wrote to the queue's files
    queue_written_bytes: Counter, "queue_written_bytes";
    /// Blocks sealed to disk
    queue_blocks_sealed: Counter, "queue_blocks_sealed";
    /// Blocks sealed to disk while the uplink was up
    queue_blocks_sealed_while_up: Counter, "queue_blocks_sealed_while_up";
    /// Small writes of control state
    queue_state_writes: Counter, "queue_state_writes";
    /// Disk the state directory takes
    queue_disk_bytes: Gauge, "queue_disk_bytes";
    /// Disk the state directory may take
    queue_quota_bytes: Gauge, "queue_quota_bytes";
    /// Failures of the store that were fenced, by kind
    queue_store_failures: Family<ByKind, Counter>, "queue_store_failures";
    /// Blocks that recovery brought back from damaged epochs
    queue_blocks_salvaged: Counter, "queue_blocks_salvaged";
    /// Blocks that recovery could not bring back
    queue_blocks_lost: Counter, "queue_blocks_lost";
    /// Whether the uplink is delivering or idle with a connection (1), or not (0)
    uplink_up: Gauge, "uplink_up";
    /// Times the uplink came back
    uplink_reconnects: Counter, "uplink_reconnects";
    /// Records Kafka acknowledged
    uplink_records_delivered: Family<ByStream, Counter>, "uplink_records_delivered";
    /// Uplink errors by class
    uplink_errors: Family<ByKind, Counter>, "uplink_errors";
    /// Bytes of IP packets to and from Kafka, estimated from the client's count; without what TCP sent again
    uplink_wire_bytes: Counter, "uplink_wire_bytes";
    /// Bytes of kafka.budget used in the day, or in the last 24 hours while the clock is not set
    uplink_budget_day_bytes: Gauge, "uplink_budget_day_bytes";
    /// Bytes of kafka.budget used in the month
    uplink_budget_month_bytes: Gauge, "uplink_budget_month_bytes";
    /// Whether kafka.budget keeps a stream from sending
    uplink_budget_exhausted: Gauge, "uplink_budget_exhausted";
    /// Records handed to the Kafka client and not yet reported
    uplink_in_flight_records: Gauge, "uplink_in_flight_records";
    /// Times the Kafka client was destroyed and built anew
    uplink_client_rebuilds: Counter, "uplink_client_rebuilds";
    /// Times the Kafka client was found stuck and built anew
    uplink_watchdog_rebuilds: Counter, "uplink_watchdog_rebuilds";
    /// Transactions by outcome (`committed`, `aborted`, `unknown`: the cursor tells)
    uplink_transactions: Family<ByKind, Counter>, "uplink_transactions";
    /// Records sent with the mark that they may stand in Kafka twice, as it has forgotten the cursor
    uplink_possible_duplicates: Counter, "uplink_possible_duplicates";
    /// Whether another agent delivers under this one's transactional id (1): then this one waits
    uplink_fenced: Gauge, "uplink_fenced";
    /// Renewals of TLS files by result (`applied`, `refused`)
    uplink_tls_renewals: Family<ByKind, Counter>, "uplink_tls_renewals";
    /// Seconds until a certificate file of kafka.tls expires by this machine's clock; negative: since it has
    tls_certificate_expiry_seconds: Family<ByFile, Gauge>, "tls_certificate_expiry_seconds";
    /// Records that the dead-letter topic did not take and the dead-letter file got, by class of the error
    uplink_dead_letter_fallbacks: Family<ByKind, Counter>, "uplink_dead_letter_fallbacks";
    /// Requests for a schema by result (`registered`, `refused`, `unreachable`, `unintelligible`, `too_many_fields`)
    uplink_schema_requests: Family<ByKind, Counter>, "uplink_schema_requests";
    /// Whether the local broker is connected
    mqtt_up: Gauge, "mqtt_up";
    /// Connections to the local broker after the first
    mqtt_reconnects: Counter, "mqtt_reconnects";
    /// Connections to the local broker that failed or broke, by kind (`connection`, `refused`, `protocol`)
    mqtt_errors: Family<ByKind, Counter>, "mqtt_errors";
    /// Publications the local broker took (QoS 0: handed to the socket; QoS 1 and 2: acknowledged)
    mqtt_published: Counter, "mqtt_published";
    /// Publications given up, by kind (`outbox_full`, `too_large`)
    mqtt_dropped: Family<ByKind, Counter>, "mqtt_dropped";
    /// Publications waiting for the local broker
    mqtt_outbox_records: Gauge, "mqtt_outbox_records";
    /// Configuration reloads by result (`applied`, `refused`)
    reloads: Family<ByKind, Counter>, "reloads";
}

impl Metrics {
    /// All metrics at zero, and the registry that renders them.
    pub fn new() -> (Arc<Self>, Registry) {
        let metrics = Self::default();
        let mut registry = Registry::with_prefix("forebay");
        metrics.register_all(&mut registry);
        (Arc::new(metrics), registry)
    }

    /// Counts a source's trouble.
    pub fn source_error(&self, source: &str, kind: &'static str) {
        self.source_errors.get_or_create(&BySourceAndKind { source: source.to_owned(), kind }).inc();
    }

    /// Says whether a source's port or connection is open.
    pub fn source_is_up(&self, source: &str, up: bool) {
        self.source_up.get_or_create(&BySource { source: source.to_owned() }).set(i64::from(up));
    }
}
