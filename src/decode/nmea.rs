//! NMEA 0183 sentences in a receiver's byte stream, whatever else travels on the same line.
//!
//! [`Scanner`] finds sentences, checks them, and steps over the binary UBX and RTCM 3 frames many receivers mix in.
//! Every talker is taken. What a sentence says is one flat [`Sentence`]: only what it does say is `Some`.

mod sentence;

pub use sentence::{Date, Kind, Quality, Sentence};

use crate::decode::{Trouble, checksum, ubx};

/// Longest sentence taken, `$` to checksum. The standard says 82, but real ones (PUBX,00) exceed 100.
pub const SENTENCE_BYTES_MAX: usize = 256;

/// Longest UBX payload believed; a larger length is noise that looks like a header.
pub const UBX_PAYLOAD_BYTES_MAX: usize = 4_096;

/// Most bytes pushed at once before they are scanned; with the longest frame this bounds the scanner's memory.
const CHUNK_BYTES: usize = 512;

/// What stands at the front of the pending bytes.
enum Step {
    NeedMore,
    /// Noise.
    Drop(usize),
    /// Line ends, which belong to nothing.
    Skip(usize),
    Sentence(usize),
    TooLong(usize),
    /// A sentence cut short by something that cannot be part of one.
    Broken(usize),
    /// A whole binary frame with a good checksum.
    Binary(usize),
    BadBinary,
}

/// Finds checked sentences in a stream of bytes.
#[derive(Debug, Default)]
pub struct Scanner {
    pending: Vec<u8>,
    trouble: Trouble,
    checked: u64,
}

impl Scanner {
    /// A scanner with nothing pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// What could not be used, by kind.
    pub fn trouble(&mut self) -> &mut Trouble {
        &mut self.trouble
    }

    /// How many sentences and binary frames had a good checksum: proof that the line's speed is right.
    pub fn checked(&self) -> u64 {
        self.checked
    }

    /// Whether the next byte is the first of a sentence.
    pub fn is_between_sentences(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes bytes in; gives each whole, checked sentence to `emit`.
    pub fn push(&mut self, bytes: &[u8], emit: &mut impl FnMut(&Sentence)) {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.pending.extend_from_slice(chunk);
            self.scan(emit);
        }
    }

    /// The line has been silent: a binary frame that is still not whole was noise that looked like one.
    pub fn silence(&mut self, emit: &mut impl FnMut(&Sentence)) {
        while matches!(self.pending.first(), Some(&(UBX_SYNC | RTCM_PREAMBLE))) {
            self.pending.remove(0);
            self.trouble.dropped_bytes += 1;
            self.scan(emit);
        }
    }

    fn scan(&mut self, emit: &mut impl FnMut(&Sentence)) {
        let mut used = 0;
        while let Some(rest) = self.pending.get(used..).filter(|rest| !rest.is_empty()) {
            used += match step(rest) {
                Step::NeedMore => break,
                Step::Skip(bytes) => bytes,
                Step::Binary(bytes) => {
                    self.checked += 1;
                    if let Some(payload) = rest.get(6..bytes - 2).filter(|_| rest.starts_with(&NAV_PVT_HEADER)) {
                        match ubx::nav_pvt(payload) {
                            Some(facts) => emit(&facts),
                            None => self.trouble.malformed += 1,
                        }
                    }
                    bytes
                }
                Step::Drop(bytes) => {
                    self.trouble.dropped_bytes += bytes as u64;
                    bytes
                }
                Step::BadBinary => {
                    self.trouble.checksum += 1;
                    self.trouble.dropped_bytes += 1;
                    1
                }
                Step::TooLong(bytes) => {
                    self.trouble.too_long += 1;
                    self.trouble.dropped_bytes += bytes as u64;
                    bytes
                }
                Step::Broken(bytes) => {
                    self.trouble.malformed += 1;
                    self.trouble.dropped_bytes += bytes as u64;
                    bytes
                }
                Step::Sentence(bytes) => {
                    match body(&rest[..bytes]) {
                        Err(BodyError::Checksum) => self.trouble.checksum += 1,
                        Err(BodyError::NoChecksum) => self.trouble.malformed += 1,
                        Ok(text) => {
                            self.checked += 1;
                            match sentence::parse(text) {
                                Some(sentence) => emit(&sentence),
                                None => self.trouble.malformed += 1,
                            }
                        }
                    }
                    bytes
                }
            };
        }
        self.pending.drain(..used);
    }
}

