//! Finds a client that is stuck: records in flight, no report and no produce request for long, and yet a fresh client
//! sees a cluster that could take them.
//!
//! A cluster that lacks in-sync replicas is no stuck client: there the client asks again and again, which counts as a
//! sign of life. The question to the cluster is asked on a thread of its own, as it may take as long as a dead link.

use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use crate::config::Kafka;
use crate::kafka::can_take_records;

/// How long the cluster may take to answer for one topic.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// When to ask, and what came of it.
#[derive(Debug)]
pub struct Watchdog {
    stall_ns: u64,
    interval_ns: u64,
    /// Last sign of life of each stream, boot time.
    signs_ns: Vec<u64>,
    /// When the client last sent a produce request.
    requested_ns: u64,
    asked_ns: Option<u64>,
    answer: Option<Receiver<Result<(), String>>>,
}

impl Watchdog {
    /// Asks after `stall_ns` without a report, and at most once in `interval_ns`.
    pub fn new(streams: usize, stall_ns: u64, interval_ns: u64) -> Self {
        Self { stall_ns, interval_ns, signs_ns: vec![0; streams], requested_ns: 0, asked_ns: None, answer: None }
    }

    /// There is a new client; a question about the old one is void.
    pub fn new_client(&mut self, now_ns: u64) {
        self.signs_ns.fill(now_ns);
        self.requested_ns = now_ns;
        self.answer = None;
    }

    /// Kafka reported a record of this stream, or nothing of it is in flight.
    pub fn sign(&mut self, stream: usize, now_ns: u64) {
        if let Some(sign_ns) = self.signs_ns.get_mut(stream) {
            *sign_ns = now_ns;
        }
    }

    /// The client sends produce requests: where none is reported, it is because Kafka refuses them for now.
    pub fn requested(&mut self, now_ns: u64) {
        self.requested_ns = now_ns;
    }

    /// The streams that seem stuck, where it is time to ask about them.
    pub fn suspects(&mut self, now_ns: u64) -> Vec<usize> {
        let lately = |since_ns: u64, span_ns: u64| now_ns.saturating_sub(since_ns) < span_ns;
        // Half the stall is longer than a socket timeout, after which a live client sends again.
        if lately(self.requested_ns, self.stall_ns / 2)
            || self.asked_ns.is_some_and(|asked_ns| lately(asked_ns, self.interval_ns))
        {
            return Vec::new();
        }
        let stuck = self.signs_ns.iter().enumerate().filter(|(_, sign_ns)| !lately(**sign_ns, self.stall_ns));
        let stuck: Vec<usize> = stuck.map(|(stream, _)| stream).collect();
        if !stuck.is_empty() {
            self.asked_ns = Some(now_ns);
        }
        stuck
    }

    /// Asks the cluster about these topics.
    pub fn ask(&mut self, kafka: &Kafka, topics: Vec<String>) {
        let kafka = kafka.clone();
        let (reply, answer) = sync_channel(1);
        let asking = std::thread::Builder::new().name("uplink-watchdog".into()).spawn(move || {
            // Nobody waits any more where the client was built anew meanwhile.
            let _ = reply.send(can_take_records(&kafka, &topics, ANSWER_MAX));
        });
        match asking {
            Ok(_) => self.answer = Some(answer),
            Err(error) => tracing::warn!(error = %error, "watchdog cannot start its thread"),
        }
    }

    /// The answer, once: whether the client is stuck, and not the cluster; a report that came meanwhile speaks for it.
    pub fn is_client_stuck(&mut self) -> bool {
        let Some(answer) = &self.answer else { return false };
        let answer = match answer.try_recv() {
            Err(TryRecvError::Empty) => return false,
            Err(TryRecvError::Disconnected) => Err("the question failed".to_owned()),
            Ok(answer) => answer,
        };
        self.answer = None;
        if let Err(reason) = &answer {
            tracing::info!(reason, "nothing is delivered, as the cluster cannot take records");
        }
        let asked_ns = self.asked_ns.unwrap_or_default();
        answer.is_ok() && self.signs_ns.iter().any(|sign_ns| sign_ns.saturating_add(self.stall_ns) <= asked_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: u64 = 60;
    const INTERVAL: u64 = 300;

    fn watchdog() -> Watchdog {
        let mut watchdog = Watchdog::new(2, STALL, INTERVAL);
        watchdog.new_client(1_000);
        watchdog
    }

    #[test]
    fn only_the_stream_without_a_report_is_suspect() {
        let mut watchdog = watchdog();
        watchdog.sign(1, 1_030);
        assert_eq!(watchdog.suspects(1_059), [0; 0]);
        assert_eq!(watchdog.suspects(1_060), [0]);
    }

    #[test]
    fn a_client_that_sends_again_and_again_is_not_stuck() {
        let mut watchdog = watchdog();
        watchdog.requested(1_050);
        assert_eq!(watchdog.suspects(1_079), [0; 0]);
        assert_eq!(watchdog.suspects(1_080), [0, 1]);
    }

    #[test]
    fn it_asks_at_most_once_in_its_interval_also_about_a_new_client() {
        let mut watchdog = watchdog();
        assert_eq!(watchdog.suspects(1_100), [0, 1]);
        assert_eq!(watchdog.suspects(1_101), [0; 0]);
        watchdog.new_client(1_110);
        assert_eq!(watchdog.suspects(1_399), [0; 0]);
        assert_eq!(watchdog.suspects(1_400), [0, 1]);
    }

    #[test]
    fn an_answer_counts_once_and_not_for_another_client() {
        let mut watchdog = watchdog();
        assert!(!watchdog.is_client_stuck(), "nothing was asked");
        assert_eq!(watchdog.suspects(1_100), [0, 1]);
        let answered = |answer: Result<(), String>| {
            let (reply, receiver) = sync_channel(1);
            reply.send(answer).unwrap();
            Some(receiver)
        };
        watchdog.answer = answered(Err("no leader".into()));
        assert!(!watchdog.is_client_stuck());
        watchdog.answer = answered(Ok(()));
        assert!(watchdog.is_client_stuck());
        assert!(!watchdog.is_client_stuck());
        watchdog.answer = answered(Ok(()));
        (0..2).for_each(|stream| watchdog.sign(stream, 1_101));
        assert!(!watchdog.is_client_stuck(), "it was slow");
        watchdog.answer = answered(Ok(()));
        watchdog.new_client(2_000);
        assert!(!watchdog.is_client_stuck());
    }
}
