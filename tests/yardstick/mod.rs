//! The yardstick: the plainest durable store of blocks there is, append-only segment files with one `fdatasync` a group.
//!
//! Frames carry their own CRC32C, so a segment is frames one after the other, and opening is a scan. The tests run the
//! queue on it as an oracle; benchmarks compare what the real store writes with what this one does.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use forebay::queue::block::{self, SealedBlock};
use forebay::queue::lane::Lanes;
use forebay::queue::scan::{self, Found};
use forebay::queue::store::{BlockStore, Held, OldestBlocks, Replacement, StoreError, StreamEpochs};
use forebay::reading::{Name, Position};

pub mod rewriting;
use rewriting::{open_records, put_together, split, stream_epoch};

/// A segment is closed at this size.
pub const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Where a block is.
struct Place {
    header: block::Header,
    offset: u64,
    bytes: usize,
}

struct Segment {
    number: u64,
    file: File,
    bytes: u64,
    blocks: Vec<Place>,
    /// Passes of thinning that streams have seen; forgotten at a start, after which they are seen once more.
    passes: Vec<(Name, u32)>,
}

/// Segment files below a directory.
pub struct SegmentStore {
    dir: PathBuf,
    segments: Vec<Segment>,
    segment_bytes: u64,
    quota_bytes: u64,
    /// Bytes appended, for the comparison.
    pub appended_bytes: u64,
}

impl SegmentStore {
    /// Opens what is there; what is torn at the end of a segment is not found by the scan.
    pub fn open(dir: &Path, segment_bytes: u64, quota_bytes: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut numbers: Vec<u64> = std::fs::read_dir(dir)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("segment-")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let segments = numbers.into_iter().map(|number| Segment::open(dir, number)).collect::<Result<_, _>>()?;
        Ok(Self { dir: dir.to_owned(), segments, segment_bytes, quota_bytes, appended_bytes: 0 })
    }

    fn io<T>(&self, what: &'static str, outcome: std::io::Result<T>) -> Result<T, StoreError> {
        let path = self.dir.display().to_string();
        outcome.map_err(|error| StoreError::Failed { what, path, source: error.into() })
    }

    fn write(&mut self, blocks: &[SealedBlock]) -> std::io::Result<()> {
        if self.segments.last().is_none_or(|segment| segment.bytes >= self.segment_bytes) {
            let number = self.segments.last().map_or(0, |segment| segment.number + 1);
            self.segments.push(Segment::open(&self.dir, number)?);
            File::open(&self.dir)?.sync_all()?;
        }
        let Some(segment) = self.segments.last_mut() else { return Ok(()) };
        for block in blocks {
            segment.file.write_all(&block.bytes)?;
            let place = Place { header: block.header.clone(), offset: segment.bytes, bytes: block.bytes.len() };
            segment.blocks.push(place);
            segment.bytes += block.bytes.len() as u64;
            self.appended_bytes += block.bytes.len() as u64;
        }
        segment.file.sync_data()
    }

    fn remove(&mut self, index: usize) -> std::io::Result<()> {
        let segment = self.segments.remove(index);
        std::fs::remove_file(self.dir.join(format!("segment-{}", segment.number)))?;
        File::open(&self.dir)?.sync_all()
    }
}

impl Segment {
    fn open(dir: &Path, number: u64) -> std::io::Result<Self> {
        let path = dir.join(format!("segment-{number}"));
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let (bytes, mut blocks) = (file.metadata()?.len(), Vec::new());
        scan::scan_file(&mut &file, |offset, found| {
            if let Found::Block { header, bytes } | Found::Newer { header: Some(header), bytes, .. } = found {
                blocks.push(Place { header, offset, bytes: bytes.len() });
            }
        })?;
        Ok(Self { number, file, bytes, blocks, passes: Vec::new() })
    }
}

impl Segment {
    fn block(&self, place: &Place) -> std::io::Result<SealedBlock> {
        let mut bytes = vec![0; place.bytes];
        self.file.read_exact_at(&mut bytes, place.offset)?;
        Ok(SealedBlock { header: place.header.clone(), bytes })
    }

    fn all(&self) -> std::io::Result<Vec<SealedBlock>> {
        self.blocks.iter().map(|place| self.block(place)).collect()
    }
}

