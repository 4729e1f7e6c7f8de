//! Finds a client that is stuck: records of a partition neither reported nor sent for long, and yet a fresh client sees a
//! cluster that could take them.
//!
//! It looks at each partition alone, as one that makes headway must not hide one that does not. What the client took for
//! a partition and how much of that went into produce requests say its statistics; what is over, the reports. Anything
//! that is still open is either on its way or waits in the client, and a client that lives sends it again and again while
//! Kafka refuses it for now: a cluster that lacks in-sync replicas is no stuck client. Its requests to a broker would not
//! tell that, as those are of all partitions there.
//!
//! A client so stuck that it gives no statistics is found by its streams that have no report at all.
//!
//! Once the cluster could take records, the client has as long again to find that out by itself: at the end of an outage a
//! fresh client is often the first to connect.

use std::collections::BTreeMap;
use std::time::Duration;

use super::inquiry::Inquiry;
use crate::config::Kafka;
use crate::kafka::{Doubt, TopicProgress};

/// Shortest stall: a client that lives waits up to 30 s before it connects again, may need another 15 s for that, and
/// says only every 5 s what it sent.
const STALL_MIN: Duration = Duration::from_secs(60);
/// Looks in the time of a stall.
const LOOKS: u64 = 16;

/// How long a client may get nowhere before the cluster is asked: three times what a request may take.
pub fn stall(socket_timeout: Duration) -> Duration {
    socket_timeout.saturating_mul(3).max(STALL_MIN)
}

/// What was taken, sent and reported, and when any of that last moved.
#[derive(Debug)]
pub struct Watchdog {
    stall_ns: u64,
    look_ns: u64,
    streams: Vec<Stream>,
    topics: Vec<Topic>,
    inquiry: Inquiry,
    /// What the cluster could take when it was asked, and when it said so.
    able: Vec<Doubt>,
    able_ns: u64,
}

#[derive(Debug)]
struct Stream {
    /// Which of the topics.
    topic: usize,
    /// When something of it was last reported, or nothing of it was in flight.
    sign_ns: u64,
    /// Something of it is in flight.
    is_busy: bool,
}

#[derive(Debug)]
struct Topic {
    name: String,
    partitions: BTreeMap<i32, Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    /// As of the last statistics.
    taken: u64,
    transmitted: u64,
    /// Until now.
    reported: u64,
    /// When something of it was last sent or reported, or nothing of it was open.
    moved_ns: u64,
}

impl Partition {
    /// Whether something is open that the last statistics knew.
    fn is_open(&self) -> bool {
        self.taken > self.reported
    }
}

