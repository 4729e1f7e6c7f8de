use std::fs;
use std::os::unix::fs::FileExt as _;

use super::writer::parse_name;
use super::*;
use crate::config::Compression;
use crate::queue::block::tests::{context, records_from};
use crate::queue::block::{self, Header, SealContext, seal};
use crate::reading::Record;
use proptest::prelude::*;

const QUOTA_BYTES: u64 = 16 << 20;
const RECORDS: u64 = 40;

pub(crate) fn open_store(dir: &Path) -> EpochStore {
    let lock = Lock::take(dir).unwrap();
    EpochStore::open(dir, QUOTA_BYTES, Metrics::new().0, Some(lock)).unwrap()
}

fn records_of(number: u64) -> Vec<Record> {
    records_from(Position::new(1, number * RECORDS), RECORDS)
}

/// Block `number` of a stream, uncompressed, chained to the one before.
pub(crate) fn block_of(stream: &str, number: u64) -> SealedBlock {
    let prev_last = number.checked_sub(1).map(|before| Position::new(1, before * RECORDS + RECORDS - 1));
    let context = SealContext { stream: stream.into(), prev_last, ..context(Compression::None) };
    seal(&context, &records_of(number)).unwrap()
}

fn read_all(store: &mut EpochStore, stream: &str) -> Vec<Record> {
    let mut records = Vec::new();
    let mut at = Position::ZERO;
    while let Some(block) = store.read(stream, at).unwrap() {
        at = block.header.last.next();
        if block.header.newer.is_none() {
            records.extend(block::open(&block, &Default::default()).unwrap());
        }
    }
    records
}

fn expected(count: u64) -> Vec<Record> {
    (0..count).flat_map(records_of).collect()
}

fn epoch_dirs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("queue")).unwrap().map(|entry| entry.unwrap());
    let mut dirs: Vec<PathBuf> =
        entries.filter(|entry| parse_name(&entry.file_name().to_string_lossy()).is_some()).map(|e| e.path()).collect();
    dirs.sort();
    dirs
}

/// Drops the store without closing the epoch, as a crash does.
fn crash(store: EpochStore) {
    drop(store);
}

#[test]
fn nothing_is_made_before_the_first_append() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    assert_eq!(store.read("telemetry", Position::ZERO).unwrap(), None);
    store.close().unwrap();
    assert!(epoch_dirs(dir.path()).is_empty());
}

#[test]
fn blocks_of_several_streams_and_epochs_come_back_after_close_and_after_a_crash() {
    for closed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open_store(dir.path());
        for number in 0..200 {
            store.append(&[block_of("telemetry", number), block_of("alarms", number)]).unwrap();
        }
        assert!(store.epochs.len() > 2, "{} epochs", store.epochs.len());
        assert_eq!(read_all(&mut store, "telemetry"), expected(200));
        let held = store.held();
        if closed {
            store.close().unwrap();
        }
        crash(store);
        let mut store = open_store(dir.path());
        assert!(store.writer.is_none(), "a recovered epoch is never written again");
        assert_eq!(store.held(), held);
        assert_eq!(read_all(&mut store, "telemetry"), expected(200));
        assert_eq!(read_all(&mut store, "alarms"), expected(200));
        assert!(store.lost(&[("telemetry".into(), Lanes::from_cursor(Position::ZERO))], None).is_empty());
        for epoch in epoch_dirs(dir.path()) {
            let blobs = fs::read_dir(epoch.join("blobs")).map_or(0, Iterator::count);
            assert_eq!(blobs, 0, "sled made blob files in {}", epoch.display());
        }
    }
}

#[test]
fn done_epochs_go_and_what_is_not_done_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    for number in 0..200 {
        store.append(&[block_of("telemetry", number)]).unwrap();
    }
    let (before, epochs) = (store.disk_bytes(), store.epochs.len());
    let cursor = Position::new(1, 150 * RECORDS);
    store.remove_done(&[("telemetry".into(), Lanes::from_cursor(cursor))]).unwrap();
    assert!(store.epochs.len() < epochs && store.disk_bytes() < before);
    let block = store.read("telemetry", cursor).unwrap().unwrap();
    assert_eq!(block.header.first, cursor);
    store.remove_done(&[("telemetry".into(), Lanes::from_cursor(Position::END))]).unwrap();
    assert!(epoch_dirs(dir.path()).is_empty());
    store.append(&[block_of("telemetry", 200)]).unwrap();
    assert_eq!(read_all(&mut store, "telemetry"), records_of(200));
}

