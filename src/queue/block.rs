//! The block: a sealed set of records of one stream and one run, and the unit of compression, checksum, durability and
//! deletion.
//!
//! A block is one self-contained frame: a clear header, then the compressed records with their own dictionary of
//! names, all under one CRC32C. It decodes without any other block, so a raw scan of a damaged file gets back every
//! frame that is whole. Every field is described in `docs/queue-format.md`.

pub(crate) mod at_rest;
mod codec;
pub(crate) mod outline;
mod v1;

use std::sync::Arc;

use anyhow::{Context as _, ensure};

use super::cipher::{KeyId, Keyring};
use crate::config::Compression;
use crate::reading::{Field, Lineage, Name, Position, Record, Value};

/// First bytes of every frame, of every version.
pub const MAGIC: [u8; 8] = *b"\xF0rbyBlk\n";
/// The version this agent writes.
pub const VERSION: u16 = 1;
/// Bytes that mean the same in every version: magic, version, lengths, CRC.
pub(crate) const PREFIX_BYTES: usize = 24;
/// Bytes of the fixed part of a version 1 header; the two names follow.
const FIXED_BYTES: usize = 128;
/// Largest encoded record; larger ones are set aside by the queue.
pub const RECORD_BYTES_MAX: usize = 24 * 1024;
/// Largest frame that is written: eight of them in one tree never become one of sled's blob files.
pub const BLOCK_BYTES_MAX: usize = 32_000;
/// Largest frame of whatever version that is believed when read.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Largest body before compression; checked before anything is allocated for it.
pub const PLAIN_BYTES_MAX: usize = 128 * 1024;
/// Segment size of the epochs' databases.
pub(crate) const SEGMENT_BYTES: usize = 1024 * 1024;
/// Longest stream or gateway name, bytes.
pub const NAME_BYTES_MAX: usize = 255;

// A sled page above a quarter of its segment goes to a blob file, which sled never syncs.
// A block that is encrypted later, by a change of keys, grows by the cipher's tag.
const _: () = assert!(8 * (BLOCK_BYTES_MAX + super::cipher::TAG_BYTES + 64) + 1024 < SEGMENT_BYTES / 4 - 20);
const _: () = assert!(RECORD_BYTES_MAX + FIXED_BYTES + 2 * NAME_BYTES_MAX < BLOCK_BYTES_MAX);

/// Each record of the body says how many of its skipped ones were thinned out.
const FLAG_THINNED: u16 = 0b100;
const NO_POSITION: u64 = u64::MAX;

/// The clear part of a block.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The stream.
    pub stream: Name,
    /// What its records have in common (gateway, queue uuid, boot index).
    pub lineage: Arc<Lineage>,
    /// First position.
    pub first: Position,
    /// Last position; same run as `first`.
    pub last: Position,
    /// Records in it.
    pub count: u32,
    /// `last` of the stream's previous block, of whatever run; `None`: there was none.
    pub prev_last: Option<Position>,
    /// The stream's cursor when it was sealed.
    pub cursor_at_seal: Position,
    /// Boot time of its oldest and newest record, ns.
    pub boot_ns: (u64, u64),
    /// The key that its body is encrypted with; `None`: it is in clear.
    pub key: Option<KeyId>,
    /// It is of this version, or uses what is reserved in it: only a newer agent can open it.
    pub newer: Option<u16>,
}

/// A block: clear header and the whole frame as it goes to disk.
#[derive(Debug, Clone, PartialEq)]
pub struct SealedBlock {
    /// The parsed header.
    pub header: Header,
    /// Header, body, CRC: all bytes.
    pub bytes: Vec<u8>,
}

impl SealedBlock {
    /// Bytes of its records before compression, as its header says.
    pub fn plain_bytes(&self) -> usize {
        self.bytes.get(16..20).map_or(0, |bytes| u32_at(bytes, 0) as usize)
    }
}

/// What a seal needs beside the records.
#[derive(Debug, Clone)]
pub struct SealContext {
    /// The stream.
    pub stream: Name,
    /// Common parts.
    pub lineage: Arc<Lineage>,
    /// See [`Header::prev_last`].
    pub prev_last: Option<Position>,
    /// See [`Header::cursor_at_seal`].
    pub cursor_at_seal: Position,
    /// Compression.
    pub compression: Compression,
    /// The current key encrypts the body, if there is one.
    pub keys: Arc<Keyring>,
}

