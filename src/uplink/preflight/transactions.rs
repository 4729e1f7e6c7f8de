//! What exactly-once delivery needs of Kafka: what to ask for, and what the answers mean.

use uuid::Uuid;

use super::{Finding, Severity};
use crate::config::{Delivery, Kafka, Stream, Transactions};
use crate::kafka::{CursorFacts, CursorQuestion, IdAnswer, ReadAnswer, TransactionFacts, TransactionQuestions};
use crate::uplink::transaction::{group_id, transactional_id};

/// Stands where the queue's identity would, so that the rights of `docs/kafka-acls.md` cover it: no queue is called so.
const STAND_IN: &str = "forebay-check";

/// What to ask for on behalf of the agent of this gateway; `None` where it delivers at least once. `queue`: the identity
/// of its queue, where there is one yet. The agent's own transactional id is not among it: asking takes it over.
pub fn questions(
    kafka: &Kafka,
    gateway: &str,
    streams: &[Stream],
    queue: Option<Uuid>,
) -> Option<TransactionQuestions> {
    let Delivery::ExactlyOnce(how) = &kafka.delivery else { return None };
    let id = format!("{}.{STAND_IN}", how.id.as_deref().unwrap_or(gateway));
    let of_cursors = match (queue, &how.id) {
        (Some(queue), _) => transactional_id(how, gateway, queue),
        (None, Some(own)) => own.clone(),
        (None, None) => id.clone(),
    };
    let of_stream = |stream: &Stream| {
        let (group, topic) = (group_id(&of_cursors, &stream.name), stream.topic.clone());
        CursorQuestion { group, topic }
    };
    let cursors = streams.iter().map(of_stream).collect();
    Some(TransactionQuestions { id, timeout: how.timeout, cursors })
}

/// What the answers mean; `streams` as they were asked for.
pub(super) fn judge(kafka: &Kafka, streams: &[Stream], facts: &TransactionFacts) -> Vec<Finding> {
    let Delivery::ExactlyOnce(how) = &kafka.delivery else { return Vec::new() };
    let mut findings = of_id(how, facts);
    for (stream, cursor) in streams.iter().zip(&facts.cursors) {
        findings.extend(of_cursor(cursor).into_iter().map(|finding| Finding {
            topic: Some(stream.topic.clone()),
            streams: vec![stream.name.to_string()],
            ..finding
        }));
    }
    findings
}

fn of_id(how: &Transactions, facts: &TransactionFacts) -> Vec<Finding> {
    use Severity::{Problem, Unknown};
    let right = |id: &str| format!("right to Write on transactional id {id}");
    let timeout = "kafka.transaction-timeout";
    let mut findings = Vec::new();
    if let Some(own) = &how.id {
        let text = "it was not asked for: that would take the id from an agent that may be running. Without the right all \
                    streams would be held, and the agent says so (docs/kafka-acls.md)";
        findings.push(Finding::new(Unknown, right(own), text));
    }
    match (&facts.answer, &how.id) {
        (IdAnswer::Taken, _) => {}
        (IdAnswer::TimeoutRefused, _) => {
            let text = "nothing would be delivered: lower it, or raise transaction.max.timeout.ms on the brokers";
            let needed = "at most transaction.max.timeout.ms of the brokers";
            findings
                .push(Finding::new(Problem, timeout, text).values(format!("{} ms", how.timeout.as_millis()), needed));
        }
        (IdAnswer::Forbidden, None) => {
            let text = "missing; unless the agent's own id is allowed by its full name, all streams would be held \
                        (docs/kafka-acls.md)";
            findings.push(Finding::new(Problem, right(&facts.id), text));
        }
        (IdAnswer::Forbidden, Some(_)) => {
            let text = format!(
                "whether the brokers take it can be asked for only with the {} as well (docs/kafka-acls.md)",
                right(&facts.id)
            );
            findings.push(Finding::new(Unknown, timeout, text));
        }
        (IdAnswer::Unknown(why), None) => findings.push(Finding::new(Unknown, right(&facts.id), why.as_str())),
        (IdAnswer::Unknown(why), Some(_)) => findings.push(Finding::new(Unknown, timeout, why.as_str())),
    }
    findings
}

