//! The configuration as a user meets it: what passes, what each mistake says and where, and the built binary.

#![allow(clippy::unwrap_used)] // helpers of tests, which may stop where they stand

mod command;
mod includes;
mod mistakes;

use std::path::Path;
use std::time::Duration;

use forebay::config::{
    self, Broker, Delivery, Durability, Encoding, Form, Retention, Shape, SourceKind, Transactions, WhenFull,
};
use proptest::prelude::*;

/// The shape a user sees, without what is not yet supported.
const WHOLE: &str = include_str!("whole.toml");

fn parse(text: &str) -> Result<config::Loaded, config::Errors> {
    config::parse(text, Path::new("forebay.toml"))
}

#[test]
fn the_whole_example_passes_and_says_what_it_says() {
    let loaded = parse(WHOLE).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(&*config.gateway.id, "truck-17");
    assert_eq!(config.gateway.tags["line"], "2");
    let names: Vec<_> = config.sources.iter().map(|source| &*source.name).collect();
    assert_eq!(names, ["position", "plc", "yard"], "the disabled source is checked and left out");
    let SourceKind::Modbus(plc) = &config.sources[1].kind else { panic!("plc is Modbus") };
    let streams: Vec<_> = plc.units[0].registers.iter().map(|register| &*register.stream).collect();
    assert_eq!(streams, ["telemetry", "telemetry", "alarms"]);
    assert_eq!(plc.units[0].registers[0].scale, 0.1);
    let mqtt = config.mqtt.expect("[mqtt] is written");
    assert_eq!(mqtt.broker, Broker::Tcp { host: "127.0.0.1".into(), port: 1883 });
    assert_eq!(mqtt.outbox_records, 500);
    assert_eq!((config.queue.quota_bytes, config.queue.window), (Some(2 << 30), Duration::from_secs(1)));
    assert_eq!(config.streams[1].durability, Durability::EveryRecord);
    let kafka = config.kafka.expect("[kafka] is written");
    assert_eq!(kafka.client_id, "truck-17");
    assert_eq!(kafka.properties["socket.keepalive.enable"], "true");
    assert_eq!(config.status.expect("status is on").listen.port(), 9273);
}

/// The blocks of TOML in a page of Markdown.
fn toml_blocks(page: &str) -> Vec<String> {
    let after = page.split("```toml\n").skip(1);
    after.map(|rest| rest.split("```").next().unwrap_or(rest).to_owned()).collect()
}

#[test]
fn the_readmes_example_passes_and_says_what_the_readme_says_of_it() {
    let blocks = toml_blocks(include_str!("../../README.md"));
    let [block] = &blocks[..] else { panic!("one example, found {}", blocks.len()) };
    let loaded = parse(block).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(&*config.gateway.id, "truck-17", "the record that is shown below it bears this name");
    let names: Vec<_> = config.sources.iter().map(|source| &*source.name).collect();
    assert_eq!(names, ["position", "meter"]);
    assert!(config.mqtt.is_some() && config.kafka.is_some());
}

#[test]
fn streams_are_written_as_kafka_says_unless_they_say_otherwise() {
    let text = r#"
[[source]]
name = "yard"
type = "mqtt"
topics = ["a/+"]
[mqtt]
broker = "mqtt://b"
[[stream]]
name = "raw"
encoding = "json"
[[stream]]
name = "metrics"
shape = "narrow"
[kafka]
brokers = ["k:1"]
encoding = "protobuf"
cloudevents = true
registry = { url = "https://r.example/api/", timeout = "3s" }
"#;
    let loaded = parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, []);
    let output = loaded.config.kafka.unwrap().output;
    let form = |stream| output.form(stream);
    assert_eq!(form("telemetry"), Form { encoding: Encoding::Protobuf, shape: Shape::Wide });
    assert_eq!(form("raw"), Form::default());
    assert_eq!(form("metrics"), Form { encoding: Encoding::Protobuf, shape: Shape::Narrow });
    assert!(output.cloudevents && output.untyped_sources.contains("yard"));
    let registry = output.registry.unwrap();
    assert_eq!((registry.url().as_str(), registry.timeout), ("https://r.example/api", Duration::from_secs(3)));
    let unused = parse("[kafka]\nbrokers = [\"k:1\"]\nregistry = { url = \"http://r\" }").unwrap();
    assert!(unused.warnings.iter().any(|warning| warning.message.contains("is not used")));
    assert!(unused.config.kafka.unwrap().output.untyped_sources.is_empty());
}

