//! Finds a transactional client that is stuck: a stream's transactions time out one after another, and yet a fresh client
//! sees a cluster that could take its records.
//!
//! Each stream counts for itself, as one that is delivered must not hide one that is not. A transaction that times out is
//! sent again meanwhile, so nobody waits for the answer.

use super::session::{Event as Turn, Loss};
use super::thread::Exactly;
use crate::clock::boot_ns;
use crate::config::Kafka;
use crate::kafka::Doubt;
use crate::uplink::inquiry::Inquiry;

/// Transactions of a stream that time out in a row before the cluster is asked.
const DOUBT_AFTER: u32 = 2;

/// How the streams' transactions ended.
#[derive(Debug)]
pub(super) struct Stalls {
    streams: Vec<Stream>,
    inquiry: Inquiry,
}

#[derive(Debug, Clone, Copy, Default)]
struct Stream {
    /// Transactions that timed out in a row.
    timed_out: u32,
    /// The cluster said that it could take its records.
    is_able: bool,
    /// And yet another one timed out.
    is_stuck: bool,
}

impl Stalls {
    /// Asks the cluster at most once in `interval_ns`.
    pub(super) fn new(streams: usize, interval_ns: u64) -> Self {
        Self { streams: vec![Stream::default(); streams], inquiry: Inquiry::new(interval_ns) }
    }

    /// There is a new client; a question about the old one is void.
    pub(super) fn new_client(&mut self) {
        self.streams.fill(Stream::default());
        self.inquiry.forget();
    }

    /// A transaction of this stream has ended, committed or not.
    pub(super) fn ended(&mut self, stream: usize, timed_out: bool) {
        let Some(stream) = self.streams.get_mut(stream) else { return };
        if timed_out {
            stream.timed_out = stream.timed_out.saturating_add(1);
            stream.is_stuck = stream.is_able;
        } else {
            *stream = Stream::default();
        }
    }

    /// Between two transactions: takes the cluster's answer, and asks where it is time. `topics` are those of the streams.
    /// Gives one that the client makes no headway with, although the cluster could take its records.
    fn look(&mut self, kafka: &Kafka, topics: &[&str], now_ns: u64) -> Option<String> {
        let stuck = self.stuck(topics);
        if stuck.is_none() && self.inquiry.is_due(now_ns) {
            let doubts = self.doubts(topics);
            if !doubts.is_empty() {
                self.inquiry.ask(kafka, doubts, now_ns);
            }
        }
        stuck
    }

    /// Takes the cluster's answer: where it could take records, the next transaction must not time out as well.
    fn stuck(&mut self, topics: &[&str]) -> Option<String> {
        for able in self.inquiry.take_able() {
            let of_topic = topics.iter().zip(&mut self.streams).filter(|(topic, _)| **topic == able.topic);
            of_topic.for_each(|(_, stream)| stream.is_able = stream.timed_out >= DOUBT_AFTER);
        }
        let stuck = topics.iter().zip(&self.streams).find(|(_, stream)| stream.is_stuck);
        stuck.map(|(topic, _)| (*topic).to_owned())
    }

    /// Whichever partition it is: what stands in one keeps the whole transaction open.
    fn doubts(&self, topics: &[&str]) -> Vec<Doubt> {
        let mut doubts: Vec<Doubt> = Vec::new();
        for (topic, _) in topics.iter().zip(&self.streams).filter(|(_, stream)| stream.timed_out >= DOUBT_AFTER) {
            if doubts.iter().all(|doubt| doubt.topic != *topic) {
                doubts.push(Doubt { topic: (*topic).to_owned(), partitions: Vec::new() });
            }
        }
        doubts
    }
}

impl Exactly<'_> {
    /// Between two transactions: gives up a client that is stuck. The cursors say what became of all it did.
    pub(super) fn look_for_stall(&mut self) -> Option<Turn> {
        let topics: Vec<&str> = self.settings.streams.iter().map(|stream| &*stream.topic).collect();
        let topic = self.stalls.look(&self.settings.kafka, &topics, boot_ns())?;
        self.metrics.uplink_watchdog_rebuilds.inc();
        let error = format!("client is stuck: no headway with topic {topic}, although the cluster takes records");
        self.health().error(error);
        Some(self.session.lost_client(Loss::Broken, boot_ns(), fastrand::f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPICS: [&str; 3] = ["a", "b", "b"];

    fn stalls() -> Stalls {
        Stalls::new(TOPICS.len(), 300)
    }

    fn doubts(stalls: &Stalls) -> Vec<String> {
        stalls.doubts(&TOPICS).into_iter().map(|doubt| doubt.topic).collect()
    }

    #[test]
    fn a_stream_that_is_delivered_does_not_hide_one_that_times_out() {
        let mut stalls = stalls();
        for count in 1..DOUBT_AFTER {
            stalls.ended(0, true);
            stalls.ended(1, false);
            assert_eq!(doubts(&stalls), [""; 0], "after {count}");
        }
        stalls.ended(0, true);
        assert_eq!(doubts(&stalls), ["a"]);
        (1..3).for_each(|stream| (0..DOUBT_AFTER).for_each(|_| stalls.ended(stream, true)));
        assert_eq!(doubts(&stalls), ["a", "b"], "a topic of two streams is one");
        stalls.ended(0, false);
        assert_eq!(doubts(&stalls), ["b"]);
        stalls.new_client();
        assert_eq!(doubts(&stalls), [""; 0]);
    }

    /// The first stream is in doubt, was asked about, and its transactions end like this from then on.
    fn stuck(answer: Result<(), String>, timed_out: &[bool]) -> Option<String> {
        let mut stalls = stalls();
        (0..DOUBT_AFTER).for_each(|_| stalls.ended(0, true));
        stalls.inquiry.answered(vec![(Doubt { topic: "a".into(), partitions: Vec::new() }, answer)]);
        assert_eq!(stalls.stuck(&TOPICS), None, "it has time to find out by itself");
        timed_out.iter().for_each(|timed_out| stalls.ended(0, *timed_out));
        stalls.stuck(&TOPICS)
    }

    #[test]
    fn the_client_is_stuck_where_the_cluster_could_take_what_times_out_once_more() {
        assert_eq!(stuck(Ok(()), &[true]), Some("a".into()));
        assert_eq!(stuck(Ok(()), &[]), None);
        assert_eq!(stuck(Ok(()), &[false, true, true, true]), None, "it was slow then");
        assert_eq!(stuck(Err("no leader".into()), &[true, true]), None);
    }
}
