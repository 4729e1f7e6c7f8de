//! `purge` and `repair`, on a closed queue and beside one that answers on its control socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use forebay::queue::Limit;
use forebay::reading::Position;

use super::damage::{change, closed_queue, databases, frames};
use super::{ALARMS, Answering, TELEMETRY, forebay, json, lines, open, output, push, tree};

/// The numbers of the records that a closed queue exports, and what the first says was skipped.
fn exported(dir: &std::path::Path, stream: &str) -> (Vec<u64>, u64) {
    let lines = lines(&output(dir, &["export", "--stream", stream], 0));
    let numbers = lines.iter().map(|line| json(line)["n"].as_u64().unwrap()).collect();
    (numbers, lines.first().map_or(0, |line| json(line)["skipped"].as_u64().unwrap_or(0)))
}

/// Everything an open queue gives of a stream: numbers, and the sum of `skipped`.
fn given(queue: &forebay::queue::Queue, stream: forebay::queue::StreamIndex) -> (usize, u64) {
    let (mut records, mut skipped, mut after) = (0, 0, None);
    while let Some(batch) = queue.peek(stream, after, Limit { records: 1_000, bytes: 1 << 20 }).unwrap() {
        records += batch.records.len();
        skipped += batch.records.iter().map(|record| record.skipped).sum::<u64>();
        after = batch.records.last().map(|record| record.position);
    }
    (records, skipped)
}

#[test]
fn a_closed_queue_is_purged_through_a_position_to_the_record() {
    let dir = closed_queue();
    let purged =
        json(&output(dir.path(), &["purge", "--stream", "telemetry", "--through", "1:2345", "--yes", "--json"], 0));
    assert_eq!(purged["purged_records"], 2_346, "{purged}");
    assert_eq!(exported(dir.path(), "telemetry").0, (2_346..4_000).collect::<Vec<_>>());
    let purged =
        json(&output(dir.path(), &["purge", "--stream", "telemetry", "--through", "1:2350", "--yes", "--json"], 0));
    assert_eq!(purged["purged_records"], 5, "inside a block as well: {purged}");
    output(dir.path(), &["verify"], 0);
    let queue = open(dir.path());
    push(&queue, TELEMETRY, 4_000..4_010);
    assert_eq!(given(&queue, TELEMETRY), (1_659, 2_351), "the first that stays says how many are gone");
    queue.close().unwrap();
}

#[test]
fn a_purge_by_time_stops_at_the_first_newer_record() {
    let dir = closed_queue();
    let before = "2026-11-22T12:16:40Z"; // record 1000
    let purged =
        json(&output(dir.path(), &["purge", "--stream", "telemetry", "--before", before, "--yes", "--json"], 0));
    assert_eq!(purged["purged_records"], 1_000, "{purged}");
    assert_eq!(exported(dir.path(), "telemetry").0, (1_000..4_000).collect::<Vec<_>>());
    let again =
        json(&output(dir.path(), &["purge", "--stream", "telemetry", "--before", before, "--yes", "--json"], 0));
    assert_eq!(again["purged_records"], 0);
}

#[test]
fn what_is_purged_leaves_the_disk_and_other_streams_stay() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    for n in 0..4 {
        push(&queue, TELEMETRY, n * 500..n * 500 + 500);
        push(&queue, ALARMS, n * 10..n * 10 + 10);
    }
    queue.close().unwrap();
    let purged = json(&output(dir.path(), &["purge", "--stream", "telemetry", "--yes", "--json"], 0));
    assert_eq!(purged["purged_records"], 2_000, "{purged}");
    let secret = format!("{:016x}", 1_201_u64.wrapping_mul(0x9E37_79B9_7F4A_7C15)); // of record 100
    let left = tree(&dir.path().join("queue"));
    assert!(!left.values().any(|bytes| bytes.windows(16).any(|window| window == secret.as_bytes())));
    assert_eq!(exported(dir.path(), "alarms").0, (0..40).collect::<Vec<_>>());
    output(dir.path(), &["verify"], 0);
    let queue = open(dir.path());
    assert_eq!((given(&queue, TELEMETRY).0, given(&queue, ALARMS)), (0, (40, 0)));
    queue.close().unwrap();
}

