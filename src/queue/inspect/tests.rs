use std::path::{Path, PathBuf};

use super::*;
use crate::config::Compression;
use crate::queue::block::tests::{context, records_from, sealed};
use crate::queue::block::{MAGIC, SealContext, SealedBlock, seal};
use crate::queue::lane::Lanes;
use crate::queue::summary::{self, Entry};
use crate::reading::Record;
use proptest::prelude::*;

/// A state directory with one closed epoch a list of blocks, none of it written by sled: only bytes count.
fn queue_of(epochs: &[(u64, u32, Vec<SealedBlock>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (number, generation, blocks) in epochs {
        write_epoch(dir.path(), *number, *generation, blocks);
    }
    dir
}

fn epoch_dir(dir: &Path, number: u64, generation: u32) -> PathBuf {
    dir.join("queue").join(format!("epoch-{number:010}.{generation}"))
}

fn write_epoch(dir: &Path, number: u64, generation: u32, blocks: &[SealedBlock]) {
    let epoch = epoch_dir(dir, number, generation);
    std::fs::create_dir_all(&epoch).unwrap();
    let bytes: Vec<u8> = blocks.iter().flat_map(|block| block.bytes.clone()).collect();
    std::fs::write(epoch.join("db"), bytes).unwrap();
    let entries: Vec<Entry> = blocks.iter().map(|block| Entry::new(0, &block.header, block.bytes.len())).collect();
    summary::write(&epoch, &entries).unwrap();
}

fn block(seq: u64, count: u64) -> SealedBlock {
    sealed(&records_from(Position::new(3, seq), count))
}

fn look_at(inspection: &Inspection, at: usize) -> Option<EpochView> {
    inspection.look(&inspection.epochs().unwrap()[at], &mut |_| {}).unwrap()
}

#[test]
fn the_generation_in_force_is_the_highest_with_a_summary() {
    let dir = queue_of(&[(7, 0, vec![block(0, 5)]), (7, 1, vec![block(0, 6)]), (7, 2, vec![block(0, 7)])]);
    std::fs::remove_file(epoch_dir(dir.path(), 7, 2).join("summary")).unwrap();
    let inspection = Inspection::open(dir.path()).unwrap();
    let view = look_at(&inspection, 0).unwrap();
    assert_eq!((inspection.epochs().unwrap().len(), view.generation, view.blocks[0].header.count), (1, 1, 6));
    for generation in [0, 1] {
        std::fs::remove_file(epoch_dir(dir.path(), 7, generation).join("summary")).unwrap();
    }
    let view = look_at(&inspection, 0).unwrap();
    assert_eq!((view.generation, view.closed), (0, false), "a later one without a summary was never finished");
}

#[test]
fn an_epoch_that_vanishes_is_none_and_one_that_was_rewritten_is_looked_at_anew() {
    let dir = queue_of(&[(1, 0, vec![block(0, 5)]), (2, 0, vec![block(5, 5)])]);
    let inspection = Inspection::open(dir.path()).unwrap();
    let listed = inspection.epochs().unwrap();
    std::fs::remove_dir_all(epoch_dir(dir.path(), 1, 0)).unwrap();
    write_epoch(dir.path(), 2, 1, &[block(5, 3)]);
    std::fs::remove_dir_all(epoch_dir(dir.path(), 2, 0)).unwrap();
    assert!(inspection.look(&listed[0], &mut |_| {}).unwrap().is_none());
    let view = inspection.look(&listed[1], &mut |_| {}).unwrap().unwrap();
    assert_eq!((view.generation, view.blocks[0].header.count), (1, 3));
}

#[test]
fn an_epoch_deleted_after_it_was_opened_is_still_read() {
    let dir = queue_of(&[(1, 0, vec![block(0, 5)])]);
    let inspection = Inspection::open(dir.path()).unwrap();
    let view = look_at(&inspection, 0).unwrap();
    std::fs::remove_dir_all(epoch_dir(dir.path(), 1, 0)).unwrap();
    assert_eq!(view.read(&view.blocks[0]).unwrap(), records_from(Position::new(3, 0), 5));
}

#[test]
fn blocks_that_are_on_disk_twice_or_overlap_give_each_record_once_in_order() {
    // An append that failed half-way, was rescued, and was sealed anew with more records.
    let dir = queue_of(&[(1, 0, vec![block(20, 10), block(0, 20), block(20, 10)]), (2, 0, vec![block(20, 25)])]);
    let inspection = Inspection::open(dir.path()).unwrap();
    let mut seen = Seen::default();
    let mut positions = Vec::new();
    for at in 0..2 {
        let view = look_at(&inspection, at).unwrap();
        for block in &view.blocks {
            let Some(first_new) = seen.enter(&block.header).unwrap() else { continue };
            let records = view.read(block).unwrap();
            let is_new = |record: &Record| record.position >= first_new;
            positions.extend(records.into_iter().filter(is_new).map(|record| record.position.seq()));
        }
    }
    assert_eq!(positions, (0..45).collect::<Vec<_>>());
}

#[test]
fn an_error_of_permission_names_what_and_what_to_do() {
    let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let error = InspectError::io(Path::new("/var/lib/forebay/queue"), denied);
    assert!(matches!(error, InspectError::Permission { .. }));
    assert_eq!(error.to_string(), "no permission to read /var/lib/forebay/queue: run as the agent's user or as root");
}

#[test]
fn more_streams_than_a_queue_can_have_are_refused() {
    let mut header = block(0, 1).header;
    let mut seen = Seen::default();
    let refused = (0..2_000).find_map(|n| {
        header.stream = format!("stream-{n}").into();
        seen.enter(&header).err()
    });
    assert_eq!(refused.unwrap().to_string(), "more than 1024 streams in one queue, limit is 1024");
}

proptest! {
    #[test]
    fn any_bytes_are_looked_at_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000), at in any::<prop::sample::Index>()) {
        let dir = queue_of(&[(1, 0, Vec::new())]);
        let mut bytes = bytes;
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, MAGIC);
        std::fs::write(epoch_dir(dir.path(), 1, 0).join("db"), &bytes).unwrap();
        std::fs::remove_file(epoch_dir(dir.path(), 1, 0).join("summary")).unwrap();
        let inspection = Inspection::open(dir.path()).unwrap();
        let mut view = look_at(&inspection, 0).unwrap();
        prop_assert!(view.blocks.is_empty());
        prop_assert!(view.unfinished, "the magic begins a block that is not there");
        Verifier::new(&inspection, &[]).check(&mut view);
    }

    #[test]
    fn whatever_byte_is_flipped_one_block_is_damaged(hit in any::<prop::sample::Index>(), mask in 1u8..) {
        let blocks: Vec<SealedBlock> = (0..5).map(|n| block(n * 4, 4)).collect();
        let dir = queue_of(&[(1, 0, blocks.clone())]);
        let path = epoch_dir(dir.path(), 1, 0).join("db");
        let mut bytes = std::fs::read(&path).unwrap();
        let hit = hit.index(bytes.len());
        bytes[hit] ^= mask;
        std::fs::write(&path, &bytes).unwrap();
        let inspection = Inspection::open(dir.path()).unwrap();
        let mut view = look_at(&inspection, 0).unwrap();
        prop_assert_eq!(view.blocks.len(), 4);
        let mut verifier = Verifier::new(&inspection, &[]);
        verifier.check(&mut view);
        let verdict = verifier.finish(&[]);
        prop_assert_eq!(verdict.findings.len(), 1);
        let mut end = 0;
        let struck = blocks.iter().find(|block| { end += block.bytes.len(); hit < end }).unwrap();
        let named = matches!(&verdict.findings[0], Finding::Damaged { first, .. } if *first == struck.header.first);
        prop_assert!(named, "{:?}", verdict.findings);
    }
}

