//! The embedded Kafka of demos and tests: librdkafka's mock cluster, one broker on a random port of 127.0.0.1.
//!
//! It is not a Kafka: memory only, no transactions' isolation, and it drops the oldest of a partition above 5 MiB or
//! 100 000 batches (see [`crate::kafka::Consumer::watermarks`]). Any Kafka client can connect to it.

use std::time::Duration;

use anyhow::Context as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// Number of the only broker.
const BROKER: i32 = 1;
/// Partitions of a topic, at most.
const PARTITIONS_MAX: i32 = 4;

/// A running embedded Kafka; ends when dropped.
pub struct EmbeddedKafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl EmbeddedKafka {
    /// Starts it.
    ///
    /// # Errors
    /// The client library cannot make its mock cluster (no port).
    pub fn start() -> anyhow::Result<Self> {
        Ok(Self { cluster: MockCluster::new(1).context("embedded kafka cannot start")? })
    }

    /// `host:port` for clients.
    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Creates a topic of 1 to 4 partitions.
    ///
    /// # Errors
    /// The number of partitions is out of range or the topic exists.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> anyhow::Result<()> {
        anyhow::ensure!(
            (1..=PARTITIONS_MAX).contains(&partitions),
            "topic {topic}: {partitions} partitions, allowed are 1 to {PARTITIONS_MAX}"
        );
        self.cluster.create_topic(topic, partitions, 1).with_context(|| format!("topic {topic} cannot be created"))
    }

    /// Cuts every connection and takes none until [`EmbeddedKafka::up`].
    ///
    /// # Errors
    /// The mock cluster refuses.
    pub fn down(&self) -> anyhow::Result<()> {
        self.cluster.broker_down(BROKER).context("embedded kafka cannot go down")
    }

    /// Takes connections again.
    ///
    /// # Errors
    /// The mock cluster refuses.
    pub fn up(&self) -> anyhow::Result<()> {
        self.cluster.broker_up(BROKER).context("embedded kafka cannot come up")
    }

    /// Gives a partition its leader back, or takes it away: without one it takes no records.
    ///
    /// # Errors
    /// The mock cluster refuses.
    pub fn lead(&self, topic: &str, partition: i32, leads: bool) -> anyhow::Result<()> {
        let leader = leads.then_some(BROKER);
        let led = self.cluster.partition_leader(topic, partition, leader);
        led.with_context(|| format!("partition {partition} of topic {topic} cannot change its leader"))
    }

    /// Each answer comes so much later from now on.
    ///
    /// # Errors
    /// The mock cluster refuses.
    pub fn round_trip(&self, time: Duration) -> anyhow::Result<()> {
        self.cluster.broker_round_trip_time(BROKER, time).context("embedded kafka cannot be slow")
    }

    /// The next produce requests fail with these error codes of the Kafka protocol (0: succeeds), in turn.
    pub fn fail_produce(&self, codes: &[i16]) {
        self.fail(RDKafkaApiKey::Produce, codes);
    }

    /// So do the next requests for a producer id.
    pub fn fail_producer_id(&self, codes: &[i16]) {
        self.fail(RDKafkaApiKey::InitProducerId, codes);
    }

    /// So do the next requests for a group's offsets.
    pub fn fail_offsets(&self, codes: &[i16]) {
        self.fail(RDKafkaApiKey::OffsetFetch, codes);
    }

    /// So do the next requests to take a group's offsets into a transaction.
    pub fn fail_cursor(&self, codes: &[i16]) {
        self.fail(RDKafkaApiKey::AddOffsetsToTxn, codes);
    }

    /// So do the next requests to end a transaction.
    pub fn fail_end(&self, codes: &[i16]) {
        self.fail(RDKafkaApiKey::EndTxn, codes);
    }

    /// Produce requests no longer fail.
    pub fn heal_produce(&self) {
        self.cluster.clear_request_errors(RDKafkaApiKey::Produce);
    }

    /// Requests to end a transaction no longer fail.
    pub fn heal_end(&self) {
        self.cluster.clear_request_errors(RDKafkaApiKey::EndTxn);
    }

    fn fail(&self, request: RDKafkaApiKey, codes: &[i16]) {
        let errors: Vec<_> = codes.iter().filter_map(|code| RDKafkaRespErr::try_from(i32::from(*code)).ok()).collect();
        self.cluster.request_errors(request, &errors);
    }
}
