//! One epoch by raw scan: where its whole blocks are, what its summary names beside them, and what is broken.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, ensure};

use super::{EpochFiles, InspectError};
use crate::queue::block::{self, Header, MAGIC};
use crate::queue::cipher::Keyring;
use crate::queue::scan::{self, Found};
use crate::queue::summary::{self, Entry};
use crate::reading::Record;

/// An epoch holds at most 4 MiB of blocks; sled's pages and what a crash may have doubled come on top. More is not read.
const DATABASE_BYTES_MAX: u64 = 64 << 20;

/// A whole block of a version this agent reads.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockAt {
    /// Its header.
    pub header: Header,
    /// Bytes of its frame.
    pub bytes: usize,
    /// Its records tell of others that were thinned out.
    pub has_thinned: bool,
    offset: u64,
}

/// A whole block of a newer version.
#[derive(Debug, Clone, PartialEq)]
pub struct Newer {
    /// Its version.
    pub version: u16,
    /// Its header, as far as all versions have it in common; `None` where it does not keep to that.
    pub header: Option<Header>,
    /// Bytes of its frame.
    pub bytes: usize,
}

/// What one look at an epoch found. Holds headers only; memory does not depend on how large the queue is.
#[derive(Debug)]
pub struct EpochView {
    /// Its number.
    pub number: u64,
    /// Its generation.
    pub generation: u32,
    /// It was closed in order; else the agent writes to it, or a crash left it so.
    pub closed: bool,
    /// Whole blocks, each once, by stream and position.
    pub blocks: Vec<BlockAt>,
    /// Whole blocks of newer versions, each once.
    pub newer: Vec<Newer>,
    /// Blocks that its summary names and that are not whole in its bytes.
    pub(super) missing: Vec<Entry>,
    /// Offsets where a block begins that is not whole, with a whole one after it.
    pub(super) broken: Vec<u64>,
    /// The last block is not whole: it is being written, or a crash or power cut came in between.
    pub unfinished: bool,
    /// Its bytes go on behind what is read of one epoch.
    pub oversize: bool,
    file: File,
    path: PathBuf,
    keys: Arc<Keyring>,
}

/// Scans an epoch; `None` where its `db` is not there any more.
pub(super) fn look(
    files: &EpochFiles,
    keys: &Arc<Keyring>,
    on_bytes: &mut dyn FnMut(u64),
) -> Result<Option<EpochView>, InspectError> {
    let path = files.dir.join("db");
    let failed = |error| InspectError::io(&path, error);
    // The summary first: what it names is in the bytes by then, while what comes after it is not in the summary.
    let expected = summary::read(&files.dir);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let oversize = file.metadata().map_err(failed)?.len() > DATABASE_BYTES_MAX;
    let mut view = EpochView {
        number: files.number,
        generation: files.generation,
        closed: expected.is_some(),
        blocks: Vec::new(),
        newer: Vec::new(),
        missing: Vec::new(),
        broken: Vec::new(),
        unfinished: false,
        oversize,
        file,
        path: path.clone(),
        keys: Arc::clone(keys),
    };
    view.scan(on_bytes).map_err(failed)?;
    if !view.closed && !view.broken.is_empty() {
        // The agent may be writing it, in pieces and in any order: broken is only what is so twice.
        let before = std::mem::take(&mut view.broken);
        view.file.rewind().map_err(failed)?;
        view.scan(&mut |_| {}).map_err(failed)?;
        view.broken.retain(|start| before.contains(start));
    }
    view.missing = missing(expected.unwrap_or_default(), &view);
    Ok(Some(view))
}

/// Which of a summary's entries have no whole block. Lists of at most some hundred members.
fn missing(expected: Vec<Entry>, view: &EpochView) -> Vec<Entry> {
    let whole = |entry: &Entry| {
        let mut headers = view.blocks.iter().map(|block| &block.header).chain(view.newer_headers());
        headers.any(|header| header.stream == entry.stream && header.first == entry.first())
    };
    let mut missing: Vec<Entry> = expected.into_iter().filter(|entry| !whole(entry)).collect();
    // What a newer agent named there may have a header that says nothing to us; its length does.
    for newer in view.newer.iter().filter(|newer| newer.header.is_none()) {
        if let Some(at) = missing.iter().position(|entry| entry.bytes as usize == newer.bytes) {
            missing.remove(at);
        }
    }
    missing
}

