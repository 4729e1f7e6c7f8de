//! The dead-letter file: records that no block can take, one JSON object a line, capped.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use crate::metrics::{ByStreamAndReason, Metrics};
use crate::reading::Record;
use crate::reading::json::Object;

/// Largest dead-letter file. What does not fit any more is only counted.
pub(super) const DEAD_LETTER_BYTES_MAX: u64 = 1024 * 1024;

/// The file, opened when it is first needed.
#[derive(Debug)]
pub(super) struct DeadLetter {
    path: PathBuf,
}

impl DeadLetter {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Keeps a record, or counts that it could not be kept.
    pub(super) fn keep(&mut self, stream: &str, record: &Record, reason: &'static str, metrics: &Metrics) {
        let line = line(stream, record, reason);
        let kept = self.append(&line);
        let reason = match &kept {
            Ok(true) => reason,
            Ok(false) => "dead_letter_full",
            Err(_) => "dead_letter_failed",
        };
        metrics.records_set_aside.get_or_create(&ByStreamAndReason { stream: stream.to_owned(), reason }).inc();
        match kept {
            Ok(_) => {
                tracing::warn!(stream, device = %record.device, reason, bytes = line.len(), "record set aside");
            }
            Err(error) => tracing::warn!(file = %self.path.display(), %error, "dead-letter file failed, record lost"),
        }
    }

    /// False where the cap does not allow it.
    fn append(&self, line: &[u8]) -> std::io::Result<bool> {
        let mut file: File = OpenOptions::new().create(true).append(true).open(&self.path)?;
        if file.metadata()?.len().saturating_add(line.len() as u64) > DEAD_LETTER_BYTES_MAX {
            return Ok(false);
        }
        file.write_all(line)?;
        file.sync_all()?;
        Ok(true)
    }
}

/// One line: the record as Kafka would have had it, with the reason first.
fn line(stream: &str, record: &Record, reason: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut object = Object::begin(&mut out);
    object.text("set_aside", reason);
    object.text("stream", stream);
    object.text("device", &record.device);
    object.text("source", &record.source);
    object.time("time", record.stamp.wall_us);
    object.text("clock", record.stamp.trust.as_str());
    for field in &record.fields {
        object.value(&field.name, &field.value);
    }
    object.end();
    out.push(b'\n');
    out
}