#[test]
fn an_empty_file_is_all_defaults_with_warnings() {
    let loaded = parse("").unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.config.streams.len(), 1);
    assert_eq!(&*loaded.config.streams[0].name, "telemetry");
    assert_eq!(loaded.config.gateway.state_dir, Path::new("/var/lib/forebay"));
    assert_eq!(loaded.config.queue.window, Duration::from_secs(1));
    let keys: Vec<_> = loaded.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(keys, ["source", "kafka"]);
}

#[test]
fn a_stream_says_how_much_of_it_is_kept() {
    let text =
        "[[stream]]\nname = \"alarms\"\nretention = { size = \"2 MiB\", age = \"30d\", when-full = \"reject-newest\" }";
    let streams = parse(text).unwrap_or_else(|errors| panic!("{errors}")).config.streams;
    assert_eq!(streams[0].retention, Retention::default(), "telemetry, which is not written");
    let age = Some(Duration::from_secs(30 * 86_400));
    assert_eq!(streams[1].retention, Retention { size_bytes: Some(2 << 20), age, when_full: WhenFull::RejectNewest });
}

#[test]
fn a_stream_that_is_thinned_with_too_little_room_for_its_devices_is_a_warning() {
    let text = |size: &str, devices: u32| {
        format!(
            "[[source]]\nname = \"made-up\"\ntype = \"simulated\"\ndevices = {devices}\n\
             [[stream]]\nname = \"telemetry\"\nretention = {{ when-full = \"thin\"{size} }}"
        )
    };
    let warned = |text: &str| {
        let loaded = parse(text).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.config.streams[0].retention.when_full, WhenFull::Thin);
        let of_streams = loaded.warnings.into_iter().filter(|warning| warning.key.starts_with("stream"));
        of_streams.map(|warning| (warning.place.line, warning.key, warning.message)).collect::<Vec<_>>()
    };
    // 100 × 10 × (2 + 2 × 7) × (24 + 7 × 12) bytes.
    let told = warned(&text(", size = \"1 MiB\"", 100));
    assert_eq!((told[0].0, told[0].1.as_str()), (7, "stream[1].retention"));
    assert!(told[0].2.contains("1048576 bytes") && told[0].2.contains("1728000"), "{told:?}");
    assert_eq!(warned(&text(", size = \"2 MiB\"", 100)), []);
    assert_eq!(warned(&text("", 100)), [], "the queue's size is not written");
    assert_eq!(warned(&format!("{}\n[queue]\nsize = \"16 MiB\"", text("", 1_000))).len(), 1);
}

#[test]
fn status_can_be_switched_off() {
    let loaded = parse("[status]\nlisten = \"off\"").unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.config.status, None);
}