#[test]
fn at_the_quota_the_append_is_refused_and_dropping_the_oldest_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    let group: Vec<SealedBlock> = (0..64).map(|n| block_of("telemetry", n)).collect();
    let error = loop {
        match store.append(&group) {
            Ok(()) => assert!(store.disk_bytes() <= QUOTA_BYTES),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    let cursor = Position::new(1, 10);
    let oldest = store.oldest_of("telemetry", &Lanes::from_cursor(cursor), 1).unwrap().unwrap();
    assert_eq!(oldest.records, RECORDS - 10, "records below the cursor are done");
    let oldest = store.oldest_of("telemetry", &Lanes::from_cursor(cursor), u64::MAX).unwrap().unwrap();
    assert_eq!(oldest.records % RECORDS, RECORDS - 10);
    assert!(oldest.records > RECORDS && oldest.first == cursor);
    while store.append(&group).is_err() {
        let first = store.held()[0].first;
        let oldest = store.oldest_of("telemetry", &Lanes::from_cursor(first), u64::MAX).unwrap().unwrap();
        store.remove_done(&[("telemetry".into(), Lanes::from_cursor(oldest.last.next()))]).unwrap();
    }
    assert!(store.disk_bytes() <= QUOTA_BYTES);
}

#[test]
fn reading_takes_no_disk_and_changes_no_file_of_a_closed_epoch() {
    let files = |dir: &Path| {
        let files = epoch_dirs(dir).into_iter().flat_map(|epoch| fs::read_dir(epoch).unwrap());
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).filter(|path| path.is_file()).collect();
        files.sort();
        files.into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>()
    };
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    let blocks: Vec<SealedBlock> = (0..400).map(|n| block_of("telemetry", n)).collect();
    blocks.chunks(9).for_each(|group| store.append(group).unwrap());
    store.close().unwrap();
    let (before, used_bytes) = (files(dir.path()), disk::used_bytes(dir.path(), &|_| false));
    assert!(epoch_dirs(dir.path()).len() > 3);
    for _ in 0..2 {
        assert_eq!(read_all(&mut store, "telemetry"), expected(400));
        drop(store);
        store = open_store(dir.path());
    }
    assert!(files(dir.path()) == before, "a read has written");
    assert_eq!(disk::used_bytes(dir.path(), &|_| false), used_bytes);
}

#[test]
fn a_dead_handle_costs_nothing_that_was_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    store.append(&[block_of("telemetry", 0)]).unwrap();
    store.give_up_writer();
    assert_eq!(read_all(&mut store, "telemetry"), expected(1));
    store.append(&[block_of("telemetry", 1)]).unwrap();
    assert_eq!(read_all(&mut store, "telemetry"), expected(2));
}

#[test]
fn an_epoch_whose_rescue_failed_at_first_is_rescued_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    store.append(&[block_of("telemetry", 0), block_of("telemetry", 1)]).unwrap();
    // What a failed append leaves behind when the disk has no room for the rescue.
    drop(store.writer.take());
    store.epochs.get_mut(&1).unwrap().checked = false;
    assert_eq!(read_all(&mut store, "telemetry"), expected(2));
    assert_eq!(epoch_dirs(dir.path()), [dir.path().join("queue").join(writer::epoch_name(1, 1))]);
}

#[test]
fn an_epoch_that_holds_nothing_is_removed_and_half_a_generation_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    store.append(&[block_of("telemetry", 0)]).unwrap();
    store.close().unwrap();
    drop(store);
    let queue = dir.path().join("queue");
    fs::create_dir(queue.join(epoch_name(1, 1))).unwrap();
    fs::create_dir(queue.join(epoch_name(2, 0))).unwrap();
    let mut store = open_store(dir.path());
    assert_eq!(epoch_dirs(dir.path()), [queue.join(epoch_name(1, 0))]);
    assert_eq!(read_all(&mut store, "telemetry"), expected(1));
}

