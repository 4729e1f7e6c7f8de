use super::*;

fn queue_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("queue")).unwrap();
    dir
}

fn stream_state(next: u64) -> StreamState {
    StreamState { name: "telemetry".into(), lanes: vec![(next, u64::MAX)], skipped: vec![(next, 3)], in_doubt: None }
}

#[test]
fn the_newest_state_comes_back_and_the_run_goes_up_each_time() {
    let dir = queue_dir();
    let mut uuid = None;
    for run in 1..4u32 {
        let (mut store, mut state, continued) = StateStore::load(dir.path()).unwrap();
        assert_eq!(continued, run > 1);
        store.begin_run(&mut state, 0).unwrap();
        assert_eq!(state.run, run);
        assert_eq!(*uuid.get_or_insert(state.queue()), state.queue());
        for next in 0..20 {
            state.streams = vec![stream_state(u64::from(run) * 100 + next)];
            store.save(&mut state).unwrap();
        }
        drop(store);
        let (_, again, _) = StateStore::load(dir.path()).unwrap();
        assert_eq!(again, state);
        assert_eq!(again.lanes()[0].1.cursor(), Position::from_packed(u64::from(run) * 100 + 19));
    }
    assert_eq!(numbers(&dir.path().join("queue")).unwrap().len(), 1);
}

#[test]
fn after_a_thousand_writes_a_fresh_database_takes_over() {
    let dir = queue_dir();
    let (mut store, mut state, _) = StateStore::load(dir.path()).unwrap();
    store.save(&mut state).unwrap();
    store.writes = WRITES_MAX;
    store.save(&mut state).unwrap();
    assert_eq!(numbers(&store.queue_dir).unwrap(), [2]);
    drop(store);
    assert_eq!(StateStore::load(dir.path()).unwrap().1, state);
}

#[test]
fn another_machine_gets_a_new_identity_and_keeps_the_cursors() {
    let dir = queue_dir();
    let (mut store, mut state, _) = StateStore::load_for(dir.path(), [1; 32]).unwrap();
    state.streams = vec![stream_state(7)];
    store.begin_run(&mut state, 0).unwrap();
    drop(store);
    let (_, clone, continued) = StateStore::load_for(dir.path(), [2; 32]).unwrap();
    assert!(!continued);
    assert_ne!(clone.queue(), state.queue());
    assert_eq!((clone.run, clone.lanes()), (1, state.lanes()));
}

#[test]
fn a_lost_state_does_not_give_a_run_twice() {
    let dir = queue_dir();
    let (mut store, mut state, _) = StateStore::load(dir.path()).unwrap();
    store.begin_run(&mut state, 41).unwrap();
    drop(store);
    std::fs::remove_dir_all(dir.path().join("queue/state-1")).unwrap();
    let (mut store, mut again, continued) = StateStore::load(dir.path()).unwrap();
    assert!(!continued);
    assert_ne!(again.queue(), state.queue());
    store.begin_run(&mut again, 0).unwrap();
    assert_eq!(again.run, 42);
}

#[test]
fn a_flipped_byte_falls_back_to_an_earlier_state() {
    let dir = queue_dir();
    let (mut store, mut state, _) = StateStore::load(dir.path()).unwrap();
    for next in 0..5 {
        state.streams = vec![stream_state(next)];
        store.save(&mut state).unwrap();
    }
    drop(store);
    let log = dir.path().join("queue/state-1/db");
    let mut bytes = std::fs::read(&log).unwrap();
    let newest = encode(&state).unwrap();
    let at = bytes.windows(newest.len()).position(|window| window == newest).unwrap();
    bytes[at + HEADER_BYTES + 2] ^= 4;
    std::fs::write(&log, bytes).unwrap();
    let (_, again, _) = StateStore::load(dir.path()).unwrap();
    assert_eq!(again.generation, state.generation - 1);
}

#[test]
fn boots_are_entered_once_and_bounded() {
    let mut state = State::new([0; 32]);
    assert_eq!(state.boot_index(Uuid::from_u128(1)), 0);
    assert_eq!(state.boot_index(Uuid::from_u128(1)), 0);
    for boot in 2..200 {
        assert_eq!(state.boot_index(Uuid::from_u128(boot)), boot as u32 - 1);
    }
    assert_eq!(state.boots.len(), BOOTS_MAX);
    assert!(postcard::to_stdvec(&state).unwrap().len() < STATE_BYTES_MAX);
}

#[test]
fn a_state_of_a_newer_version_is_refused_by_name_and_left_alone() {
    let dir = queue_dir();
    let (mut store, mut state, _) = StateStore::load(dir.path()).unwrap();
    state.streams = vec![stream_state(7)];
    store.save(&mut state).unwrap();
    // A newer agent's state: another body, one generation on, under the header that all versions share.
    let mut newer = MAGIC.to_vec();
    newer.extend_from_slice(&(VERSION + 1).to_le_bytes());
    newer.extend_from_slice(&4u16.to_le_bytes());
    newer.extend_from_slice(&(state.generation + 1).to_le_bytes());
    newer.extend_from_slice(&checksum(&newer, b"body").to_le_bytes());
    newer.extend_from_slice(b"body");
    store.write(&newer).unwrap();
    drop(store);
    for _ in 0..2 {
        let error = StateStore::load(dir.path()).err().unwrap();
        assert!(matches!(error, OpenError::StateVersion { found: 2, known: VERSION, .. }), "{error}");
    }
    let log = std::fs::read(dir.path().join("queue/state-1/db")).unwrap();
    assert!(log.windows(newer.len()).any(|window| window == newer));
}

#[test]
fn an_older_state_of_a_newer_version_does_not_stand_in_the_way() {
    let state = State { generation: 9, ..State::new([0; 32]) };
    let mut older = encode(&State { generation: 8, ..state.clone() }).unwrap();
    older[8] = 7;
    let crc = checksum(&older[..CRC_AT], &older[HEADER_BYTES..]).to_le_bytes();
    older[CRC_AT..HEADER_BYTES].copy_from_slice(&crc);
    let dir = queue_dir();
    let database = dir.path().join("queue/state-1");
    std::fs::create_dir(&database).unwrap();
    std::fs::write(database.join("db"), [encode(&state).unwrap(), older].concat()).unwrap();
    assert_eq!(newest(&dir.path().join("queue")).unwrap(), Some(state));
}
