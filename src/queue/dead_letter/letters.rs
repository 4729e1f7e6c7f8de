//! The dead-letter file as lines: sealed where the queue is encrypted, read back for a look or for another try.
//!
//! A sealed line is a JSON object as well, `{"key", "nonce", "sealed"}`, so that the file stays one object a line.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value as Json;

use super::{DEAD_LETTER_BYTES_MAX, OWN_MEMBERS};
use crate::queue::cipher::{CipherError, Key, KeyId, Keyring, NONCE_BYTES};
use crate::queue::types::NewRecord;
use crate::reading::{Field, Position, Stamp, Trust, Value, is_reserved};

/// What the seal of a line covers beside it.
const COVER: &[u8] = b"forebay dead letter 1";
/// More is not read: the limit of the file, and what encrypting all of it may add.
const READ_BYTES_MAX: u64 = 2 * DEAD_LETTER_BYTES_MAX;

/// A line of the dead-letter file.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its number, from 1.
    pub line: u64,
    /// As it stands in the file.
    pub(super) raw: Vec<u8>,
    /// What it says.
    pub content: Content,
}

/// What a line says.
#[derive(Debug, Clone)]
pub enum Content {
    /// A record, as JSON text.
    Record(Box<SetAside>),
    /// It is encrypted with a key that is not at hand.
    KeyMissing(KeyId),
    /// It is cut off or damaged.
    Broken,
}

/// A record that was set aside.
#[derive(Debug, Clone)]
pub struct SetAside {
    /// The line in clear.
    pub text: String,
    members: Vec<(String, Json)>,
}

/// Where the file is, below a state directory.
pub(crate) fn path_in(dir: &Path) -> PathBuf {
    dir.join("queue").join("dead-letter.jsonl")
}

/// Reads the file below a state directory; none where there is no file.
///
/// # Errors
/// When it cannot be read or is larger than any such file.
pub fn read(dir: &Path, keys: &Keyring) -> io::Result<Vec<Letter>> {
    let mut letters = Vec::new();
    for (line, raw) in (1..).zip(raw_lines(&path_in(dir))?) {
        let content = match open(&raw, keys) {
            Ok(plain) => parse(&plain).map_or(Content::Broken, |record| Content::Record(Box::new(record))),
            Err(error) => match crate::queue::cipher::missing_key(&error) {
                Some(key) => Content::KeyMissing(key),
                None => Content::Broken,
            },
        };
        letters.push(Letter { line, raw, content });
    }
    Ok(letters)
}

/// The lines without their ends, empty ones left out.
pub(super) fn raw_lines(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(READ_BYTES_MAX + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if bytes.len() as u64 > READ_BYTES_MAX {
        let message = format!("is larger than {READ_BYTES_MAX} bytes, which no dead-letter file is");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

/// A line (without its end) as it goes into the file.
pub(super) fn seal(line: &[u8], key: Option<&Key>) -> Result<Vec<u8>, CipherError> {
    let Some(key) = key else { return Ok(line.to_vec()) };
    let nonce = Key::nonce()?;
    let sealed = BASE64.encode(key.seal(&nonce, COVER, line)?);
    Ok(format!(r#"{{"key":"{}","nonce":"{}","sealed":"{sealed}"}}"#, key.id(), BASE64.encode(nonce)).into_bytes())
}

/// The id of the key that a line is sealed with.
pub(super) fn key_of(line: &[u8]) -> Option<KeyId> {
    sealed_parts(line).map(|(key, ..)| key)
}

/// A line in clear.
///
/// # Errors
/// When it is sealed and does not open ([`CipherError`]).
pub(super) fn open<'a>(line: &'a [u8], keys: &Keyring) -> anyhow::Result<Cow<'a, [u8]>> {
    let Some((key, nonce, sealed)) = sealed_parts(line) else { return Ok(Cow::Borrowed(line)) };
    Ok(Cow::Owned(keys.find(key)?.open(&nonce, COVER, &sealed)?))
}

fn sealed_parts(line: &[u8]) -> Option<(KeyId, [u8; NONCE_BYTES], Vec<u8>)> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sealed<'a> {
        key: &'a str,
        nonce: &'a str,
        sealed: &'a str,
    }
    let parts: Sealed<'_> = serde_json::from_slice(line).ok()?;
    let key = KeyId(u32::from_str_radix(parts.key, 16).ok()?);
    Some((key, BASE64.decode(parts.nonce).ok()?.try_into().ok()?, BASE64.decode(parts.sealed).ok()?))
}

fn parse(plain: &[u8]) -> Option<SetAside> {
    let Members(members) = serde_json::from_slice(plain).ok()?;
    let text = String::from_utf8(plain.to_vec()).ok()?;
    let record = SetAside { text, members };
    record.member("set_aside").is_some().then_some(record)
}

impl SetAside {
    /// A member of text.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.member(name)?.as_str()
    }

    fn member(&self, name: &str) -> Option<&Json> {
        self.members.iter().find(|(member, _)| member == name).map(|(_, value)| value)
    }

    /// Its position in its stream; a record that was too large for the queue never had one.
    pub fn position(&self) -> Option<Position> {
        let run = u32::try_from(self.member("run")?.as_u64()?).ok()?;
        Some(Position::new(run, self.member("seq")?.as_u64()?))
    }

    /// The record for another try: its fields, source, device and time of measurement as they were; its boot time is
    /// `boot_ns`, as its own boot may be over.
    ///
    /// # Errors
    /// When a member is missing or is nothing that a record can hold.
    pub(crate) fn record(&self, boot_ns: u64) -> anyhow::Result<NewRecord> {
        let text = |name| self.text_of(name).with_context(|| format!("member {name:?} is missing"));
        let time: jiff::Timestamp = text("time")?.parse().context("member \"time\" is no time")?;
        let trust =
            (0..=Trust::Gnss as u8).map(Trust::from_u8).find(|trust| self.text_of("clock") == Some(trust.as_str()));
        let own = |name: &str| is_reserved(name) || OWN_MEMBERS.contains(&name);
        let mut fields = Vec::new();
        for (name, value) in self.members.iter().filter(|(name, _)| !own(name)) {
            // A field whose name was taken bears an underscore in the file.
            let name = name.strip_suffix('_').filter(|bare| own(bare)).unwrap_or(name);
            fields.push(Field::new(name, value_of(value).with_context(|| format!("member {name:?} is no field"))?));
        }
        Ok(NewRecord {
            stamp: Stamp { boot_ns, wall_us: time.as_microsecond(), trust: trust.unwrap_or_default() },
            source: text("source")?.into(),
            device: text("device")?.into(),
            fields,
        })
    }
}

fn value_of(value: &Json) -> Option<Value> {
    Some(match value {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::String(text) => Value::Text(text.clone()),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::Integer(integer),
            (None, Some(unsigned)) => Value::Unsigned(unsigned),
            (None, None) => Value::float(number.as_f64()?),
        },
        Json::Array(_) | Json::Object(_) => return None,
    })
}

/// An object's members in their order.
struct Members(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
