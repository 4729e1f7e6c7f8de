//! The dead-letter file: records that no block can take or that Kafka will never take, one JSON object a line, capped.
//!
//! Each line is encrypted for itself where the queue is. The file lies in the state directory and so counts against the quota. The store thread alone writes it.

mod elsewhere;
pub mod letters;
mod requeue;

pub use self::requeue::{LetterChoice, Requeued};

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use super::cipher::Keyring;
use super::disk;
use super::engine::{DeadLetterRequest, Inner, Phase, SET_ASIDE_MAX};
use super::{Limit, PeekError, STORE_WAIT_MAX, StreamIndex, peek};
use crate::metrics::{ByStreamAndReason, Metrics};
use crate::reading::json::Object;
use crate::reading::{Lineage, Position, Record, is_reserved};

/// Largest dead-letter file. What Kafka refuses beyond it waits in the queue; what is too large for the queue is only
/// counted.
pub(super) const DEAD_LETTER_BYTES_MAX: u64 = 1024 * 1024;
/// Longest error text kept with a record.
const ERROR_CHARS_MAX: usize = 500;
/// Members of a line beside the record's own.
const OWN_MEMBERS: [&str; 2] = ["set_aside", "error"];

/// Why a record could not be set aside; it is still the next of its stream.
#[derive(Debug, thiserror::Error)]
pub enum SetAsideError {
    /// The file has no room.
    #[error("dead-letter file {path} is full: {bytes} bytes and {more} more, limit is {limit}")]
    Full {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What the record needs.
        more: u64,
        /// The limit.
        limit: u64,
    },
    /// The file cannot be written.
    #[error("dead-letter file {path} cannot be written: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Only the next record of a lane can be set aside: what is before it is not delivered.
    #[error("record {position} cannot be set aside, the next of its lane is {next}")]
    NotNext {
        /// The position given.
        position: Position,
        /// The next of the lane.
        next: Position,
    },
    /// The record cannot be read, or the store thread does not answer.
    #[error(transparent)]
    Queue(#[from] PeekError),
}

/// See [`super::Queue::set_aside`].
pub(super) fn set_aside(
    inner: &Inner,
    stream: StreamIndex,
    position: Position,
    error: &str,
) -> Result<(), SetAsideError> {
    let lane = inner.lock().streams.get(stream.0).map(|queue| queue.lanes.lane_at(position));
    let span = lane.map_or(peek::Span::after(None), |lane| peek::Span::of_lane(lane.next, lane.end));
    let Some(batch) = peek::peek(inner, stream, span, Limit { records: 1, bytes: 0 })? else { return Ok(()) };
    let Some(record) = batch.records.into_iter().next().filter(|next| next.position <= position) else {
        // Retention took it meanwhile.
        return Ok(());
    };
    if record.position < position {
        return Err(SetAsideError::NotNext { position, next: record.position });
    }
    let skipped = record.skipped;
    let (reply, answer) = mpsc::sync_channel(1);
    let request = DeadLetterRequest {
        stream: stream.0,
        lineage: batch.lineage,
        record,
        error: error.chars().take(ERROR_CHARS_MAX).collect(),
        reply,
    };
    {
        let mut shared = inner.lock();
        if matches!(shared.phase, Phase::Stopped(_) | Phase::Abandoned) {
            return Err(PeekError::Closed.into());
        }
        if shared.dead_letters.len() >= SET_ASIDE_MAX {
            return Err(PeekError::Busy { waiting: shared.dead_letters.len(), limit: SET_ASIDE_MAX }.into());
        }
        shared.dead_letters.push_back(request);
        inner.store_wake.notify_one();
    }
    answer.recv_timeout(STORE_WAIT_MAX).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => PeekError::Stalled { waited_s: STORE_WAIT_MAX.as_secs() },
        mpsc::RecvTimeoutError::Disconnected => PeekError::Closed,
    })??;
    elsewhere::pass_over(inner, stream, position, skipped);
    Ok(())
}

/// The file, opened when it is first needed.
#[derive(Debug)]
pub(super) struct DeadLetter {
    path: PathBuf,
    keys: Arc<Keyring>,
}

