//! Binary sensor frames by description: sync bytes, a length, a checksum, typed fields at fixed places.
//!
//! A sensor is data, not code: see [`PMS5003`]. When a frame fails its check only its first byte is given up, because
//! a truncated frame is followed by a good one that begins inside what looked like the bad one.

use crate::decode::{Trouble, checksum};
use crate::reading::{Field, Value};

/// Longest frame any description may ask for; the decoder holds at most twice this.
pub const FRAME_BYTES_MAX: usize = 512;

/// How long a frame is, sync bytes and checksum included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Always so many bytes.
    Fixed(usize),
    /// A big-endian 16-bit count at offset `at`, to which `add` bytes come; anything but a frame of `min..=max` bytes
    /// is not a frame.
    Counted {
        /// Offset of the count.
        at: usize,
        /// Bytes that the count does not count.
        add: usize,
        /// Shortest whole frame.
        min: usize,
        /// Longest whole frame.
        max: usize,
    },
}

/// What protects a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// 16-bit sum, big endian, in the last two bytes, over all before it.
    Sum16BigEndian,
    /// 8-bit sum, `from_end` bytes before the frame's end, over the bytes from offset `from` up to it.
    Sum8 {
        /// First byte covered.
        from: usize,
        /// Distance of the sum from the frame's end; 1 is the last byte.
        from_end: usize,
    },
}

/// How a field's bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// Unsigned 8 bit.
    U8,
    /// Unsigned 16 bit, big endian.
    U16BigEndian,
    /// Unsigned 16 bit, little endian.
    U16LittleEndian,
}

/// One field of a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FieldAt {
    /// Its name, unit last.
    pub name: &'static str,
    /// Offset from the frame's first sync byte.
    pub at: usize,
    /// How its bytes are to be read.
    pub number: Number,
    /// Divides the number; 1 keeps an integer an integer.
    pub divide_by: u32,
    /// The number that means "no value", which becomes null.
    pub invalid: Option<u32>,
}

impl FieldAt {
    const fn count(name: &'static str, at: usize) -> Self {
        Self { name, at, number: Number::U16BigEndian, divide_by: 1, invalid: None }
    }
}

/// A sensor's frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Description {
    /// What every frame begins with.
    pub sync: &'static [u8],
    /// How long it is.
    pub length: Length,
    /// What protects it.
    pub check: Check,
    /// What it carries.
    pub fields: &'static [FieldAt],
}

/// Plantower PMS5003, PMS7003 and Honeywell HPMA115 (Plantower data manual V2.3, appendix I): 9600 8N1, 32 bytes.
///
/// `_cf1` is the factory calibration, `_atm` the value under atmospheric conditions; counts are particles larger than
/// the diameter in micrometres (`0um3` is 0.3) in 0.1 L of air.
pub const PMS5003: Description = Description {
    sync: &[0x42, 0x4D],
    length: Length::Counted { at: 2, add: 4, min: 32, max: 32 },
    check: Check::Sum16BigEndian,
    fields: &[
        FieldAt::count("pm1_0_cf1_ug_m3", 4),
        FieldAt::count("pm2_5_cf1_ug_m3", 6),
        FieldAt::count("pm10_cf1_ug_m3", 8),
        FieldAt::count("pm1_0_atm_ug_m3", 10),
        FieldAt::count("pm2_5_atm_ug_m3", 12),
        FieldAt::count("pm10_atm_ug_m3", 14),
        FieldAt::count("particles_0um3_per_0l1", 16),
        FieldAt::count("particles_0um5_per_0l1", 18),
        FieldAt::count("particles_1um0_per_0l1", 20),
        FieldAt::count("particles_2um5_per_0l1", 22),
        FieldAt::count("particles_5um0_per_0l1", 24),
        FieldAt::count("particles_10um_per_0l1", 26),
    ],
};

/// What stands at the front of the pending bytes.
enum Step {
    NeedMore,
    Drop(usize),
    BadCheck,
    Frame(usize),
}

/// Finds frames of one description in a stream of bytes.
#[derive(Debug)]
pub struct Decoder {
    description: Description,
    pending: Vec<u8>,
    trouble: Trouble,
}

impl Decoder {
    /// A decoder of this description's frames.
    pub fn new(description: Description) -> Self {
        Self { description, pending: Vec::new(), trouble: Trouble::default() }
    }