/// Damages one epoch's log and says how many whole blocks a rescue may lose at most.
fn flip(log: &Path, at: u64, length: usize, blocks: &[SealedBlock]) -> usize {
    let bytes = fs::read(log).unwrap();
    let at = at as usize % bytes.len();
    let end = (at + length).min(bytes.len());
    let mut hit = std::collections::HashSet::new();
    scan_hits(&bytes, at, end, &mut hit);
    let noise: Vec<u8> = bytes[at..end].iter().map(|byte| byte ^ 0x5A).collect();
    fs::OpenOptions::new().write(true).open(log).unwrap().write_all_at(&noise, at as u64).unwrap();
    assert!(hit.len() <= blocks.len());
    hit.len()
}

fn scan_hits(bytes: &[u8], at: usize, end: usize, hit: &mut std::collections::HashSet<u64>) {
    crate::queue::scan::scan(bytes, |offset, found| {
        if let crate::queue::scan::Found::Block { header, bytes } = found {
            let start = offset as usize;
            if start < end && at < start + bytes.len() {
                hit.insert(header.first.packed());
            }
        }
    });
}

#[test]
fn flipped_bytes_cost_at_most_the_blocks_they_hit() {
    let origin = tempfile::tempdir().unwrap();
    let blocks: Vec<SealedBlock> = (0..30).map(|n| block_of("telemetry", n)).collect();
    let mut store = open_store(origin.path());
    blocks.chunks(3).for_each(|group| store.append(group).unwrap());
    let log_name = |dir: &Path| epoch_dirs(dir)[0].join("db");
    crash(store);
    // An epoch as a crash leaves it, without a summary; the copy is made before anything recovers it.
    let crashed = fs::read(log_name(origin.path())).unwrap();
    let all = expected(30);
    let mut seed = 0x2545_F491_4F6C_DD1Du64;
    for trial in 0..300 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let dir = tempfile::tempdir().unwrap();
        let epoch = dir.path().join("queue").join(epoch_name(1, 0));
        fs::create_dir_all(&epoch).unwrap();
        fs::write(epoch.join("db"), &crashed).unwrap();
        let hit = flip(&epoch.join("db"), seed % crashed.len() as u64, if trial % 2 == 0 { 1 } else { 4096 }, &blocks);
        let mut store = open_store(dir.path());
        let got = read_all(&mut store, "telemetry");
        let right = |record: &Record| all.get(record.position.seq() as usize) == Some(record);
        assert!(got.iter().all(right), "trial {trial}: a wrong record");
        let missing = 30 - got.len() / RECORDS as usize;
        assert!(missing <= hit, "trial {trial}: {missing} blocks missing, {hit} hit");
    }
}

#[test]
fn a_closed_epoch_that_is_damaged_later_gives_its_whole_blocks_and_reports_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    let blocks: Vec<SealedBlock> = (0..20).map(|n| block_of("telemetry", n)).collect();
    store.append(&blocks).unwrap();
    store.close().unwrap();
    drop(store);
    let log = epoch_dirs(dir.path())[0].join("db");
    let bytes = fs::read(&log).unwrap();
    let mut offset_of_third = 0;
    crate::queue::scan::scan(&bytes, |offset, found| {
        if matches!(&found, crate::queue::scan::Found::Block { header, .. } if header.first == blocks[3].header.first) {
            offset_of_third = offset;
        }
    });
    flip(&log, offset_of_third + 200, 1, &blocks);
    let mut store = open_store(dir.path());
    // Read in the middle first: the rescue moves the blocks behind the damaged one to other keys.
    assert_eq!(store.read("telemetry", blocks[10].header.first).unwrap().as_ref(), Some(&blocks[10]));
    let got = read_all(&mut store, "telemetry");
    assert_eq!(got.len() as u64, 19 * RECORDS);
    assert_eq!(store.metrics.queue_blocks_lost.get(), 1);
    let lost = store.lost(&[("telemetry".into(), Lanes::from_cursor(Position::ZERO))], None);
    assert_eq!(lost.len(), 1);
    assert_eq!((lost[0].after, lost[0].through), (Some(blocks[2].header.last), blocks[3].header.last));
    assert!(
        store.lost(&[("telemetry".into(), Lanes::from_cursor(blocks[4].header.first))], None).is_empty(),
        "below the cursor nothing is lost"
    );
    assert_eq!(fs::read_dir(dir.path().join("queue/quarantine")).unwrap().count(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Close,
    Crash,
    Done(u64),
    /// Everything under this key; 0: in clear.
    Rekey(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..6).prop_map(Step::Append),
        1 => Just(Step::Close),
        1 => Just(Step::Crash),
        1 => (0u64..30).prop_map(Step::Done),
        1 => (0u8..4).prop_map(Step::Rekey),
    ]
}

