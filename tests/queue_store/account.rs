//! What writers said, held against what the queue holds after a hit.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use forebay::metrics::{ByStream, Metrics};
use forebay::queue::{Limit, Queue, StreamIndex};
use forebay::reading::{Position, Record, Value};

use super::writer::{self, HIGH, STREAMS, settings};

/// All that writers on one directory have said.
#[derive(Debug, Default)]
pub struct Account {
    /// Runs that were given, ascending.
    runs: Vec<u32>,
    streams: [Said; STREAMS],
}

/// Of one stream.
#[derive(Debug, Default)]
struct Said {
    /// Last durable position of each run.
    durable: Vec<Position>,
    /// Everything through this may be acknowledged.
    acknowledged: Option<Position>,
}

impl Account {
    /// Takes the lines of one writer. What it said to be durable counts only up to line `believed`: the rest may have
    /// raced with a power cut. What it may have acknowledged counts to the end.
    pub fn take(&mut self, lines: &[String], believed: usize) -> anyhow::Result<()> {
        for (at, line) in lines.iter().enumerate() {
            let mut words = line.split(' ');
            let mut number = |what: &str| -> anyhow::Result<u64> {
                words.next().and_then(|word| word.parse().ok()).with_context(|| format!("{what} of {line:?}"))
            };
            if let Some(run) = line.strip_prefix("run ") {
                let run = run.parse()?;
                ensure!(self.runs.last().is_none_or(|before| *before < run), "run {run} was given twice");
                self.runs.push(run);
                continue;
            }
            // The first word tells which line it is.
            let _ = number("kind");
            let stream = &mut self.streams[usize::try_from(number("stream")?)?];
            let position = Position::from_packed(number("position")?);
            if line.starts_with("acknowledge ") {
                stream.acknowledged = stream.acknowledged.max(Some(position));
            } else if at < believed {
                match stream.durable.last_mut().filter(|last| last.run() == position.run()) {
                    Some(last) => *last = position,
                    None => stream.durable.push(position),
                }
            }
        }
        Ok(())
    }

    /// Records that were reported durable, in all runs.
    pub fn durable_records(&self) -> u64 {
        self.streams.iter().flat_map(|said| &said.durable).map(|last| last.seq() + 1).sum()
    }

    /// Opens the queue as a start does and looks for everything that must be there.
    pub fn check(&self, dir: &Path) -> anyhow::Result<()> {
        let (metrics, _) = Metrics::new();
        let queue = Queue::open(settings(dir), metrics.clone())?;
        let run = queue.status().run;
        ensure!(self.runs.last().is_none_or(|before| *before < run), "run {run} was given twice");
        for (stream, said) in self.streams.iter().enumerate() {
            said.check(stream, &read_all(&queue, stream)?).with_context(|| format!("stream {stream}"))?;
        }
        for name in ["low", "high"] {
            let lost = metrics.records_lost.get_or_create(&ByStream { stream: name.to_owned() }).get();
            ensure!(lost == 0, "{lost} records of {name} counted lost");
        }
        ensure!(metrics.queue_blocks_lost.get() == 0, "{} blocks lost", metrics.queue_blocks_lost.get());
        queue.abandon()?;
        Ok(())
    }
}

impl Said {
    fn check(&self, stream: usize, records: &[Record]) -> anyhow::Result<()> {
        let mut before: Option<Position> = None;
        let mut present = BTreeSet::new();
        let mut skipped = 0;
        for record in records {
            let position = record.position;
            ensure!(before < Some(position), "{position} comes after {before:?}");
            let holds = record.fields.first().map(|field| &field.value);
            let wanted = Value::Text(writer::text(stream, position));
            ensure!(holds == Some(&wanted), "{position} does not hold what was pushed");
            present.insert(position);
            skipped += record.skipped;
            before = Some(position);
        }
        let mut missing = 0;
        for last in &self.durable {
            for seq in 0..=last.seq() {
                let position = Position::new(last.run(), seq);
                if Some(position) <= self.acknowledged || present.contains(&position) {
                    continue;
                }
                missing += 1;
                // Only the oldest may go, so what is missing stands before all that is present.
                let first = present.first();
                ensure!(
                    stream != HIGH,
                    "{position} was durable and is gone; {} there from {first:?} on, {skipped} skipped, acknowledged {:?}",
                    present.len(),
                    self.acknowledged
                );
                ensure!(
                    first.is_some_and(|first| position < *first),
                    "{position} was durable, is gone, {first:?} is not"
                );
            }
        }
        ensure!(missing <= skipped, "{missing} durable records are gone, the rest says {skipped}");
        Ok(())
    }
}

fn read_all(queue: &Queue, stream: usize) -> anyhow::Result<Vec<Record>> {
    let (mut records, mut after) = (Vec::new(), None);
    while let Some(batch) = queue.peek(StreamIndex(stream), after, Limit { records: 500, bytes: usize::MAX })? {
        after = batch.records.last().map(|record| record.position);
        records.extend(batch.records.into_iter().map(Arc::unwrap_or_clone));
    }
    Ok(records)
}
