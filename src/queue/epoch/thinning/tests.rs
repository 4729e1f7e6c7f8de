use std::fs;
use std::path::PathBuf;

use super::*;
use crate::config::Compression;
use crate::queue::block;
use crate::queue::epoch::tests::{block_of, open_store};
use crate::queue::filling::{Fill, Filling};
use crate::queue::store::{BlockStore as _, Replacement, StoreError};
use crate::reading::{Position, Record};

const PASS: u32 = 7;
const BLOCKS: u64 = 300;

/// A store with closed epochs of two streams.
fn filled(dir: &Path) -> EpochStore {
    let mut store = open_store(dir);
    for tens in 0..BLOCKS / 10 {
        let streams = (tens * 10..tens * 10 + 10).flat_map(|n| [block_of("telemetry", n), block_of("alarms", n)]);
        store.append(&streams.collect::<Vec<_>>()).unwrap();
    }
    store.close().unwrap();
    assert!(store.epochs.len() > 4, "{} epochs", store.epochs.len());
    store
}

fn numbers(store: &EpochStore) -> Vec<u64> {
    store.epochs.keys().copied().collect()
}

fn records(store: &mut EpochStore, stream: &str) -> Vec<Record> {
    let (mut records, mut at) = (Vec::new(), Position::ZERO);
    while let Some(block) = store.read(stream, at).unwrap() {
        at = block.header.last.next();
        records.extend(block::open(&block, &Default::default()).unwrap());
    }
    records
}

/// Keeps the first and the last record of each block.
fn ends(blocks: &[SealedBlock]) -> Vec<SealedBlock> {
    let mut context = block::tests::context(Compression::None);
    context.prev_last = blocks[0].header.prev_last;
    let all: Vec<Record> = blocks.iter().flat_map(|block| block::open(block, &Default::default()).unwrap()).collect();
    let is_end = |record: &&Record| {
        blocks.iter().any(|block| block.header.first == record.position || block.header.last == record.position)
    };
    let kept: Vec<Record> = all.iter().filter(is_end).cloned().collect();
    let mut filling = Filling::new(context, Fill::default());
    for records in kept.chunks(50) {
        records.iter().for_each(|record| filling.add(record.clone()));
        filling.end_block();
    }
    filling.finish().0.blocks
}

fn rewrite(
    store: &mut EpochStore,
    epochs: &[u64],
    pass: u32,
    make: impl Fn(&[SealedBlock]) -> Vec<SealedBlock>,
) -> Result<bool, StoreError> {
    let old = store.blocks_of("telemetry", epochs, &[]).unwrap();
    let records_before = old.iter().map(|block| u64::from(block.header.count)).sum();
    let (stream, epochs, blocks) = ("telemetry".into(), epochs.to_vec(), make(&old));
    store.replace(Replacement { stream, epochs, pass, records_before, blocks }, &[])
}

#[test]
fn epochs_become_one_and_the_other_streams_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = filled(dir.path());
    let (all, before, alarms) = (numbers(&store), store.disk_bytes(), records(&mut store, "alarms"));
    assert!(rewrite(&mut store, &all[1..4], PASS, ends).unwrap());
    let told = store.epochs_of("telemetry");
    let passes: Vec<(u64, u32)> = told.epochs.iter().map(|epoch| (epoch.number, epoch.pass)).collect();
    assert_eq!(passes[..3], [(all[0], 0), (all[1], PASS), (all[4], 0)]);
    assert!(store.disk_bytes() < before);
    let thinned = records(&mut store, "telemetry");
    assert!(thinned.len() < BLOCKS as usize * 40 - 3_000, "{} records", thinned.len());
    drop(store);
    let mut store = open_store(dir.path());
    assert_eq!(store.epochs_of("telemetry"), told, "a start knows it from the disk");
    assert_eq!(store.epochs_of("alarms").epochs[1].pass, 0);
    assert_eq!(records(&mut store, "telemetry"), thinned);
    assert_eq!(records(&mut store, "alarms"), alarms);
    let from = |stream: &str, cursor| (Name::from(stream), Lanes::from_cursor(cursor));
    assert_eq!(store.lost(&[from("telemetry", Position::ZERO), from("alarms", Position::ZERO)], None), []);
    // The mark stays with the epoch when it is rewritten for another reason.
    let all_alarms = alarms[alarms.len() - 1].position.next();
    assert!(store.reclaim(&[from("alarms", all_alarms), from("telemetry", Position::ZERO)], 2).unwrap());
    drop(store);
    let store = open_store(dir.path());
    assert!(store.epochs_of("telemetry").epochs.iter().any(|epoch| epoch.pass == PASS));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            assert!(fs::copy(entry.path(), target).is_ok())
        }
    }
}