/// The current key's byte (0: none), and all others the model uses as old ones.
fn key_of_many(current: u8) -> Arc<Keyring> {
    let key = |byte: u8| crate::config::KeyBytes::new([byte; 32]);
    let current = (current > 0).then(|| key(current));
    Keyring::new(&crate::config::QueueKeys { current, old: (1..4).map(key).collect() })
}

/// All steps of a change, added up.
fn change_all(store: &mut EpochStore, change: &Change) -> crate::queue::admin::Step {
    let mut sum = crate::queue::admin::Step::default();
    while let Some(step) = store.change(change, sum.epoch).unwrap() {
        sum.add(&step);
    }
    sum
}

#[test]
fn blocks_without_their_key_stay_and_are_counted_and_damage_is_rescued_by_a_check() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path()).with_keys(key_of_many(1));
    store.append(&(0..6).map(|n| block_of("telemetry", n)).collect::<Vec<_>>()).unwrap();
    assert_eq!(change_all(&mut store, &Change::Rekey).blocks, 6);
    let mut store = store.with_keys(crate::queue::cipher::tests::keyring(&[9]));
    store.append(&[block_of("telemetry", 6)]).unwrap();
    let step = change_all(&mut store, &Change::Rekey);
    assert_eq!((step.held, step.blocks), (6, 1), "what it cannot open stays");
    store.close().unwrap();
    let (mut store, before) = (store.with_keys(key_of_many(0)), epoch_dirs(dir.path()));
    assert_eq!(
        change_all(&mut store, &Change::Check),
        crate::queue::admin::Step { epoch: Some(2), ..Default::default() }
    );
    assert_eq!(epoch_dirs(dir.path()), before, "what is whole is not written anew");
    let log = epoch_dirs(dir.path())[0].join("db");
    let mut bytes = fs::read(&log).unwrap();
    let at = bytes.windows(8).position(|window| window == block::MAGIC).unwrap();
    bytes[at + 300] ^= 1;
    fs::write(&log, bytes).unwrap();
    let step = change_all(&mut store, &Change::Check);
    assert_eq!((step.lost, step.blocks), (1, 5), "the whole ones are brought back");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn whatever_happens_appended_blocks_are_there_until_they_are_done(steps in proptest::collection::vec(any_step(), 1..25)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open_store(dir.path());
        let (mut appended, mut done, mut keys) = (0u64, 0u64, key_of_many(0));
        for step in steps {
            match step {
                Step::Append(count) => {
                    let group: Vec<SealedBlock> =
                        (appended..appended + u64::from(count)).map(|n| block_of("telemetry", n)).collect();
                    store.append(&group).unwrap();
                    appended += u64::from(count);
                }
                Step::Close => store.close().unwrap(),
                Step::Crash => {
                    drop(store);
                    store = open_store(dir.path());
                }
                Step::Done(count) => {
                    done = appended.min(done + count);
                    store.remove_done(&[("telemetry".into(), Lanes::from_cursor(Position::new(1, done * RECORDS)))]).unwrap();
                }
                Step::Rekey(key) => {
                    keys = key_of_many(key);
                    store = store.with_keys(keys.clone());
                    change_all(&mut store, &Change::Rekey);
                    let mut at = Position::new(1, done * RECORDS);
                    while let Some(block) = store.read("telemetry", at).unwrap() {
                        prop_assert_eq!(block.header.key, keys.current_id());
                        at = block.header.last.next();
                    }
                }
            }
            let cursor = Position::new(1, done * RECORDS);
            let mut at = cursor;
            for number in done..appended {
                let block = store.read("telemetry", at).unwrap().unwrap();
                prop_assert_eq!(block::open(&block, &keys).unwrap(), records_of(number));
                at = block.header.last.next();
            }
            prop_assert_eq!(store.read("telemetry", at).unwrap(), None);
        }
    }
}