impl Watchdog {
    /// `topics`: that of each stream. Asks after `stall_ns` without headway, and at most once in `interval_ns`.
    pub fn new<'a>(topics: impl Iterator<Item = &'a str>, stall_ns: u64, interval_ns: u64) -> Self {
        let mut watchdog = Self {
            stall_ns,
            look_ns: 0,
            streams: Vec::new(),
            topics: Vec::new(),
            inquiry: Inquiry::new(interval_ns),
            able: Vec::new(),
            able_ns: 0,
        };
        for name in topics {
            let known = watchdog.topics.iter().position(|topic| topic.name == name);
            let topic = known.unwrap_or(watchdog.topics.len());
            if known.is_none() {
                watchdog.topics.push(Topic { name: name.to_owned(), partitions: BTreeMap::new() });
            }
            watchdog.streams.push(Stream { topic, sign_ns: 0, is_busy: false });
        }
        watchdog
    }

    /// There is a new client, which counts from zero; a question about the old one is void.
    pub fn new_client(&mut self, now_ns: u64) {
        self.inquiry.forget();
        self.able.clear();
        self.topics.iter_mut().for_each(|topic| topic.partitions.clear());
        self.streams.iter_mut().for_each(|stream| stream.sign_ns = now_ns);
    }

    /// So many messages of this stream are in flight.
    pub fn in_flight(&mut self, stream: usize, messages: usize, now_ns: u64) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.is_busy = messages > 0;
            if !stream.is_busy {
                stream.sign_ns = now_ns;
            }
        }
    }

    /// A message of this stream for this partition was reported, whatever came of it.
    pub fn reported(&mut self, stream: usize, partition: i32, now_ns: u64) {
        let Some(stream) = self.streams.get_mut(stream) else { return };
        stream.sign_ns = now_ns;
        if let Some(topic) = self.topics.get_mut(stream.topic) {
            let partition = topic.partitions.entry(partition).or_default();
            partition.reported += 1;
            partition.moved_ns = now_ns;
        }
    }

    /// What the client's statistics say.
    pub fn progressed(&mut self, progress: &[TopicProgress], now_ns: u64) {
        for said in progress {
            let Some(topic) = self.topics.iter_mut().find(|topic| topic.name == said.topic) else { continue };
            for seen in &said.partitions {
                let known = topic.partitions.entry(seen.partition).or_default();
                if seen.taken < known.taken {
                    // The topic was made anew, and the client counts from zero.
                    known.reported = 0;
                }
                // What is open and was not the last time has only just been taken.
                if seen.transmitted != known.transmitted || !known.is_open() {
                    known.moved_ns = now_ns;
                }
                (known.taken, known.transmitted) = (seen.taken, seen.transmitted);
            }
        }
    }

    /// Looks whether the client is stuck, and asks the cluster where it seems so. Gives a topic that it makes no headway
    /// with, although the cluster could take its records.
    pub fn look(&mut self, kafka: &Kafka, now_ns: u64) -> Option<String> {
        if now_ns < self.look_ns {
            return None;
        }
        self.look_ns = now_ns.saturating_add(self.stall_ns / LOOKS);
        let stuck = self.stuck(now_ns);
        if stuck.is_none() && self.able.is_empty() && self.inquiry.is_due(now_ns) {
            let doubts = self.doubts(now_ns);
            if !doubts.is_empty() {
                self.inquiry.ask(kafka, doubts, now_ns);
            }
        }
        stuck
    }

    /// What the client makes no headway with.
    fn doubts(&self, now_ns: u64) -> Vec<Doubt> {
        let is_long = |since_ns: u64| now_ns.saturating_sub(since_ns) >= self.stall_ns;
        let mut doubts = Vec::new();
        for (index, topic) in self.topics.iter().enumerate() {
            let mut busy = self.streams.iter().filter(|stream| stream.topic == index && stream.is_busy).peekable();
            if busy.peek().is_none() {
                continue;
            }
            let still = topic.partitions.iter().filter(|(_, known)| known.is_open() && is_long(known.moved_ns));
            let partitions: Vec<i32> = still.map(|(id, _)| *id).collect();
            let is_silent = busy.any(|stream| is_long(stream.sign_ns));
            if !partitions.is_empty() || is_silent && topic.partitions.values().all(|known| is_long(known.moved_ns)) {
                doubts.push(Doubt { topic: topic.name.clone(), partitions });
            }
        }
        doubts
    }

    /// A topic that the cluster could take all the time, and that is in doubt all the same.
    fn stuck(&mut self, now_ns: u64) -> Option<String> {
        let able = self.inquiry.take_able();
        if !able.is_empty() {
            (self.able, self.able_ns) = (able, now_ns);
        }
        if self.able.is_empty() || now_ns.saturating_sub(self.able_ns) < self.stall_ns {
            return None;
        }
        let doubts = self.doubts(now_ns);
        let is_still = |able: &Doubt| {
            let same = doubts.iter().find(|doubt| doubt.topic == able.topic);
            same.is_some_and(|doubt| {
                able.partitions.is_empty() || able.partitions.iter().any(|id| doubt.partitions.contains(id))
            })
        };
        std::mem::take(&mut self.able).into_iter().find(is_still).map(|able| able.topic)
    }
}

#[cfg(test)]
#[path = "watchdog_tests.rs"]
mod tests;
