//! The transactional producer, and the consumer groups whose offsets are the cursors of exactly-once delivery.
//!
//! What is to be done about an error says the client itself, in this order: fatal, retriable, abortable (librdkafka
//! `INTRODUCTION.md`, "Transactional Producer", "Error handling"); an error without any of these marks counts as fatal.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::beside::Answer;
use super::client::{ClientError, Producer, client_config};
use super::error::Failure;
use super::quiet::Quiet;
use super::settings::{connection_overrides, connection_properties, transactional_properties};
use super::traffic::Traffic;
use crate::config::Kafka;

/// The partition whose offset is the cursor: every topic has it.
const PARTITION: i32 = 0;

/// What is to be done about a step of a transaction that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The same step again: it goes on where it was.
    Again,
    /// The transaction is aborted; its records are sent again in another.
    Abort,
    /// The client can no longer be used.
    Rebuild,
    /// Neither: another client has taken the transactional id over, or Kafka gave up a transaction of this one.
    Fenced,
    /// The client can no longer be used, and another one neither before somebody gives a right.
    Denied,
}

/// A step of a transaction failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct Trouble {
    /// What is to be done.
    pub remedy: Remedy,
    /// What went wrong.
    pub failure: Failure,
}

impl Trouble {
    fn from_error(error: &KafkaError) -> Self {
        let mut failure = Failure::from_error(error);
        let remedy = match error {
            KafkaError::Transaction(error) => {
                let words = std::mem::replace(&mut failure.text, error.string());
                match error.code() {
                    code if is_fencing(code) => Remedy::Fenced,
                    code if error.is_fatal() && is_denial(code) => {
                        // Which request met it first changes from try to try; what is missing does not.
                        failure.text = words;
                        Remedy::Denied
                    }
                    _ if error.is_fatal() => Remedy::Rebuild,
                    _ if error.is_retriable() => Remedy::Again,
                    _ if error.txn_requires_abort() => Remedy::Abort,
                    _ => Remedy::Rebuild,
                }
            }
            // The flush before a commit ran out of time.
            KafkaError::Flush(_) => Remedy::Again,
            _ => Remedy::Rebuild,
        };
        Self { remedy, failure }
    }
}

fn is_fencing(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}

fn is_denial(code: Code) -> bool {
    matches!(code, Code::TransactionalIdAuthorizationFailed | Code::ClusterAuthorizationFailed)
}

impl Producer {
    /// Makes a transactional client, which then connects in its own threads.
    ///
    /// # Errors
    /// As [`Producer::new`].
    pub fn transactional(kafka: &Kafka, streams: usize, id: &str, timeout: Duration) -> Result<Self, ClientError> {
        Self::from_properties(&transactional_properties(kafka, streams, id, timeout), kafka)
    }

    /// Fences former clients of this transactional id, and ends what they left open. Waits at most `wait`.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub fn init_transactions(&self, wait: Duration) -> Result<(), Trouble> {
        self.inner.init_transactions(wait).map_err(|error| Trouble::from_error(&error))
    }

    /// Begins a transaction; says nothing to Kafka yet.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub fn begin_transaction(&self) -> Result<(), Trouble> {
        self.inner.begin_transaction().map_err(|error| Trouble::from_error(&error))
    }

    /// Puts the group's cursor for `topic` into the open transaction. Waits at most `wait`; what goes on after that is
    /// gone on with by the next call, whatever that one's cursor is.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub fn send_cursor(&self, group: &Group, topic: &str, cursor: &Committed, wait: Duration) -> Result<(), Trouble> {
        let mut offsets = TopicPartitionList::new();
        let mut element = offsets.add_partition(topic, PARTITION);
        let set = element.set_offset(Offset::Offset(cursor.offset));
        element.set_metadata(&cursor.metadata);
        set.map_err(|error| Trouble::from_error(&error))?;
        let (client, group) = (Arc::clone(&self.inner), Arc::clone(&group.metadata));
        match self.cursor_call.go_on(wait, move || client.send_offsets_to_transaction(&offsets, &group, wait)) {
            Answer::Here(answer) => answer.map_err(|error| Trouble::from_error(&error)),
            Answer::NotYet => Err(Trouble {
                remedy: Remedy::Again,
                failure: Failure::retried("the cursor waits for a coordinator's answer".into()),
            }),
            Answer::Never(text) => Err(Trouble { remedy: Remedy::Rebuild, failure: Failure::retried(text) }),
        }
    }

    /// Whether a cursor was sent and the client has not said yet what became of it: it takes no other step meanwhile.
    pub fn is_sending_cursor(&self) -> bool {
        self.cursor_call.is_under_way()
    }

    /// Commits the open transaction; to be called when every record of it is reported. Waits at most `wait`.
    ///
    /// # Errors
    /// See [`Trouble`]. With any remedy but [`Remedy::Again`] the outcome is not known.
    pub fn commit_transaction(&self, wait: Duration) -> Result<(), Trouble> {
        self.inner.commit_transaction(wait).map_err(|error| Trouble::from_error(&error))
    }

    /// Aborts the open transaction. Waits at most `wait`.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub fn abort_transaction(&self, wait: Duration) -> Result<(), Trouble> {
        self.inner.abort_transaction(wait).map_err(|error| Trouble::from_error(&error))
    }

    /// Whether the client was fenced, where it can no longer be used.
    pub fn fatal_trouble(&self) -> Option<Trouble> {
        let (code, text) = self.inner.client().fatal_error()?;
        let remedy = match code {
            code if is_fencing(code) => Remedy::Fenced,
            code if is_denial(code) => Remedy::Denied,
            _ => Remedy::Rebuild,
        };
        let mut failure = Failure::from_code(code);
        if remedy != Remedy::Denied {
            failure.text = format!("{code}: {text}");
        }
        Some(Trouble { remedy, failure })
    }

    /// Whether the topic is there and its partitions have leaders; waits at most `wait` for its metadata.
    ///
    /// # Errors
    /// What Kafka says, or that it does not answer.
    pub fn find_topic(&self, topic: &str, wait: Duration) -> Result<(), Failure> {
        let metadata = self
            .inner
            .client()
            .fetch_metadata(Some(topic), wait)
            .map_err(|error| Failure { text: format!("topic {topic}: {error}"), ..Failure::from_error(&error) })?;
        match metadata.topics().first() {
            Some(found) => match found.error() {
                None if found.partitions().iter().any(|partition| partition.leader() < 0) => {
                    Err(Failure::retried(format!("topic {topic}: a partition has no leader")))
                }
                None if !found.partitions().is_empty() => Ok(()),
                None => Err(Failure::from_code(Code::UnknownTopicOrPartition)),
                Some(error) => Err(Failure::from_code(Code::from(error))),
            },
            None => Err(Failure::from_code(Code::UnknownTopicOrPartition)),
        }
    }
}