impl EpochView {
    fn scan(&mut self, on_bytes: &mut dyn FnMut(u64)) -> std::io::Result<()> {
        let mut newer = std::collections::HashMap::<u32, Newer>::new();
        let mut frames_end = 0;
        let mut whole_starts = std::collections::HashSet::new();
        let mut magics =
            Magics { inner: (&self.file).take(DATABASE_BYTES_MAX), offset: 0, tail: 0, starts: Vec::new(), on_bytes };
        let blocks = &mut self.blocks;
        blocks.clear();
        scan::scan_file(&mut magics, |offset, found| {
            whole_starts.insert(offset);
            match found {
                Found::Block { header, bytes } => {
                    frames_end = offset + bytes.len() as u64;
                    let has_thinned = block::has_thinned(bytes);
                    blocks.push(BlockAt { header, bytes: bytes.len(), has_thinned, offset });
                }
                Found::Newer { version, header, bytes } => {
                    frames_end = offset + bytes.len() as u64;
                    newer.insert(crc32c::crc32c(bytes), Newer { version, header, bytes: bytes.len() });
                }
            }
        })?;
        let broken = magics.starts.iter().filter(|start| **start < frames_end && !whole_starts.contains(start));
        self.broken = broken.copied().collect();
        self.unfinished = magics.starts.last().is_some_and(|start| *start >= frames_end);
        self.newer = newer.into_values().collect();
        self.newer.sort_unstable_by_key(|newer| (newer.version, newer.bytes));
        // sled's log may hold a block several times, and segments out of order.
        self.blocks.sort_by(|a, b| (&a.header.stream, a.header.first).cmp(&(&b.header.stream, b.header.first)));
        self.blocks.dedup_by(|a, b| a.header == b.header);
        Ok(())
    }

    /// What is known of the blocks of newer versions.
    pub(super) fn newer_headers(&self) -> impl Iterator<Item = &Header> {
        self.newer.iter().filter_map(|newer| newer.header.as_ref())
    }

    /// Blocks that were durable and are not whole, as far as headers and the summary say.
    pub fn damaged(&self) -> u64 {
        (self.broken.len() as u64).max(self.missing.len() as u64)
    }

    /// Reads a block's records.
    ///
    /// # Errors
    /// When it is not whole (any more), its body does not decode although its checksum holds, or its key is not at hand
    /// ([`crate::queue::cipher::missing_key`]).
    pub fn read(&self, block: &BlockAt) -> anyhow::Result<Vec<Record>> {
        let header = &block.header;
        self.read_at(block).with_context(|| {
            let Header { stream, first, last, .. } = header;
            format!("block {first} to {last} of stream {stream:?} in {}", self.path.display())
        })
    }

    fn read_at(&self, block: &BlockAt) -> anyhow::Result<Vec<Record>> {
        let mut bytes = vec![0; block.bytes];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(block.offset))?;
        file.read_exact(&mut bytes)?;
        let sealed = block::parse(&bytes)?;
        ensure!(sealed.header == block.header, "another block is there now");
        let records = block::open(&sealed, &self.keys)?;
        ensure!(
            records.len() as u64 == u64::from(block.header.count),
            "holds {} records, its header says {}",
            records.len(),
            block.header.count
        );
        Ok(records)
    }
}

/// Notes where blocks begin, whole or not, in bytes on their way to the scan.
struct Magics<'a, R> {
    inner: R,
    offset: u64,
    /// Bytes of the magic matched at the end of what was read.
    tail: usize,
    starts: Vec<u64>,
    on_bytes: &'a mut dyn FnMut(u64),
}

/// A 64 MiB file of nothing but frames has fewer; a file of nothing but magics is no epoch.
const STARTS_MAX: usize = (DATABASE_BYTES_MAX / 128) as usize;

impl<R: Read> Read for Magics<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        for (at, byte) in (self.offset..).zip(&buffer[..count]) {
            // The first byte of the magic occurs in it once, so a mismatch can only begin it anew.
            self.tail = match *byte {
                byte if byte == MAGIC[self.tail] => self.tail + 1,
                byte => usize::from(byte == MAGIC[0]),
            };
            if self.tail == MAGIC.len() {
                self.tail = 0;
                if self.starts.len() < STARTS_MAX {
                    self.starts.push(at + 1 - MAGIC.len() as u64);
                }
            }
        }
        self.offset += count as u64;
        (self.on_bytes)(count as u64);
        Ok(count)
    }
}
