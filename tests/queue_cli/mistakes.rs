//! Directories that hold no queue, and wrong command lines: each named, each with its exit code.

use std::path::Path;

use super::{TELEMETRY, forebay, open, output, push};

fn failure(dir: &Path, arguments: &[&str], code: i32) -> String {
    let output = forebay(dir, arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), &b""[..]), "{errors}");
    errors.replace(dir.to_str().unwrap(), "DIR")
}

#[test]
fn what_is_no_queue_is_named_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert_eq!(failure(&missing, &["status"], 66), "forebay: DIR is not a queue: it does not exist\n");
    assert!(!missing.exists());
    assert_eq!(failure(dir.path(), &["export"], 66), "forebay: DIR is not a queue: it has no directory `queue`\n");
    std::fs::create_dir(dir.path().join("queue")).unwrap();
    assert!(failure(dir.path(), &["list"], 66).contains("`queue` holds neither epochs nor a state"));
    std::fs::write(dir.path().join("format"), "forebay-queue 2\n").unwrap();
    assert_eq!(
        failure(dir.path(), &["verify"], 76),
        "forebay: state directory DIR has format \"forebay-queue 2\", this forebay reads \"forebay-queue 1\"\n"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing was made");
    assert_eq!(
        failure(&dir.path().join("format"), &["peek"], 66),
        "forebay: DIR is not a queue: it is not a directory\n"
    );
}

#[test]
fn the_inner_directory_is_recognised() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().unwrap();
    let error = failure(&dir.path().join("queue"), &["status"], 66);
    assert!(error.contains("give the state directory above it"), "{error}");
}

#[test]
fn wrong_command_lines_end_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let error = failure(dir.path(), &["export", "--from", "12"], 2);
    assert!(error.contains("a position is RUN:SEQ, at most 8388607:1099511627775"), "{error}");
    let error = failure(dir.path(), &["export", "--to-time", "yesterday"], 2);
    assert!(error.contains("a time is like 2026-11-22T12:00:00Z"), "{error}");
    let error = failure(dir.path(), &["status", "--config", "x.toml"], 2);
    assert!(error.contains("cannot be used with"), "{error}");
}

#[test]
fn a_bad_configuration_ends_with_78() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("forebay.toml");
    std::fs::write(&file, "[queue]\nwindow = \"1ms\"\n").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_forebay"));
    let output = command.args(["queue", "status", "--config"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("queue.window: \"1ms\" is out of range"));
}

#[test]
fn foreign_files_are_neither_read_nor_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    push(&queue, TELEMETRY, 0..300);
    queue.close().unwrap();
    let inside = dir.path().join("queue");
    let foreign = ["epoch-0000000009.0", "state-99", "dead-reckoning.txt", "notes"];
    for name in foreign {
        std::fs::write(inside.join(name), "not ours").unwrap();
    }
    std::fs::create_dir(inside.join("dead-reckoning")).unwrap();
    std::fs::create_dir(inside.join("epoch-0000000008.0")).unwrap();
    std::fs::write(inside.join("epoch-0000000008.0/holiday.jpg"), "not ours").unwrap();
    for _ in 0..2 {
        let queue = open(dir.path());
        queue.flush().unwrap();
        assert_eq!(queue.status().streams[0].records, 300);
        queue.close().unwrap();
    }
    output(dir.path(), &["verify"], 0);
    output(dir.path(), &["repair"], 0);
    for name in foreign {
        assert_eq!(std::fs::read_to_string(inside.join(name)).unwrap(), "not ours", "{name}");
    }
    assert!(inside.join("dead-reckoning").is_dir());
    let set_aside = inside.join("quarantine/epoch-0000000008.0/holiday.jpg");
    assert_eq!(std::fs::read_to_string(set_aside).unwrap(), "not ours");
}
