//! Asks for what exactly-once delivery needs, beside an agent that may be running and without disturbing it.
//!
//! The agent's own transactional id is never taken over: that would fence it. Another one, which the same right covers,
//! tells whether the right is there and whether the brokers take the timeout; Kafka forgets it after
//! `transactional.id.expiration.ms`. A stream's group is asked for its offset, and then to take one for a partition that
//! cannot be there: Kafka judges the rights to Read the group and the topic first, and then refuses the partition
//! (`KafkaApis.handleOffsetCommitRequest`).

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{ANSWER_MAX, CONNECT_MAX, LOOK_EVERY, with};
use crate::config::Kafka;
use crate::kafka::client::{ClientError, Producer, client_config};
use crate::kafka::quiet::Quiet;

/// Longest wait of one question for an offset; each waits longer than the one before, as each asks anew.
const WAIT_MAX: Duration = Duration::from_secs(4);
/// Every topic has it: the agent keeps its cursors there.
const PARTITION: i32 = 0;
/// No topic has it.
const NO_PARTITION: i32 = i32::MAX;

/// What is to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionQuestions {
    /// A transactional id that no agent uses: it is taken over.
    pub id: String,
    /// `transaction.timeout.ms`.
    pub timeout: Duration,
    /// The cursor of each stream.
    pub cursors: Vec<CursorQuestion>,
}

/// Where a stream's cursor is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorQuestion {
    /// The consumer group.
    pub group: String,
    /// The stream's topic.
    pub topic: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionFacts {
    /// The transactional id that was asked with.
    pub id: String,
    /// Whether it was taken.
    pub answer: IdAnswer,
    /// The cursors, in the order of the questions.
    pub cursors: Vec<CursorFacts>,
}

/// Whether Kafka takes a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdAnswer {
    /// It does.
    Taken,
    /// We have no right to it.
    Forbidden,
    /// We have the right; the brokers refuse the timeout.
    TimeoutRefused,
    /// The answer says something else, or there is none, in words.
    Unknown(String),
}

/// Rights to a stream's cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorFacts {
    /// The group that was asked.
    pub group: String,
    /// The right to Read the group.
    pub of_group: ReadAnswer,
    /// The right to Read the topic.
    pub of_topic: ReadAnswer,
}

/// Whether we may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadAnswer {
    /// We may.
    Allowed,
    /// We may not.
    Forbidden,
    /// The answer says something else, or there is none, in words.
    Unknown(String),
}

/// Asks all of it.
pub(super) fn ask(
    kafka: &Kafka,
    properties: &[(String, String)],
    asked: &TransactionQuestions,
) -> Result<TransactionFacts, ClientError> {
    let answer = take_id(kafka, asked)?;
    let mut cursors: Vec<CursorFacts> = Vec::with_capacity(asked.cursors.len());
    for question in &asked.cursors {
        // Who does not answer for one group is not waited for again.
        let silent = cursors.last().and_then(|last| match &last.of_group {
            ReadAnswer::Unknown(why) => Some(why.clone()),
            ReadAnswer::Allowed | ReadAnswer::Forbidden => None,
        });
        let (of_group, of_topic) = match silent {
            Some(why) => not_known(&why),
            None => ask_for_cursor(kafka, properties, question)?,
        };
        cursors.push(CursorFacts { group: question.group.clone(), of_group, of_topic });
    }
    Ok(TransactionFacts { id: asked.id.clone(), answer, cursors })
}

/// Takes the id over, and does nothing with it.
fn take_id(kafka: &Kafka, asked: &TransactionQuestions) -> Result<IdAnswer, ClientError> {
    let client = Producer::transactional(kafka, 1, &asked.id, asked.timeout)?;
    let (mut reports, mut notices) = (Vec::new(), Vec::new());
    let began = Instant::now();
    loop {
        // A token is asked for by an event, which only a poll serves.
        client.poll(Duration::ZERO, &mut reports, &mut notices);
        let Err(error) = client.inner.init_transactions(LOOK_EVERY) else { return Ok(IdAnswer::Taken) };
        if let Some(answer) = id_answer(&error) {
            return Ok(answer);
        }
        if began.elapsed() > CONNECT_MAX {
            return Ok(IdAnswer::Unknown(format!("no answer within {} s: {error}", began.elapsed().as_secs())));
        }
    }
}

/// What an error says of the id; `None`: nothing yet.
fn id_answer(error: &KafkaError) -> Option<IdAnswer> {
    let KafkaError::Transaction(error) = error else { return Some(IdAnswer::Unknown(error.to_string())) };
    match error.code() {
        Code::TransactionalIdAuthorizationFailed => Some(IdAnswer::Forbidden),
        Code::InvalidTransactionTimeout => Some(IdAnswer::TimeoutRefused),
        // Another check has taken it at the same time: that needs the right as well.
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Some(IdAnswer::Taken),
        _ if error.is_retriable() => None,
        _ => Some(IdAnswer::Unknown(error.string())),
    }
}

