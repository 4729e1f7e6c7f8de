//! Looks at a cluster as a gateway would meet it: whether it lets us in, whether the topics are there and take records,
//! and the settings that decide what becomes of them. Writes no record and no offset.

pub(super) mod topic_settings;
mod transactions;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{ClientError, client_config};
use super::quiet::Quiet;
use super::settings::{connection_overrides, connection_properties};
use crate::config::Kafka;

pub use transactions::{CursorFacts, CursorQuestion, IdAnswer, ReadAnswer, TransactionFacts, TransactionQuestions};

/// Longest wait for the first answer: TCP, TLS and SASL on a 2G link take longer than 10 s.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// How long brokers that all refuse the connection are tried.
const ALL_DOWN_MAX: Duration = Duration::from_secs(5);
/// Longest wait for each later answer.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How often the client's errors are looked at while it connects.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// `Err`: nobody let us in; what each kind of failure said.
    pub connection: Result<(), Vec<String>>,
    /// Failures of single brokers although another one answered.
    pub trouble: Vec<String>,
    /// The cluster's brokers as it tells them to its clients, `host:port`.
    pub brokers: Vec<String>,
    /// The topics asked for, in their order; empty where there is no connection.
    pub topics: Vec<TopicFacts>,
    /// What exactly-once delivery needs; `None` where it was not asked for or there is no connection.
    pub transactions: Option<TransactionFacts>,
}

/// What is known of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFacts {
    /// Its name.
    pub topic: String,
    /// Its partitions, or why they are not listed.
    pub partitions: Result<PartitionFacts, Unlisted>,
    /// Its settings, or why they could not be asked for, in words.
    pub settings: Result<TopicSettings, String>,
    /// Whether it would take our records.
    pub write: WriteAnswer,
    /// Whether it has a record of a time after the one that was asked for, or why that is not known, in words.
    pub has_later: Result<bool, String>,
}

/// A topic's partitions, the worst of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionFacts {
    /// How many there are.
    pub count: usize,
    /// Partitions without a leader.
    pub leaderless: usize,
    /// Fewest replicas.
    pub replicas_min: usize,
    /// Fewest replicas in sync.
    pub in_sync_min: usize,
}

/// Why a topic is not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unlisted {
    /// It is not there.
    Missing,
    /// We may not see it; Kafka does not say whether it is there.
    Forbidden,
    /// Anything else, in words.
    Other(String),
}

/// Settings of a topic that concern a gateway; `None` where the broker does not know the setting. Units and meaning:
/// Kafka's topic configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicSettings {
    /// `max.message.bytes`: largest batch, compressed.
    pub message_bytes_max: Option<u64>,
    /// `retention.ms`; negative: for ever.
    pub retention_ms: Option<i64>,
    /// `min.insync.replicas`.
    pub in_sync_needed: Option<usize>,
    /// `cleanup.policy`.
    pub cleanup_policy: Option<String>,
    /// `message.timestamp.type`.
    pub timestamp_type: Option<String>,
    /// `message.timestamp.before.max.ms`: records whose time lies further back are refused.
    pub timestamp_before_max_ms: Option<i64>,
    /// `message.timestamp.after.max.ms`: records whose time lies further ahead are refused.
    pub timestamp_after_max_ms: Option<i64>,
}

/// Whether a topic would take our records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteAnswer {
    /// We have the right.
    Allowed,
    /// We have not.
    Forbidden,
    /// The broker took the record that it should have refused: it is in the topic now.
    Taken,
    /// It was not asked, or the answer says something else, in words.
    Unknown(String),
}