    /// What could not be used, by kind.
    pub fn trouble(&mut self) -> &mut Trouble {
        &mut self.trouble
    }

    /// Whether nothing is pending: the next byte is the first of a frame.
    pub fn is_between_frames(&self) -> bool {
        self.pending.is_empty()
    }

    /// Forgets a half frame, as when the port was reopened.
    pub fn reset(&mut self) {
        self.trouble.dropped_bytes += self.pending.len() as u64;
        self.pending.clear();
    }

    /// Takes bytes in; gives the fields of each whole, checked frame to `emit`.
    pub fn push(&mut self, bytes: &[u8], emit: &mut impl FnMut(Vec<Field>)) {
        for chunk in bytes.chunks(FRAME_BYTES_MAX) {
            self.pending.extend_from_slice(chunk);
            let used = self.scan(emit);
            self.pending.drain(..used);
        }
    }

    fn scan(&mut self, emit: &mut impl FnMut(Vec<Field>)) -> usize {
        let mut used = 0;
        while let Some(rest) = self.pending.get(used..).filter(|rest| !rest.is_empty()) {
            used += match step(&self.description, rest) {
                Step::NeedMore => break,
                Step::Drop(bytes) => {
                    self.trouble.dropped_bytes += bytes as u64;
                    bytes
                }
                Step::BadCheck => {
                    self.trouble.checksum += 1;
                    self.trouble.dropped_bytes += 1;
                    1
                }
                Step::Frame(bytes) => {
                    emit(fields(&self.description, &rest[..bytes]));
                    bytes
                }
            };
        }
        used
    }
}

fn step(description: &Description, rest: &[u8]) -> Step {
    let sync = description.sync;
    let matching = rest.iter().zip(sync).take_while(|(byte, expected)| byte == expected).count();
    if matching < sync.len() {
        // Either the sync goes on in bytes still to come, or this byte is noise.
        return if matching == rest.len() { Step::NeedMore } else { Step::Drop(1) };
    }
    let length = match description.length {
        Length::Fixed(length) => length,
        Length::Counted { at, add, min, max } => {
            let Some(count) = number_at(rest, at, Number::U16BigEndian) else { return Step::NeedMore };
            let length = count as usize + add;
            if length < min || length > max {
                return Step::Drop(1);
            }
            length
        }
    };
    if length == 0 || length > FRAME_BYTES_MAX {
        return Step::Drop(1);
    }
    match rest.get(..length) {
        None => Step::NeedMore,
        Some(frame) if is_intact(description.check, frame) => Step::Frame(length),
        Some(_) => Step::BadCheck,
    }
}

fn is_intact(check: Check, frame: &[u8]) -> bool {
    match check {
        Check::Sum16BigEndian => frame
            .split_last_chunk::<2>()
            .is_some_and(|(covered, sum)| checksum::sum16(covered) == u16::from_be_bytes(*sum)),
        Check::Sum8 { from, from_end } => {
            let Some(at) = frame.len().checked_sub(from_end) else { return false };
            match (frame.get(from..at), frame.get(at)) {
                (Some(covered), Some(sum)) => checksum::sum8(covered) == *sum,
                _ => false,
            }
        }
    }
}

fn number_at(frame: &[u8], at: usize, number: Number) -> Option<u32> {
    let pair = || frame.get(at..at.checked_add(2)?).and_then(|pair| <[u8; 2]>::try_from(pair).ok());
    match number {
        Number::U8 => frame.get(at).map(|byte| u32::from(*byte)),
        Number::U16BigEndian => pair().map(|pair| u32::from(u16::from_be_bytes(pair))),
        Number::U16LittleEndian => pair().map(|pair| u32::from(u16::from_le_bytes(pair))),
    }
}

fn fields(description: &Description, frame: &[u8]) -> Vec<Field> {
    let value = |field: &FieldAt| match number_at(frame, field.at, field.number) {
        None => Value::Null,
        Some(number) if field.invalid == Some(number) => Value::Null,
        Some(number) if field.divide_by == 1 => Value::Integer(i64::from(number)),
        Some(number) => Value::float(f64::from(number) / f64::from(field.divide_by)),
    };
    description.fields.iter().map(|field| Field::new(field.name, value(field))).collect()
}

#[cfg(test)]
mod tests;
