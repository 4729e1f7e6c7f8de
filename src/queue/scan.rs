//! Raw scan: finds whole blocks in any bytes, without sled.
//!
//! One flipped byte in sled's log makes sled cut off everything after it. A block frame carries its own magic, lengths
//! and CRC, so a scan that resynchronises after each bad byte gets back every block that was not itself hit.

use std::io::Read;

use rustix::io::Errno;

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
        /// Its header, as far as all versions have it in common; `None` where it does not keep to that.
        header: Option<Header>,
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

/// Bytes that are given up where a device cannot read them.
const SECTOR_BYTES: u64 = 4096;

/// Reads a file past what its device cannot read: zeros stand for it, so that a bad sector costs the blocks it holds
/// and not all that follow.
pub(crate) struct PastBadSectors<R> {
    read_at: R,
    at: u64,
    end: u64,
    /// Pieces of at most 4 KiB that could not be read.
    pub(crate) unreadable: u64,
}

impl<R: FnMut(&mut [u8], u64) -> std::io::Result<usize>> PastBadSectors<R> {
    /// Reads from the start up to `end`; `read_at` reads at an offset, as `FileExt::read_at` does.
    pub(crate) fn new(read_at: R, end: u64) -> Self {
        Self { read_at, at: 0, end, unreadable: 0 }
    }
}

impl<R: FnMut(&mut [u8], u64) -> std::io::Result<usize>> Read for PastBadSectors<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.end || buffer.is_empty() {
            return Ok(0);
        }
        let mut result = (self.read_at)(buffer, self.at);
        if result.as_ref().is_err_and(is_bad_sector) {
            let left = (SECTOR_BYTES - self.at % SECTOR_BYTES).min(self.end - self.at);
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let piece = &mut buffer[..length];
            result = (self.read_at)(piece, self.at);
            if result.as_ref().is_err_and(is_bad_sector) {
                piece.fill(0);
                self.unreadable += 1;
                result = Ok(length);
            }
        }
        let read = result?;
        self.at += read as u64;
        Ok(read)
    }
}

/// What file systems say of data that the device or its checksum does not give back.
fn is_bad_sector(error: &std::io::Error) -> bool {
    [Errno::IO, Errno::BADMSG, Errno::UCLEAN].iter().any(|bad| error.raw_os_error() == Some(bad.raw_os_error()))
}

/// Handles the frame candidate at the start of `bytes`; gives how far to go on.
fn step<'a>(offset: u64, bytes: &'a [u8], found: &mut impl FnMut(u64, Found<'a>)) -> usize {
    match block::parse_header(bytes) {
        Ok((header, length)) => {
            found(offset, Found::Block { header, bytes: &bytes[..length] });
            length
        }
        Err(FrameError::Newer { version, frame_bytes }) => {
            let frame = &bytes[..frame_bytes];
            found(offset, Found::Newer { version, header: block::outline::of_newer(frame, version), bytes: frame });
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

    #[test]
    fn a_bad_sector_costs_only_the_blocks_in_it() {
        let block = sealed(&sample_records(40));
        let mut bytes = Vec::new();
        while bytes.len() < 300_000 {
            bytes.extend_from_slice(&block.bytes);
        }
        let bad = 40_960..45_056;
        let mut reader = PastBadSectors::new(
            |buffer: &mut [u8], at| {
                let at = at as usize;
                let end = (at + buffer.len()).min(bytes.len());
                if at < bad.end && end > bad.start {
                    return Err(std::io::Error::from_raw_os_error(Errno::IO.raw_os_error()));
                }
                buffer[..end - at].copy_from_slice(&bytes[at..end]);
                Ok(end - at)
            },
            bytes.len() as u64,
        );
        let mut found = Vec::new();
        scan_file(&mut reader, |offset, _| found.push(offset)).unwrap();
        assert!((1..=2).contains(&reader.unreadable), "{} pieces", reader.unreadable);
        let length = block.bytes.len() as u64;
        let whole = |at: &u64| at + length <= bad.start as u64 || *at >= bad.end as u64;
        let expected: Vec<u64> = offsets(&bytes).into_iter().filter(whole).collect();
        assert_eq!(found, expected);
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
