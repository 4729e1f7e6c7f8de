//! The demo's account: what was made against what came out at the far end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::scene::{Made, TOPIC};
use crate::config::Kafka;
use crate::kafka::Consumer;
use crate::kafka::account::Account;

/// Longest wait for Kafka's answers while reading back.
const READ_MAX: Duration = Duration::from_secs(20);
/// The mock cluster silently drops the oldest of a partition above 5 MiB; the demo stays well below.
const PARTITION_BYTES_MAX: u64 = 3 << 20;

/// What was read back.
#[derive(Debug)]
pub(super) struct Found {
    account: Account,
    by_source: BTreeMap<String, u64>,
    partition_bytes_max: u64,
    low_watermark_max: i64,
}

/// Everything known at the end.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) made: Made,
    pub(super) written_by_devices: Made,
    pub(super) published: u64,
    pub(super) queued_at_worst: u64,
    pub(super) undurable_age_max: Duration,
    pub(super) queue_written_bytes: u64,
    pub(super) found: Found,
}

/// Reads the topic from its beginning to its present end.
pub(super) fn read_back(kafka: &Kafka) -> anyhow::Result<Found> {
    let consumer = Consumer::open(kafka, TOPIC, READ_MAX)?;
    let watermarks = consumer.watermarks(READ_MAX)?;
    let records: i64 = watermarks.iter().map(|(low, high)| high - low).sum();
    let mut found = Found {
        account: Account::default(),
        by_source: BTreeMap::new(),
        partition_bytes_max: 0,
        low_watermark_max: watermarks.iter().map(|(low, _)| *low).max().unwrap_or(0),
    };
    let mut bytes = BTreeMap::<i32, u64>::new();
    let end = Instant::now() + READ_MAX;
    let mut read = 0;
    while read < records && Instant::now() < end {
        let Some(record) = consumer.poll(Duration::from_millis(200))? else { continue };
        read += 1;
        *bytes.entry(record.partition).or_default() += record.value.len() as u64;
        if found.account.add(&record.value) == crate::kafka::account::Added::New {
            *found.by_source.entry(source_of(&record.value)).or_default() += 1;
        }
    }
    found.partition_bytes_max = bytes.into_values().max().unwrap_or(0);
    Ok(found)
}

fn source_of(value: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(value).ok();
    parsed.and_then(|record| Some(record.get("source")?.as_str()?.to_owned())).unwrap_or_default()
}

impl Verdict {
    fn delivered_of(&self, source: &str) -> u64 {
        self.found.by_source.get(source).copied().unwrap_or(0)
    }

    fn made_in_all(&self) -> u64 {
        self.made.iter().map(|(_, made)| made).sum()
    }

    /// Readings made that Kafka does not have, holes in the sequence included.
    fn lost(&self) -> u64 {
        let short: u64 = self.made.iter().map(|(source, made)| made.saturating_sub(self.delivered_of(source))).sum();
        short.max(self.found.account.missing())
    }

    /// Frames the devices wrote that became no reading.
    fn unread(&self) -> u64 {
        let made_of = |source| self.made.iter().find(|(name, _)| *name == source).map_or(0, |(_, made)| *made);
        self.written_by_devices.iter().map(|(source, written)| written.saturating_sub(made_of(*source))).sum()
    }

    /// Whether the mock cluster kept everything, without which the account would mean nothing.
    fn mock_kept_all(&self) -> bool {
        self.found.low_watermark_max == 0 && self.found.partition_bytes_max < PARTITION_BYTES_MAX
    }

    /// Nothing lost, nothing out of order, something delivered, and a mock that dropped nothing.
    pub(super) fn is_clean(&self) -> bool {
        let account = &self.found.account;
        let something = self.made.iter().all(|(_, made)| *made > 0);
        something
            && self.lost() == 0
            && self.unread() == 0
            && account.out_of_order() == 0
            && account.unreadable() == 0
            && self.mock_kept_all()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = &self.found.account;
        writeln!(out, "The account")?;
        writeln!(out, "  {:<34} {:>8} {:>10}", "", "made", "delivered")?;
        for (source, made) in &self.made {
            writeln!(out, "  {:<34} {made:>8} {:>10}", format!("source {source}"), self.delivered_of(source))?;
        }
        writeln!(out, "  {:<34} {:>8} {:>10}", "all readings", self.made_in_all(), account.received())?;
        let mut row = |name: &str, value: u64| writeln!(out, "  {name:<34} {value:>8}");
        row("frames of devices not read", self.unread())?;
        row("published on local MQTT", self.published)?;
        row("queued at the worst moment", self.queued_at_worst)?;
        row("bytes the queue wrote to disk", self.queue_written_bytes)?;
        row("lost", self.lost())?;
        row("repeated (same identity)", account.repeated())?;
        row("out of order within a device", account.out_of_order())?;
        let age = self.undurable_age_max.as_secs_f64();
        writeln!(out, "  {:<34} {age:>7.2}s", "longest wait to be durable or sent")?;
        if !self.mock_kept_all() {
            writeln!(
                out,
                "The mock cluster dropped records of its own (low watermark {}, {} bytes in a partition, limit {}): run shorter.",
                self.found.low_watermark_max, self.found.partition_bytes_max, PARTITION_BYTES_MAX
            )?;
        }
        writeln!(
            out,
            "{}",
            if self.is_clean() { "Nothing lost, nothing out of order." } else { "NOT CLEAN: see above." }
        )
    }
}
