//! The demo's account: what was made against what came out at the far end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::scene::{Made, TOPIC};
use super::{RUN_SECONDS_MAX, scene};
use crate::config::Kafka;
use crate::kafka::Consumer;
use crate::kafka::account::{Account, Added};

/// Longest wait for Kafka's answers while reading back.
const READ_MAX: Duration = Duration::from_secs(20);
/// The mock cluster silently drops the oldest of a partition above 5 MiB; the demo stays well below.
const PARTITION_BYTES_MAX: u64 = 3 << 20;
/// About what a reading of the demo takes in Kafka.
const RECORD_BYTES: u64 = 290;
/// Devices that share a partition, by the hash of their names.
const PARTITION_DEVICES: u64 = 2;

// The longest run stays below the limit.
const _: () = assert!(
    RUN_SECONDS_MAX * PARTITION_DEVICES * scene::READINGS_PER_SECOND * RECORD_BYTES < PARTITION_BYTES_MAX * 9 / 10
);

/// What was read back.
#[derive(Debug, Default)]
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
    let low_watermark_max = watermarks.iter().map(|(low, _)| *low).max().unwrap_or(0);
    let mut found = Found { low_watermark_max, ..Found::default() };
    let mut bytes = BTreeMap::<i32, u64>::new();
    let end = Instant::now() + READ_MAX;
    let mut read = 0;
    while read < records && Instant::now() < end {
        let Some(record) = consumer.poll(Duration::from_millis(200))? else { continue };
        read += 1;
        *bytes.entry(record.partition).or_default() += record.value.len() as u64;
        found.add(&record.value);
    }
    found.partition_bytes_max = bytes.into_values().max().unwrap_or(0);
    Ok(found)
}

impl Found {
    fn add(&mut self, value: &[u8]) {
        if self.account.add(value) == Added::New {
            *self.by_source.entry(source_of(value)).or_default() += 1;
        }
    }
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
        row("not records of this agent", account.unreadable())?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of the source and device `plant`.
    fn record(seq: u64) -> String {
        format!(
            r#"{{"gateway":"demo","stream":"telemetry","device":"plant","source":"plant","queue":"5f0c9a1e","run":1,"seq":{seq}}}"#
        )
    }

    /// Four readings made, and these values in Kafka.
    fn verdict(values: &[String]) -> Verdict {
        let mut found = Found { partition_bytes_max: 10_000, ..Found::default() };
        values.iter().for_each(|value| found.add(value.as_bytes()));
        Verdict {
            made: vec![("plant", 4)],
            written_by_devices: vec![("plant", 4)],
            published: 4,
            queued_at_worst: 2,
            undurable_age_max: Duration::from_millis(700),
            queue_written_bytes: 5_000,
            found,
        }
    }

    fn whole() -> Verdict {
        verdict(&[0, 1, 2, 3].map(record))
    }

    /// Not clean, and the text has this row and says so.
    fn assert_says(verdict: &Verdict, name: &str, value: u64) {
        let text = verdict.to_string();
        let row = text.lines().find_map(|line| line.trim_start().strip_prefix(name));
        assert_eq!(row.map(str::trim), Some(value.to_string().as_str()), "{name} in\n{text}");
        assert!(!verdict.is_clean() && text.ends_with("NOT CLEAN: see above.\n"), "{text}");
    }

    #[test]
    fn what_arrived_whole_and_in_order_is_clean_copies_too() {
        assert!(whole().is_clean());
        let text = whole().to_string();
        assert!(text.ends_with("Nothing lost, nothing out of order.\n") && !text.contains("NOT CLEAN"), "{text}");
        assert!(verdict(&[0, 1, 0, 1, 2, 3].map(record)).is_clean(), "delivery is at least once");
    }

    #[test]
    fn a_reading_that_did_not_arrive_is_lost() {
        assert_says(&verdict(&[0, 1, 2].map(record)), "lost", 1);
        let mut hole = verdict(&[0, 1, 3].map(record));
        assert_says(&hole, "lost", 1);
        // Whatever the sources counted, the sequence shows it.
        hole.made = vec![("plant", 3)];
        assert_says(&hole, "lost", 1);
    }

    #[test]
    fn a_record_behind_a_later_one_is_out_of_order() {
        assert_says(&verdict(&[0, 2, 1, 3].map(record)), "out of order within a device", 1);
    }

    #[test]
    fn what_is_no_record_is_not_clean() {
        let strange = [record(0), record(1), "{}".to_owned(), record(2), record(3)];
        assert_says(&verdict(&strange), "not records of this agent", 1);
    }

    #[test]
    fn frames_that_nobody_read_and_sources_that_made_nothing_are_not_clean() {
        let mut verdict = whole();
        verdict.written_by_devices = vec![("plant", 6)];
        assert_says(&verdict, "frames of devices not read", 2);
        let mut verdict = whole();
        verdict.made.push(("air", 0));
        assert_says(&verdict, "lost", 0);
    }

    #[test]
    fn a_mock_cluster_that_dropped_records_makes_the_account_worthless() {
        let dropped = "The mock cluster dropped records of its own (low watermark";
        let mut low = whole();
        low.found.low_watermark_max = 1;
        let mut large = whole();
        large.found.partition_bytes_max = PARTITION_BYTES_MAX;
        for verdict in [low, large] {
            assert_says(&verdict, "lost", 0);
            assert!(verdict.to_string().contains(dropped), "{verdict}");
        }
        assert!(!whole().to_string().contains(dropped));
    }
}
