//! The producer: sends, polls, and turns the client library's callbacks into plain reports and notices.
//!
//! One thread alone polls. Delivery callbacks then come in order and only inside [`Producer::poll`], so they need no
//! more than an uncontended lock.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig};

use super::beside::Call;
use super::brokers;
use super::error::Failure;
use super::settings::{Refusal, careful_bytes_max, letter_properties, producer_properties};
use super::statistics::{Statistics, TopicProgress};
use super::token::Tokens;
use super::traffic::Traffic;
use crate::config::{Delivery, Kafka};

/// The client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A property is unknown or its value is not possible.
    #[error("kafka property {name} = \"{value}\": {reason}")]
    Property {
        /// The librdkafka property.
        name: String,
        /// What it was set to.
        value: String,
        /// What librdkafka says.
        reason: String,
    },
    /// The properties contradict each other, or a certificate could not be loaded.
    #[error("kafka client: {0}")]
    Creation(String),
}

/// A record on its way out.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The Kafka topic.
    pub topic: &'a str,
    /// The key: the device.
    pub key: &'a str,
    /// The encoded record.
    pub payload: &'a [u8],
    /// Names and values, UTF-8.
    pub headers: &'a [(&'a str, &'a str)],
    /// `CreateTime` in milliseconds since 1970 UTC; at least 1, as 0 means "now" to the client.
    pub timestamp_ms: i64,
    /// Comes back in the [`Report`].
    pub token: usize,
}

/// Kafka's word on one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// As given in [`Outgoing::token`].
    pub token: usize,
    /// Where it went or was to go; below 0: that was not known yet.
    pub partition: i32,
    /// `None`: delivered to all in-sync replicas.
    pub failure: Option<Failure>,
}

/// What the client says about its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// At least one broker connection is up.
    Connected,
    /// Every broker connection is down; the client keeps trying.
    AllBrokersDown,
    /// How far the records of each topic have come.
    Progress(Vec<TopicProgress>),
    /// What the client moved since it was made.
    Traffic(Traffic),
    /// An error that belongs to no record.
    Trouble(Failure),
}

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    /// The window is full: poll and send the same record again.
    Full,
    /// It would fail at once.
    Failed(Failure),
}

/// Most notices kept between two polls: the client repeats itself, the newest say enough.
const NOTICES_MAX: usize = 64;

/// So many statistics in a row without a broker to connect to are no moment between two lists of brokers.
const STRANDED_MAX: u32 = 2;

/// Events served by a poll that does not wait.
const EVENTS_AT_ONCE: usize = 8;

#[derive(Debug, Default)]
struct Inbox {
    reports: Vec<Report>,
    notices: Vec<Notice>,
}

#[derive(Default)]
pub(super) struct Context {
    inbox: Mutex<Inbox>,
    /// Where the login is by token.
    tokens: Option<Tokens>,
    /// Statistics in a row with which it was stranded.
    stranded: AtomicU32,
}

impl Context {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is stranded for longer than between an old list of brokers and a new one; then it counts anew.
    fn take_stranded(&self) -> bool {
        let is_stranded = self.stranded.load(Ordering::Relaxed) >= STRANDED_MAX;
        if is_stranded {
            self.stranded.store(0, Ordering::Relaxed);
        }
        is_stranded
    }

    fn notice(&self, notice: Notice) {
        let mut inbox = self.inbox();
        // The library calls the error callback twice for each error.
        if inbox.notices.last() != Some(&notice) && inbox.notices.len() < NOTICES_MAX {
            inbox.notices.push(notice);
        }
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let Some(tokens) = &self.tokens else { return Err("no kafka.sasl token is configured".into()) };
        // What is wrong comes back through the error callback.
        Ok(tokens.next()?)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Connection trouble repeats at every attempt; the uplink logs its changes of state instead.
        tracing::debug!(level = ?level, facility, message, "kafka client");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let statistics = match Statistics::parse(statistics) {
            Ok(statistics) => statistics,
            Err(error) => return tracing::debug!(error = %error, "kafka statistics not understood"),
        };
        if statistics.is_connected() {
            self.notice(Notice::Connected);
        }
        // Only the thread that polls comes here.
        let before = self.stranded.load(Ordering::Relaxed);
        let stranded = if statistics.is_stranded() { before.saturating_add(1) } else { 0 };
        self.stranded.store(stranded, Ordering::Relaxed);
        self.notice(Notice::Traffic(statistics.traffic()));
        self.notice(Notice::Progress(statistics.into_progress()));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown) => self.notice(Notice::AllBrokersDown),
            Some(code) => {
                let failure = Failure { text: format!("{code}: {reason}"), ..Failure::from_code(code) };
                self.notice(Notice::Trouble(failure));
            }
            None => self.notice(Notice::Trouble(Failure::from_error(&error))),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, token: usize) {
        let (partition, failure) = match result {
            Ok(message) => (message.partition(), None),
            Err((error, message)) => (message.partition(), Some(Failure::from_error(error))),
        };
        self.inbox().reports.push(Report { token, partition, failure });
    }
}

/// An idempotent producer, or a transactional one.
pub struct Producer {
    pub(super) inner: Arc<BaseProducer<Context>>,
    batch_alone_bytes: Option<usize>,
    /// Where the cluster is, as configured.
    brokers: String,
    /// Puts a cursor into a transaction.
    pub(super) cursor_call: Call<KafkaResult<()>>,
}

