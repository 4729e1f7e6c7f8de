//! Judges what was found on a cluster against the configuration: what would stop records, lose them, or cannot be said.
//! Pure; [`crate::kafka::inspect`] finds it.

mod certificates;
mod dead_letters;
mod transactions;

use std::time::Duration;

use crate::config::{Kafka, Stream};
use crate::kafka::{Inspection, PartitionFacts, TopicFacts, TopicSettings, Unlisted, WriteAnswer, batch_bytes_max};

pub use certificates::{clock_before, clock_unknown, judge_broker, judge_certificate, unreadable};
pub use transactions::questions as transaction_questions;

/// Records of a time so far after now say that a clock is wrong.
pub const LATER: Duration = Duration::from_secs(300);
/// A topic that keeps records for less than this is worth a warning where the stream has no age of its own.
const RETENTION_SHORT_MS: i64 = 86_400_000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Records would wait, be set aside, or be deleted by Kafka.
    Problem,
    /// It works, yet probably not as meant, or not for long.
    Warning,
    /// It could not be looked at.
    Unknown,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The setting, right or file that it is about, by its own name.
    pub about: String,
    /// The streams concerned; none where it concerns all, or the dead-letter topic.
    pub streams: Vec<String>,
    /// The Kafka topic, where it is about one.
    pub topic: Option<String>,
    /// What was found, where it is a value.
    pub found: Option<String>,
    /// What it should be at least or at most.
    pub limit: Option<String>,
    /// What follows, and what helps.
    pub text: String,
}

impl Finding {
    fn new(severity: Severity, about: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            severity,
            about: about.into(),
            streams: Vec::new(),
            topic: None,
            found: None,
            limit: None,
            text: text.into(),
        }
    }

    fn values(mut self, found: impl ToString, limit: impl ToString) -> Self {
        (self.found, self.limit) = (Some(found.to_string()), Some(limit.to_string()));
        self
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Problem => "problem",
            Severity::Warning => "warning",
            Severity::Unknown => "unknown",
        };
        write!(out, "{severity}: ")?;
        if let Some(topic) = &self.topic {
            match self.streams.as_slice() {
                [] => write!(out, "dead-letter topic {topic}: ")?,
                [stream] => write!(out, "stream {stream}, topic {topic}: ")?,
                streams => write!(out, "streams {}, topic {topic}: ", streams.join(", "))?,
            }
        }
        write!(out, "{}", self.about)?;
        if let (Some(found), Some(limit)) = (&self.found, &self.limit) {
            write!(out, " is {found}, needed {limit}")?;
        }
        write!(out, ": {}", self.text)
    }
}

/// All findings on the cluster, topic by topic, then what exactly-once delivery needs; a topic of no stream is the
/// dead-letter topic.
pub fn judge(kafka: &Kafka, streams: &[Stream], seen: &Inspection) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(failures) = &seen.connection {
        let each = failures.iter();
        findings.extend(each.map(|why| Finding::new(Severity::Problem, "connection", why.as_str())));
    }
    let trouble = seen.trouble.iter();
    findings.extend(trouble.map(|why| Finding::new(Severity::Warning, "connection to a broker", why.as_str())));
    for facts in &seen.topics {
        let concerned: Vec<&Stream> = streams.iter().filter(|stream| stream.topic == facts.topic).collect();
        let mut of_topic = match concerned.as_slice() {
            [] => dead_letters::judge(facts, seen),
            concerned => of_topic(kafka, concerned, facts),
        };
        for finding in &mut of_topic {
            finding.topic = Some(facts.topic.clone());
            finding.streams = concerned.iter().map(|stream| stream.name.to_string()).collect();
        }
        findings.extend(of_topic);
    }
    let facts = seen.transactions.iter();
    findings.extend(facts.flat_map(|facts| transactions::judge(kafka, streams, facts)));
    findings
}

fn of_topic(kafka: &Kafka, streams: &[&Stream], facts: &TopicFacts) -> Vec<Finding> {
    use Severity::{Problem, Unknown};
    let mut findings = Vec::new();
    let partitions = match &facts.partitions {
        Ok(partitions) => partitions,
        Err(unlisted) => {
            return vec![match unlisted {
                Unlisted::Missing => Finding::new(Problem, "topic", "it is not there; the agent does not create it"),
                Unlisted::Forbidden => Finding::new(
                    Problem,
                    "right to Describe",
                    "missing, or the topic is: Kafka does not tell which (docs/kafka-acls.md)",
                ),
                Unlisted::Other(why) => Finding::new(Unknown, "topic", why.as_str()),
            }];
        }
    };
    match &facts.write {
        WriteAnswer::Allowed => {}
        WriteAnswer::Forbidden => findings.push(Finding::new(
            Problem,
            "right to Write",
            "missing; the stream would be held (docs/kafka-acls.md)",
        )),
        WriteAnswer::Taken => findings.push(Finding::new(
            Severity::Warning,
            "acks",
            "the broker took a record with acks=2 instead of refusing it: an empty one with the key forebay-check is in the \
             topic now",
        )),
        WriteAnswer::Unknown(why) => findings.push(Finding::new(Unknown, "right to Write", why.as_str())),
    }
    findings.extend(of_clock(facts));
    let needed = facts.settings.as_ref().ok().and_then(|settings| settings.in_sync_needed);
    findings.extend(of_replicas(partitions, needed));
    match &facts.settings {
        Ok(settings) => findings.extend(of_settings(kafka, streams, settings)),
        Err(why) => findings.push(Finding::new(
            Unknown,
            "settings of the topic",
            format!("{why}; retention, largest message and replicas needed were not looked at (docs/kafka-acls.md)"),
        )),
    }
    findings
}

