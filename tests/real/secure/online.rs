//! `forebay check --online` against topics and rights on which everything is wrong that it knows of.

mod exactly_once;

use std::path::Path;
use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;

use super::logins::forebay;
use super::stage::Stage;
use crate::process::{output, tool};

/// Streams of a gateway whose topics are: badly set, well set, not there, not ours.
const STREAMS: &str = r#"
[[stream]]
name = "telemetry"
topic = "badly-set"
retention = { age = "30d" }
[[stream]]
name = "alarms"
[[stream]]
name = "events"
topic = "nowhere"
[[stream]]
name = "foreign"
topic = "foreign"
[[stream]]
name = "ahead"
"#;
/// All streams go to one topic on which nothing is wrong.
const GOOD_STREAM: &str = "[[stream]]\nname = \"telemetry\"\ntopic = \"alarms\"\n";

/// What is found for these streams and the login set last.
fn check(stage: &Stage, streams: &str) -> (Option<i32>, Vec<String>) {
    let file = stage.scene.dir().join("check.toml");
    let uplink = stage.scene.uplink.as_deref().unwrap_or_default();
    std::fs::write(&file, format!("[gateway]\nid = \"gateway-1\"\n{streams}\n[kafka]\n{uplink}\n")).unwrap();
    check_file(&file)
}

/// Runs the command; gives its exit code and its findings as `severity topic about`.
fn check_file(file: &Path) -> (Option<i32>, Vec<String>) {
    let done = forebay().args(["check", "--online", "--json", "--config"]).arg(file).output().unwrap();
    let printed: Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&done.stderr)));
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let line = |found: &Value| [&found["severity"], &found["topic"], &found["about"]].map(text).join(" ");
    // The machine's clock is what it is.
    let lines = printed["findings"].as_array().unwrap().iter().map(line).filter(|line| line != "warning - clock");
    (done.status.code(), lines.collect())
}

#[track_caller]
fn demand(found: &[String], expected: &[&str]) {
    for line in expected {
        assert!(found.iter().any(|found| found == line), "no {line:?} in {found:#?}");
    }
}

#[track_caller]
fn demand_none(found: &[String], unwanted: &[&str]) {
    for line in unwanted {
        assert!(!found.iter().any(|found| found.contains(line)), "{line:?} in {found:#?}");
    }
}

pub fn says_what_would_go_wrong(stage: &mut Stage) {
    let settings = ["retention.ms=3600000", "max.message.bytes=100000", "min.insync.replicas=2"];
    stage.scene.kafka.topic(&[&["badly-set", "1"][..], &settings].concat());
    stage.scene.kafka.topic(&["foreign", "1"]);
    stage.scene.kafka.topic(&["ahead", "2"]);
    put_record_ahead(stage, "ahead");
    let ours = ["--add", "--allow-principal", "User:gateway-1", "--operation"];
    stage
        .cluster
        .acls(&[&ours[..], &["Write", "--topic", "badly-set", "--topic", "nowhere", "--topic", "ahead"]].concat());
    stage.by_certificate("gateway");

    // With a gateway's rights alone: what it cannot look at, it says.
    let (code, found) = check(stage, STREAMS);
    assert_eq!(code, Some(1));
    let unseen = ["unknown badly-set settings of the topic", "unknown alarms settings of the topic"];
    demand(&found, &unseen);
    demand(&found, &["problem nowhere topic", "problem foreign right to Describe", "warning ahead clock"]);
    // It is valid for 20 days.
    let broker = format!("certificate of {}", stage.cluster.by_certificate);
    demand(&found, &[&format!("warning - {broker}")]);
    demand_none(&found, &["right to Write", "problem alarms", "retention"]);

    // With the rights that it asks for.
    stage.cluster.grant("For `forebay check --online`");
    stage.cluster.acls(&[&ours[..], &["DescribeConfigs", "--topic", "badly-set"]].concat());
    stage.cluster.acls(&[&ours[..], &["Describe", "--topic", "foreign"]].concat());
    let (code, found) = check(stage, STREAMS);
    assert_eq!(code, Some(1));
    demand(
        &found,
        &["max.message.bytes", "retention.ms", "min.insync.replicas"]
            .map(|name| format!("problem badly-set {name}"))
            .each_ref()
            .map(String::as_str),
    );
    demand(&found, &["problem nowhere topic", "problem foreign right to Write", "warning alarms replicas"]);
    demand_none(&found, &["problem alarms", "unknown badly-set", "unknown alarms"]);
    let (code, found) = check(stage, GOOD_STREAM);
    assert_eq!(code, Some(0), "{found:#?}");
    demand_none(&found, &["problem", "unknown"]);

    assert_eq!(messages(stage, "badly-set"), 0, "it asked whether it may write, and wrote");
    not_let_in(stage);
}

/// A record whose time lies ten minutes ahead, as a gateway with a wrong clock sends it.
fn put_record_ahead(stage: &Stage, topic: &str) {
    let mut config = rdkafka::ClientConfig::new();
    let producer: BaseProducer = config.set("bootstrap.servers", &stage.scene.kafka.bootstrap).create().unwrap();
    let now_ms = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    producer.send(BaseRecord::<str, str>::to(topic).payload("{}").timestamp(now_ms + 600_000)).unwrap();
    producer.flush(Duration::from_secs(10)).unwrap();
}

/// What is wrong with the certificate that the broker shows, whether it is let in or not.
fn brokers_certificate(stage: &mut Stage) {
    let uplink = stage.scene.uplink.clone().unwrap();
    let own = &stage.cluster.by_certificate;
    let by_address = own.replace("localhost", "127.0.0.1");
    stage.scene.uplink = Some(uplink.replace(own, &by_address));
    let (code, found) = check(stage, GOOD_STREAM);
    assert_eq!(code, Some(1));
    demand(&found, &["problem - connection", &format!("problem - certificate of {by_address}")]);

    std::fs::write(stage.scene.dir().join("other.pem"), stage.cluster.authorities[1].pem()).unwrap();
    let own = stage.cluster.by_certificate.clone();
    stage.scene.uplink = Some(uplink.replace("ca.pem", "other.pem"));
    let (code, found) = check(stage, GOOD_STREAM);
    assert_eq!(code, Some(1));
    demand(&found, &["problem - connection", &format!("problem - certificate of {own}")]);
    stage.scene.uplink = Some(uplink);
}

fn not_let_in(stage: &mut Stage) {
    brokers_certificate(stage);
    stage.by_certificate("expired");
    let (code, found) = check(stage, GOOD_STREAM);
    assert_eq!(code, Some(1));
    let file = stage.scene.dir().join("expired.pem");
    demand(&found, &[&format!("problem - kafka.tls.cert {}", file.display()), "problem - connection"]);
    stage.by_login("mechanism = \"PLAIN\", username = \"gateway-1\", password-file = \"password\"");
    let (code, found) = check(stage, GOOD_STREAM);
    assert_eq!(code, Some(1), "the password is wrong by now");
    demand(&found, &["problem - connection"]);
    stage.by_certificate("gateway");
    stage.scene.kafka.stop();
    let (code, found) = check(stage, GOOD_STREAM);
    assert_eq!(code, Some(1));
    demand(&found, &["problem - connection"]);
}

/// Messages in the topic, by its open listener.
fn messages(stage: &Stage, topic: &str) -> usize {
    let mut kcat = tool("kcat", "kcat");
    kcat.args(["-b", &stage.scene.kafka.bootstrap, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "one\n"]);
    output(&mut kcat).lines().count()
}