impl SegmentStore {
    fn all_of(&self, numbers: &[u64]) -> std::io::Result<Vec<SealedBlock>> {
        let chosen = self.segments.iter().filter(|segment| numbers.contains(&segment.number));
        Ok(chosen.map(Segment::all).collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn put_in_place(&mut self, replacement: &Replacement, lanes: &[(Name, Lanes)]) -> std::io::Result<bool> {
        let numbers = &replacement.epochs;
        let together = put_together(replacement, self.all_of(numbers)?, lanes)?;
        let worth_it = together.is_some();
        if let Some(blocks) = together {
            let target = *numbers.iter().min().unwrap();
            let frames: Vec<u8> = blocks.iter().flat_map(|block| block.bytes.iter().copied()).collect();
            let new = self.dir.join("rewritten");
            std::fs::write(&new, frames)?;
            File::open(&new)?.sync_all()?;
            std::fs::rename(new, self.dir.join(format!("segment-{target}")))?;
            while let Some(at) = self.segments.iter().position(|s| s.number != target && numbers.contains(&s.number)) {
                self.remove(at)?;
            }
            let segment = self.segments.iter_mut().find(|segment| segment.number == target).unwrap();
            *segment = Segment::open(&self.dir, target)?;
        }
        for segment in self.segments.iter_mut().filter(|segment| numbers.contains(&segment.number)) {
            segment.passes.retain(|(name, _)| *name != replacement.stream);
            segment.passes.push((replacement.stream.clone(), replacement.pass));
        }
        Ok(worth_it)
    }
}

impl BlockStore for SegmentStore {
    fn append(&mut self, blocks: &[SealedBlock]) -> Result<(), StoreError> {
        let needed_bytes: u64 = blocks.iter().map(|block| block.bytes.len() as u64).sum();
        let free_bytes = self.quota_bytes.saturating_sub(self.disk_bytes());
        if needed_bytes > free_bytes {
            let path = self.dir.display().to_string();
            return Err(StoreError::Full { needed_bytes, free_bytes, path, outside: false });
        }
        let written = self.write(blocks);
        self.io("append", written)
    }

    fn read(&mut self, stream: &str, at: Position) -> Result<Option<SealedBlock>, StoreError> {
        for segment in &self.segments {
            let mine = |place: &&Place| &*place.header.stream == stream && place.header.last >= at;
            if let Some(place) = segment.blocks.iter().find(mine) {
                return self.io("read", segment.block(place)).map(Some);
            }
        }
        Ok(None)
    }

    fn remove_done(&mut self, lanes: &[(Name, Lanes)]) -> Result<(), StoreError> {
        let is_done = |header: &block::Header, lanes: &Lanes| lanes.is_range_done(header.first, header.last);
        let done =
            |place: &Place| lanes.iter().any(|(name, of)| *name == place.header.stream && is_done(&place.header, of));
        while let Some(index) = self.segments.iter().position(|segment| segment.blocks.iter().all(done)) {
            let removed = self.remove(index);
            self.io("remove", removed)?;
        }
        Ok(())
    }

    fn oldest_of(&mut self, stream: &str, lanes: &Lanes, bytes: u64) -> Result<Option<OldestBlocks>, StoreError> {
        let mine = |place: &&Place| {
            &*place.header.stream == stream && !lanes.is_range_done(place.header.first, place.header.last)
        };
        let Some(segment) = self.segments.iter().find(|segment| segment.blocks.iter().any(|place| mine(&place))) else {
            return Ok(None);
        };
        let mut oldest: Option<OldestBlocks> = None;
        for place in segment.blocks.iter().filter(mine) {
            if oldest.as_ref().is_some_and(|oldest| oldest.bytes >= bytes) {
                break;
            }
            let header = &place.header;
            let first = lanes.first_open(header.first);
            let (records, skipped) = open_records(&self.io("read", segment.block(place))?, header.first, lanes);
            let found = oldest.get_or_insert(OldestBlocks {
                epoch: segment.number,
                first,
                last: first,
                records: 0,
                skipped: 0,
                bytes: 0,
            });
            found.last = header.last;
            found.records += records;
            found.skipped += skipped;
            found.bytes += place.bytes as u64;
        }
        Ok(oldest)
    }

    fn reclaim(&mut self, _lanes: &[(Name, Lanes)], _percent: u64) -> Result<bool, StoreError> {
        // A plain file gives nothing back before it is deleted.
        Ok(false)
    }

    fn epochs_of(&self, stream: &str) -> StreamEpochs {
        let writing = self.segments.last().map(|segment| segment.number);
        let epochs = self.segments.iter().filter_map(|segment| {
            let blocks = segment.blocks.iter().map(|place| (&place.header, place.bytes));
            stream_epoch(segment.number, blocks, stream, &segment.passes, Some(segment.number) != writing)
        });
        StreamEpochs { epochs: epochs.collect(), bytes_max: self.segment_bytes }
    }

    fn blocks_of(
        &mut self,
        stream: &str,
        epochs: &[u64],
        lanes: &[(Name, Lanes)],
    ) -> Result<Vec<SealedBlock>, StoreError> {
        Ok(split(stream, self.io("read", self.all_of(epochs))?, lanes).0)
    }

    fn replace(&mut self, replacement: Replacement, lanes: &[(Name, Lanes)]) -> Result<bool, StoreError> {
        let replaced = self.put_in_place(&replacement, lanes);
        self.io("rewrite", replaced)
    }

    fn held(&self) -> Vec<Held> {
        let mut held: Vec<Held> = Vec::new();
        for place in self.segments.iter().flat_map(|segment| &segment.blocks) {
            let more = Held::of(&place.header, place.bytes as u64);
            match held.iter_mut().find(|held| held.stream == more.stream) {
                Some(known) => known.add(&more),
                None => held.push(more),
            }
        }
        held
    }

    fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}
