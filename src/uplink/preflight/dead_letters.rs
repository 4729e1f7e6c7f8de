//! Judges the dead-letter topic: whether it takes what the streams' topics refuse. Where it does not, nothing is lost: the
//! dead-letter file gets it.

use super::{Finding, Severity, of_replicas};
use crate::kafka::{Inspection, TopicFacts, Unlisted, WriteAnswer};

/// What is wrong with the dead-letter topic, beside the topics of the streams.
pub(super) fn judge(facts: &TopicFacts, seen: &Inspection) -> Vec<Finding> {
    use Severity::{Problem, Unknown, Warning};
    let partitions = match &facts.partitions {
        Ok(partitions) => partitions,
        Err(unlisted) => {
            return vec![match unlisted {
                Unlisted::Missing => {
                    Finding::new(Problem, "topic", "it is not there; dead letters would go into the file instead")
                }
                Unlisted::Forbidden => Finding::new(
                    Problem,
                    "right to Describe",
                    "missing, or the topic is: Kafka does not tell which; dead letters would go into the file instead \
                     (docs/kafka-acls.md)",
                ),
                Unlisted::Other(why) => Finding::new(Unknown, "topic", why.as_str()),
            }];
        }
    };
    let mut findings = Vec::new();
    match &facts.write {
        WriteAnswer::Allowed => {}
        WriteAnswer::Forbidden => findings.push(Finding::new(
            Problem,
            "right to Write",
            "missing; dead letters would go into the file instead (docs/kafka-acls.md)",
        )),
        WriteAnswer::Taken => findings.push(Finding::new(
            Warning,
            "acks",
            "the broker took a record with acks=2 instead of refusing it: an empty one with the key forebay-check is in the \
             topic now",
        )),
        WriteAnswer::Unknown(why) => findings.push(Finding::new(Unknown, "right to Write", why.as_str())),
    }
    let settings = facts.settings.as_ref().ok();
    findings.extend(of_replicas(partitions, settings.and_then(|settings| settings.in_sync_needed)));
    let largest = |facts: &TopicFacts| facts.settings.as_ref().ok().and_then(|settings| settings.message_bytes_max);
    let of_streams = seen.topics.iter().filter(|other| other.topic != facts.topic).filter_map(largest).max();
    if let (Some(bytes), Some(of_streams)) = (largest(facts), of_streams)
        && bytes <= of_streams
    {
        let text = "a record that is too large for its stream's topic is too large for this one as well and goes into the \
                    file";
        let needed = format!("more than {of_streams}, the largest of the streams' topics");
        findings.push(Finding::new(Warning, "max.message.bytes", text).values(bytes, needed));
    }
    if settings.and_then(|settings| settings.cleanup_policy.as_ref()).is_some_and(|policy| policy.contains("compact")) {
        let text = "Kafka keeps only the last letter of each device: the key is the device";
        findings.push(Finding::new(Problem, "cleanup.policy", text).values("compact", "delete"));
    }
    findings
}
