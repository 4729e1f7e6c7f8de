//! What the account takes of a message: the members that every record has, in any encoding that the agent writes.

use super::{METRICS_MAX, NAME_BYTES_MAX, Origin, binary};
use crate::config::Encoding;
use crate::reading::Position;

/// Longest part that is kept of what the JSON parser says: it repeats what it found.
const REASON_CHARS_MAX: usize = 200;

/// Why a message is not in the account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It has no value, as a tombstone.
    #[error("it is empty")]
    Empty,
    /// Neither of the two kinds of value that the agent writes.
    #[error("it is neither a JSON object nor in Confluent's wire format: its first byte is {0:#04x}")]
    Foreign(u8),
    /// Nothing said whether it is Avro or Protobuf.
    #[error("it is in Confluent's wire format, as avro and protobuf are, and was to be read as json")]
    WireFormat,
    /// It is no JSON, or lacks a member, or has one of another type.
    #[error("it is not a record of forebay in json: {0}")]
    Json(String),
    /// The value ends early, or holds something else at this place.
    #[error("it is not a record of forebay in {encoding}: {member} cannot be read")]
    Member {
        /// How it was to be read.
        encoding: &'static str,
        /// What could not be.
        member: &'static str,
    },
    /// A name that no agent writes.
    #[error("{member} has {bytes} bytes, limit is {NAME_BYTES_MAX}")]
    Name {
        /// The member.
        member: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A position that no agent gives.
    #[error("run {run} seq {seq} is no position, limits are {} and {}", Position::RUN_MAX, Position::SEQ_MAX)]
    Position {
        /// Its run.
        run: u32,
        /// Its count inside the run.
        seq: u64,
    },
    /// More messages of one record than a record has fields.
    #[error("its record has more metrics than {METRICS_MAX}, the limit")]
    Metrics,
}

/// The members of a record that the account is taken of.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) origin: Origin,
    pub(super) device: String,
    pub(super) run: u32,
    pub(super) seq: u64,
    pub(super) skipped: u64,
    /// `time`, microseconds since 1970 UTC.
    pub(super) time_us: Option<i64>,
    /// Of a narrow message the [`fingerprint`] of its metric.
    pub(super) metric: Option<u64>,
}

impl Head {
    /// Reads a value of any form. JSON is told by its first byte, so that a topic may have changed its encoding.
    pub(super) fn read(value: &[u8], encoding: Encoding) -> Result<Self, Unreadable> {
        let head = match (value.first(), encoding) {
            (None, _) => return Err(Unreadable::Empty),
            (Some(b'{'), _) => json(value)?,
            (Some(0), Encoding::Json) => return Err(Unreadable::WireFormat),
            (Some(0), Encoding::Avro) => binary::avro(value)?,
            (Some(0), Encoding::Protobuf) => binary::protobuf(value)?,
            (Some(other), _) => return Err(Unreadable::Foreign(*other)),
        };
        head.checked()
    }

    fn checked(self) -> Result<Self, Unreadable> {
        let Origin { gateway, queue, stream } = &self.origin;
        let names = [("gateway", gateway), ("queue", queue), ("stream", stream), ("device", &self.device)];
        if let Some((member, name)) = names.into_iter().find(|(_, name)| name.len() > NAME_BYTES_MAX) {
            return Err(Unreadable::Name { member, bytes: name.len() });
        }
        if self.run > Position::RUN_MAX || self.seq > Position::SEQ_MAX {
            return Err(Unreadable::Position { run: self.run, seq: self.seq });
        }
        Ok(self)
    }

    pub(super) fn position(&self) -> Position {
        Position::new(self.run, self.seq)
    }
}

/// Stands for a metric's name, so that what is kept of one has a known size. Two names of the 256 of a record share one
/// once in 10^14 records; a message would then be counted as repeated.
pub(super) fn fingerprint(metric: &[u8]) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(metric);
    hasher.finish()
}

#[derive(serde::Deserialize)]
struct Json {
    #[serde(flatten)]
    origin: Origin,
    device: String,
    run: u32,
    seq: u64,
    #[serde(default)]
    skipped: u64,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    metric: Option<Metric>,
}

/// A wide record may have a field of this name, and of any type. As text it does no harm: every copy has the same.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Metric {
    Name(String),
    Other(serde::de::IgnoredAny),
}

fn json(value: &[u8]) -> Result<Head, Unreadable> {
    let json: Json = serde_json::from_slice(value).map_err(|error| Unreadable::Json(printable(&error.to_string())))?;
    let time = json.time.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let metric = match &json.metric {
        Some(Metric::Name(name)) => Some(fingerprint(name.as_bytes())),
        Some(Metric::Other(_)) | None => None,
    };
    Ok(Head {
        origin: json.origin,
        device: json.device,
        run: json.run,
        seq: json.seq,
        skipped: json.skipped,
        time_us: time.map(jiff::Timestamp::as_microsecond),
        metric,
    })
}

/// Fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