impl DeadLetter {
    pub(super) fn new(path: PathBuf, keys: Arc<Keyring>) -> Self {
        Self { path, keys }
    }

    /// Keeps a record that the queue cannot hold, or counts that it could not be kept.
    pub(super) fn keep(&mut self, stream: &str, record: &Record, reason: &'static str, metrics: &Metrics) {
        let line = line(stream, None, record, reason, "");
        let kept = self.append(&line);
        let reason = match &kept {
            Ok(()) => reason,
            Err(SetAsideError::Full { .. }) => "dead_letter_full",
            Err(_) => "dead_letter_failed",
        };
        metrics.records_set_aside.get_or_create(&ByStreamAndReason { stream: stream.to_owned(), reason }).inc();
        match kept {
            Ok(()) | Err(SetAsideError::Full { .. }) => {
                tracing::warn!(stream, device = %record.device, reason, bytes = line.len(), "record set aside");
            }
            Err(error) => tracing::warn!(%error, "record lost"),
        }
    }

    /// Keeps a record that Kafka refused; where it cannot, the record stays in the queue.
    pub(super) fn keep_refused(
        &mut self,
        stream: &str,
        request: &DeadLetterRequest,
        metrics: &Metrics,
    ) -> Result<(), SetAsideError> {
        const REASON: &str = "poison";
        let record = &request.record;
        self.append(&line(stream, Some(&request.lineage), record, REASON, &request.error))?;
        let label = ByStreamAndReason { stream: stream.to_owned(), reason: REASON };
        metrics.records_set_aside.get_or_create(&label).inc();
        tracing::warn!(
            stream, device = %record.device, position = %record.position, error = request.error,
            "record that kafka refuses was set aside"
        );
        Ok(())
    }

    fn append(&self, line: &[u8]) -> Result<(), SetAsideError> {
        let failed = |source| SetAsideError::File { path: self.path.clone(), source };
        let mut line = letters::seal(line.trim_ascii_end(), self.keys.current())
            .map_err(|error| failed(std::io::Error::other(error)))?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let more = line.len() as u64 + 1;
        if bytes.saturating_add(more) > DEAD_LETTER_BYTES_MAX {
            let (path, limit) = (self.path.clone(), DEAD_LETTER_BYTES_MAX);
            return Err(SetAsideError::Full { path, bytes, more, limit });
        }
        let written = write_line(&mut file, bytes, &line).and_then(|()| match self.path.parent() {
            // An empty file may be new, and its name not durable.
            Some(dir) if bytes == 0 => disk::sync_dir(dir),
            _ => Ok(()),
        });
        if written.is_err() {
            // Half a line would spoil the next one; where even this fails, the next append ends it.
            let _ = file.set_len(bytes);
        }
        written.map_err(failed)
    }

    /// Takes lines out, durably.
    pub(super) fn forget(&self, gone: &HashSet<Vec<u8>>) -> std::io::Result<()> {
        let lines = letters::raw_lines(&self.path)?;
        let kept: Vec<Vec<u8>> = lines.iter().filter(|line| !gone.contains(*line)).cloned().collect();
        if kept.len() < lines.len() { self.replace(&kept) } else { Ok(()) }
    }

    /// Puts every line under the current key that opens with one at hand. Gives how many were changed, and how many
    /// stay as they are for want of their key.
    pub(super) fn rekey(&self) -> anyhow::Result<(u64, u64)> {
        let current = self.keys.current();
        let (mut changed, mut held) = (0, 0);
        let mut lines = letters::raw_lines(&self.path)?;
        for line in &mut lines {
            if letters::key_of(line) == self.keys.current_id() {
                continue;
            }
            match letters::open(line, &self.keys) {
                Ok(plain) => {
                    let sealed = letters::seal(&plain, current)?;
                    (*line, changed) = (sealed, changed + 1);
                }
                Err(_) => held += 1,
            }
        }
        if changed > 0 {
            self.replace(&lines)?;
        }
        Ok((changed, held))
    }

    fn replace(&self, lines: &[Vec<u8>]) -> std::io::Result<()> {
        if lines.is_empty() {
            std::fs::remove_file(&self.path)?;
            return self.path.parent().map_or(Ok(()), disk::sync_dir);
        }
        let mut bytes = Vec::new();
        for line in lines {
            bytes.extend_from_slice(line);
            bytes.push(b'\n');
        }
        disk::write_atomically(&self.path, &bytes)
    }
}

