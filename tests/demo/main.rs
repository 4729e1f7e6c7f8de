//! `forebay demo`, the built command: everything made arrives, through an outage, and the screen stays readable.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used)]

use std::process::Command;

/// Widest line of progress on a terminal that nobody has resized.
const COLUMNS: usize = 100;

#[test]
fn everything_made_is_delivered_through_an_outage() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    let output = command.args(["demo", "--seconds", "6", "--outage", "2"]).env_remove("FOREBAY_LOG").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}\n{log}");

    let all = numbers(&text, "all readings");
    assert!(all[0] > 0, "{text}");
    assert_eq!(all[0], all[1], "{text}");
    let of_sources: Vec<_> =
        ["position", "air", "plant"].map(|source| numbers(&text, &format!("source {source}"))).into();
    assert_eq!(of_sources.iter().map(|made| made[0]).sum::<u64>(), all[0], "{text}");
    assert!(of_sources.iter().all(|numbers| numbers[0] > 0 && numbers[0] == numbers[1]), "{text}");
    for nothing in ["lost", "out of order within a device", "frames of devices not read"] {
        assert_eq!(numbers(&text, nothing), [0], "{text}");
    }
    assert_eq!(numbers(&text, "published on local MQTT"), [all[0]], "{text}");
    assert!(numbers(&text, "queued at the worst moment")[0] > 0, "the outage was felt: {text}");

    let progress: Vec<_> = text.lines().filter(|line| line.contains(" uplink ") && line.contains(" queued ")).collect();
    assert!(progress.len() >= 6, "{text}");
    assert!(progress.iter().all(|line| line.chars().count() <= COLUMNS), "{text}");
    assert!(!log.contains("rumqttd") && !log.contains(" INFO "), "{log}");
}

/// The numbers of the account's row of this name.
fn numbers(text: &str, row: &str) -> Vec<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(row));
    let line = line.unwrap_or_else(|| panic!("no row {row:?} in:\n{text}"));
    line.split_whitespace().map(|number| number.parse().unwrap()).collect()
}