/// Why bytes are not a block of a version this agent reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No frame begins here.
    #[error("no block begins here")]
    NoMagic,
    /// The frame claims more bytes than there are.
    #[error("block of {needed} bytes is cut off after {present} bytes")]
    Short {
        /// Bytes of the frame, or of its header.
        needed: usize,
        /// Bytes there are.
        present: usize,
    },
    /// A length that no block can have.
    #[error("{what} of {value} is out of range, limit is {limit}")]
    OutOfRange {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// The checksum does not match.
    #[error("checksum is {computed:08x}, block says {stored:08x}")]
    Checksum {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// A whole frame of a version this agent does not know, or that uses what its version reserves: to be kept, not
    /// deleted.
    #[error("block of version {version} needs a newer agent, this one reads version {VERSION} without reserved fields")]
    Newer {
        /// Its version.
        version: u16,
        /// Bytes of the frame.
        frame_bytes: usize,
    },
    /// The checksum holds and yet a field makes no sense.
    #[error("{0}")]
    Nonsense(&'static str),
}

/// Upper bound of what `record` takes in a block before compression, in bytes. Cheap: no encoding is done.
///
/// Its names are counted in full, as if no other record of the block shared them.
pub fn record_bytes(record: &Record) -> usize {
    const FIXED: usize = 10 + 10 + 1 + 10 + 10 + 1 + 3 + 3 + 3;
    // Beside other thinned ones a record that says zero takes one byte.
    let thinned = if record.thinned > 0 { 9 } else { 0 };
    let fields = record.fields.iter().map(|field| {
        let value = match &field.value {
            Value::Text(text) => text.len() + 5,
            _ => 10,
        };
        field.name.len() + 3 + 3 + 1 + value
    });
    FIXED + thinned + record.source.len() + record.device.len() + 6 + fields.sum::<usize>()
}

/// Seals records (ascending, one run, at least one) into one block.
///
/// # Errors
/// When the records are none, out of order or of several runs, or when the block would pass [`BLOCK_BYTES_MAX`] or
/// [`PLAIN_BYTES_MAX`]: then the caller splits them.
pub fn seal(context: &SealContext, records: &[Record]) -> anyhow::Result<SealedBlock> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        anyhow::bail!("a block of no records");
    };
    ensure!(first.position.run() == last.position.run(), "records of two runs in one block");
    for name in [&context.stream, &context.lineage.gateway] {
        ensure!(name.len() <= NAME_BYTES_MAX, "name {name:?} has {} bytes, limit is {NAME_BYTES_MAX}", name.len());
    }
    let with_thinned = records.iter().any(|record| record.thinned > 0);
    let plain = v1::encode(records, with_thinned)?;
    ensure!(
        plain.len() <= PLAIN_BYTES_MAX,
        "block of {} records has {} bytes before compression, limit is {PLAIN_BYTES_MAX}",
        records.len(),
        plain.len()
    );
    let (codec, body) = codec::compress(context.compression, &plain)?;
    let boot_times = || records.iter().map(|record| record.stamp.boot_ns);
    let header = Header {
        stream: context.stream.clone(),
        lineage: context.lineage.clone(),
        first: first.position,
        last: last.position,
        count: u32::try_from(records.len()).context("count of records")?,
        prev_last: context.prev_last,
        cursor_at_seal: context.cursor_at_seal,
        boot_ns: (boot_times().min().unwrap_or(0), boot_times().max().unwrap_or(0)),
        key: context.keys.current_id(),
        newer: None,
    };
    let flags = codec | if with_thinned { FLAG_THINNED } else { 0 };
    let bytes = frame(&header, flags, plain.len(), &body, &context.keys)?;
    ensure!(
        bytes.len() <= BLOCK_BYTES_MAX,
        "block of {} records has {} bytes, limit is {BLOCK_BYTES_MAX}",
        records.len(),
        bytes.len()
    );
    Ok(SealedBlock { header, bytes })
}

/// Decodes a block's records, checking its CRC.
///
/// # Errors
/// When the frame is damaged or of a newer version; see [`FrameError`]. When it is encrypted with a key that is not at
/// hand ([`super::cipher::missing_key`]: it is whole and waits for the key), or not authentic.
pub fn open(block: &SealedBlock, keys: &Keyring) -> anyhow::Result<Vec<Record>> {
    let (header, body) = parse_parts(&block.bytes)?;
    let plain_bytes = block.plain_bytes();
    let body = at_rest::open_body(&block.bytes, body, keys)?;
    let flags = u16_at(&block.bytes, 24);
    let plain = codec::decompress(flags & codec::MASK, &body, plain_bytes)?;
    v1::decode(&header, &plain, flags & FLAG_THINNED != 0)
}

/// Whether records of a whole frame tell of others that were thinned out.
pub(crate) fn has_thinned(frame: &[u8]) -> bool {
    frame.get(24..26).is_some_and(|flags| u16_at(flags, 0) & FLAG_THINNED != 0)
}

/// Reads one frame at the start of `bytes`, which may go on after it.
///
/// # Errors
/// See [`FrameError`]. Nothing is allocated before lengths and checksum are known to be good.
pub fn parse(bytes: &[u8]) -> Result<SealedBlock, FrameError> {
    let (header, body) = parse_parts(bytes)?;
    let end = usize::from(u16_at(bytes, 10)) + body.len();
    Ok(SealedBlock { header, bytes: bytes[..end].to_vec() })
}

/// Header of the frame at the start of `bytes`, and the frame's length.
pub(crate) fn parse_header(bytes: &[u8]) -> Result<(Header, usize), FrameError> {
    let (header, body) = parse_parts(bytes)?;
    Ok((header, usize::from(u16_at(bytes, 10)) + body.len()))
}