/// Appends a line; one that a power cut left half is ended first.
fn write_line(file: &mut File, bytes: u64, line: &[u8]) -> std::io::Result<()> {
    if bytes > 0 {
        let mut last = [0];
        file.seek(SeekFrom::Start(bytes - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    file.write_all(line)?;
    file.sync_all()
}

/// One line: the record as Kafka would have had it, with the reason first. A record that never got a position has no
/// lineage.
fn line(stream: &str, lineage: Option<&Arc<Lineage>>, record: &Record, reason: &str, error: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut object = Object::begin(&mut out);
    object.text("set_aside", reason);
    if !error.is_empty() {
        object.text("error", error);
    }
    if let Some(lineage) = lineage {
        object.text("gateway", &lineage.gateway);
    }
    object.text("stream", stream);
    object.text("device", &record.device);
    object.text("source", &record.source);
    object.time("time", record.stamp.wall_us);
    object.text("clock", record.stamp.trust.as_str());
    if let Some(lineage) = lineage {
        object.text("queue", &lineage.queue.simple().to_string());
        object.unsigned("run", u64::from(record.position.run()));
        object.unsigned("seq", record.position.seq());
        if record.skipped > 0 {
            object.unsigned("skipped", record.skipped);
        }
    }
    for field in &record.fields {
        if is_reserved(&field.name) || OWN_MEMBERS.contains(&&*field.name) {
            object.value(&format!("{}_", field.name), &field.value);
        } else {
            object.value(&field.name, &field.value);
        }
    }
    object.end();
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Field, Stamp, Trust, Value};

    fn record(text: &str) -> Record {
        Record {
            position: Position::new(3, 5),
            skipped: 2,
            thinned: 0,
            stamp: Stamp { boot_ns: 1, wall_us: 1_795_348_800_123_456, trust: Trust::Gnss },
            source: "plc".into(),
            device: "boiler".into(),
            fields: vec![Field::new("error", Value::Text(text.into()))],
        }
    }

    fn request(text: &str) -> DeadLetterRequest {
        let lineage = Lineage { gateway: "g".into(), queue: uuid::Uuid::from_u128(7), boot_index: 0 };
        let (reply, _) = mpsc::sync_channel(1);
        DeadLetterRequest {
            stream: 0,
            lineage: lineage.into(),
            record: record(text).into(),
            error: "too big".into(),
            reply,
        }
    }

    #[test]
    fn a_refused_record_keeps_its_identity_and_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dead-letter.jsonl");
        // What a power cut left of a line does not spoil the next.
        std::fs::write(&path, b"{\"set_as").unwrap();
        let (metrics, _) = Metrics::new();
        DeadLetter::new(path.clone(), Arc::default()).keep_refused("telemetry", &request("x"), &metrics).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!(line["set_aside"], "poison");
        assert_eq!(line["error"], "too big");
        assert_eq!(line["error_"], "x");
        assert_eq!((&line["run"], &line["seq"], &line["skipped"]), (&3.into(), &5.into(), &2.into()));
        let label = ByStreamAndReason { stream: "telemetry".into(), reason: "poison" };
        assert_eq!(metrics.records_set_aside.get_or_create(&label).get(), 1);
    }

    #[test]
    fn a_full_file_takes_nothing_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = DeadLetter::new(dir.path().join("dead-letter.jsonl"), Arc::default());
        let (metrics, _) = Metrics::new();
        let large = "x".repeat(400_000);
        file.keep_refused("telemetry", &request(&large), &metrics).unwrap();
        file.keep_refused("telemetry", &request(&large), &metrics).unwrap();
        let error = file.keep_refused("telemetry", &request(&large), &metrics).unwrap_err();
        assert!(error.to_string().contains("limit is 1048576"), "{error}");
        assert!(std::fs::metadata(&file.path).unwrap().len() <= DEAD_LETTER_BYTES_MAX);
        let label = ByStreamAndReason { stream: "telemetry".into(), reason: "poison" };
        assert_eq!(metrics.records_set_aside.get_or_create(&label).get(), 2);
    }
}
