//! Encryption at rest: nothing in clear, wrong and missing keys, change of keys on a closed and on a busy queue.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay::config::{KeyBytes, QueueKeys};
use forebay::metrics::Metrics;
use forebay::queue::{Limit, OpenError, PeekError, Queue};

use super::damage::{change, databases, frames};
use super::{ALARMS, Answering, TELEMETRY, forebay, json, lines, output, push, settings, tree};

/// The bytes of a test's key.
pub fn key(byte: u8) -> KeyBytes {
    let mut bytes = [byte; 32];
    bytes[0] ^= 0x55;
    KeyBytes::new(bytes)
}

/// A file with [`key`].
pub fn key_file(dir: &Path, byte: u8) -> PathBuf {
    let path = dir.join(format!("key-{byte}"));
    let mut bytes = [byte; 32];
    bytes[0] ^= 0x55;
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn open(dir: &Path, keys: &[u8]) -> Result<Queue, OpenError> {
    let mut settings = settings(dir);
    settings.queue.keys = QueueKeys {
        current: keys.first().map(|byte| key(*byte)),
        old: keys.iter().skip(1).map(|byte| key(*byte)).collect(),
    };
    Queue::open(settings, Metrics::new().0)
}

fn queue_of(dir: &Path, keys: &[u8], numbers: std::ops::Range<u64>) {
    let queue = open(dir, keys).unwrap();
    push(&queue, TELEMETRY, numbers);
    queue.close().unwrap();
}

fn numbers(exported: &str) -> Vec<u64> {
    exported.lines().map(|line| json(line)["n"].as_u64().unwrap()).collect()
}

#[test]
fn nothing_is_in_clear_and_a_copy_is_read_with_the_key_alone() {
    let dir = tempfile::tempdir().unwrap();
    let keys = tempfile::tempdir().unwrap();
    queue_of(dir.path(), &[1], 0..2_000);
    let noise = format!("{:016x}", 13u64.wrapping_mul(0x9E37_79B9_7F4A_7C15)); // of record 1
    let clear = |needle: &str| {
        tree(dir.path()).values().any(|bytes| bytes.windows(needle.len()).any(|w| w == needle.as_bytes()))
    };
    assert!(!clear(&noise) && !clear("device-1"));
    let (file, wrong) = (key_file(keys.path(), 1), key_file(keys.path(), 2));
    let (file, wrong) = (file.to_str().unwrap(), wrong.to_str().unwrap());
    assert_eq!(numbers(&output(dir.path(), &["export", "--key", file], 0)), (0..2_000).collect::<Vec<_>>());
    assert_eq!(output(dir.path(), &["export"], 77), "");
    assert_eq!(output(dir.path(), &["peek", "--key", wrong], 77), "");
    let status = json(&output(dir.path(), &["status", "--json"], 0));
    assert_eq!(
        (&status["streams"][0]["waiting_records"], &status["damaged_blocks"]),
        (&2_000.into(), &0.into()),
        "{status}"
    );
    assert_eq!(status["key"].as_str().map(str::len), Some(8), "{status}");
    let verdict = json(&output(dir.path(), &["verify", "--json"], 0));
    assert_eq!((&verdict["ok"], &verdict["closed_blocks"]), (&true.into(), &verdict["blocks"]), "{verdict}");
    assert_eq!(json(&output(dir.path(), &["verify", "--json", "--key", file], 0))["closed_blocks"], 0);
    // A key file that is none, or that others may read, is refused by name.
    std::fs::set_permissions(wrong, std::fs::Permissions::from_mode(0o644)).unwrap();
    let refused = forebay(dir.path(), &["export", "--key", wrong]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("its mode 0644"), "{refused:?}");
}

#[test]
fn a_flipped_byte_in_an_encrypted_queue_costs_its_block_and_gives_no_wrong_record() {
    let dir = tempfile::tempdir().unwrap();
    let keys = tempfile::tempdir().unwrap();
    queue_of(dir.path(), &[1], 0..3_000);
    let file = key_file(keys.path(), 1);
    let file = file.to_str().unwrap();
    let database = &databases(dir.path())[0];
    let (offset, bytes) = frames(database)[2];
    for at in
        [offset + 12, offset + 50, offset + 101, offset + 110, offset + 140, offset + bytes / 2, offset + bytes - 1]
    {
        change(database, at, |bytes| bytes[0] ^= 0x10);
        let lost =
            json(&lines(&output(dir.path(), &["verify", "--json", "--key", file], 65))[0])["records"].as_u64().unwrap();
        let exported = output(dir.path(), &["export", "--key", file], 65);
        assert_eq!(exported.lines().count() as u64, 3_000 - lost);
        for line in exported.lines() {
            let record = json(line);
            assert_eq!(record["n"], record["seq"], "a wrong record");
        }
        change(database, at, |bytes| bytes[0] ^= 0x10);
    }
}

#[test]
fn a_wrong_or_missing_current_key_starts_nothing_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    queue_of(&state_dir, &[1], 0..1_500);
    let before = tree(&state_dir);
    for keys in [&[2][..], &[], &[2, 3]] {
        let error = open(&state_dir, keys).unwrap_err();
        assert!(matches!(error, OpenError::WrongKey { .. }), "{error}");
        assert_eq!(tree(&state_dir), before, "every byte is as it was");
    }
    // The whole agent: 78, so that systemd does not try again and again.
    let wrong = key_file(dir.path(), 2);
    let file = dir.path().join("forebay.toml");
    let text = super::configuration(&state_dir).replace("[queue]", &format!("[queue]\nkey = \"{}\"", wrong.display()));
    std::fs::write(&file, format!("{text}[status]\nlisten = \"off\"\n")).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_forebay")).args(["run", "--config"]).arg(&file).output().unwrap();
    let errors = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(78), "{errors}");
    assert!(errors.contains("is encrypted with key") && errors.contains("queue.old-keys"), "{errors}");
    assert_eq!(tree(&state_dir), before);
    open(&state_dir, &[1]).unwrap().close().unwrap();
}

