//! `dead-letters`: what was set aside is listed, exported, and queued again under a new position.

use std::path::Path;

use forebay::config::QueueKeys;
use forebay::metrics::Metrics;
use forebay::queue::{Limit, Queue, Settings};
use forebay::reading::{Position, Value};

use super::{ALARMS, Answering, TELEMETRY, json, lines, output, push, settings};

fn encrypted(dir: &Path, key: Option<u8>) -> Settings {
    let mut settings = settings(dir);
    settings.queue.keys = QueueKeys { current: key.map(super::encrypted::key), old: Vec::new() };
    settings
}

/// Three records of telemetry and one alarm set aside; other records stay.
fn queue_with_letters(settings: Settings) -> Queue {
    let queue = Queue::open(settings, Metrics::new().0).unwrap();
    push(&queue, TELEMETRY, 0..10);
    push(&queue, ALARMS, 0..3);
    for n in 0..3 {
        queue.set_aside(TELEMETRY, Position::new(1, n), "schema says no").unwrap();
    }
    queue.set_aside(ALARMS, Position::new(1, 0), "too wide").unwrap();
    // One that no block can take: it never had a position.
    let mut large = super::record(99);
    large.fields[1].value = Value::Text("x".repeat(30_000));
    queue.push(TELEMETRY, large).unwrap();
    queue.flush().unwrap();
    queue
}

fn last(queue: &Queue) -> forebay::reading::Record {
    let (mut last, mut after) = (None, None);
    while let Some(batch) = queue.peek(TELEMETRY, after, Limit { records: 1_000, bytes: 1 << 20 }).unwrap() {
        last = batch.records.last().map(|record| (**record).clone());
        after = last.as_ref().map(|record| record.position);
    }
    last.unwrap()
}

#[test]
fn letters_are_listed_exported_and_queued_again_by_the_agent() {
    for key in [None, Some(1)] {
        let dir = tempfile::tempdir().unwrap();
        let agent = Answering::start(queue_with_letters(encrypted(dir.path(), key)));
        let in_file = std::fs::read_to_string(dir.path().join("queue/dead-letter.jsonl")).unwrap();
        assert_eq!(in_file.contains("schema says no"), key.is_none(), "sealed where there is a key");
        let key_file = super::encrypted::key_file(dir.path(), key.unwrap_or(9));
        let key_file = key_file.to_str().unwrap();
        fn with_key<'a>(arguments: &[&'a str], key_file: &'a str) -> Vec<&'a str> {
            [arguments, &["--key", key_file]].concat()
        }
        if key.is_some() {
            assert_eq!(output(dir.path(), &["dead-letters", "list"], 77), "", "nothing is shown without the key");
        }
        let listed = lines(&output(dir.path(), &with_key(&["dead-letters", "list", "--json"], key_file), 0));
        let listed: Vec<_> = listed.iter().map(|line| json(line)).collect();
        assert_eq!(listed.len(), 5);
        assert_eq!(
            (&listed[1]["position"], &listed[1]["error"]),
            (&"1:1".into(), &"schema says no".into()),
            "{listed:?}"
        );
        assert_eq!((&listed[4]["set_aside"], &listed[4]["position"]), (&"too_large".into(), &serde_json::Value::Null));
        let exported =
            lines(&output(dir.path(), &with_key(&["dead-letters", "export", "--stream", "alarms"], key_file), 0));
        assert_eq!((exported.len(), &json(&exported[0])["stream"]), (1, &"alarms".into()));

        let one = json(&output(
            dir.path(),
            &["dead-letters", "requeue", "--stream", "telemetry", "--position", "1:1", "--json"],
            0,
        ));
        assert_eq!((&one["records"], &one["kept"]), (&1.into(), &0.into()), "{one}");
        let again = last(&agent.queue);
        let original = super::record(1);
        assert_eq!(again.position, Position::new(1, 10), "a new position at the end of its stream");
        assert_eq!(
            (again.fields, again.device, again.source),
            (
                vec![forebay::reading::Field::new("n", Value::Integer(1)), original.fields[1].clone(),],
                original.device,
                original.source
            )
        );
        assert_eq!((again.stamp.wall_us, again.stamp.trust), (original.stamp.wall_us, original.stamp.trust));

        let rest = json(&output(dir.path(), &["dead-letters", "requeue", "--json"], 65));
        assert_eq!((&rest["records"], &rest["kept"]), (&3.into(), &1.into()), "{rest}");
        assert!(rest["why"].as_str().unwrap().contains("limits are 24576"), "{rest}");
        let left = lines(&output(dir.path(), &with_key(&["dead-letters", "list", "--json"], key_file), 0));
        assert_eq!((left.len(), &json(&left[0])["set_aside"]), (1, &"too_large".into()), "it stays set aside");
        assert_eq!(agent.queue.status().streams[0].records, 10);
        agent.stop();
    }
}

#[test]
fn without_an_agent_a_configuration_is_needed_and_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    queue_with_letters(encrypted(&state_dir, None)).close().unwrap();
    let refused = super::forebay(&state_dir, &["dead-letters", "requeue"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--config"), "{refused:?}");
    let file = dir.path().join("forebay.toml");
    std::fs::write(&file, super::configuration(&state_dir)).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_forebay"));
    let arguments = ["queue", "dead-letters", "requeue", "--stream", "alarms", "--json", "--config"];
    let done = command.args(arguments).arg(&file).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
    assert_eq!(json(&String::from_utf8(done.stdout).unwrap())["records"], 1);
    let exported = lines(&output(&state_dir, &["export", "--stream", "alarms"], 0));
    let again = json(exported.last().unwrap());
    assert_eq!(
        (&again["run"], &again["seq"], &again["n"], &again["gateway"]),
        (&2.into(), &0.into(), &0.into(), &"truck".into())
    );
    assert_eq!(exported.len(), 3);
}