/// The rights to a group and its topic.
fn ask_for_cursor(
    kafka: &Kafka,
    properties: &[(String, String)],
    asked: &CursorQuestion,
) -> Result<(ReadAnswer, ReadAnswer), ClientError> {
    // A commit waits so long for a coordinator that went away.
    let session_ms = ANSWER_MAX.as_millis().to_string();
    let reading = [
        ("group.id", asked.group.as_str()),
        ("enable.auto.commit", "false"),
        ("session.timeout.ms", session_ms.as_str()),
    ];
    let client: BaseConsumer<Quiet> = client_config(&with(properties, &reading))?
        .create_with_context(Quiet::new(kafka))
        .map_err(|error| ClientError::Creation(error.to_string()))?;
    let answer = read_offset(&client, &asked.topic);
    Ok(answer.map_or_else(|answer| answer, |()| commit_nowhere(&client, &asked.topic)))
}

/// Reads the group's offset; `Err`: what is known without asking further. It takes no more than the right to Describe,
/// and waits for the group's coordinator, which the client would otherwise do for as long as it takes.
fn read_offset(client: &BaseConsumer<Quiet>, topic: &str) -> Result<(), (ReadAnswer, ReadAnswer)> {
    let began = Instant::now();
    Quiet::log_in(client, CONNECT_MAX);
    let mut wait = LOOK_EVERY;
    loop {
        let mut asked = TopicPartitionList::new();
        asked.add_partition(topic, PARTITION);
        let Err(error) = client.committed_offsets(asked, wait) else { return Ok(()) };
        // That the group is not for us the client tells by an event alone.
        while client.poll(Duration::ZERO).is_some() {}
        let is_denied = |code: Code| code == Code::GroupAuthorizationFailed;
        let by_event = client.context().errors().iter().any(|(code, _)| is_denied(*code));
        if by_event || error.rdkafka_error_code().is_some_and(is_denied) {
            return Err(group_forbidden());
        }
        if began.elapsed() > CONNECT_MAX {
            return Err(not_known(&format!("no answer within {} s: {error}", began.elapsed().as_secs())));
        }
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// Asks the group to take an offset for a partition that is not there.
fn commit_nowhere(client: &BaseConsumer<Quiet>, topic: &str) -> (ReadAnswer, ReadAnswer) {
    let mut offsets = TopicPartitionList::new();
    if let Err(error) = offsets.add_partition_offset(topic, NO_PARTITION, Offset::Offset(0)) {
        return not_known(&error.to_string());
    }
    // Not `CommitMode::Async`: its answer never comes.
    commit_answer(client.commit(&offsets, CommitMode::Sync).err().as_ref())
}

fn commit_answer(error: Option<&KafkaError>) -> (ReadAnswer, ReadAnswer) {
    use ReadAnswer::{Allowed, Forbidden};
    let Some(error) = error else { return (Allowed, Allowed) };
    match error.rdkafka_error_code() {
        Some(Code::UnknownTopicOrPartition) => (Allowed, Allowed),
        Some(Code::TopicAuthorizationFailed) => (Allowed, Forbidden),
        Some(Code::GroupAuthorizationFailed) => group_forbidden(),
        _ => not_known(&error.to_string()),
    }
}

fn group_forbidden() -> (ReadAnswer, ReadAnswer) {
    (ReadAnswer::Forbidden, ReadAnswer::Unknown("Kafka looks at it only where the group may be read".to_owned()))
}

fn not_known(why: &str) -> (ReadAnswer, ReadAnswer) {
    (ReadAnswer::Unknown(why.to_owned()), ReadAnswer::Unknown(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_answer_to_an_impossible_offset_says() {
        use ReadAnswer::{Allowed, Forbidden};
        let of = |code| commit_answer(Some(&KafkaError::ConsumerCommit(code)));
        assert_eq!(of(Code::UnknownTopicOrPartition), (Allowed, Allowed), "it is refused behind both rights");
        assert_eq!(of(Code::TopicAuthorizationFailed), (Allowed, Forbidden));
        assert_eq!(of(Code::GroupAuthorizationFailed).0, Forbidden, "the right to Describe alone lets it get so far");
        assert!(matches!(of(Code::GroupAuthorizationFailed).1, ReadAnswer::Unknown(_)));
        assert!(matches!(of(Code::RequestTimedOut), (ReadAnswer::Unknown(_), ReadAnswer::Unknown(_))));
        assert_eq!(commit_answer(None), (Allowed, Allowed));
    }
}