#[test]
fn blocks_that_wait_for_a_newer_agent_are_neither_missing_nor_damaged() {
    let mut chain: Vec<SealedBlock> = (0..3_u64)
        .map(|n| {
            let prev_last = n.checked_sub(1).map(|before| Position::new(3, before * 5 + 4));
            let context = SealContext { prev_last, ..context(Compression::None) };
            seal(&context, &records_from(Position::new(3, n * 5), 5)).unwrap()
        })
        .collect();
    let frame = &mut chain[1].bytes;
    frame[8] = 2;
    let sum = crc32c::crc32c_append(crc32c::crc32c(&frame[..20]), &frame[24..]);
    frame[20..24].copy_from_slice(&sum.to_le_bytes());
    let lanes = [(chain[0].header.stream.clone(), Lanes::from_cursor(Position::ZERO))];
    for (present, findings) in [(vec![0, 1, 2], 0), (vec![0, 2], 1)] {
        let blocks = present.iter().map(|n| chain[*n].clone()).collect();
        let dir = queue_of(&[(1, 0, blocks)]);
        let inspection = Inspection::open(dir.path()).unwrap();
        let mut view = look_at(&inspection, 0).unwrap();
        assert_eq!((view.newer.len(), view.damaged()), (present.len() - 2, 0));
        let mut verifier = Verifier::new(&inspection, &lanes);
        verifier.check(&mut view);
        assert_eq!(verifier.finish(&lanes).findings.len(), findings, "{present:?}");
    }
}
