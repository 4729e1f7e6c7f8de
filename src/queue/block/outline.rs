//! The header of a block, of whatever version: whose it is and which records it holds.
//!
//! Every version keeps these fields where they are, and the names at the header's end. So an agent that cannot open a
//! block of a newer one still knows its place, leaves it there, and goes on behind it.

use std::sync::Arc;

use super::{FrameError, Header, NO_POSITION, PREFIX_BYTES, SealedBlock, at_rest, u16_at, u32_at, u64_at};
use crate::reading::{Lineage, Name, Position};

/// Bytes of the header that mean the same in every version, but for the flags.
const KEPT_BYTES: usize = 100;

/// The header of a whole frame. Of a newer version only what all versions have in common is read.
pub(super) fn header(frame: &[u8], header_bytes: usize, newer: Option<u16>) -> Result<Header, FrameError> {
    if header_bytes < KEPT_BYTES.max(PREFIX_BYTES) {
        return Err(FrameError::Nonsense("header is shorter than its fixed part"));
    }
    let (stream_bytes, gateway_bytes) = (usize::from(frame[26]), usize::from(frame[27]));
    let names_at = header_bytes
        .checked_sub(stream_bytes + gateway_bytes)
        .filter(|at| *at >= KEPT_BYTES)
        .ok_or(FrameError::Nonsense("names do not fit the header"))?;
    let name = |range: std::ops::Range<usize>| {
        std::str::from_utf8(&frame[range]).map(Name::from).map_err(|_| FrameError::Nonsense("name is not UTF-8"))
    };
    let stream = name(names_at..names_at + stream_bytes)?;
    let gateway = name(names_at + stream_bytes..header_bytes)?;
    let queue = uuid::Uuid::from_slice(&frame[84..100]).map_err(|_| FrameError::Nonsense("queue id"))?;
    let prev_last = u64_at(frame, 52);
    let header = Header {
        stream,
        lineage: Arc::new(Lineage { gateway, queue, boot_index: u32_at(frame, 28) }),
        first: Position::from_packed(u64_at(frame, 36)),
        last: Position::from_packed(u64_at(frame, 44)),
        count: u32_at(frame, 32),
        prev_last: (prev_last != NO_POSITION).then(|| Position::from_packed(prev_last)),
        cursor_at_seal: Position::from_packed(u64_at(frame, 60)),
        boot_ns: (u64_at(frame, 68), u64_at(frame, 76)),
        key: if newer.is_none() { at_rest::key_of(frame) } else { None },
        newer,
    };
    if header.first > header.last || header.first.run() != header.last.run() || header.count == 0 {
        return Err(FrameError::Nonsense("positions of the header contradict each other"));
    }
    Ok(header)
}

/// The header of a whole frame of a newer version; `None` where it is not what every version keeps.
pub(in crate::queue) fn of_newer(frame: &[u8], version: u16) -> Option<Header> {
    header(frame, usize::from(u16_at(frame, 10)), Some(version)).ok()
}

/// As [`super::parse`]; a block of a newer version too, which opens nowhere here ([`Header::newer`]).
///
/// # Errors
/// See [`FrameError`]; [`FrameError::Newer`] only of a frame that does not keep what every version keeps.
pub(crate) fn parse_any(bytes: &[u8]) -> Result<SealedBlock, FrameError> {
    match super::parse(bytes) {
        Err(FrameError::Newer { version, frame_bytes }) => {
            let frame = &bytes[..frame_bytes];
            let header = of_newer(frame, version).ok_or(FrameError::Newer { version, frame_bytes })?;
            Ok(SealedBlock { header, bytes: frame.to_vec() })
        }
        parsed => parsed,
    }
}