#[test]
fn settings_that_leave_no_time_for_an_acknowledgement_bring_a_warning_at_the_one_to_blame() {
    let blamed = |window: &str, linger: &str| {
        let text = format!(
            "[[source]]\nname = \"s\"\ntype = \"simulated\"\n[queue]\nwindow = \"{window}\"\n[kafka]\nbrokers = [\"k:9092\"]\nlinger = \"{linger}\""
        );
        let loaded = parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
        let found = loaded.warnings.iter();
        found.map(|warning| (warning.key.clone(), warning.place.line, warning.message.clone())).collect::<Vec<_>>()
    };
    assert_eq!(blamed("1s", "50ms"), []);
    assert_eq!(blamed("100ms", "10ms"), []);
    let [(key, line, message)] = &blamed("80ms", "5ms")[..] else { panic!("one warning") };
    assert_eq!((key.as_str(), *line), ("queue.window", 5));
    assert!(message.contains("80 ms") && message.contains("45 ms"), "{message}");
    for (linger, part) in [("500ms", "every record"), ("499ms", "a tenth")] {
        let [(key, line, message)] = &blamed("1s", linger)[..] else { panic!("one warning") };
        assert_eq!((key.as_str(), *line), ("kafka.linger", 8));
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_window_for_outages_is_never_shorter_than_the_window() {
    let queue = |text: &str| parse(&format!("[queue]\n{text}")).map(|loaded| loaded.config.queue);
    let outage_s = |text: &str| queue(text).unwrap_or_else(|errors| panic!("{errors}")).window_outage.as_secs();
    assert_eq!(outage_s("window = \"3s\""), 3);
    assert_eq!(outage_s("window = \"3s\"\nwindow-outage = \"60s\""), 60);
    let errors = queue("window = \"3s\"\nwindow-outage = \"2s\"").unwrap_err().to_string();
    assert!(
        errors.contains(":3:17: queue.window-outage: \"2s\" is shorter than queue.window; allowed: 50ms to"),
        "{errors}"
    );
}

#[test]
fn what_works_but_is_probably_not_meant_is_a_warning() {
    let text = "[queue]\nwindow = \"200ms\"\n[kafka]\nbrokers = [\"k:9092\"]\nlinger = \"1s\"\n[status]\nlisten = \"0.0.0.0:80\"";
    let loaded = parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    let places: Vec<_> = loaded.warnings.iter().map(|warning| (warning.key.as_str(), warning.place.line)).collect();
    assert_eq!(places, [("source", 1), ("kafka.linger", 5), ("status.listen", 7)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_refused_and_never_panics(text in "\\PC{0,400}") {
        let _ = parse(&text);
    }

    #[test]
    fn a_changed_example_passes_or_names_a_place(at in 0..WHOLE.len(), gone in 0usize..12, new in "[\\PC\n\\[\\]={}\"]{0,6}") {
        let start = WHOLE.floor_char_boundary(at);
        let end = WHOLE.floor_char_boundary((start + gone).min(WHOLE.len()));
        let text = format!("{}{new}{}", &WHOLE[..start], &WHOLE[end..]);
        if let Err(errors) = parse(&text) {
            let lines = text.split('\n').count();
            for problem in &errors.problems {
                prop_assert!((1..=lines).contains(&problem.place.line), "{problem}");
                prop_assert!(problem.place.column >= 1 && !problem.message.is_empty(), "{problem}");
            }
            prop_assert!(!errors.to_string().contains("please report"), "{errors}");
        }
    }
}

#[test]
fn exactly_once_is_configured_and_its_keys_say_when_they_do_nothing() {
    let kafka = |lines: &str| parse(&format!("[kafka]\nbrokers = [\"k:1\"]\n{lines}"));
    let delivery =
        |lines: &str| kafka(lines).unwrap_or_else(|errors| panic!("{errors}")).config.kafka.unwrap().delivery;
    let once = |id: Option<&str>, timeout_s| {
        let timeout = Duration::from_secs(timeout_s);
        Delivery::ExactlyOnce(Transactions { id: id.map(str::to_owned), timeout })
    };
    assert_eq!(delivery(""), Delivery::AtLeastOnce);
    assert_eq!(delivery("delivery = \"exactly-once\""), once(None, 30));
    let written = "delivery = \"exactly-once\"\ntransactional-id = \"truck-17\"\ntransaction-timeout = \"1min\"";
    assert_eq!(delivery(written), once(Some("truck-17"), 60));
    let idle = kafka("transactional-id = \"truck-17\"").unwrap();
    assert!(idle.warnings.iter().any(|warning| warning.key == "kafka.transactional-id"), "{:?}", idle.warnings);
    let errors = kafka("delivery = \"exactly-once\"\ntransactional-id = \"a b\"").unwrap_err().to_string();
    assert!(errors.contains("4:20: kafka.transactional-id: \"a b\" is no transactional id"), "{errors}");
    let errors = kafka("delivery = \"exactly-once\"\ntransaction-timeout = \"1s\"").unwrap_err().to_string();
    assert!(errors.contains("kafka.transaction-timeout"), "{errors}");
    let avro = "delivery = \"exactly-once\"\nencoding = \"avro\"\nregistry = { url = \"http://r:8081\" }";
    assert_eq!(delivery(avro), once(None, 30));
}

#[test]
fn a_dead_letter_topic_is_a_topic_of_its_own() {
    let kafka = |lines: &str| parse(&format!("[kafka]\nbrokers = [\"k:1\"]\n{lines}"));
    let topic = |lines: &str| kafka(lines).unwrap().config.kafka.unwrap().output.dead_letter_topic;
    assert_eq!(topic(""), None);
    assert_eq!(topic("dead-letter-topic = \"fleet.dead-letters\""), Some("fleet.dead-letters".to_owned()));
    let errors = kafka("dead-letter-topic = \"a b\"").unwrap_err().to_string();
    assert!(errors.contains("3:21: kafka.dead-letter-topic: \"a b\" is not a Kafka topic"), "{errors}");
    let errors = kafka("dead-letter-topic = \"telemetry\"").unwrap_err().to_string();
    assert!(errors.contains("is the topic of stream \"telemetry\""), "{errors}");
}