#[test]
fn blocks_of_a_missing_old_key_are_held_and_nothing_overtakes_them() {
    let dir = tempfile::tempdir().unwrap();
    queue_of(dir.path(), &[1], 0..600);
    queue_of(dir.path(), &[2, 1], 600..1_200);
    // The record names key 2, so it starts; the oldest blocks need key 1.
    let queue = open(dir.path(), &[2]).unwrap();
    let limit = Limit { records: 10, bytes: 1 << 16 };
    let error = queue.peek(TELEMETRY, None, limit).unwrap_err();
    assert!(matches!(&error, PeekError::KeyMissing { first, .. } if first.to_string() == "1:0"), "{error}");
    assert!(error.to_string().contains("add it to queue.old-keys"), "{error}");
    assert!(matches!(queue.peek(TELEMETRY, None, limit), Err(PeekError::KeyMissing { .. })), "still");
    push(&queue, ALARMS, 0..5);
    assert!(queue.peek(ALARMS, None, limit).unwrap().is_some(), "other streams go on");
    assert_eq!(queue.status().streams[0].records, 1_200);
    queue.close().unwrap();
    let queue = open(dir.path(), &[2, 1]).unwrap();
    assert_eq!(super::wire(&queue, TELEMETRY, "telemetry", &Default::default()).len(), 1_200);
    queue.close().unwrap();
}

#[test]
fn a_closed_queue_goes_from_clear_to_key_to_key_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let keys = tempfile::tempdir().unwrap();
    queue_of(dir.path(), &[], 0..2_500);
    let [one, two] = [1, 2].map(|byte| key_file(keys.path(), byte).to_str().unwrap().to_owned());
    let all: Vec<u64> = (0..2_500).collect();
    let blocks = json(&output(dir.path(), &["verify", "--json"], 0))["blocks"].clone();

    let refused = forebay(dir.path(), &["rekey"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("which key is new?"), "{refused:?}");
    let done = json(&output(dir.path(), &["rekey", "--new-key", &one, "--json"], 0));
    assert_eq!((&done["blocks"], &done["held"]), (&blocks, &0.into()), "{done}");
    assert!(open(dir.path(), &[]).is_err(), "the key check knows");
    assert_eq!(numbers(&output(dir.path(), &["export", "--key", &one], 0)), all);

    let before = tree(dir.path());
    let refused = forebay(dir.path(), &["rekey", "--new-key", &two]);
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    // The lock names who held it last.
    let after = tree(dir.path());
    assert!(
        after.iter().all(|(path, bytes)| before.get(path) == Some(bytes) || path.ends_with("lock")),
        "nothing was changed"
    );
    let done = json(&output(dir.path(), &["rekey", "--new-key", &two, "--key", &one, "--json"], 0));
    assert_eq!(done["blocks"], blocks, "{done}");
    assert_eq!(output(dir.path(), &["export", "--key", &one], 77), "");
    assert_eq!(numbers(&output(dir.path(), &["export", "--key", &two], 0)), all);
    let again = json(&output(dir.path(), &["rekey", "--new-key", &two, "--json"], 0));
    assert_eq!(again["blocks"], 0, "nothing is left to do");

    let done = json(&output(dir.path(), &["rekey", "--plain", "--key", &two, "--json"], 0));
    assert_eq!((&done["blocks"], &done["key"]), (&blocks, &serde_json::Value::Null), "{done}");
    assert_eq!(numbers(&output(dir.path(), &["export"], 0)), all);
    open(dir.path(), &[]).unwrap().close().unwrap();
}

