//! Asks the cluster about topics with a client of its own: whether records could be delivered, whatever another client
//! thinks.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::client::client_config;
use super::quiet::Quiet;
use super::settings::{connection_overrides, connection_properties};
use crate::config::Kafka;

/// Looks whether every partition of these topics has a leader and enough replicas in sync; waits at most `wait` for each
/// topic. Metadata does not say `min.insync.replicas`: more than half of the replicas counts as enough, which is what
/// it is set to in practice (2 of 3).
///
/// # Errors
/// In words: the cluster does not answer, or a partition cannot take records.
pub fn can_take_records(kafka: &Kafka, topics: &[String], wait: Duration) -> Result<(), String> {
    let mut properties = connection_properties(kafka);
    properties.extend(connection_overrides(kafka));
    for (name, value) in [("group.id", "forebay-probe"), ("enable.auto.commit", "false")] {
        properties.push((name.to_owned(), value.to_owned()));
    }
    let client: BaseConsumer<Quiet> = client_config(&properties)
        .map_err(|error| error.to_string())?
        .create_with_context(Quiet::new(kafka))
        .map_err(|error| error.to_string())?;
    Quiet::log_in(&client, wait);
    for topic in topics {
        let metadata = client.fetch_metadata(Some(topic), wait).map_err(|error| format!("topic {topic}: {error}"))?;
        let found = metadata.topics().first().filter(|found| found.error().is_none() && !found.partitions().is_empty());
        let Some(found) = found else { return Err(format!("topic {topic} is not there")) };
        for partition in found.partitions() {
            let (in_sync, replicas) = (partition.isr().len(), partition.replicas().len());
            if partition.leader() < 0 || in_sync * 2 <= replicas {
                let (id, leader) = (partition.id(), partition.leader());
                return Err(format!(
                    "partition {id} of topic {topic} has leader {leader} and {in_sync} of {replicas} replicas in sync"
                ));
            }
        }
    }
    Ok(())
}