fn as_newer(block: &SealedBlock) -> Vec<u8> {
    let mut newer = block.bytes.clone();
    newer[8] = 2;
    with_checksum(newer)
}

fn with_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&frame[..20]), &frame[24..]);
    frame[20..24].copy_from_slice(&sum.to_le_bytes());
    frame
}

/// Everything is done but block `number`.
fn all_but(number: u64) -> [(Name, Lanes); 1] {
    let at = |number| Position::new(1, number * RECORDS);
    let lanes = [(at(number), at(number + 1)), (at(1_000), Position::END)];
    [("telemetry".into(), Lanes::from_pairs(&lanes).unwrap())]
}

fn all_done() -> [(Name, Lanes); 1] {
    [("telemetry".into(), Lanes::from_cursor(Position::END))]
}

#[test]
fn blocks_of_a_newer_version_are_known_by_their_headers_after_a_rescue_and_go_when_they_are_done() {
    let dir = tempfile::tempdir().unwrap();
    let newer = as_newer(&block_of("telemetry", 0));
    let epoch = dir.path().join("queue").join(writer::epoch_name(1, 0));
    fs::create_dir_all(&epoch).unwrap();
    fs::write(epoch.join("db"), [newer.clone(), block_of("telemetry", 1).bytes].concat()).unwrap();
    let mut store = open_store(dir.path());
    assert_eq!(read_all(&mut store, "telemetry"), records_of(1));
    let first = store.read("telemetry", Position::ZERO).unwrap().unwrap();
    let known = block_of("telemetry", 0).header;
    assert_eq!((first.header.newer, &first.bytes), (Some(2), &newer));
    assert_eq!(first.header, Header { newer: Some(2), ..known });
    assert_eq!(store.held()[0].records, 2 * RECORDS);
    store.remove_done(&all_but(0)).unwrap();
    let oldest = store.oldest_of("telemetry", &all_but(0)[0].1, 1).unwrap().unwrap();
    assert_eq!(
        (oldest.first, oldest.last, oldest.records),
        (Position::new(1, 0), Position::new(1, RECORDS - 1), RECORDS)
    );
    assert!(store.reclaim(&all_but(0), 10).unwrap());
    assert_eq!(store.read("telemetry", Position::ZERO).unwrap(), Some(first), "a rewrite keeps it");
    store.remove_done(&all_done()).unwrap();
    assert!(epoch_dirs(dir.path()).is_empty());
}

#[test]
fn a_closed_epoch_of_a_newer_agent_is_kept_and_read_after_the_upgrade() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    let blocks: Vec<SealedBlock> = (0..3).map(|n| block_of("telemetry", n)).collect();
    let newer = as_newer(&blocks[1]);
    let stored = [blocks[0].clone(), SealedBlock { bytes: newer.clone(), ..blocks[1].clone() }, blocks[2].clone()];
    store.append(&stored).unwrap();
    store.close().unwrap();
    drop(store);
    let mut store = open_store(dir.path());
    assert_eq!(read_all(&mut store, "telemetry"), [records_of(0), records_of(2)].concat());
    assert_eq!(store.metrics.queue_blocks_lost.get(), 0, "newer is not lost");
    assert!(!store.epochs_of("telemetry").epochs[0].rewritable, "and not thinned");
    store.remove_done(&all_but(1)).unwrap();
    let epochs = epoch_dirs(dir.path());
    assert!(epochs.len() == 1 && !epochs[0].join("newer-blocks").exists());
    drop(store);
    // What an upgrade does: the frame becomes readable. Same length, so its bytes are put in place.
    let mut log = fs::read(epochs[0].join("db")).unwrap();
    let at = log.windows(newer.len()).position(|window| window == newer).unwrap();
    log[at..at + newer.len()].copy_from_slice(&blocks[1].bytes);
    fs::write(epochs[0].join("db"), log).unwrap();
    let mut store = open_store(dir.path());
    assert_eq!(read_all(&mut store, "telemetry"), expected(3));
    store.remove_done(&all_done()).unwrap();
    assert!(epoch_dirs(dir.path()).is_empty());
}