/// Looks at the cluster and these topics, and whether they have records of a time after `later_ms` (milliseconds since
/// 1970 UTC), and at what `transactions` asks for. Takes up to a minute where nobody answers.
///
/// # Errors
/// A property is not possible, or a certificate or key cannot be loaded.
pub fn inspect(
    kafka: &Kafka,
    topics: &[String],
    later_ms: i64,
    transactions: Option<&TransactionQuestions>,
) -> Result<Inspection, ClientError> {
    let mut properties = connection_properties(kafka);
    properties.extend(connection_overrides(kafka));
    let reading = with(&properties, &[("group.id", "forebay-check"), ("enable.auto.commit", "false")]);
    let client: BaseConsumer<Quiet> = client_config(&reading)?
        .create_with_context(Quiet::new(kafka))
        .map_err(|error| ClientError::Creation(error.to_string()))?;
    let connection = connect(&client, topics.first().map_or("", String::as_str));
    if connection.is_err() {
        let (trouble, brokers, topics) = (Vec::new(), Vec::new(), Vec::new());
        return Ok(Inspection { connection, trouble, brokers, topics, transactions: None });
    }
    let brokers = brokers(&client, topics.first().map_or("", String::as_str));
    let partitions: Vec<_> = topics.iter().map(|topic| partitions(&client, topic)).collect();
    let settings = topic_settings::ask(kafka, &properties, topics, client.context())?;
    let listed = topics.iter().zip(&partitions).filter(|(_, found)| found.is_ok()).map(|(topic, _)| topic.as_str());
    let writes = ask_to_write(kafka, &properties, &listed.collect::<Vec<_>>())?;
    let transactions = transactions.map(|asked| transactions::ask(kafka, &properties, asked)).transpose()?;
    while client.poll(Duration::ZERO).is_some() {}
    // Of the group whose name the client insists on nothing is needed.
    let met = client.context().errors().into_iter().filter(|(code, _)| *code != Code::GroupAuthorizationFailed);
    let trouble = met.map(|(_, text)| text).collect();
    let facts = topics.iter().zip(partitions).zip(settings).map(|((topic, partitions), settings)| {
        let answer = writes.iter().find(|(asked, _)| asked == topic).map(|(_, answer)| answer.clone());
        let write = answer.unwrap_or_else(|| WriteAnswer::Unknown("it was not asked".to_owned()));
        let has_later = match &partitions {
            Ok(partitions) => has_later(&client, topic, partitions.count, later_ms),
            Err(_) => Err("the topic is not listed".to_owned()),
        };
        TopicFacts { topic: topic.clone(), partitions, settings, write, has_later }
    });
    Ok(Inspection { connection, trouble, brokers, topics: facts.collect(), transactions })
}

fn with(properties: &[(String, String)], more: &[(&str, &str)]) -> Vec<(String, String)> {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    properties.iter().cloned().chain(more).collect()
}

/// Waits until a broker answers, one of them says why it will not, or time is up.
fn connect(client: &BaseConsumer<Quiet>, topic: &str) -> Result<(), Vec<String>> {
    let began = Instant::now();
    Quiet::log_in(client, CONNECT_MAX);
    loop {
        let answer = client.fetch_metadata(Some(topic), LOOK_EVERY);
        let Err(error) = answer else { return Ok(()) };
        // Errors come as events, which only a poll serves.
        while client.poll(Duration::ZERO).is_some() {}
        let errors = client.context().errors();
        let by_tls = errors.iter().any(|(_, text)| text.contains("SSL routines"));
        let met = |codes: &[Code]| errors.iter().any(|(code, _)| codes.contains(code));
        let refused = by_tls
            || met(&[Code::SSL, Code::Authentication, Code::SaslAuthenticationFailed, Code::UnsupportedSASLMechanism]);
        let all_down = met(&[Code::AllBrokersDown]) && began.elapsed() > ALL_DOWN_MAX;
        if refused || all_down || began.elapsed() > CONNECT_MAX {
            let said = errors.into_iter().filter(|(code, _)| *code != Code::AllBrokersDown);
            let mut said: Vec<String> = said.map(|(_, text)| text).collect();
            if said.is_empty() {
                said.push(format!("no answer within {} s: {error}", began.elapsed().as_secs()));
            }
            return Err(said);
        }
    }
}

fn brokers(client: &BaseConsumer<Quiet>, topic: &str) -> Vec<String> {
    let Ok(metadata) = client.fetch_metadata(Some(topic), ANSWER_MAX) else { return Vec::new() };
    metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port())).collect()
}

/// Whether any partition has a record of this time or a later one. It takes no more than the right to Describe.
fn has_later(client: &BaseConsumer<Quiet>, topic: &str, partitions: usize, later_ms: i64) -> Result<bool, String> {
    let mut asked = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
        let added = asked.add_partition_offset(topic, partition, Offset::Offset(later_ms));
        added.map_err(|error| error.to_string())?;
    }
    let answer = client.offsets_for_times(asked, ANSWER_MAX).map_err(|error| error.to_string())?;
    for element in answer.elements() {
        element.error().map_err(|error| error.to_string())?;
    }
    Ok(answer.elements().iter().any(|element| matches!(element.offset(), Offset::Offset(_))))
}

