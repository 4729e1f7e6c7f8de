use super::*;
use crate::queue::epoch::tests::block_of;
use crate::queue::store::BlockStore as _;

#[test]
fn a_queue_opens_again_with_its_identity_its_blocks_and_a_higher_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), None, Metrics::new().0).unwrap();
    assert!(opened.state_value.quota_bytes >= disk::QUOTA_BYTES_MIN);
    opened.store.append(&[block_of("telemetry", 0)]).unwrap();
    let (queue, run) = (opened.state_value.queue(), opened.state_value.run);
    assert!(matches!(begin(dir.path(), None, Metrics::new().0), Err(OpenError::Locked { .. })));
    drop(opened);
    let mut opened = open(dir.path(), None, Metrics::new().0).unwrap();
    assert_eq!((opened.state_value.queue(), opened.state_value.run), (queue, run + 1));
    assert_eq!(opened.store.read("telemetry", Position::ZERO).unwrap(), Some(block_of("telemetry", 0)));
    assert!(opened.lost.is_empty());
}

#[test]
fn without_state_and_run_file_the_blocks_say_which_runs_were_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), None, Metrics::new().0).unwrap();
    opened.store.append(&[block_of("telemetry", 0)]).unwrap();
    let (queue, block_run) = (opened.state_value.queue(), 1);
    drop(opened);
    let queue_dir = dir.path().join("queue");
    std::fs::remove_file(queue_dir.join("run")).unwrap();
    std::fs::remove_dir_all(queue_dir.join("state-1")).unwrap();
    let opened = open(dir.path(), None, Metrics::new().0).unwrap();
    assert_ne!(opened.state_value.queue(), queue);
    assert!(opened.state_value.run > block_run);
    assert_eq!(opened.store.held()[0].records, 40);
}

#[test]
fn of_a_stream_that_the_state_does_not_name_nothing_is_delivered() {
    let block = block_of("telemetry", 1);
    let entry = Entry::new(0, &block.header, block.bytes.len());
    for (unnamed, lost) in [(Some(Position::ZERO), 1), (None, 0)] {
        let mut chain = Chain::new(&[], unnamed);
        chain.follow(&entry);
        assert_eq!(chain.lost.len(), lost, "{unnamed:?}");
    }
}