/// An offset with its metadata, as a group has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The offset.
    pub offset: i64,
    /// The metadata; at most 4096 bytes unless the brokers are configured otherwise.
    pub metadata: String,
}

/// A consumer group that nobody joins: a name for offsets.
pub struct Group {
    metadata: Arc<ConsumerGroupMetadata>,
}

impl Group {
    pub(super) fn of(metadata: ConsumerGroupMetadata) -> Self {
        Self { metadata: Arc::new(metadata) }
    }
}

/// Reads a group's offset with a client of its own.
pub struct CursorReader {
    client: BaseConsumer<Quiet>,
    group: String,
}

impl CursorReader {
    /// What a reader that got its answer has moved, about: two connections (to a broker and to the group's coordinator),
    /// on each the versions, a login of two steps and the cluster's metadata, and the questions for coordinator and
    /// offset.
    pub const TRAFFIC: Traffic =
        Traffic { requests: 10, sent_bytes: 1_200, answers: 10, received_bytes: 4_000, connections: 2 };

    /// Makes the client. `stable`: it waits for open transactions that hold an offset of the group, else it gives the
    /// last one that was committed.
    ///
    /// # Errors
    /// A property is not possible, or a certificate cannot be loaded.
    pub fn open(kafka: &Kafka, group: &str, stable: bool) -> Result<Self, Failure> {
        let mut properties = connection_properties(kafka);
        properties.extend(connection_overrides(kafka));
        for (name, value) in [
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("isolation.level", if stable { "read_committed" } else { "read_uncommitted" }),
        ] {
            properties.push((name.to_owned(), value.to_owned()));
        }
        let config = client_config(&properties).map_err(|error| Failure::held(error.to_string()))?;
        let client = config.create_with_context(Quiet::new(kafka)).map_err(|error| Failure::held(error.to_string()))?;
        Ok(Self { client, group: group.to_owned() })
    }

    /// The committed offset for `topic`. Waits at most `wait`; may be called again after that.
    ///
    /// # Errors
    /// Kafka does not answer in time, or refuses.
    pub fn read(&self, topic: &str, wait: Duration) -> Result<Option<Committed>, Failure> {
        let failed = |error: KafkaError| {
            let failure = Failure::from_error(&error);
            let help = if failure.class == super::Class::Held { " (docs/kafka-acls.md)" } else { "" };
            Failure { text: format!("cursor of group {}: {}{help}", self.group, failure.text), ..failure }
        };
        let mut asked = TopicPartitionList::new();
        asked.add_partition(topic, PARTITION);
        Quiet::log_in(&self.client, wait);
        let answer = self.client.committed_offsets(asked, wait);
        let answer = answer.map_err(|error| self.denial().unwrap_or_else(|| failed(error)))?;
        let Some(element) = answer.find_partition(topic, PARTITION) else { return Ok(None) };
        element.error().map_err(failed)?;
        let Offset::Offset(offset) = element.offset() else { return Ok(None) };
        // The client library panics where the metadata is no UTF-8, which no agent has written.
        let metadata = std::panic::catch_unwind(|| element.metadata().to_owned()).unwrap_or_default();
        Ok(Some(Committed { offset, metadata }))
    }

    /// Whether a broker has said that the group is not for us: the client tells the asking call only that time is up.
    fn denial(&self) -> Option<Failure> {
        while self.client.poll(Duration::ZERO).is_some() {}
        let denied =
            self.client.context().errors().into_iter().find(|(code, _)| *code == Code::GroupAuthorizationFailed);
        denied.map(|(_, text)| Failure::held(format!("cursor of group {}: {text} (docs/kafka-acls.md)", self.group)))
    }

    /// Whether no broker could be reached at some time since it was made.
    pub fn met_outage(&self) -> bool {
        while self.client.poll(Duration::ZERO).is_some() {}
        self.client.context().errors().iter().any(|(code, _)| *code == Code::AllBrokersDown)
    }

    /// The group, to put offsets into transactions; ends the client.
    ///
    /// # Errors
    /// The client library cannot make it.
    pub fn into_group(self) -> Result<Group, Failure> {
        let metadata = self.client.group_metadata();
        metadata.map(Group::of).ok_or_else(|| Failure::held(format!("group {} has no metadata", self.group)))
    }
}