fn partitions(client: &BaseConsumer<Quiet>, topic: &str) -> Result<PartitionFacts, Unlisted> {
    let metadata =
        client.fetch_metadata(Some(topic), ANSWER_MAX).map_err(|error| Unlisted::Other(error.to_string()))?;
    let found = metadata.topics().first().ok_or(Unlisted::Missing)?;
    match found.error().map(Code::from) {
        None => {}
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return Err(Unlisted::Missing),
        Some(Code::TopicAuthorizationFailed) => return Err(Unlisted::Forbidden),
        Some(code) => return Err(Unlisted::Other(code.to_string())),
    }
    let all = found.partitions();
    let least = |count: fn(&rdkafka::metadata::MetadataPartition) -> usize| all.iter().map(count).min();
    Ok(PartitionFacts {
        count: all.len(),
        leaderless: all.iter().filter(|partition| partition.leader() < 0).count(),
        replicas_min: least(|partition| partition.replicas().len()).unwrap_or(0),
        in_sync_min: least(|partition| partition.isr().len()).unwrap_or(0),
    })
}

/// Answers to records that no broker takes.
struct Asking {
    quiet: Quiet,
    answers: Mutex<Vec<(String, WriteAnswer)>>,
}

impl ClientContext for Asking {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        self.quiet.log(level, facility, message);
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        self.quiet.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.quiet.generate_oauth_token(config)
    }
}

impl ProducerContext for Asking {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let (topic, answer) = match result {
            Ok(message) => (message.topic(), WriteAnswer::Taken),
            Err((error, message)) => {
                let answer = match error.rdkafka_error_code() {
                    Some(Code::InvalidRequiredAcks) => WriteAnswer::Allowed,
                    Some(Code::TopicAuthorizationFailed) => WriteAnswer::Forbidden,
                    Some(code) => WriteAnswer::Unknown(code.to_string()),
                    None => WriteAnswer::Unknown(error.to_string()),
                };
                (message.topic(), answer)
            }
        };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push((topic.to_owned(), answer));
    }
}

/// Asks each topic to take a record that it cannot: Kafka judges the right to write first, and then refuses `acks=2`
/// (`ReplicaManager.isValidRequiredAcks`: -1, 0 and 1 are valid). There is no other way to ask for the right alone that
/// leaves no trace.
fn ask_to_write(
    kafka: &Kafka,
    properties: &[(String, String)],
    topics: &[&str],
) -> Result<Vec<(String, WriteAnswer)>, ClientError> {
    let wait_ms = ANSWER_MAX.as_millis().to_string();
    let asking = [("acks", "2"), ("linger.ms", "0"), ("retries", "0"), ("message.timeout.ms", wait_ms.as_str())];
    let context = Asking { quiet: Quiet::new(kafka), answers: Mutex::default() };
    let client: BaseProducer<Asking> = client_config(&with(properties, &asking))?
        .create_with_context(context)
        .map_err(|error| ClientError::Creation(error.to_string()))?;
    for topic in topics {
        // No value: should a broker take it after all, it carries nothing.
        if let Err((error, _)) = client.send(BaseRecord::<str, [u8]>::to(topic).key("forebay-check")) {
            let answer = WriteAnswer::Unknown(error.to_string());
            context_answers(&client).push(((*topic).to_owned(), answer));
        }
    }
    let end = Instant::now() + ANSWER_MAX + LOOK_EVERY;
    while context_answers(&client).len() < topics.len() && Instant::now() < end {
        client.poll(Duration::from_millis(20));
    }
    let answers = std::mem::take(&mut *context_answers(&client));
    Ok(answers)
}

fn context_answers(client: &BaseProducer<Asking>) -> std::sync::MutexGuard<'_, Vec<(String, WriteAnswer)>> {
    use rdkafka::producer::Producer as _;
    let client = client.client();
    // The context lives as long as the client.
    client.context().answers.lock().unwrap_or_else(PoisonError::into_inner)
}
