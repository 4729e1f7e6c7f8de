//! Another try for records that were set aside: each gets a new position at the end of its stream, and leaves the file
//! only when it is durable there. A crash in between leaves it in both.

use std::collections::HashSet;

use super::letters::{Content, Letter, SetAside, read};
use crate::queue::admin::{AdminError, Task};
use crate::queue::{Pushed, Queue, StreamIndex, block};
use crate::reading::{FIELDS_MAX, Position};

/// Records pushed between two flushes, by their bytes: far below the smallest tail budget, so that they drop nothing.
const GROUP_BYTES: usize = 64 * 1024;

/// Which of the records that were set aside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterChoice {
    /// Of these streams; none: of all.
    pub streams: Vec<String>,
    /// At these positions; none: all.
    pub positions: Vec<Position>,
}

impl LetterChoice {
    /// Whether a record is chosen.
    pub fn takes(&self, record: &SetAside) -> bool {
        let stream = record.text_of("stream");
        (self.streams.is_empty() || self.streams.iter().any(|name| Some(name.as_str()) == stream))
            && (self.positions.is_empty()
                || record.position().is_some_and(|position| self.positions.contains(&position)))
    }
}

/// What became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Requeued {
    /// Records that are durable in their streams again, and gone from the file.
    pub records: u64,
    /// Chosen records that stay in the file.
    pub kept: u64,
    /// Why the first of them stays.
    pub why: Option<String>,
}

impl Requeued {
    fn keep(&mut self, line: u64, why: impl std::fmt::Display) {
        self.kept += 1;
        self.why.get_or_insert_with(|| format!("line {line}: {why}"));
    }
}

/// Records pushed and not known to be durable.
#[derive(Default)]
struct Group {
    pushed: Vec<(StreamIndex, Position, Letter)>,
    bytes: usize,
}

impl Queue {
    /// Pushes records that were set aside into their streams again. Blocks; call it from one thread at a time.
    ///
    /// # Errors
    /// When the file cannot be read or written, or the store fails; what was not made durable stays in the file.
    pub fn requeue(&self, choice: &LetterChoice) -> Result<Requeued, AdminError> {
        let inner = self.inner();
        let letters = read(&inner.settings.dir, &inner.keys).map_err(|error| AdminError::File { source: error })?;
        let (mut outcome, mut group) = (Requeued::default(), Group::default());
        for letter in letters {
            match &letter.content {
                Content::Record(record) if !choice.takes(record) => continue,
                Content::Record(record) => match self.try_again(record) {
                    Ok((stream, position, bytes)) => {
                        group.bytes += bytes;
                        group.pushed.push((stream, position, letter));
                    }
                    Err(error) => outcome.keep(letter.line, format!("{error:#}")),
                },
                // What it is cannot be told; it is one of those asked for only where all were.
                _ if *choice != LetterChoice::default() => continue,
                Content::KeyMissing(key) => {
                    outcome.keep(letter.line, format!("sealed with key {key}, which is not configured"))
                }
                Content::Broken => outcome.keep(letter.line, "it is cut off or damaged"),
            }
            if group.bytes >= GROUP_BYTES {
                self.settle(std::mem::take(&mut group), &mut outcome)?;
            }
        }
        self.settle(group, &mut outcome)?;
        tracing::info!(records = outcome.records, kept = outcome.kept, "dead letters queued again");
        Ok(outcome)
    }

    fn try_again(&self, record: &SetAside) -> anyhow::Result<(StreamIndex, Position, usize)> {
        let name = record.text_of("stream").unwrap_or_default();
        let streams = &self.inner().settings.streams;
        let index = streams.iter().position(|stream| *stream.name == *name);
        let index = index.ok_or_else(|| anyhow::anyhow!("stream {name:?} is not configured"))?;
        let new = record.record(self.inner().now_ns())?;
        let bytes = record.text.len();
        let measured = crate::reading::Record {
            position: Position::ZERO,
            skipped: 0,
            thinned: 0,
            stamp: new.stamp,
            source: new.source.clone(),
            device: new.device.clone(),
            fields: new.fields.clone(),
        };
        let size = block::record_bytes(&measured);
        anyhow::ensure!(
            size <= block::RECORD_BYTES_MAX && new.fields.len() <= FIELDS_MAX,
            "{size} bytes and {} fields, limits are {} and {FIELDS_MAX}",
            new.fields.len(),
            block::RECORD_BYTES_MAX
        );
        match self.push(StreamIndex(index), new)? {
            Pushed::Queued(position) => Ok((StreamIndex(index), position, bytes)),
            Pushed::SetAside => anyhow::bail!("it is too large for the queue"),
        }
    }

    /// Makes a group durable and takes it out of the file.
    fn settle(&self, group: Group, outcome: &mut Requeued) -> Result<(), AdminError> {
        if group.pushed.is_empty() {
            return Ok(());
        }
        self.flush()?;
        let mut gone = HashSet::new();
        for (stream, position, letter) in group.pushed {
            if self.dropped(stream).borrow().contains(position) {
                outcome.keep(letter.line, "it was dropped from memory before it was durable");
                continue;
            }
            outcome.records += 1;
            gone.insert(letter.raw);
        }
        self.administer(Task::ForgetDeadLetters(gone)).map(drop)
    }
}
