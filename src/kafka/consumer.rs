//! Reads a topic back from its beginning, all partitions, outside any consumer group: for the account of the demo
//! and of `forebay consume`.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{ClientError, client_config};
use super::settings::connection_properties;
use crate::config::Kafka;

/// Reading failed.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// The client could not be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The topic does not exist, or its metadata did not come in time.
    #[error("topic {topic}: {reason}")]
    Topic {
        /// The topic.
        topic: String,
        /// What Kafka or the client says.
        reason: String,
    },
}

/// A record read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The partition it is in.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// `CreateTime`, milliseconds since 1970 UTC.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// Reads one topic.
pub struct Consumer {
    inner: BaseConsumer,
    topic: String,
    partitions: Vec<i32>,
}

impl Consumer {
    /// Connects and stands at the beginning of every partition. Waits at most `wait` for the topic's metadata.
    ///
    /// # Errors
    /// A property is not possible, the brokers do not answer, or the topic does not exist.
    pub fn open(kafka: &Kafka, topic: &str, wait: Duration) -> Result<Self, ConsumerError> {
        let failed = |reason: String| ConsumerError::Topic { topic: topic.to_owned(), reason };
        let mut properties = connection_properties(kafka);
        for (name, value) in [
            // The client insists on a name; nothing is committed under it and no group is joined.
            ("group.id", "forebay-reader"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
            ("queued.max.messages.kbytes", "8192"),
        ] {
            properties.push((name.to_owned(), value.to_owned()));
        }
        let inner: BaseConsumer =
            client_config(&properties)?.create().map_err(|error| ClientError::Creation(error.to_string()))?;
        let metadata = inner.fetch_metadata(Some(topic), wait).map_err(|error| failed(error.to_string()))?;
        let found = metadata.topics().first().filter(|found| found.error().is_none());
        let partitions: Vec<i32> =
            found.map(|found| found.partitions().iter().map(|partition| partition.id()).collect()).unwrap_or_default();
        if partitions.is_empty() {
            return Err(failed("no such topic".into()));
        }
        let mut assignment = TopicPartitionList::new();
        for partition in &partitions {
            assignment
                .add_partition_offset(topic, *partition, Offset::Beginning)
                .map_err(|error| failed(error.to_string()))?;
        }
        inner.assign(&assignment).map_err(|error| failed(error.to_string()))?;
        Ok(Self { inner, topic: topic.to_owned(), partitions })
    }

    /// The next record, or `None` where none came within `wait`.
    ///
    /// # Errors
    /// Kafka refuses (authorisation, an offset that retention removed). Lost connections are waited out.
    pub fn poll(&self, wait: Duration) -> Result<Option<Received>, ConsumerError> {
        match self.inner.poll(wait) {
            None => Ok(None),
            Some(Ok(message)) => Ok(Some(Received {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis(),
                key: message.key().unwrap_or_default().to_vec(),
                value: message.payload().unwrap_or_default().to_vec(),
            })),
            Some(Err(error)) if is_transient(&error) => Ok(None),
            Some(Err(error)) => Err(ConsumerError::Topic { topic: self.topic.clone(), reason: error.to_string() }),
        }
    }

    /// First and next offset of every partition: what can be read, and how far reading can go now.
    ///
    /// # Errors
    /// The brokers do not answer within `wait`.
    pub fn watermarks(&self, wait: Duration) -> Result<Vec<(i64, i64)>, ConsumerError> {
        let of = |partition: &i32| {
            self.inner
                .fetch_watermarks(&self.topic, *partition, wait)
                .map_err(|error| ConsumerError::Topic { topic: self.topic.clone(), reason: error.to_string() })
        };
        self.partitions.iter().map(of).collect()
    }
}

fn is_transient(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::PartitionEOF
        )
    )
}