fn of_replicas(partitions: &PartitionFacts, needed: Option<usize>) -> Vec<Finding> {
    use Severity::{Problem, Warning};
    let mut findings = Vec::new();
    if partitions.leaderless > 0 {
        let text =
            format!("{} of {} partitions have none and take nothing now", partitions.leaderless, partitions.count);
        findings.push(Finding::new(Problem, "leader", text));
    }
    let replicas = partitions.replicas_min;
    match needed {
        Some(needed) if needed > replicas => findings.push(
            Finding::new(
                Problem,
                "min.insync.replicas",
                "more than there are replicas: the topic never takes a record",
            )
            .values(needed, format!("at most {replicas}")),
        ),
        Some(needed) if needed > partitions.in_sync_min => findings.push(
            Finding::new(Problem, "replicas in sync", "the topic takes no record until more of them are")
                .values(partitions.in_sync_min, format!("at least {needed} (min.insync.replicas)")),
        ),
        Some(1) if replicas > 1 => findings.push(
            Finding::new(Warning, "min.insync.replicas", "a record counts as delivered when a single broker has it")
                .values(1, "at least 2"),
        ),
        _ if replicas == 1 => {
            findings.push(
                Finding::new(Warning, "replicas", "a single broker has all there is of the topic")
                    .values(1, "at least 2"),
            );
        }
        _ => {}
    }
    findings
}

fn of_settings(kafka: &Kafka, streams: &[&Stream], settings: &TopicSettings) -> Vec<Finding> {
    use Severity::{Problem, Warning};
    let mut findings = Vec::new();
    let batch_bytes = batch_bytes_max(kafka);
    if let Some(bytes) = settings.message_bytes_max.filter(|bytes| *bytes < batch_bytes) {
        let text = "batches that compress badly would be refused and sent again record by record; raise it, or lower \
                    kafka.properties.\"batch.size\" to it";
        findings
            .push(Finding::new(Problem, "max.message.bytes", text).values(bytes, format!("at least {batch_bytes}")));
    }
    if settings.cleanup_policy.as_ref().is_some_and(|policy| policy.contains("compact")) {
        let text = "Kafka keeps only the last record of each device: the key is the device";
        findings.push(Finding::new(Problem, "cleanup.policy", text).values("compact", "delete"));
    }
    let age = streams.iter().filter_map(|stream| stream.retention.age).max();
    let any_ageless = streams.iter().any(|stream| stream.retention.age.is_none());
    if let Some(retention_ms) = settings.retention_ms.filter(|ms| *ms >= 0) {
        if let Some(age) = age.filter(|age| as_ms(*age) > retention_ms) {
            let text = "Kafka deletes what comes later than that after an outage as soon as it has it; raise it, or lower \
                        the stream's retention.age";
            let needed = format!("at least {} (retention.age)", as_ms(age));
            findings.push(Finding::new(Problem, "retention.ms", text).values(retention_ms, needed));
        } else if any_ageless && retention_ms < RETENTION_SHORT_MS {
            let text = "Kafka deletes what comes later than that after an outage as soon as it has it, and the stream has no \
                        retention.age";
            findings.push(
                Finding::new(Warning, "retention.ms", text)
                    .values(retention_ms, format!("at least {RETENTION_SHORT_MS}")),
            );
        }
    }
    if let (Some(before_ms), Some(age)) = (settings.timestamp_before_max_ms, age)
        && as_ms(age) > before_ms
    {
        let text = "records that are older get the time of sending as Kafka's timestamp; the value keeps the time of \
                    measurement";
        let needed = format!("at least {} (retention.age)", as_ms(age));
        findings.push(Finding::new(Warning, "message.timestamp.before.max.ms", text).values(before_ms, needed));
    }
    if settings.timestamp_type.as_deref() == Some("LogAppendTime") {
        let text = "Kafka's timestamp is the time of arrival; the time of measurement is in the record alone";
        findings.push(Finding::new(Warning, "message.timestamp.type", text).values("LogAppendTime", "CreateTime"));
    }
    findings
}

/// Whether the topic's newest record tells that our clock is behind. That it is ahead no record can tell.
fn of_clock(facts: &TopicFacts) -> Option<Finding> {
    let ahead = LATER.as_secs() / 60;
    let arrival = facts.settings.as_ref().is_ok_and(|of| of.timestamp_type.as_deref() == Some("LogAppendTime"));
    match &facts.has_later {
        Ok(false) => None,
        Ok(true) if arrival => {
            let text = format!(
                "the broker has stamped a record more than {ahead} minutes after what this machine takes for now: this \
                 machine's clock, or the broker's, is wrong"
            );
            Some(Finding::new(Severity::Problem, "clock", text))
        }
        Ok(true) => {
            let text = format!(
                "a record of the topic has a time more than {ahead} minutes after what this machine takes for now: this \
                 machine's clock is behind, or that of another sender is ahead"
            );
            Some(Finding::new(Severity::Warning, "clock", text))
        }
        Err(why) => Some(Finding::new(Severity::Unknown, "clock against the topic's newest record", why.as_str())),
    }
}

fn as_ms(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