fn of_cursor(cursor: &CursorFacts) -> Vec<Finding> {
    use Severity::{Problem, Unknown};
    let of_group = format!("right to Read on group {}", cursor.group);
    let mut findings = Vec::new();
    match &cursor.of_group {
        ReadAnswer::Allowed => {}
        ReadAnswer::Forbidden => {
            let text = "missing; the stream would be held (docs/kafka-acls.md)";
            findings.push(Finding::new(Problem, of_group, text));
        }
        ReadAnswer::Unknown(why) => findings.push(Finding::new(Unknown, of_group, why.as_str())),
    }
    match &cursor.of_topic {
        ReadAnswer::Allowed => {}
        ReadAnswer::Forbidden => {
            let text = "missing; Kafka keeps no cursor without it, so the stream would be held (docs/kafka-acls.md)";
            findings.push(Finding::new(Problem, "right to Read", text));
        }
        ReadAnswer::Unknown(why) => findings.push(Finding::new(Unknown, "right to Read", why.as_str())),
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{kafka, stream};
    use super::*;

    const GOOD: [ReadAnswer; 2] = [ReadAnswer::Allowed, ReadAnswer::Allowed];

    fn exactly_once(id: Option<&str>) -> Kafka {
        let how = Transactions { id: id.map(str::to_owned), timeout: Duration::from_secs(30) };
        Kafka { delivery: Delivery::ExactlyOnce(how), ..kafka() }
    }

    fn lines(id: Option<&str>, answer: IdAnswer, [of_group, of_topic]: [ReadAnswer; 2]) -> Vec<String> {
        let (kafka, streams) = (exactly_once(id), [stream(None)]);
        let asked = questions(&kafka, "truck-17", &streams, None).unwrap();
        let cursor = CursorFacts { group: asked.cursors[0].group.clone(), of_group, of_topic };
        let facts = TransactionFacts { id: asked.id, answer, cursors: vec![cursor] };
        judge(&kafka, &streams, &facts).iter().map(Finding::to_string).collect()
    }

    #[track_caller]
    fn demand(lines: &[String], starts: &[&str]) {
        let fits = lines.len() == starts.len() && lines.iter().zip(starts).all(|(line, start)| line.starts_with(start));
        assert!(fits, "{lines:#?} instead of {starts:#?}");
    }

    #[test]
    fn the_agents_own_id_is_never_asked_with() {
        let queue = Uuid::from_u128(0x5f0c_9a1e << 96);
        let asked = |id, queue| {
            let asked = questions(&exactly_once(id), "truck-17", &[stream(None)], queue).unwrap();
            (asked.id, asked.cursors[0].group.clone())
        };
        let pair = |id: &str, group: &str| (id.to_owned(), group.to_owned());
        let known = pair("truck-17.forebay-check", "truck-17.5f0c9a1e.telemetry");
        assert_eq!(asked(None, Some(queue)), known, "the group is the agent's: reading it disturbs nobody");
        let unknown = pair("truck-17.forebay-check", "truck-17.forebay-check.telemetry");
        assert_eq!(asked(None, None), unknown, "the rights have the gateway's name and a dot for a prefix");
        assert_eq!(asked(Some("x"), Some(queue)), pair("x.forebay-check", "x.telemetry"));
        assert_eq!(asked(Some("x"), None), pair("x.forebay-check", "x.telemetry"));
        assert_eq!(questions(&kafka(), "truck-17", &[stream(None)], None), None, "at least once needs none of it");
    }

    #[test]
    fn with_all_rights_nothing_is_found() {
        demand(&lines(None, IdAnswer::Taken, GOOD), &[]);
        // A right by full name cannot be looked at.
        demand(
            &lines(Some("x"), IdAnswer::Taken, GOOD),
            &["unknown: right to Write on transactional id x: it was not"],
        );
    }

    #[test]
    fn each_right_that_is_missing_is_named() {
        use ReadAnswer::{Allowed, Forbidden, Unknown};
        let id = "right to Write on transactional id truck-17.forebay-check: ";
        demand(&lines(None, IdAnswer::Forbidden, GOOD), &[&format!("problem: {id}missing; ")]);
        demand(&lines(None, IdAnswer::Unknown("odd".into()), GOOD), &[&format!("unknown: {id}odd")]);

        let place = "stream telemetry, topic measurements: ";
        let group = "right to Read on group truck-17.forebay-check.telemetry: ";
        let no_group = lines(None, IdAnswer::Taken, [Forbidden, Unknown("later".into())]);
        let not_asked = format!("unknown: {place}right to Read: later");
        demand(&no_group, &[&format!("problem: {place}{group}missing; "), &not_asked]);
        let no_topic = lines(None, IdAnswer::Taken, [Allowed, Forbidden]);
        demand(&no_topic, &[&format!("problem: {place}right to Read: missing; ")]);
    }

    #[test]
    fn a_timeout_that_the_brokers_refuse_is_named_and_one_not_looked_at_as_well() {
        let start = "problem: kafka.transaction-timeout is 30000 ms, needed at most transaction.max.timeout.ms";
        demand(&lines(None, IdAnswer::TimeoutRefused, GOOD), &[start]);
        let own = "unknown: right to Write on transactional id x: it was not asked for";
        demand(&lines(Some("x"), IdAnswer::TimeoutRefused, GOOD), &[own, start]);
        let unseen = "unknown: kafka.transaction-timeout: whether the brokers take it can be asked for only with the right \
                      to Write on transactional id x.forebay-check";
        demand(&lines(Some("x"), IdAnswer::Forbidden, GOOD), &[own, unseen]);
    }
}