#[test]
fn without_yes_and_without_a_stream_nothing_goes() {
    let dir = closed_queue();
    let before = tree(dir.path());
    let refused = forebay(dir.path(), &["purge", "--stream", "telemetry"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("say --yes"), "{refused:?}");
    let refused = forebay(dir.path(), &["purge", "--stream", "nobody", "--yes"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("\"nobody\" is not in the queue"), "{refused:?}");
    assert_eq!(tree(dir.path()), before);
}

#[test]
fn a_running_queue_is_purged_over_its_socket_memory_included() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Answering::start(open(dir.path()));
    push(&agent.queue, TELEMETRY, 0..1_200);
    push(&agent.queue, ALARMS, 0..20);
    // These are in memory only.
    for n in 1_200..1_300 {
        agent.queue.push(TELEMETRY, super::record(n)).unwrap();
    }
    let purged = json(&output(dir.path(), &["purge", "--stream", "telemetry", "--yes", "--json"], 0));
    assert_eq!(
        (&purged["purged_records"], &purged["agent_pid"]),
        (&1_300.into(), &std::process::id().into()),
        "{purged}"
    );
    assert_eq!((given(&agent.queue, TELEMETRY), given(&agent.queue, ALARMS)), ((0, 0), (20, 0)));
    assert_eq!(agent.queue.status().streams[0].records, 0);
    // A crash now brings nothing back, and forgets nothing of what is gone.
    agent.queue.abandon().unwrap();
    drop(agent);
    let queue = open(dir.path());
    assert_eq!((given(&queue, TELEMETRY), given(&queue, ALARMS)), ((0, 0), (20, 0)), "after a crash as well");
    queue.push(TELEMETRY, super::record(1_300)).unwrap();
    assert_eq!(given(&queue, TELEMETRY), (1, 1_300));
    queue.close().unwrap();
}

#[test]
fn repair_brings_back_what_is_whole_and_a_dry_run_touches_nothing() {
    let dir = closed_queue();
    let database = &databases(dir.path())[1];
    let (offset, _) = frames(database)[3];
    change(database, offset + 200, |bytes| bytes[0] ^= 0x10);
    let lost = json(&lines(&output(dir.path(), &["verify", "--json"], 65))[0])["records"].as_u64().unwrap();
    let before = tree(dir.path());
    let told = lines(&output(dir.path(), &["repair", "--dry-run", "--json"], 65));
    assert_eq!(json(&told[0])["action"], "rescue and quarantine", "{told:?}");
    assert_eq!((json(&told[0])["epoch"].as_u64(), json(&told[1])["damaged_blocks"].as_u64()), (Some(2), Some(1)));
    assert_eq!(tree(dir.path()), before, "a dry run changes nothing");
    let repaired = json(&output(dir.path(), &["repair", "--json"], 65));
    assert_eq!((&repaired["lost_blocks"], &repaired["quarantined_epochs"]), (&1.into(), &1.into()), "{repaired}");
    assert_eq!(exported(dir.path(), "telemetry").0.len() as u64, 4_000 - lost);
    let again = json(&output(dir.path(), &["repair", "--json"], 0));
    assert_eq!((&again["lost_blocks"], &again["salvaged_blocks"]), (&0.into(), &0.into()), "{again}");
}

#[test]
fn repair_closes_what_a_crash_left_open() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    push(&queue, TELEMETRY, 0..700);
    queue.abandon().unwrap();
    drop(queue);
    let told = lines(&output(dir.path(), &["repair", "--dry-run"], 0));
    assert!(told[told.len() - 2].contains("was not closed in order: rescue"), "{told:?}");
    let repaired = json(&output(dir.path(), &["repair", "--json"], 0));
    assert!(repaired["salvaged_blocks"].as_u64().unwrap() > 0, "{repaired}");
    assert_eq!(json(&output(dir.path(), &["repair", "--dry-run", "--json"], 0))["epochs"], 0);
    assert_eq!(exported(dir.path(), "telemetry").0, (0..700).collect::<Vec<_>>());
    let queue = open(dir.path());
    assert_eq!(queue.status().run, 2, "a repair is no run");
    queue.close().unwrap();
}