impl Producer {
    /// Makes the client, which then connects in its own threads; `streams` share it.
    ///
    /// # Errors
    /// A property is unknown, out of range or contradicts another, or a certificate cannot be loaded.
    pub fn new(kafka: &Kafka, streams: usize, refusal: Refusal) -> Result<Self, ClientError> {
        let mut properties = producer_properties(kafka, streams);
        properties.extend(refusal.properties(kafka).into_iter().map(|(name, value)| (name.to_owned(), value)));
        let batch_alone_bytes = (refusal == Refusal::Careful).then(|| careful_bytes_max(kafka));
        Ok(Self { batch_alone_bytes, ..Self::from_properties(&properties, kafka)? })
    }

    /// Where what is behind a refused batch would overtake it: most bytes that a stream hands over in one go, before all of
    /// them are reported.
    pub fn batch_alone_bytes(&self) -> Option<usize> {
        self.batch_alone_bytes
    }

    /// A small client for dead letters, which gives a record up after half a minute.
    ///
    /// # Errors
    /// As [`Producer::new`].
    pub fn for_letters(kafka: &Kafka) -> Result<Self, ClientError> {
        Self::from_properties(&letter_properties(kafka), kafka)
    }

    /// A client with these properties; `kafka` says how it logs in.
    pub(super) fn from_properties(properties: &[(String, String)], kafka: &Kafka) -> Result<Self, ClientError> {
        let inner = client_config(properties)?
            .create_with_context(Context { tokens: Tokens::new(kafka), ..Context::default() })
            .map_err(|error| ClientError::Creation(error.to_string()))?;
        let brokers = kafka.brokers.join(",");
        Ok(Self { inner: Arc::new(inner), batch_alone_bytes: None, brokers, cursor_call: Call::default() })
    }

    /// Makes sure that a client can be made of this, without connecting anywhere.
    ///
    /// # Errors
    /// As [`Producer::new`].
    pub fn check(kafka: &Kafka, streams: usize) -> Result<(), ClientError> {
        let offline = Kafka { brokers: Vec::new(), ..kafka.clone() };
        match &kafka.delivery {
            Delivery::AtLeastOnce => Self::new(&offline, streams, Refusal::Stops).map(drop),
            Delivery::ExactlyOnce(transactions) => {
                Self::transactional(&offline, streams, "check", transactions.timeout).map(drop)
            }
        }
    }

    /// Hands a record to the client; copies it. Does not wait.
    ///
    /// # Errors
    /// The window is full, or the record (or its topic) is refused at once.
    pub fn send(&self, record: Outgoing<'_>) -> Result<(), SendError> {
        let base = BaseRecord::with_opaque_to(record.topic, record.token)
            .key(record.key)
            .payload(record.payload)
            .timestamp(record.timestamp_ms.max(1));
        let base = if record.headers.is_empty() { base } else { base.headers(owned_headers(record.headers)) };
        match self.inner.send(base) {
            Ok(()) => Ok(()),
            Err((error, _)) if error.rdkafka_error_code() == Some(Code::QueueFull) => Err(SendError::Full),
            Err((error, _)) => Err(SendError::Failed(Failure::from_error(&error))),
        }
    }

    /// Waits so long, serves a few events and appends what they said.
    pub fn poll(&self, wait: Duration, reports: &mut Vec<Report>, notices: &mut Vec<Notice>) {
        // The library's own wait never ends early either, and it spins through its last millisecond.
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        // With no wait it serves a single event; reports must not queue up behind its log lines.
        for _ in 0..EVENTS_AT_ONCE {
            self.inner.poll(Duration::ZERO);
        }
        if self.inner.context().take_stranded() {
            brokers::give_again(self.inner.client(), &self.brokers);
        }
        let mut inbox = self.inner.context().inbox();
        reports.append(&mut inbox.reports);
        notices.append(&mut inbox.notices);
    }

    /// Sends what lingers and waits for reports, at most `wait`; they are taken by the next [`Producer::poll`].
    /// Gives whether all were reported.
    pub fn flush(&self, wait: Duration) -> bool {
        self.inner.flush(wait).is_ok()
    }

    /// Gives up everything in flight; each record is reported as not delivered.
    pub fn purge(&self) {
        self.inner.purge(PurgeConfig::default().queue().inflight());
    }

    /// Why the client can no longer be used, if so.
    pub fn fatal_error(&self) -> Option<String> {
        self.inner.client().fatal_error().map(|(code, text)| format!("{code}: {text}"))
    }
}

fn owned_headers(headers: &[(&str, &str)]) -> OwnedHeaders {
    let owned = OwnedHeaders::new_with_capacity(headers.len());
    headers.iter().fold(owned, |owned, (key, value)| owned.insert(Header { key, value: Some(*value) }))
}

pub(super) fn client_config(properties: &[(String, String)]) -> Result<ClientConfig, ClientError> {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Warning);
    for (name, value) in properties {
        config.set(name, value);
    }
    // Finds the property that is wrong; the creation of the client finds contradictions.
    match config.create_native_config() {
        Ok(_) => Ok(config),
        Err(KafkaError::ClientConfig(_, reason, name, value)) => {
            let secret = name.contains("password") || name.contains("pem") || name.contains("secret");
            Err(ClientError::Property { name, value: if secret { "***".into() } else { value }, reason })
        }
        Err(error) => Err(ClientError::Creation(error.to_string())),
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
pub(super) mod tests;
