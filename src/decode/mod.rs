//! Decoders: bytes or registers in, fields out.
//!
//! Pure: no I/O, no clock, no panic on any input, and memory bounded by the constants each module states. A decoder is
//! fed with whatever arrived, split anywhere, and finds its frames again after noise.

pub mod checksum;
pub mod fix;
pub mod frame;
pub mod lines;
pub mod nmea;
pub mod payload;
pub mod registers;
pub mod ubx;

/// What a decoder could not use, by kind, since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trouble {
    /// Frames whose checksum did not match.
    pub checksum: u64,
    /// Frames or lines longer than allowed.
    pub too_long: u64,
    /// Frames that were whole but did not say what they should.
    pub malformed: u64,
    /// Bytes outside any frame.
    pub dropped_bytes: u64,
}

impl Trouble {
    /// What happened since the last call; starts again at zero.
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// The counts with their names, as the metric `source_errors` shows them.
    pub fn by_kind(&self) -> [(&'static str, u64); 4] {
        [
            ("checksum", self.checksum),
            ("too_long", self.too_long),
            ("malformed", self.malformed),
            ("dropped_bytes", self.dropped_bytes),
        ]
    }
}