fn parse_parts(bytes: &[u8]) -> Result<(Header, &[u8]), FrameError> {
    let (header_bytes, frame_bytes) = check_frame(bytes)?;
    let version = u16_at(bytes, 8);
    if version != VERSION {
        return Err(FrameError::Newer { version, frame_bytes });
    }
    if header_bytes < FIXED_BYTES {
        return Err(FrameError::Nonsense("header is shorter than its fixed part"));
    }
    if uses_reserved(bytes) {
        return Err(FrameError::Newer { version, frame_bytes });
    }
    if FIXED_BYTES + usize::from(bytes[26]) + usize::from(bytes[27]) != header_bytes {
        return Err(FrameError::Nonsense("names do not fill the header"));
    }
    let header = outline::header(bytes, header_bytes, None)?;
    Ok((header, &bytes[header_bytes..frame_bytes]))
}

/// Whether a whole version 1 header uses what is reserved: a newer agent wrote it, it is not damage.
fn uses_reserved(bytes: &[u8]) -> bool {
    let flags = u16_at(bytes, 24);
    flags & !(codec::MASK | FLAG_THINNED) != 0 || flags & codec::MASK > codec::ZSTD || at_rest::has_stray_nonce(bytes)
}

/// Checks magic, lengths and CRC, which are the same in every version; gives header and frame length.
fn check_frame(bytes: &[u8]) -> Result<(usize, usize), FrameError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(FrameError::NoMagic);
    }
    if bytes.len() < PREFIX_BYTES {
        return Err(FrameError::Short { needed: PREFIX_BYTES, present: bytes.len() });
    }
    let header_bytes = usize::from(u16_at(bytes, 10));
    let body_bytes = u32_at(bytes, 12);
    let plain_bytes = u32_at(bytes, 16);
    let range = |what, value: u64, limit: usize| {
        if value > limit as u64 { Err(FrameError::OutOfRange { what, value, limit: limit as u64 }) } else { Ok(()) }
    };
    if header_bytes < PREFIX_BYTES {
        return Err(FrameError::Nonsense("header is shorter than its prefix"));
    }
    range("frame length", header_bytes as u64 + u64::from(body_bytes), FRAME_BYTES_MAX)?;
    range("uncompressed length", u64::from(plain_bytes), PLAIN_BYTES_MAX)?;
    let frame_bytes = header_bytes + body_bytes as usize;
    if bytes.len() < frame_bytes {
        return Err(FrameError::Short { needed: frame_bytes, present: bytes.len() });
    }
    let stored = u32_at(bytes, 20);
    let computed = checksum(&bytes[..frame_bytes]);
    if stored != computed {
        return Err(FrameError::Checksum { stored, computed });
    }
    Ok((header_bytes, frame_bytes))
}

/// CRC32C (RFC 3720, B.4) of a frame, its own four bytes left out.
fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[..20]), &frame[24..])
}

fn frame(header: &Header, flags: u16, plain_bytes: usize, body: &[u8], keys: &Keyring) -> anyhow::Result<Vec<u8>> {
    let header_bytes = FIXED_BYTES + header.stream.len() + header.lineage.gateway.len();
    let mut out = Vec::with_capacity(header_bytes + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&u16::try_from(header_bytes)?.to_le_bytes());
    out.extend_from_slice(&u32::try_from(body.len())?.to_le_bytes());
    out.extend_from_slice(&u32::try_from(plain_bytes)?.to_le_bytes());
    out.extend_from_slice(&[0; 4]); // the CRC, below
    out.extend_from_slice(&flags.to_le_bytes());
    out.push(u8::try_from(header.stream.len())?);
    out.push(u8::try_from(header.lineage.gateway.len())?);
    out.extend_from_slice(&header.lineage.boot_index.to_le_bytes());
    out.extend_from_slice(&header.count.to_le_bytes());
    let prev_last = header.prev_last.map_or(NO_POSITION, Position::packed);
    let numbers = [header.first.packed(), header.last.packed(), prev_last, header.cursor_at_seal.packed()];
    for number in numbers.into_iter().chain([header.boot_ns.0, header.boot_ns.1]) {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(header.lineage.queue.as_bytes());
    out.extend_from_slice(&[0; 4 + 24]); // key id and nonce, below
    debug_assert_eq!(out.len(), FIXED_BYTES);
    out.extend_from_slice(header.stream.as_bytes());
    out.extend_from_slice(header.lineage.gateway.as_bytes());
    out.extend_from_slice(body);
    at_rest::finish(&mut out, header_bytes, keys.current())?;
    Ok(out)
}

// Fields are little-endian at offsets that `check_frame` and `parse_parts` have shown to be inside the slice.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// A record's fields as the queue hands them on; kept here for the version modules.
fn field(name: Name, value: Value) -> Field {
    Field { name, value }
}

#[cfg(test)]
pub(crate) mod tests;