/// What a power cut can leave: of the old epochs these are still there, and the new one is in force or is not.
fn cut(keep_old: &[usize], complete: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = filled(dir.path());
    let all = numbers(&store);
    // To the newest, whose number must not be given again.
    let chosen = &all[1..];
    let before = records(&mut store, "telemetry");
    let old: Vec<PathBuf> = chosen.iter().map(|number| store.epochs[number].dir.clone()).collect();
    drop(store);
    let saved = tempfile::tempdir().unwrap();
    keep_old.iter().for_each(|index| copy(&old[*index], &saved.path().join(index.to_string())));
    let mut store = open_store(dir.path());
    assert!(rewrite(&mut store, chosen, PASS, ends).unwrap());
    let (after, new) = (records(&mut store, "telemetry"), store.epochs[&chosen[0]].dir.clone());
    assert!(after.len() < before.len());
    drop(store);
    keep_old.iter().for_each(|index| copy(&saved.path().join(index.to_string()), &old[*index]));
    if !complete {
        fs::remove_file(new.join("summary")).unwrap();
    }
    for _ in 0..2 {
        let mut store = open_store(dir.path());
        assert_eq!(records(&mut store, "telemetry"), if complete { after.clone() } else { before.clone() });
        assert_eq!(numbers(&store), if complete { all[..2].to_vec() } else { all.clone() });
        assert_eq!(store.next_number, all[all.len() - 1] + 1);
    }
    assert_eq!(old[0].exists(), !complete);
    // What comes next is not taken for what was replaced.
    let mut store = open_store(dir.path());
    store.append(&[block_of("telemetry", BLOCKS)]).unwrap();
    store.close().unwrap();
    let count = records(&mut store, "telemetry").len();
    drop(store);
    let mut store = open_store(dir.path());
    assert_eq!(records(&mut store, "telemetry").len(), count);
}

#[test]
fn a_cut_before_the_summary_leaves_the_old_epochs() {
    cut(&(0..old_epochs()).collect::<Vec<_>>(), false);
}

/// Epochs that are rewritten of those that `filled` makes.
fn old_epochs() -> usize {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).epochs.len() - 1
}

#[test]
fn a_cut_after_the_summary_leaves_the_new_one_whatever_else_is_there() {
    cut(&(0..old_epochs()).collect::<Vec<_>>(), true);
    cut(&[1, 3], true);
    cut(&[old_epochs() - 1], true);
}

#[test]
fn what_gains_too_little_is_only_kept_in_mind() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = filled(dir.path());
    let (all, before) = (numbers(&store), store.disk_bytes());
    assert!(!rewrite(&mut store, &all[..2], 3, <[_]>::to_vec).unwrap());
    let passes: Vec<u32> = store.epochs_of("telemetry").epochs.iter().map(|epoch| epoch.pass).collect();
    assert_eq!((&passes[..3], store.disk_bytes()), (&[3, 3, 0][..], before));
}

#[test]
fn what_would_lose_the_last_record_or_was_made_of_other_blocks_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = filled(dir.path());
    let (all, before) = (numbers(&store), records(&mut store, "telemetry"));
    assert!(rewrite(&mut store, &all[..2], PASS, |blocks| blocks[..3].to_vec()).is_err());
    let old = store.blocks_of("telemetry", &all[..2], &[]).unwrap();
    let (records_before, blocks) = (7, ends(&old));
    let of_others =
        Replacement { stream: "telemetry".into(), epochs: all[..2].to_vec(), pass: PASS, records_before, blocks };
    assert!(store.replace(of_others, &[]).is_err());
    assert_eq!(numbers(&store), all);
    assert_eq!(records(&mut store, "telemetry"), before);
}

#[test]
fn a_damaged_mark_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mark = Mark { passes: vec![("telemetry".into(), 4)], replaced: vec![8, 9] };
    mark.write(dir.path()).unwrap();
    assert_eq!(Mark::read(dir.path()), mark);
    let path = dir.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    bytes[14] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(Mark::read(dir.path()), Mark::default());
}
