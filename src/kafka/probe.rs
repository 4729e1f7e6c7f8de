//! Asks the cluster about topics with a client of its own: whether records could be delivered, whatever another client
//! thinks.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::MetadataPartition;

use super::client::client_config;
use super::inspect::topic_settings;
use super::quiet::Quiet;
use super::settings::{connection_overrides, connection_properties};
use crate::config::Kafka;

/// What a client makes no headway with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The topic.
    pub topic: String,
    /// These partitions of it; none: it is not known which.
    pub partitions: Vec<i32>,
}

/// Looks for each of these topics whether the partitions in doubt have a leader and enough replicas in sync; waits at
/// most `wait` for each, and no more once the cluster did not answer. Where there is no right to ask for the topic's
/// `min.insync.replicas`, more than half of the replicas counts as enough, which is what it is set to in practice (2 of
/// 3).
///
/// Gives for each, in their order, why it could not take records, if so.
pub fn can_take_records(kafka: &Kafka, doubts: &[Doubt], wait: Duration) -> Vec<Result<(), String>> {
    let client = match open(kafka) {
        Ok(client) => client,
        Err(reason) => return vec![Err(reason); doubts.len()],
    };
    Quiet::log_in(&client, wait);
    let mut silence: Option<String> = None;
    let ask = |doubt: &Doubt| {
        if let Some(reason) = &silence {
            return Err(reason.clone());
        }
        let metadata = client.fetch_metadata(Some(&doubt.topic), wait).map_err(|error| {
            let reason = format!("topic {}: {error}", doubt.topic);
            silence = Some(reason.clone());
            reason
        })?;
        let found = metadata.topics().first().filter(|found| found.error().is_none());
        Ok(found.map_or(Vec::new(), |found| found.partitions().iter().map(Standing::of).collect()))
    };
    let found: Vec<Result<Vec<Standing>, String>> = doubts.iter().map(ask).collect();
    let judged = doubts.iter().zip(found).map(|(doubt, found)| {
        let found = found?;
        // Only where some are in sync and some are not does it matter how many are needed.
        let is_open = found.iter().any(|partition| (1..partition.replicas).contains(&partition.in_sync));
        let needed = if is_open { in_sync_needed(kafka, &doubt.topic, client.context()) } else { None };
        judge(doubt, &found, needed)
    });
    judged.collect()
}

/// The topic's `min.insync.replicas`, where we may ask for it.
fn in_sync_needed(kafka: &Kafka, topic: &str, logged_in: &Quiet) -> Option<usize> {
    let settings = topic_settings::ask(kafka, &properties(kafka), &[topic.to_owned()], logged_in).ok()?;
    settings.into_iter().next()?.ok()?.in_sync_needed
}

fn properties(kafka: &Kafka) -> Vec<(String, String)> {
    let mut properties = connection_properties(kafka);
    properties.extend(connection_overrides(kafka));
    properties
}

fn open(kafka: &Kafka) -> Result<BaseConsumer<Quiet>, String> {
    let mut properties = properties(kafka);
    for (name, value) in [("group.id", "forebay-probe"), ("enable.auto.commit", "false")] {
        properties.push((name.to_owned(), value.to_owned()));
    }
    let config = client_config(&properties).map_err(|error| error.to_string())?;
    config.create_with_context(Quiet::new(kafka)).map_err(|error| error.to_string())
}

/// A partition, as the cluster has it.
#[derive(Debug, Clone, Copy)]
struct Standing {
    id: i32,
    leader: i32,
    in_sync: usize,
    replicas: usize,
}

impl Standing {
    fn of(found: &MetadataPartition) -> Self {
        let (in_sync, replicas) = (found.isr().len(), found.replicas().len());
        Self { id: found.id(), leader: found.leader(), in_sync, replicas }
    }

    fn takes_records(&self, needed: Option<usize>) -> bool {
        self.leader >= 0 && self.in_sync >= needed.unwrap_or(self.replicas / 2 + 1)
    }
}

/// Whether what is in doubt of a topic could take records; `needed`: its `min.insync.replicas`, where that is known.
fn judge(doubt: &Doubt, found: &[Standing], needed: Option<usize>) -> Result<(), String> {
    let topic = &doubt.topic;
    if found.is_empty() {
        return Err(format!("topic {topic} is not there"));
    }
    if let Some(id) = doubt.partitions.iter().find(|id| found.iter().all(|partition| partition.id != **id)) {
        return Err(format!("partition {id} of topic {topic} is not there"));
    }
    let is_meant = |id: i32| doubt.partitions.is_empty() || doubt.partitions.contains(&id);
    match found.iter().find(|partition| is_meant(partition.id) && !partition.takes_records(needed)) {
        None => Ok(()),
        Some(Standing { id, leader, in_sync, replicas }) => Err(format!(
            "partition {id} of topic {topic} has leader {leader} and {in_sync} of {replicas} replicas in sync"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(partitions: &[i32]) -> Doubt {
        Doubt { topic: "telemetry".into(), partitions: partitions.into() }
    }

    #[test]
    fn a_partition_without_leader_or_replicas_speaks_for_itself_alone() {
        let healthy = Standing { id: 0, leader: 1, in_sync: 2, replicas: 3 };
        let alone = Standing { id: 1, in_sync: 1, ..healthy };
        let headless = Standing { id: 2, leader: -1, ..healthy };
        let found = [healthy, alone, headless];
        assert_eq!(judge(&doubt(&[0]), &found, None), Ok(()));
        assert!(judge(&doubt(&[0, 1]), &found, None).unwrap_err().contains("partition 1 of topic telemetry"));
        assert!(judge(&doubt(&[2]), &found, None).unwrap_err().contains("has leader -1"));
        assert!(judge(&doubt(&[]), &found, None).is_err(), "it is not known which of them");
        assert_eq!(judge(&doubt(&[]), &found[..1], None), Ok(()));
        assert!(judge(&doubt(&[0]), &[Standing { in_sync: 1, replicas: 2, ..healthy }], None).is_err());
        assert_eq!(judge(&doubt(&[0]), &[Standing { in_sync: 1, replicas: 1, ..healthy }], None), Ok(()));
    }

    #[test]
    fn what_the_topic_says_counts_where_it_is_known() {
        let two_of_three = [Standing { id: 0, leader: 1, in_sync: 2, replicas: 3 }];
        let answers = [1, 2, 3].map(|needed| judge(&doubt(&[0]), &two_of_three, Some(needed)).is_ok());
        assert_eq!(answers, [true, true, false]);
        let one_of_three = [Standing { in_sync: 1, ..two_of_three[0] }];
        assert_eq!(judge(&doubt(&[]), &one_of_three, Some(1)), Ok(()));
    }

    #[test]
    fn what_is_not_there_takes_no_records() {
        let found = [Standing { id: 0, leader: 1, in_sync: 1, replicas: 1 }];
        assert_eq!(judge(&doubt(&[3]), &found, None), Err("partition 3 of topic telemetry is not there".into()));
        assert_eq!(judge(&doubt(&[]), &[], None), Err("topic telemetry is not there".into()));
    }
}