#[test]
fn a_frame_that_does_not_say_whose_it_is_keeps_its_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let mut nameless = block_of("telemetry", 0).bytes;
    nameless[8] = 2;
    // Names longer than the header.
    nameless[26] = 255;
    let nameless = with_checksum(nameless);
    let epoch = dir.path().join("queue").join(writer::epoch_name(1, 0));
    fs::create_dir_all(&epoch).unwrap();
    fs::write(epoch.join("db"), [nameless.clone(), block_of("telemetry", 1).bytes].concat()).unwrap();
    let mut store = open_store(dir.path());
    assert_eq!(read_all(&mut store, "telemetry"), records_of(1));
    store.remove_done(&all_done()).unwrap();
    drop(store);
    let epochs = epoch_dirs(dir.path());
    assert!(epochs[0].join("newer-blocks").exists());
    let log = fs::read(epochs[0].join("db")).unwrap();
    assert!(log.windows(nameless.len()).any(|window| window == nameless));
}

#[test]
fn blocks_come_by_position_whichever_epoch_holds_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_store(dir.path());
    for group in [&[0, 4][..], &[1, 2, 3, 4], &[5]] {
        let blocks: Vec<SealedBlock> = group.iter().map(|n| block_of("telemetry", *n)).collect();
        store.append(&blocks).unwrap();
        store.close_writer().unwrap();
    }
    assert_eq!(read_all(&mut store, "telemetry"), expected(6));
    let oldest =
        |store: &mut EpochStore, at| store.oldest_of("telemetry", &Lanes::from_cursor(at), u64::MAX).unwrap().unwrap();
    let first = oldest(&mut store, Position::new(1, 0));
    assert_eq!((first.epoch, first.last, first.records), (1, Position::new(1, RECORDS - 1), RECORDS));
    let second = oldest(&mut store, first.last.next());
    assert_eq!((second.epoch, second.first, second.records), (2, first.last.next(), 3 * RECORDS));
}

#[test]
fn a_damaged_epoch_is_set_aside_though_its_name_was_there_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    let damaged = dir.path().join("queue").join(epoch_name(1, 0));
    for content in ["first", "second"] {
        fs::create_dir(&damaged).unwrap();
        fs::write(damaged.join("db"), content).unwrap();
        store.quarantine(&damaged).unwrap();
    }
    let kept = dir.path().join("queue/quarantine").join(epoch_name(1, 0));
    assert_eq!(fs::read_to_string(kept.join("db")).unwrap(), "second");
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_rewrite_keeps_what_is_not_done_whichever_step_a_crash_hits() {
    // Left behind beside the new generation: nothing, the old one whole, the old one under its dead name.
    for left_behind in [None, Some("epoch-0000000001.0"), Some("dead-epoch-0000000001.0")] {
        let dir = tempfile::tempdir().unwrap();
        let queue = dir.path().join("queue");
        let mut store = open_store(dir.path());
        for number in 0..8 {
            store.append(&[block_of("telemetry", number), block_of("alarms", number)]).unwrap();
        }
        store.close().unwrap();
        let old = queue.join(writer::epoch_name(1, 0));
        copy_dir(&old, &dir.path().join("copy"));
        let lanes = [("telemetry".into(), Lanes::from_cursor(Position::new(1, 7 * RECORDS)))];
        let cursors = [lanes[0].clone(), ("alarms".into(), Lanes::from_cursor(Position::ZERO))];
        assert!(!store.reclaim(&cursors, 60).unwrap(), "seven of sixteen blocks are done");
        assert!(old.exists());
        assert!(store.reclaim(&cursors, 40).unwrap());
        assert!(store.disk_bytes() <= QUOTA_BYTES && !old.exists());
        assert_eq!(read_all(&mut store, "telemetry"), records_of(7));
        assert_eq!(read_all(&mut store, "alarms"), expected(8));
        assert!(!store.reclaim(&cursors, 1).unwrap(), "there is no more to gain");
        let held = store.held();
        crash(store);
        if let Some(name) = left_behind {
            fs::rename(dir.path().join("copy"), queue.join(name)).unwrap();
        }
        let mut store = open_store(dir.path());
        assert_eq!(store.held(), held);
        assert_eq!(epoch_dirs(dir.path()), [queue.join(writer::epoch_name(1, 1))]);
        assert_eq!(read_all(&mut store, "telemetry"), records_of(7));
        assert_eq!(read_all(&mut store, "alarms"), expected(8));
        assert!(store.lost(&cursors, None).is_empty());
    }
}
