//! Raw scan: finds whole blocks in any bytes, without sled.
//!
//! One flipped byte in sled's log makes sled cut off everything after it. A block frame carries its own magic, lengths
//! and CRC, so a scan that resynchronises after each bad byte gets back every block that was not itself hit.

use std::io::Read;

use super::block::{self, FRAME_BYTES_MAX, FrameError, Header, MAGIC};

/// What a scan finds.
#[derive(Debug, Clone, PartialEq)]
pub enum Found<'a> {
    /// A whole block of a version this agent reads.
    Block {
        /// Its header.
        header: Header,
        /// The frame.
        bytes: &'a [u8],
    },
    /// A whole frame of a newer version: to be kept as it is.
    Newer {
        /// Its version.
        version: u16,
        /// The frame.
        bytes: &'a [u8],
    },
}

/// Bytes read at a time, beside the longest frame that may begin before the window's end.
const WINDOW_BYTES: usize = 256 * 1024;

/// Finds all blocks of `bytes`, calling `found` with each one's offset, in order.
pub fn scan<'a>(bytes: &'a [u8], mut found: impl FnMut(u64, Found<'a>)) {
    let mut at = 0;
    while let Some(offset) = next_magic(&bytes[at..]) {
        at += offset;
        at += step(at as u64, &bytes[at..], &mut found);
    }
}

/// Scans a file from where it stands, in windows: at most 320 KiB are held, whatever its size.
///
/// # Errors
/// When reading fails; what was found before has been handed on.
pub fn scan_file(file: &mut impl Read, mut found: impl FnMut(u64, Found<'_>)) -> std::io::Result<()> {
    let mut window = Vec::with_capacity(WINDOW_BYTES + FRAME_BYTES_MAX);
    let mut window_offset = 0u64;
    loop {
        let wanted = WINDOW_BYTES + FRAME_BYTES_MAX - window.len();
        let got = file.by_ref().take(wanted as u64).read_to_end(&mut window)?;
        let at_end = got < wanted;
        // A frame that begins in the last FRAME_BYTES_MAX bytes may go on behind them: the next window sees it whole.
        let sure = if at_end { window.len() } else { window.len() - FRAME_BYTES_MAX };
        let mut at = 0;
        while let Some(offset) = next_magic(&window[at..]) {
            if at + offset >= sure {
                break;
            }
            at += offset;
            at += step(window_offset + at as u64, &window[at..], &mut found);
        }
        if at_end {
            return Ok(());
        }
        let done = at.max(sure);
        window.drain(..done);
        window_offset += done as u64;
    }
}

/// Handles the frame candidate at the start of `bytes`; gives how far to go on.
fn step<'a>(offset: u64, bytes: &'a [u8], found: &mut impl FnMut(u64, Found<'a>)) -> usize {
    match block::parse_header(bytes) {
        Ok((header, length)) => {
            found(offset, Found::Block { header, bytes: &bytes[..length] });
            length
        }
        Err(FrameError::Newer { version, frame_bytes }) => {
            found(offset, Found::Newer { version, bytes: &bytes[..frame_bytes] });
            frame_bytes
        }
        Err(_) => 1,
    }
}

fn next_magic(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        // Looking for the first byte alone is a memchr; it is rare in text and in compressed data alike.
        let at = from + bytes[from..].iter().position(|byte| *byte == MAGIC[0])?;
        if bytes[at..].starts_with(&MAGIC) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::block::tests::{sample_records, sealed};
    use proptest::prelude::*;

    fn offsets(bytes: &[u8]) -> Vec<u64> {
        let mut offsets = Vec::new();
        scan(bytes, |offset, _| offsets.push(offset));
        offsets
    }

    proptest! {
        #[test]
        fn any_bytes_are_scanned_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0usize..2000) {
            let mut bytes = bytes;
            let at = at.min(bytes.len());
            bytes.splice(at..at, MAGIC);
            scan(&bytes, |_, _| {});
        }

        #[test]
        fn windows_find_what_a_whole_scan_finds(gaps in proptest::collection::vec(0usize..150_000, 1..6)) {
            let block = sealed(&sample_records(40));
            let mut bytes = Vec::new();
            for gap in gaps {
                bytes.resize(bytes.len() + gap, 0xF0);
                bytes.extend_from_slice(&block.bytes);
            }
            let mut windowed = Vec::new();
            scan_file(&mut bytes.as_slice(), |offset, _| windowed.push(offset)).unwrap();
            prop_assert_eq!(windowed, offsets(&bytes));
        }

        #[test]
        fn a_flipped_byte_costs_only_the_block_it_hit(hit in any::<prop::sample::Index>(), mask in 1u8..) {
            let block = sealed(&sample_records(5));
            let mut bytes = Vec::new();
            for _ in 0..5 {
                bytes.extend_from_slice(&block.bytes);
            }
            let hit = hit.index(bytes.len());
            bytes[hit] ^= mask;
            let expected: Vec<u64> =
                (0..5).filter(|n| *n != hit / block.bytes.len()).map(|n| (n * block.bytes.len()) as u64).collect();
            prop_assert_eq!(offsets(&bytes), expected);
        }
    }
}
