//! Reads a topic back from its beginning, all partitions, outside any consumer group: for the account of the demo
//! and of `forebay consume`.

use std::cell::Cell;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{ClientError, client_config};
use super::quiet::Quiet;
use super::settings::{connection_overrides, connection_properties};
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

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The oldest record that Kafka still has.
    Beginning,
    /// The first record whose Kafka timestamp is at least this, in milliseconds since 1970 UTC.
    Time(i64),
}

/// What there is to read of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The partition.
    pub partition: i32,
    /// The oldest offset that Kafka still has.
    pub low: i64,
    /// Where reading begins.
    pub first: i64,
    /// The offset that the next record would have had when this was asked.
    pub end: i64,
}

impl Span {
    /// Offsets to read; with transactions some of them hold no record.
    pub fn len(&self) -> u64 {
        u64::try_from(self.end - self.first).unwrap_or(0)
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What [`Consumer::next`] came upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A record.
    Record(Received),
    /// The end of this partition, for now.
    End(i32),
    /// Nothing within the wait.
    Nothing,
}

/// Reads one topic.
///
/// Reading starts with [`Consumer::begin`] or the first poll, not with [`Consumer::open`]: brokers answer requests of a
/// connection in turn, so that a question for offsets would wait behind a fetch that waits for new records.
pub struct Consumer {
    inner: BaseConsumer<Quiet>,
    topic: String,
    partitions: Vec<i32>,
    reading: Cell<bool>,
}

impl Consumer {
    /// Connects. Waits at most `wait` for the topic's metadata.
    ///
    /// # Errors
    /// A property is not possible, the brokers do not answer, or the topic does not exist.
    pub fn open(kafka: &Kafka, topic: &str, wait: Duration) -> Result<Self, ConsumerError> {
        let failed = |reason: String| ConsumerError::Topic { topic: topic.to_owned(), reason };
        let mut properties = connection_properties(kafka);
        properties.extend(connection_overrides(kafka));
        for (name, value) in [
            // The client insists on a name; nothing is committed under it and no group is joined.
            ("group.id", "forebay-reader"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
            ("queued.max.messages.kbytes", "8192"),
        ] {
            properties.push((name.to_owned(), value.to_owned()));
        }
        let inner: BaseConsumer<Quiet> = client_config(&properties)?
            .create_with_context(Quiet::new(kafka))
            .map_err(|error| ClientError::Creation(error.to_string()))?;
        Quiet::log_in(&inner, wait);
        let metadata = inner.fetch_metadata(Some(topic), wait).map_err(|error| failed(error.to_string()))?;
        let found = metadata.topics().first().filter(|found| found.error().is_none());
        let partitions: Vec<i32> =
            found.map(|found| found.partitions().iter().map(|partition| partition.id()).collect()).unwrap_or_default();
        if partitions.is_empty() {
            return Err(failed("no such topic".into()));
        }
        Ok(Self { inner, topic: topic.to_owned(), partitions, reading: Cell::new(false) })
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// What there is to read of every partition from `start` on. Ask before reading; see [`Consumer`].
    ///
    /// # Errors
    /// The brokers do not answer each question within `wait`.
    pub fn spans(&self, start: Start, wait: Duration) -> Result<Vec<Span>, ConsumerError> {
        let marks = self.watermarks(wait)?;
        let spans = self.partitions.iter().zip(marks);
        let mut spans: Vec<Span> =
            spans.map(|(partition, (low, end))| Span { partition: *partition, low, first: low, end }).collect();
        if let Start::Time(timestamp_ms) = start {
            let mut times = TopicPartitionList::new();
            for span in &spans {
                times
                    .add_partition_offset(&self.topic, span.partition, Offset::Offset(timestamp_ms))
                    .map_err(|error| self.failed(&error))?;
            }
            let found = self.inner.offsets_for_times(times, wait).map_err(|error| self.failed(&error))?;
            for span in &mut spans {
                let offset = found.find_partition(&self.topic, span.partition).map(|element| element.offset());
                // No record is that late: only what comes from now on.
                span.first = match offset {
                    Some(Offset::Offset(offset)) => offset.clamp(span.low, span.end),
                    _ => span.end,
                };
            }
        }
        Ok(spans)
    }

    /// Begins to read these partitions where their spans begin.
    ///
    /// # Errors
    /// The client refuses the assignment.
    pub fn begin(&self, spans: &[Span]) -> Result<(), ConsumerError> {
        self.assign(spans.iter().map(|span| (span.partition, Offset::Offset(span.first))))
    }

    fn assign(&self, places: impl Iterator<Item = (i32, Offset)>) -> Result<(), ConsumerError> {
        let mut assignment = TopicPartitionList::new();
        for (partition, offset) in places {
            assignment.add_partition_offset(&self.topic, partition, offset).map_err(|error| self.failed(&error))?;
        }
        self.inner.assign(&assignment).map_err(|error| self.failed(&error))?;
        self.reading.set(true);
        Ok(())
    }

    /// The next record, or `None` where none came within `wait`. Reads every partition from its beginning, unless
    /// [`Consumer::begin`] said otherwise.
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub fn poll(&self, wait: Duration) -> Result<Option<Received>, ConsumerError> {
        match self.next(wait)? {
            Next::Record(received) => Ok(Some(received)),
            Next::End(_) | Next::Nothing => Ok(None),
        }
    }

    /// The next record or end of a partition, waiting at most `wait`.
    ///
    /// # Errors
    /// Kafka refuses (authorisation, an offset that retention removed). Lost connections are waited out.
    pub fn next(&self, wait: Duration) -> Result<Next, ConsumerError> {
        if !self.reading.get() {
            self.assign(self.partitions.iter().map(|partition| (*partition, Offset::Beginning)))?;
        }
        match self.inner.poll(wait) {
            None => Ok(Next::Nothing),
            Some(Ok(message)) => Ok(Next::Record(Received {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis(),
                key: message.key().unwrap_or_default().to_vec(),
                value: message.payload().unwrap_or_default().to_vec(),
            })),
            Some(Err(KafkaError::PartitionEOF(partition))) => Ok(Next::End(partition)),
            Some(Err(error)) if is_transient(&error) => Ok(Next::Nothing),
            Some(Err(error)) => Err(self.failed(&error)),
        }
    }

    /// First and next offset of every partition: what can be read, and how far reading can go now.
    ///
    /// # Errors
    /// The brokers do not answer within `wait`.
    pub fn watermarks(&self, wait: Duration) -> Result<Vec<(i64, i64)>, ConsumerError> {
        let of = |partition: &i32| {
            self.inner.fetch_watermarks(&self.topic, *partition, wait).map_err(|error| self.failed(&error))
        };
        self.partitions.iter().map(of).collect()
    }

    fn failed(&self, error: &KafkaError) -> ConsumerError {
        ConsumerError::Topic { topic: self.topic.clone(), reason: error.to_string() }
    }
}

fn is_transient(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            // The client looks for the coordinator of the group whose name it insists on; nothing here needs one.
            Code::GroupAuthorizationFailed
                | Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
        )
    )
}
