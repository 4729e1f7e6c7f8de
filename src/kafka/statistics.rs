//! What the agent reads of librdkafka's statistics (`STATISTICS.md`): the brokers' connection states, how much was moved,
//! and how far the records of each partition have come. All else is skipped as it is read, and of the partitions, which
//! may be thousands, only those are kept that were given records.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::traffic::Traffic;

/// How far a topic's records have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicProgress {
    /// Its name.
    pub topic: String,
    /// Those of its partitions that were given records.
    pub partitions: Vec<PartitionProgress>,
}

/// How far a partition's records have come, counted since the client was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct PartitionProgress {
    /// Its number.
    pub partition: i32,
    /// Records that the client took for it.
    #[serde(default, rename = "msgs")]
    pub taken: u64,
    /// Records that were put into produce requests. The library puts what is to be sent again back into the partition's
    /// queue and makes a new request of it, so a record counts each time.
    #[serde(default, rename = "txmsgs")]
    pub transmitted: u64,
}

#[derive(Deserialize)]
pub(super) struct Statistics {
    #[serde(default, deserialize_with = "all_brokers")]
    brokers: Vec<Broker>,
    #[serde(default)]
    topics: HashMap<String, Topic>,
    #[serde(default)]
    msg_cnt: u64,
    #[serde(default)]
    tx: u64,
    #[serde(default)]
    tx_bytes: u64,
    #[serde(default)]
    rx: u64,
    #[serde(default)]
    rx_bytes: u64,
}

impl Statistics {
    pub(super) fn parse(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    /// Whether a connection to any broker stands.
    pub(super) fn is_connected(&self) -> bool {
        self.brokers.iter().any(|broker| broker.state == "UP")
    }

    /// Whether the client has no broker that it could connect to: it knows none, as a logical one is a role that no
    /// broker has then, or it keeps those that it has given up, which look as if nobody had asked for a connection, while
    /// messages wait for one.
    pub(super) fn is_stranded(&self) -> bool {
        let mut brokers = self.brokers.iter().filter(|broker| broker.source != "logical").peekable();
        brokers.peek().is_none() || self.msg_cnt > 0 && brokers.all(|broker| broker.state == "INIT")
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.tx,
            sent_bytes: self.tx_bytes,
            answers: self.rx,
            received_bytes: self.rx_bytes,
            connections: self.brokers.iter().map(Broker::connections).sum(),
        }
    }

    pub(super) fn into_progress(self) -> Vec<TopicProgress> {
        let topics = self.topics.into_iter().filter(|(_, found)| !found.partitions.is_empty());
        topics.map(|(topic, found)| TopicProgress { topic, partitions: found.partitions }).collect()
    }
}

/// Reads the map of brokers, of which two may have the same name: one that was given up and is still in use somewhere, and
/// its successor.
fn all_brokers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Broker>, D::Error> {
    struct All;

    impl<'de> Visitor<'de> for All {
        type Value = Vec<Broker>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("brokers by their name")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut brokers = Vec::new();
            while let Some((_, broker)) = map.next_entry::<IgnoredAny, Broker>()? {
                brokers.push(broker);
            }
            Ok(brokers)
        }
    }

    deserializer.deserialize_map(All)
}

#[derive(Deserialize)]
struct Broker {
    #[serde(default)]
    source: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    disconnects: u64,
}

impl Broker {
    /// Connections that came about. The library's own `connects` counts attempts, and a link that is down has many of
    /// them; `disconnects` counts only ends of connections that stood.
    fn connections(&self) -> u64 {
        let stands = matches!(&*self.state, "UP" | "APIVERSION_QUERY" | "AUTH_HANDSHAKE" | "AUTH_REQ" | "REAUTH");
        self.disconnects.saturating_add(u64::from(stands))
    }
}

#[derive(Deserialize)]
struct Topic {
    #[serde(default, deserialize_with = "partitions_in_use")]
    partitions: Vec<PartitionProgress>,
}

/// Reads the map of a topic's partitions, without the one (-1) where records wait for the topic's metadata.
fn partitions_in_use<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PartitionProgress>, D::Error> {
    struct InUse;

    impl<'de> Visitor<'de> for InUse {
        type Value = Vec<PartitionProgress>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("partitions by their number")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut partitions = Vec::new();
            while let Some((_, partition)) = map.next_entry::<IgnoredAny, PartitionProgress>()? {
                if partition.partition >= 0 && partition.taken > 0 {
                    partitions.push(partition);
                }
            }
            Ok(partitions)
        }
    }

    deserializer.deserialize_map(InUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(state: &str, connects: u64, disconnects: u64) -> u64 {
        let broker = format!(r#"{{"state":"{state}","connects":{connects},"disconnects":{disconnects}}}"#);
        let text = format!(r#"{{"brokers":{{"kafka:9092/1":{broker}}},"tx":7}}"#);
        Statistics::parse(text.as_bytes()).unwrap().traffic().connections
    }

    #[test]
    fn attempts_to_connect_are_no_connections() {
        assert_eq!(connections("UP", 1, 0), 1);
        assert_eq!(connections("CONNECT", 5, 1), 1);
        assert_eq!(connections("CONNECT", 500, 1), 1, "a link that is down costs nothing");
        assert_eq!(connections("AUTH_REQ", 501, 1), 2);
        assert_eq!(connections("UP", 501, 1), 2);
    }

    #[test]
    fn a_client_is_stranded_without_a_broker_or_with_none_that_it_asks_for_what_it_needs() {
        let is_stranded = |waiting: u64, brokers: &[(&str, &str)]| {
            let broker =
                |(source, state): &(&str, &str)| format!(r#""{source}":{{"source":"{source}","state":"{state}"}}"#);
            let brokers: Vec<String> = brokers.iter().map(broker).collect();
            let text = format!(r#"{{"msg_cnt":{waiting},"brokers":{{{}}}}}"#, brokers.join(","));
            Statistics::parse(text.as_bytes()).unwrap().is_stranded()
        };
        assert!(is_stranded(0, &[]) && is_stranded(0, &[("logical", "UP")]));
        assert!(!is_stranded(0, &[("configured", "INIT")]) && !is_stranded(0, &[("learned", "INIT")]), "it is idle");
        assert!(is_stranded(1, &[("learned", "INIT")]) && is_stranded(1, &[("learned", "INIT"), ("logical", "UP")]));
        for state in ["UP", "CONNECT", "TRY_CONNECT", "DOWN"] {
            assert!(!is_stranded(1, &[("learned", "INIT"), ("configured", state)]), "{state}");
            let of_one_name = [[("learned", "INIT"), ("learned", state)], [("learned", state), ("learned", "INIT")]];
            assert_eq!(of_one_name.map(|brokers| is_stranded(1, &brokers)), [false, false], "{state}");
        }
    }

    #[test]
    fn of_the_partitions_only_those_with_records_are_kept() {
        let text = r#"{"topics":{
            "unused":{"topic":"unused","age":1,"partitions":{"0":{"partition":0,"msgs":0,"txmsgs":0}}},
            "telemetry":{"batchsize":{"min":0},"partitions":{
                "0":{"partition":0,"leader":1,"msgs":0,"txmsgs":0},
                "2":{"partition":2,"leader":1,"msgs":12,"txmsgs":30},
                "-1":{"partition":-1,"msgs":3,"txmsgs":0}}}}}"#;
        let progress = Statistics::parse(text.as_bytes()).unwrap().into_progress();
        let partitions = vec![PartitionProgress { partition: 2, taken: 12, transmitted: 30 }];
        assert_eq!(progress, [TopicProgress { topic: "telemetry".into(), partitions }]);
    }
}
