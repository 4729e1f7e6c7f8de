//! Flipped bytes, blocks of newer versions, epochs that are gone: named, and everything whole is still given.

use std::path::{Path, PathBuf};

use forebay::queue::scan;

use super::{TELEMETRY, forebay, json, lines, open, output, push};

/// A queue of several closed epochs, on disk only.
pub fn closed_queue() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    push(&queue, TELEMETRY, 0..4_000);
    queue.close().unwrap();
    dir
}

/// The databases of the epochs, oldest first.
pub fn databases(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("queue")).unwrap().map(|entry| entry.unwrap().path());
    let mut epochs: Vec<_> = entries.filter(|path| path.to_str().unwrap().contains("/epoch-")).collect();
    epochs.sort();
    epochs.into_iter().map(|epoch| epoch.join("db")).collect()
}

/// Offset and length of the frames in a database.
pub fn frames(database: &Path) -> Vec<(usize, usize)> {
    let mut frames = Vec::new();
    scan::scan(&std::fs::read(database).unwrap(), |offset, found| {
        let (scan::Found::Block { bytes, .. } | scan::Found::Newer { bytes, .. }) = found;
        frames.push((usize::try_from(offset).unwrap(), bytes.len()));
    });
    frames
}

pub fn change(file: &Path, at: usize, change: impl Fn(&mut [u8])) {
    let mut bytes = std::fs::read(file).unwrap();
    change(&mut bytes[at..]);
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_flipped_byte_costs_its_block_and_is_named() {
    let dir = closed_queue();
    let database = &databases(dir.path())[1];
    let (offset, bytes) = frames(database)[3];
    for at in [offset, offset + 20, offset + bytes - 1] {
        change(database, at, |bytes| bytes[0] ^= 0x10);
        let report = lines(&output(dir.path(), &["verify", "--json"], 65));
        assert_eq!(report.len(), 2, "one finding and the summary: {report:?}");
        let finding = json(&report[0]);
        assert_eq!((&finding["finding"], &finding["epoch"]), (&"damaged".into(), &2.into()), "{finding}");
        assert_eq!((&finding["stream"], &finding["delivered"]), (&"telemetry".into(), &false.into()), "{finding}");
        let lost = finding["records"].as_u64().unwrap();
        let exported = output(dir.path(), &["export"], 65);
        assert_eq!(exported.lines().count() as u64, 4_000 - lost, "all others are there");
        let status = json(&output(dir.path(), &["status", "--json"], 65));
        assert_eq!(status["damaged_blocks"], 1);
        change(database, at, |bytes| bytes[0] ^= 0x10);
    }
    output(dir.path(), &["verify"], 0);
}

#[test]
fn an_epoch_that_is_gone_is_a_missing_range() {
    let dir = closed_queue();
    // So that the state knows the stream: what it does not know may never have been there.
    let queue = open(dir.path());
    queue.ack(TELEMETRY, forebay::reading::Position::new(1, 9));
    queue.close().unwrap();
    let before = output(dir.path(), &["export"], 0).lines().count();
    assert_eq!(before, 3_990);
    std::fs::remove_dir_all(databases(dir.path())[1].parent().unwrap()).unwrap();
    let report = lines(&output(dir.path(), &["verify", "--json"], 65));
    let finding = json(&report[0]);
    assert_eq!((report.len(), &finding["finding"]), (2, &"missing".into()), "{report:?}");
    let seq = |key: &str| finding[key].as_str().unwrap().strip_prefix("1:").unwrap().parse::<usize>().unwrap();
    let left = output(dir.path(), &["export"], 0).lines().count();
    assert_eq!(before - left, seq("through") - seq("after"), "the range is exact");
}

#[test]
fn blocks_of_a_newer_version_are_listed_and_no_damage() {
    let dir = closed_queue();
    let database = &databases(dir.path())[0];
    let (offset, length) = frames(database)[0];
    change(database, offset, |bytes| {
        bytes[8] = 9;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..20]), &bytes[24..length]);
        bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
    });
    // The summary names it: a newer agent wrote both.
    let listed = output(dir.path(), &["list"], 0);
    assert!(listed.contains(&format!("block of version 9, {length} bytes")), "{listed}");
    let export = forebay(dir.path(), &["export"]);
    assert_eq!(export.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&export.stderr), "forebay: 1 blocks of a newer version were left out\n");
    assert_eq!(json(&output(dir.path(), &["verify", "--json"], 0))["newer_blocks"], 1);
}

#[test]
fn a_cut_off_last_block_is_noted_and_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    push(&queue, TELEMETRY, 0..300);
    queue.abandon().unwrap();
    drop(queue);
    let database = &databases(dir.path())[0];
    let (offset, length) = *frames(database).last().unwrap();
    change(database, offset + length / 2, |bytes| bytes.fill(0));
    let verdict = json(&output(dir.path(), &["verify", "--json"], 0));
    assert_eq!((&verdict["unfinished_blocks"], &verdict["findings"]), (&1.into(), &0.into()), "{verdict}");
}

#[test]
fn a_state_that_is_gone_is_said() {
    let dir = closed_queue();
    for entry in std::fs::read_dir(dir.path().join("queue")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().contains("/state-") {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    let report = output(dir.path(), &["verify"], 65);
    assert!(report.starts_with("no durable state is whole"), "{report}");
    assert_eq!(output(dir.path(), &["export"], 0).lines().count(), 4_000);
}
