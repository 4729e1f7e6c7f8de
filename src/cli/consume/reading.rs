//! Reads the topics to their present end, or on and on, into one account; says on a terminal how far it is.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Plan;
use crate::config::Encoding;
use crate::kafka::account::{Account, Added, Message, Unreadable};
use crate::kafka::{Consumer, Next, Received, Span, Start};

/// Longest wait for Kafka's answer to a question.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Longest time without a record while there is more to read; then the brokers are given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Wait for a topic's next record before the next topic has its turn.
const TURN: Duration = Duration::from_millis(100);
/// Most records of a topic before the next topic has its turn.
const TURN_RECORDS_MAX: usize = 1_000;
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) account: Account,
    /// Partitions whose first records Kafka had removed already.
    pub(super) removed_by_kafka: Vec<(String, i32, i64)>,
    /// Topics with messages that could not be read.
    pub(super) unreadable: Vec<UnreadableIn>,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// The messages of a topic that could not be read.
#[derive(Debug, PartialEq)]
pub(super) struct UnreadableIn {
    pub(super) topic: String,
    pub(super) count: u64,
    /// Of the one that was read first.
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) why: Unreadable,
}

impl Outcome {
    /// Nothing missing, nothing out of order, and an account of everything that was read.
    pub(super) fn is_clean(&self) -> bool {
        let Self { account, .. } = self;
        let incomplete = account.beyond() + account.unreadable();
        account.missing() == 0 && account.out_of_order() == 0 && incomplete == 0
    }

    fn add(&mut self, topic: &str, record: &Received, encoding: Encoding) {
        let Received { partition, offset, timestamp_ms, value, .. } = record;
        let message = Message { value, encoding, partition: *partition, timestamp_ms: *timestamp_ms };
        if let Added::Unreadable(why) = self.account.take(&message) {
            match self.unreadable.iter_mut().find(|of| of.topic == topic) {
                Some(of) => of.count += 1,
                None => {
                    let (topic, partition, offset) = (topic.to_owned(), *partition, *offset);
                    self.unreadable.push(UnreadableIn { topic, count: 1, partition, offset, why });
                }
            }
        }
        self.records += 1;
        self.bytes += value.len() as u64;
    }
}

/// A topic being read.
struct Topic {
    consumer: Consumer,
    encoding: Encoding,
    /// Partitions with more to read.
    open: BTreeMap<i32, Span>,
    /// Partitions whose beginning is cut off and of which no record was read yet.
    cut: Vec<i32>,
    follow: bool,
}

/// Reads what the plan says, until its end or until `stop`.
pub(super) fn read(plan: &Plan, stop: &AtomicBool) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut topics = Vec::new();
    for (name, encoding) in &plan.topics {
        topics.push(Topic::open(plan, name, *encoding, &mut outcome)?);
    }
    let expected: u64 = topics.iter().flat_map(|topic| topic.open.values()).map(Span::len).sum();
    let mut progress = Progress::new(if plan.follow { None } else { Some(expected) });
    let mut last_record = Instant::now();
    while topics.iter().any(|topic| !topic.open.is_empty()) && !stop.load(Ordering::Relaxed) {
        for topic in topics.iter_mut().filter(|topic| !topic.open.is_empty()) {
            let read = topic.take_turn(&mut outcome, stop)?;
            if read > 0 {
                last_record = Instant::now();
            }
            progress.show(&outcome);
        }
        anyhow::ensure!(
            plan.follow || last_record.elapsed() < SILENCE_MAX,
            "kafka sent nothing for {} s; read {} of about {expected} records",
            SILENCE_MAX.as_secs(),
            outcome.records
        );
    }
    progress.end();
    Ok(outcome)
}

impl Topic {
    fn open(plan: &Plan, name: &str, encoding: Encoding, outcome: &mut Outcome) -> anyhow::Result<Self> {
        let consumer = Consumer::open(&plan.kafka, name, ANSWER_MAX).with_context(|| {
            let brokers = plan.kafka.brokers.join(", ");
            format!("reading from {brokers}")
        })?;
        let spans = consumer.spans(plan.start, ANSWER_MAX)?;
        if let Start::Time(timestamp_ms) = plan.start {
            outcome.account.begins_at(timestamp_ms);
        }
        let removed = spans.iter().filter(|span| span.low > 0);
        outcome.removed_by_kafka.extend(removed.map(|span| (name.to_owned(), span.partition, span.low)));
        consumer.begin(&spans)?;
        let cut = spans.iter().filter(|span| span.low > 0 && span.first == span.low && !span.is_empty());
        let cut = cut.map(|span| span.partition).collect();
        let open = spans.iter().filter(|span| plan.follow || !span.is_empty());
        let open = open.map(|span| (span.partition, *span)).collect();
        Ok(Self { consumer, encoding, open, cut, follow: plan.follow })
    }

    /// Reads until the topic has nothing to give, its turn is over, or its end is reached; returns the records read.
    fn take_turn(&mut self, outcome: &mut Outcome, stop: &AtomicBool) -> anyhow::Result<u64> {
        let before = outcome.records;
        for _ in 0..TURN_RECORDS_MAX {
            if self.open.is_empty() || stop.load(Ordering::Relaxed) {
                break;
            }
            match self.consumer.next(TURN)? {
                Next::Nothing => break,
                Next::End(partition) => {
                    if self.follow {
                        let topic = self.consumer.topic();
                        tracing::info!(topic, partition, records = outcome.records, "caught up");
                    } else {
                        self.open.remove(&partition);
                    }
                }
                Next::Record(record) => {
                    let Some(span) = self.open.get(&record.partition).copied() else { continue };
                    if !self.follow && record.offset + 1 >= span.end {
                        self.open.remove(&record.partition);
                    }
                    if !self.follow && record.offset >= span.end {
                        continue;
                    }
                    if let Some(place) = self.cut.iter().position(|cut| *cut == record.partition) {
                        self.cut.swap_remove(place);
                        outcome.account.begins_at(record.timestamp_ms.unwrap_or(i64::MAX - 1));
                    }
                    outcome.add(self.consumer.topic(), &record, self.encoding);
                }
            }
        }
        Ok(outcome.records - before)
    }
}

/// A line on the terminal; nothing where standard error is none.
struct Progress {
    expected: Option<u64>,
    began: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    fn new(expected: Option<u64>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { expected, began: Instant::now(), shown: None, terminal }
    }

    fn show(&mut self, outcome: &Outcome) {
        if !self.terminal || self.shown.is_some_and(|shown| shown.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let of = self.expected.map(|expected| format!(" of about {expected}")).unwrap_or_default();
        let rate = outcome.records as f64 / self.began.elapsed().as_secs_f64().max(1e-3);
        let mib = outcome.bytes as f64 / f64::from(1 << 20);
        eprint!("\r\x1b[K{}{of} records, {mib:.1} MiB, {rate:.0}/s", outcome.records);
        let _ = std::io::stderr().flush();
    }

    fn end(&self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
