//! Flipped bytes anywhere below the state directory: a start never panics, gives no wrong record, and loses at most
//! what stood in the blocks that were hit.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use forebay::config::Durability;
use forebay::metrics::Metrics;
use forebay::queue::scan::{Found, scan};
use forebay::queue::{Limit, NewRecord, OpenError, Queue, Settings, StreamIndex};
use forebay::reading::{Field, Position, Value};

use super::memory::settings;
use super::{number, record, trials};

const STREAMS: usize = 2;
const RECORDS: u64 = 300;
/// Acknowledged of the first stream.
const ACKNOWLEDGED: u64 = 40;
const TRIALS: u32 = 300;

fn settings_in(dir: &Path) -> Settings {
    let mut settings = settings(&[("one", Durability::Window), ("two", Durability::Window)], 1 << 20, dir);
    settings.queue.quota_bytes = Some(16 << 20);
    settings
}

/// In memory where that can be: hundreds of starts would otherwise wait for the disk and show nothing more.
fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A queue with blocks of both streams and a cursor inside the first; ended well, or as by a crash.
fn make(dir: &Path, ended_well: bool) {
    let queue = Queue::open(settings_in(dir), Metrics::new().0).unwrap();
    for n in 0..RECORDS {
        for stream in 0..STREAMS {
            // Over three epochs in all.
            let text = Field::new("text", Value::Text("x".repeat(1_500)));
            let mut fields = record(n).fields;
            fields.push(text);
            queue.push(StreamIndex(stream), NewRecord { fields, ..record(n) }).unwrap();
        }
        if n % 20 == 19 {
            queue.flush().unwrap();
        }
    }
    let after = queue.peek(StreamIndex(0), None, Limit { records: ACKNOWLEDGED as usize, bytes: usize::MAX });
    queue.ack(StreamIndex(0), after.unwrap().unwrap().records.last().unwrap().position);
    queue.flush().unwrap();
    if ended_well { queue.close().unwrap() } else { queue.abandon().unwrap() }
}

/// All files with bytes in them; the ballast is only room.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.metadata().unwrap().len() > 0 && path.file_name().unwrap() != "ballast" {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, target).map(drop).unwrap() }
    }
}

/// Damages `length` bytes; gives how many records stood in the blocks that were hit.
fn flip(file: &Path, at: u64, length: usize) -> u64 {
    let bytes = fs::read(file).unwrap();
    let from = (at % bytes.len() as u64) as usize;
    let end = (from + length).min(bytes.len());
    let mut hit = std::collections::BTreeMap::new();
    scan(&bytes, |offset, found| {
        if let Found::Block { header, bytes } = found
            && (offset as usize) < end
            && from < offset as usize + bytes.len()
        {
            hit.insert((header.stream.clone(), header.first), u64::from(header.count));
        }
    });
    let noise: Vec<u8> = bytes[from..end].iter().map(|byte| byte ^ 0x5A).collect();
    fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(&noise, from as u64).unwrap();
    hit.values().sum()
}

/// Reads a stream; nothing wrong, nothing out of order. Gives how many of the records that were not acknowledged
/// are missing.
fn missing(queue: &Queue, stream: usize) -> u64 {
    let (mut got, mut after) = (0, None);
    let done = if stream == 0 { ACKNOWLEDGED } else { 0 };
    while let Some(batch) = queue.peek(StreamIndex(stream), after, Limit { records: 100, bytes: usize::MAX }).unwrap() {
        for record in &batch.records {
            assert!(after < Some(record.position), "{} comes after {after:?}", record.position);
            assert_eq!(record.position, Position::new(1, number(record)), "a wrong record");
            after = Some(record.position);
            // What was acknowledged may come again where the cursor itself was hit.
            got += u64::from(number(record) >= done);
        }
    }
    RECORDS - done - got
}

#[test]
fn flipped_bytes_anywhere_cost_at_most_the_blocks_they_hit() {
    let origins = [true, false].map(|ended_well| {
        let dir = fast_dir();
        make(dir.path(), ended_well);
        dir
    });
    let mut random = fastrand::Rng::with_seed(0x5f0c_9a1e);
    let (mut refused, mut hit_blocks) = (0, 0);
    for trial in 0..trials(TRIALS) {
        let dir = fast_dir();
        copy(origins[trial as usize % 2].path(), dir.path());
        let files = files(dir.path());
        // Every other flip hits the blocks, the rest any file.
        let blocks: Vec<&PathBuf> = files.iter().filter(|file| file.to_string_lossy().contains("epoch-")).collect();
        let file =
            if random.bool() { blocks[random.usize(..blocks.len())] } else { &files[random.usize(..files.len())] };
        let length = if random.bool() { 1 } else { 4096 };
        let hit = flip(file, random.u64(..), length);
        hit_blocks += u32::from(hit > 0);
        let name = file.strip_prefix(dir.path()).unwrap().display();
        let queue = match Queue::open(settings_in(dir.path()), Metrics::new().0) {
            Ok(queue) => queue,
            Err(error) => {
                assert!(matches!(error, OpenError::Version { .. }), "trial {trial}, {name}: {error}");
                assert_eq!(file.file_name().unwrap(), "format", "only a format that is not known is refused: {error}");
                refused += 1;
                continue;
            }
        };
        let missing: u64 = (0..STREAMS).map(|stream| missing(&queue, stream)).sum();
        assert!(missing <= hit, "trial {trial}, {length} bytes of {name}: {missing} records missing, {hit} hit");
        assert!(!queue.store_failed(), "trial {trial}, {name}: the store failed");
        queue.abandon().unwrap();
    }
    assert!(hit_blocks * 5 > trials(TRIALS), "{hit_blocks} trials hit a block");
    // Of few trials one may well hit that small file.
    assert!(refused <= 1 + trials(TRIALS) / 10, "{refused} starts refused");
}