#[test]
fn a_change_of_keys_that_is_killed_again_and_again_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let keys = tempfile::tempdir().unwrap();
    queue_of(dir.path(), &[1], 0..4_000);
    let [one, two] = [1, 2].map(|byte| key_file(keys.path(), byte).to_str().unwrap().to_owned());
    let all: Vec<u64> = (0..4_000).collect();
    let rekey = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(["queue", "rekey", "--new-key", &two, "--key", &one, "--dir"]).arg(dir.path());
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    // Not to wait for anything: the kill hits wherever it hits, and what follows holds in any case.
    for ms in [2, 5, 8, 11, 15, 20, 30, 45, 70] {
        let mut child = rekey();
        std::thread::sleep(std::time::Duration::from_millis(ms));
        child.kill().unwrap();
        child.wait().unwrap();
        let exported = output(dir.path(), &["export", "--key", &one, "--key", &two], 0);
        assert_eq!(numbers(&exported), all, "killed after {ms} ms");
    }
    assert!(rekey().wait().unwrap().success());
    assert_eq!(numbers(&output(dir.path(), &["export", "--key", &two], 0)), all);
    let queue = open(dir.path(), &[2]).unwrap();
    assert_eq!(super::wire(&queue, TELEMETRY, "telemetry", &Default::default()).len(), 4_000);
    queue.close().unwrap();
}

#[test]
fn the_key_is_changed_while_the_queue_is_filled_and_drained_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    queue_of(dir.path(), &[1], 0..2_000);
    let agent = Answering::start(open(dir.path(), &[2, 1]).unwrap());
    let queue = &agent.queue;
    let done = AtomicBool::new(false);
    let mut delivered = std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            let mut next = 2_000;
            while !done.load(Ordering::Relaxed) {
                push(queue, TELEMETRY, next..next + 100);
                next += 100;
            }
            next
        });
        let draining = scope.spawn(|| {
            let mut delivered = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let Some(batch) = queue.peek(TELEMETRY, None, Limit { records: 50, bytes: 1 << 16 }).unwrap() else {
                    continue;
                };
                delivered.extend(batch.records.iter().map(|record| number(record)));
                queue.ack(TELEMETRY, batch.records.last().unwrap().position);
            }
            delivered
        });
        for _ in 0..3 {
            let rekeyed = json(&output(dir.path(), &["rekey", "--json"], 0));
            assert_eq!((&rekeyed["held"], &rekeyed["agent_pid"]), (&0.into(), &std::process::id().into()), "{rekeyed}");
        }
        done.store(true, Ordering::Relaxed);
        let (pushed, delivered) = (pushing.join().unwrap(), draining.join().unwrap());
        (pushed, delivered)
    });
    agent.stop();
    // What the new key alone opens is all there is.
    let queue = open(dir.path(), &[2]).unwrap();
    let mut after = None;
    while let Some(batch) = queue.peek(TELEMETRY, after, Limit { records: 500, bytes: 1 << 20 }).unwrap() {
        delivered.1.extend(batch.records.iter().map(|record| number(record)));
        after = batch.records.last().map(|record| record.position);
    }
    assert_eq!(delivered.1, (0..delivered.0).collect::<Vec<_>>(), "every record once, in order");
    queue.close().unwrap();
}

pub fn number(record: &forebay::reading::Record) -> u64 {
    match record.fields[0].value {
        forebay::reading::Value::Unsigned(number) => number,
        forebay::reading::Value::Integer(number) => u64::try_from(number).unwrap(),
        ref other => panic!("{other:?}"),
    }
}
