use std::os::unix::fs::symlink;

use super::*;
use crate::queue::OpenError;
use crate::queue::lane::Lanes;

#[test]
fn a_recovery_that_fails_leaves_the_state_usable_and_the_directory_locked_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (metrics, _) = Metrics::new();
    let begun = recovery::begin(dir.path(), None, Arc::clone(&metrics)).unwrap();
    let quota_bytes = begun.state_value.quota_bytes;
    let (store, state, blocks) = begun.split();
    let mut control = Control { store, state };
    let mut open = opener(blocks, quota_bytes);
    // The directory of the blocks cannot be reached: a link that leads to itself.
    let (queue, away) = (dir.path().join("queue"), dir.path().join("away"));
    std::fs::rename(&queue, &away).unwrap();
    symlink(&queue, &queue).unwrap();
    assert!(open().is_err());
    std::fs::remove_file(&queue).unwrap();
    std::fs::rename(&away, &queue).unwrap();

    let second = recovery::begin(dir.path(), None, Arc::clone(&metrics));
    assert!(matches!(second, Err(OpenError::Locked { .. })), "the directory is this queue's still");
    let lanes = Lanes::from_cursor(Position::new(1, 7));
    let saved = [StreamControl { stream: "telemetry".into(), lanes, skipped: Vec::new(), in_doubt: None }];
    control.save(&saved, None).unwrap();
    assert_eq!(open().unwrap().quota_bytes, quota_bytes);
    drop((open, control));
    let again = recovery::begin(dir.path(), None, metrics).unwrap();
    assert_eq!(again.state_value.lanes(), [("telemetry".into(), Lanes::from_cursor(Position::new(1, 7)))]);
}