const UBX_SYNC: u8 = 0xB5;
const UBX_SYNC_SECOND: u8 = 0x62;
/// Sync, class and id of UBX NAV-PVT.
const NAV_PVT_HEADER: [u8; 4] = [UBX_SYNC, UBX_SYNC_SECOND, 0x01, 0x07];
const RTCM_PREAMBLE: u8 = 0xD3;

fn step(rest: &[u8]) -> Step {
    match rest.first() {
        None => Step::NeedMore,
        Some(b'$' | b'!') => sentence_step(rest),
        Some(b'\r' | b'\n') => Step::Skip(1),
        Some(&UBX_SYNC) => ubx_step(rest),
        Some(&RTCM_PREAMBLE) => rtcm_step(rest),
        Some(_) => Step::Drop(1),
    }
}

fn sentence_step(rest: &[u8]) -> Step {
    let is_end = |byte: &u8| !matches!(byte, 0x20..=0x7E) || matches!(byte, b'$' | b'!');
    match rest.iter().skip(1).take(SENTENCE_BYTES_MAX).position(is_end).map(|at| at + 1) {
        Some(end) if matches!(rest.get(end), Some(b'\r' | b'\n')) => Step::Sentence(end),
        Some(end) => Step::Broken(end),
        None if rest.len() > SENTENCE_BYTES_MAX => Step::TooLong(SENTENCE_BYTES_MAX),
        None => Step::NeedMore,
    }
}

/// A UBX frame: `B5 62 class id length(u16 LE) payload ck_a ck_b` (u-blox interface descriptions, "UBX frame structure").
fn ubx_step(rest: &[u8]) -> Step {
    if rest.get(1).is_some_and(|second| *second != UBX_SYNC_SECOND) {
        return Step::Drop(1);
    }
    let Some(header) = rest.first_chunk::<6>() else { return Step::NeedMore };
    let payload_bytes = usize::from(u16::from_le_bytes([header[4], header[5]]));
    if payload_bytes > UBX_PAYLOAD_BYTES_MAX {
        return Step::Drop(1);
    }
    let Some(frame) = rest.get(..payload_bytes + 8) else { return Step::NeedMore };
    match frame.split_last_chunk::<2>() {
        Some((covered, sum)) if checksum::fletcher8(covered.get(2..).unwrap_or_default()) == *sum => {
            Step::Binary(frame.len())
        }
        _ => Step::BadBinary,
    }
}

/// An RTCM 3 frame: `D3`, 6 reserved zero bits, a 10-bit length, payload, CRC-24Q (RTCM 10403, transport layer).
fn rtcm_step(rest: &[u8]) -> Step {
    if rest.get(1).is_some_and(|second| second & 0xFC != 0) {
        return Step::Drop(1);
    }
    let Some(header) = rest.first_chunk::<3>() else { return Step::NeedMore };
    let payload_bytes = usize::from(u16::from_be_bytes([header[1], header[2]]));
    let Some(frame) = rest.get(..payload_bytes + 6) else { return Step::NeedMore };
    match frame.split_last_chunk::<3>() {
        Some((covered, crc)) if checksum::crc24q(covered) == u32::from_be_bytes([0, crc[0], crc[1], crc[2]]) => {
            Step::Binary(frame.len())
        }
        _ => Step::BadBinary,
    }
}

enum BodyError {
    Checksum,
    NoChecksum,
}

/// The text between `$` and `*`, once the two hex digits behind it agree.
fn body(sentence: &[u8]) -> Result<&str, BodyError> {
    let text = sentence.get(1..).and_then(|text| std::str::from_utf8(text).ok()).ok_or(BodyError::NoChecksum)?;
    let (text, sum) = text.trim_end().rsplit_once('*').ok_or(BodyError::NoChecksum)?;
    match u8::from_str_radix(sum, 16) {
        Ok(sum) if sum == checksum::xor8(text.as_bytes()) => Ok(text),
        Ok(_) => Err(BodyError::Checksum),
        Err(_) => Err(BodyError::NoChecksum),
    }
}

#[cfg(test)]
mod tests;
