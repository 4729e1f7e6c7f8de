//! The question to the cluster whether it could take what a client does not deliver: at most once in an interval, and on
//! a thread of its own, as the answer may take as long as a dead link.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use crate::config::Kafka;
use crate::kafka::{Doubt, can_take_records};

/// How long the cluster may take to answer for one topic.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// For each doubt, why the cluster cannot take records, if so.
type Answers = Vec<(Doubt, Result<(), String>)>;

/// When to ask, and what came of it.
#[derive(Debug)]
pub struct Inquiry {
    interval_ns: u64,
    asked_ns: Option<u64>,
    answers: Option<Receiver<Answers>>,
}

impl Inquiry {
    /// Asks at most once in `interval_ns`, also about another client: so often is a client built anew at most.
    pub fn new(interval_ns: u64) -> Self {
        Self { interval_ns, asked_ns: None, answers: None }
    }

    /// There is a new client; a question about the old one is void.
    pub fn forget(&mut self) {
        self.answers = None;
    }

    /// Whether it may ask.
    pub fn is_due(&self, now_ns: u64) -> bool {
        let lately = |asked_ns: u64| now_ns.saturating_sub(asked_ns) < self.interval_ns;
        self.answers.is_none() && !self.asked_ns.is_some_and(lately)
    }

    /// Asks the cluster.
    pub fn ask(&mut self, kafka: &Kafka, doubts: Vec<Doubt>, now_ns: u64) {
        self.asked_ns = Some(now_ns);
        let kafka = kafka.clone();
        let (reply, answers) = sync_channel(1);
        let asking = std::thread::Builder::new().name("uplink-watchdog".into()).spawn(move || {
            let outcomes = can_take_records(&kafka, &doubts, ANSWER_MAX);
            // Nobody waits any more where the client was built anew meanwhile.
            let _ = reply.send(doubts.into_iter().zip(outcomes).collect());
        });
        match asking {
            Ok(_) => self.answers = Some(answers),
            Err(error) => tracing::warn!(error = %error, "watchdog cannot start its thread"),
        }
    }

    /// What the cluster could take, once it has answered, and once only.
    pub fn take_able(&mut self) -> Vec<Doubt> {
        let Some(answers) = &self.answers else { return Vec::new() };
        let answers = match answers.try_recv() {
            Err(TryRecvError::Empty) => return Vec::new(),
            Err(TryRecvError::Disconnected) => Vec::new(),
            Ok(answers) => answers,
        };
        self.answers = None;
        let mut able = Vec::new();
        for (doubt, outcome) in answers {
            match outcome {
                Ok(()) => able.push(doubt),
                Err(reason) => {
                    let topic = doubt.topic;
                    tracing::info!(topic, reason, "nothing is delivered, as the cluster cannot take records");
                }
            }
        }
        able
    }

    /// As if these had been the answers to the question that was asked last.
    #[cfg(test)]
    pub fn answered(&mut self, answers: Answers) {
        let (reply, receiver) = sync_channel(1);
        reply.send(answers).unwrap();
        self.answers = Some(receiver);
    }

    /// As if it had asked.
    #[cfg(test)]
    pub fn asked(&mut self, now_ns: u64) {
        self.asked_ns = Some(now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(topic: &str) -> Doubt {
        Doubt { topic: topic.into(), partitions: Vec::new() }
    }

    #[test]
    fn it_asks_at_most_once_in_its_interval_also_about_a_new_client() {
        let mut inquiry = Inquiry::new(300);
        assert!(inquiry.is_due(0));
        inquiry.asked(1_000);
        assert!(!inquiry.is_due(1_299));
        inquiry.forget();
        assert!(!inquiry.is_due(1_299));
        assert!(inquiry.is_due(1_300));
    }

    #[test]
    fn an_answer_counts_once_for_its_own_topic_and_not_for_another_client() {
        let mut inquiry = Inquiry::new(300);
        assert_eq!(inquiry.take_able(), [], "nothing was asked");
        let answers = || vec![(doubt("a"), Err("no leader".into())), (doubt("b"), Ok(()))];
        inquiry.answered(answers());
        assert!(!inquiry.is_due(10_000), "there is an answer to take");
        assert_eq!(inquiry.take_able(), [doubt("b")]);
        assert_eq!(inquiry.take_able(), []);
        inquiry.answered(answers());
        inquiry.forget();
        assert_eq!(inquiry.take_able(), []);
    }
}
