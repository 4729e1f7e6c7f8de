//! The summary of a closed epoch: which blocks it holds, so that a start and a read need not open its database.
//!
//! Written once, when the epoch is closed, under a CRC32C. An epoch without a good summary is recovered by raw scan.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::block::Header;
use super::disk;
use super::store::{Held, Ran};
use crate::reading::{Name, Position};

const MAGIC: [u8; 8] = *b"FbyEpoc1";
const FILE: &str = "summary";
/// 512 blocks of at most ~70 bytes and 16 streams' names, with ample room.
const SUMMARY_BYTES_MAX: u64 = 256 * 1024;

/// One block, as the index of an epoch keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its key in the epoch's database.
    pub key: u64,
    pub stream: Name,
    pub first: u64,
    pub last: u64,
    pub count: u32,
    pub bytes: u32,
    pub prev_last: Option<u64>,
    pub boot_index: u32,
    pub boot_first_ns: u64,
}

impl Entry {
    pub(crate) fn new(key: u64, header: &Header, frame_bytes: usize) -> Self {
        Self {
            key,
            stream: header.stream.clone(),
            first: header.first.packed(),
            last: header.last.packed(),
            count: header.count,
            bytes: u32::try_from(frame_bytes).unwrap_or(u32::MAX),
            prev_last: header.prev_last.map(Position::packed),
            boot_index: header.lineage.boot_index,
            boot_first_ns: header.boot_ns.0,
        }
    }

    pub(crate) fn first(&self) -> Position {
        Position::from_packed(self.first)
    }

    pub(crate) fn last(&self) -> Position {
        Position::from_packed(self.last)
    }
}

/// What is kept in memory of every epoch: one [`Held`] a stream.
pub(crate) fn totals(entries: &[Entry]) -> Vec<Held> {
    let mut totals = Vec::<Held>::new();
    for entry in entries {
        let oldest = (entry.boot_index, Duration::from_nanos(entry.boot_first_ns));
        merge(
            &mut totals,
            &Held {
                stream: entry.stream.clone(),
                first: entry.first(),
                last: entry.last(),
                records: u64::from(entry.count),
                bytes: u64::from(entry.bytes),
                oldest,
                ran: Ran::of(oldest.0, oldest.1),
            },
        );
    }
    totals
}

/// Adds what one epoch or block holds of a stream to the sums.
pub(crate) fn merge(totals: &mut Vec<Held>, more: &Held) {
    match totals.iter_mut().find(|held| held.stream == more.stream) {
        Some(held) => held.add(more),
        None => totals.push(more.clone()),
    }
}

/// Writes the summary, fsyncs it and its name.
pub(crate) fn write(epoch_dir: &Path, entries: &[Entry]) -> io::Result<()> {
    let body = postcard::to_stdvec(entries).map_err(io::Error::other)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    disk::write_atomically(&epoch_dir.join(FILE), &bytes)
}

/// Reads it; `None` where it is missing or not whole.
pub(crate) fn read(epoch_dir: &Path) -> Option<Vec<Entry>> {
    let mut bytes = Vec::new();
    File::open(epoch_dir.join(FILE)).ok()?.take(SUMMARY_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (crc, body) = rest.split_first_chunk::<4>()?;
    let whole = *magic == MAGIC && u32::from_le_bytes(*crc) == crc32c::crc32c(body);
    if !whole || bytes.len() as u64 > SUMMARY_BYTES_MAX {
        return None;
    }
    postcard::from_bytes(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::block::tests::{sample_records, sealed};

    #[test]
    fn a_summary_comes_back_and_a_damaged_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let block = sealed(&sample_records(9));
        let entries: Vec<Entry> = (0..512).map(|key| Entry::new(key, &block.header, block.bytes.len())).collect();
        write(dir.path(), &entries).unwrap();
        assert_eq!(read(dir.path()).unwrap(), entries);
        let held = totals(&entries);
        assert_eq!((held.len(), held[0].records), (1, 512 * 9));
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read(dir.path()), None);
    }
}