#[test]
fn repair_beside_a_running_queue_is_done_by_it() {
    let dir = closed_queue();
    let database = databases(dir.path())[0].clone();
    let (offset, _) = frames(&database)[1];
    change(&database, offset + 200, |bytes| bytes[0] ^= 0x10);
    let agent = Answering::start(open(dir.path()));
    push(&agent.queue, ALARMS, 0..10);
    let repaired = json(&output(dir.path(), &["repair", "--json"], 65));
    assert_eq!(
        (&repaired["lost_blocks"], &repaired["agent_pid"]),
        (&1.into(), &std::process::id().into()),
        "{repaired}"
    );
    agent.stop();
}

#[test]
fn a_queue_that_is_held_without_a_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let queue = open(dir.path());
    push(&queue, TELEMETRY, 0..10);
    let before = tree(dir.path());
    let refused = forebay(dir.path(), &["purge", "--stream", "telemetry", "--yes"]);
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(75), "{errors}");
    assert!(errors.contains("control.sock") && errors.contains(&format!("process {}", std::process::id())), "{errors}");
    assert_eq!(tree(dir.path()), before);
    queue.close().unwrap();
}

#[test]
fn bad_requests_are_answered_and_the_socket_is_for_owner_and_group() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Answering::start(open(dir.path()));
    let socket = dir.path().join("control.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let ask = |request: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        json(&line)
    };
    for (request, reason) in [
        ("rm -rf\n", "request is not JSON"),
        ("{\"command\":\"info\"}\n", "request has version none, this agent speaks version 1"),
        ("{\"version\":2,\"command\":\"info\"}\n", "request has version 2"),
        ("{\"version\":1,\"command\":\"format\"}\n", "request is not known"),
        (
            "{\"version\":1,\"command\":\"purge\",\"stream\":\"nobody\",\"through\":\"1:1\"}\n",
            "\"nobody\" is not in the queue; it has telemetry, alarms",
        ),
        ("{\"version\":1,\"command\":\"purge\",\"stream\":\"alarms\",\"through\":\"soon\"}\n", "a position is RUN:SEQ"),
        (&format!("{:>20000}\n", "{}"), "request is longer than 16384 bytes"),
    ] {
        let answer = ask(request);
        assert_eq!(answer["ok"], false, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(reason), "{answer}");
    }
    let info = ask("{\"version\":1,\"command\":\"info\"}\n");
    assert_eq!((&info["ok"], &info["result"]["pid"]), (&true.into(), &std::process::id().into()), "{info}");
    agent.stop();
    assert!(!socket.exists());
}

#[test]
fn a_stream_that_is_not_configured_any_more_is_purged() {
    let dir = closed_queue();
    let mut settings = super::settings(dir.path());
    settings.streams.remove(0);
    let agent = Answering::start(forebay::queue::Queue::open(settings, forebay::metrics::Metrics::new().0).unwrap());
    agent.queue.flush().unwrap();
    let purged =
        json(&output(dir.path(), &["purge", "--stream", "telemetry", "--through", "1:99", "--yes", "--json"], 0));
    assert_eq!(purged["purged_records"], 100, "{purged}");
    agent.stop();
    let queue = open(dir.path());
    let first = queue.peek(TELEMETRY, None, Limit { records: 1, bytes: 1 }).unwrap().unwrap();
    assert_eq!((first.records[0].position, first.records[0].skipped), (Position::new(1, 100), 100));
    queue.close().unwrap();
}
