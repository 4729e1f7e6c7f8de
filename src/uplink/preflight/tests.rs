//! What each fact means, one at a time, against a cluster on which nothing is wrong.

use super::*;
use crate::config::{Durability, KafkaCompression, Retention};
use crate::kafka::{BrokerCertificate, Certificate, Judgement, Shown};

pub(super) fn kafka() -> Kafka {
    Kafka {
        brokers: vec!["a:9092".into()],
        client_id: "truck-17".into(),
        tls: None,
        sasl: None,
        compression: KafkaCompression::Zstd,
        in_flight_bytes_max: 1 << 20,
        linger: Duration::from_millis(50),
        drain: Default::default(),
        rate: Default::default(),
        budget: None,
        properties: [].into(),
        output: Default::default(),
        delivery: Default::default(),
    }
}

pub(super) fn stream(age: Option<Duration>) -> Stream {
    Stream {
        name: "telemetry".into(),
        topic: "measurements".into(),
        priority: 0,
        durability: Durability::Window,
        retention: Retention { age, ..Retention::default() },
        drain: None,
        rate: Default::default(),
    }
}

fn good() -> Inspection {
    let settings = TopicSettings {
        message_bytes_max: Some(1_048_588),
        retention_ms: Some(604_800_000),
        in_sync_needed: Some(2),
        cleanup_policy: Some("delete".into()),
        timestamp_type: Some("CreateTime".into()),
        timestamp_before_max_ms: Some(i64::MAX),
        timestamp_after_max_ms: Some(3_600_000),
    };
    let facts = TopicFacts {
        topic: "measurements".into(),
        partitions: Ok(PartitionFacts { count: 3, leaderless: 0, replicas_min: 3, in_sync_min: 3 }),
        settings: Ok(settings),
        write: WriteAnswer::Allowed,
        has_later: Ok(false),
    };
    Inspection { connection: Ok(()), trouble: Vec::new(), brokers: Vec::new(), topics: vec![facts], transactions: None }
}

const DAY: Duration = Duration::from_secs(86_400);

/// The findings after one change to the good cluster, each as `severity about`.
fn found(age: Option<Duration>, change: impl Fn(&mut TopicFacts)) -> Vec<String> {
    let mut seen = good();
    change(&mut seen.topics[0]);
    let findings = judge(&kafka(), &[stream(age)], &seen);
    assert!(findings.iter().all(|finding| finding.topic.as_deref() == Some("measurements")), "{findings:?}");
    assert!(findings.iter().all(|finding| finding.streams == ["telemetry"]), "{findings:?}");
    findings.iter().map(|finding| format!("{:?} {}", finding.severity, finding.about)).collect()
}

fn with_settings(age: Option<Duration>, change: impl Fn(&mut TopicSettings)) -> Vec<String> {
    found(age, |facts| change(facts.settings.as_mut().unwrap()))
}

#[test]
fn on_a_good_cluster_nothing_is_found() {
    assert_eq!(found(Some(7 * DAY), |_| {}), [""; 0]);
    assert_eq!(found(None, |_| {}), [""; 0]);
    assert_eq!(with_settings(Some(3_650 * DAY), |settings| settings.retention_ms = Some(-1)), [""; 0]);
    assert_eq!(with_settings(None, |settings| *settings = TopicSettings::default()), [""; 0], "an old broker");
}

#[test]
fn retention_is_compared_with_the_streams_age() {
    assert_eq!(found(Some(8 * DAY), |_| {}), ["Problem retention.ms"]);
    assert_eq!(with_settings(None, |settings| settings.retention_ms = Some(3_600_000)), ["Warning retention.ms"]);
    let before = |settings: &mut TopicSettings| settings.timestamp_before_max_ms = Some(3_600_000);
    assert_eq!(with_settings(Some(DAY), before), ["Warning message.timestamp.before.max.ms"], "nothing is lost");
    let mut seen = good();
    before(seen.topics[0].settings.as_mut().unwrap());
    let line = judge(&kafka(), &[stream(Some(DAY))], &seen)[0].to_string();
    assert!(line.contains("get the time of sending") && !line.contains("set aside"), "{line}");
    assert_eq!(with_settings(None, before), [""; 0]);
}

#[test]
fn the_largest_message_is_compared_with_the_batches_as_configured() {
    let small = |settings: &mut TopicSettings| settings.message_bytes_max = Some(100_000);
    assert_eq!(with_settings(None, small), ["Problem max.message.bytes"]);
    let mut seen = good();
    small(seen.topics[0].settings.as_mut().unwrap());
    let smaller = Kafka { properties: [("batch.size".to_owned(), "100000".to_owned())].into(), ..kafka() };
    assert_eq!(judge(&smaller, &[stream(None)], &seen), []);
}

#[test]
fn settings_that_change_what_a_record_is() {
    let compact = |settings: &mut TopicSettings| settings.cleanup_policy = Some("compact,delete".into());
    assert_eq!(with_settings(None, compact), ["Problem cleanup.policy"]);
    let arrival = |settings: &mut TopicSettings| settings.timestamp_type = Some("LogAppendTime".into());
    assert_eq!(with_settings(None, arrival), ["Warning message.timestamp.type"]);
}

#[test]
fn replicas_in_sync_and_needed() {
    let partitions = |replicas_min, in_sync_min, leaderless| {
        move |facts: &mut TopicFacts| {
            facts.partitions = Ok(PartitionFacts { count: 3, leaderless, replicas_min, in_sync_min });
        }
    };
    assert_eq!(found(None, partitions(1, 1, 0)), ["Problem min.insync.replicas"]);
    assert_eq!(found(None, partitions(3, 1, 0)), ["Problem replicas in sync"]);
    assert_eq!(found(None, partitions(3, 3, 1)), ["Problem leader"]);
    let needed_one = |facts: &mut TopicFacts| facts.settings.as_mut().unwrap().in_sync_needed = Some(1);
    assert_eq!(found(None, needed_one), ["Warning min.insync.replicas"]);
    let single = |facts: &mut TopicFacts| {
        needed_one(facts);
        partitions(1, 1, 0)(facts);
    };
    assert_eq!(found(None, single), ["Warning replicas"]);
}

#[test]
fn what_is_not_there_not_allowed_or_not_said() {
    let unlisted = |why: Unlisted| move |facts: &mut TopicFacts| facts.partitions = Err(why.clone());
    assert_eq!(found(None, unlisted(Unlisted::Missing)), ["Problem topic"]);
    assert_eq!(found(None, unlisted(Unlisted::Forbidden)), ["Problem right to Describe"]);
    assert_eq!(found(None, unlisted(Unlisted::Other("x".into()))), ["Unknown topic"]);
    let write = |answer: WriteAnswer| move |facts: &mut TopicFacts| facts.write = answer.clone();
    assert_eq!(found(None, write(WriteAnswer::Forbidden)), ["Problem right to Write"]);
    assert_eq!(found(None, write(WriteAnswer::Taken)), ["Warning acks"]);
    assert_eq!(found(None, write(WriteAnswer::Unknown("x".into()))), ["Unknown right to Write"]);
    let no_settings = |facts: &mut TopicFacts| facts.settings = Err("no right".into());
    assert_eq!(found(Some(8 * DAY), no_settings), ["Unknown settings of the topic"]);
}

#[test]
fn a_line_names_stream_topic_value_and_limit() {
    let findings = judge(&kafka(), &[stream(Some(8 * DAY))], &good());
    let line = findings[0].to_string();
    let start = "problem: stream telemetry, topic measurements: retention.ms is 604800000, needed at least 691200000";
    assert!(line.starts_with(start), "{line}");
}

#[test]
fn a_dead_letter_topic_is_judged_by_what_would_go_into_the_file() {
    let found = |change: &dyn Fn(&mut TopicFacts)| {
        let mut seen = good();
        let mut facts = TopicFacts { topic: "dead-letters".into(), ..good().topics[0].clone() };
        facts.settings.as_mut().unwrap().message_bytes_max = Some(10 << 20);
        change(&mut facts);
        seen.topics.push(facts);
        let findings = judge(&kafka(), &[stream(None)], &seen);
        assert!(findings.iter().all(|finding| finding.topic.as_deref() == Some("dead-letters")), "{findings:?}");
        findings.iter().map(Finding::to_string).collect::<Vec<_>>()
    };
    assert_eq!(found(&|_| {}), [""; 0]);
    let one = |change: &dyn Fn(&mut TopicFacts)| {
        let lines = found(change);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].clone()
    };
    let missing = one(&|facts| facts.partitions = Err(Unlisted::Missing));
    assert!(missing.starts_with("problem: dead-letter topic dead-letters: topic: it is not there"), "{missing}");
    assert!(one(&|facts| facts.partitions = Err(Unlisted::Forbidden)).contains("right to Describe"));
    assert!(one(&|facts| facts.write = WriteAnswer::Forbidden).contains("right to Write: missing; dead letters"));
    let small = one(&|facts| facts.settings.as_mut().unwrap().message_bytes_max = Some(1_048_588));
    assert!(small.starts_with("warning: dead-letter topic dead-letters: max.message.bytes is 1048588"), "{small}");
    let compact = |facts: &mut TopicFacts| facts.settings.as_mut().unwrap().cleanup_policy = Some("compact".into());
    assert!(one(&compact).contains("cleanup.policy"));
}

#[test]
fn no_connection_is_a_problem_with_every_reason() {
    let connection = Err(vec!["refused".to_owned(), "wrong password".to_owned()]);
    let seen =
        Inspection { connection, trouble: Vec::new(), brokers: Vec::new(), topics: Vec::new(), transactions: None };
    let lines: Vec<String> = judge(&kafka(), &[stream(None)], &seen).iter().map(Finding::to_string).collect();
    assert_eq!(lines, ["problem: connection: refused", "problem: connection: wrong password"]);
}

fn certificate() -> Certificate {
    let (subject, issuer) = ("CN=a".into(), "CN=b".into());
    Certificate { subject, issuer, not_before_s: 1_000, not_after_s: 100 * 86_400 }
}

#[test]
fn a_record_that_lies_ahead_tells_that_a_clock_is_wrong() {
    let later = |facts: &mut TopicFacts| facts.has_later = Ok(true);
    assert_eq!(found(None, later), ["Warning clock"], "any sender may be ahead");
    let by_broker = |facts: &mut TopicFacts| {
        later(facts);
        facts.settings.as_mut().unwrap().timestamp_type = Some("LogAppendTime".into());
    };
    assert_eq!(found(None, by_broker), ["Problem clock", "Warning message.timestamp.type"]);
    let not_said = |facts: &mut TopicFacts| facts.has_later = Err("no answer".into());
    assert_eq!(found(None, not_said), ["Unknown clock against the topic's newest record"]);
}

#[test]
fn a_clock_that_was_never_set() {
    assert_eq!(clock_before(1_000, 1_000), None);
    let line = clock_before(0, 86_400).unwrap().to_string();
    let start = "problem: clock is 1970-01-01T00:00:00Z, needed at least 1970-01-02T00:00:00Z: ";
    assert!(line.starts_with(start), "{line}");
}

#[test]
fn what_a_broker_shows() {
    let good = Shown {
        chain: vec![certificate(), Certificate { issuer: "CN=root".into(), ..certificate() }],
        names: vec!["k".into(), "10.0.0.1".into()],
        trust: Judgement::Good,
        name: Judgement::Good,
    };
    let lines = |kafka: &Kafka, now_s: i64, shown: Result<Shown, String>| -> Vec<String> {
        let found = BrokerCertificate { broker: "kafka-1:9093".into(), shown };
        let lines = judge_broker(kafka, &found, now_s).into_iter().map(|finding| finding.to_string());
        lines.map(|line| line.replace("certificate of kafka-1:9093: ", "")).collect()
    };
    let at = |now_s, shown: &Shown| lines(&kafka(), now_s, Ok(shown.clone()));
    assert_eq!(at(2_000, &good), [""; 0]);
    assert_eq!(at(99 * 86_400, &good), ["warning: CN=a expires in 1 days, at 1970-04-11T00:00:00Z"]);
    let expired = "problem: CN=a expired at 1970-04-11T00:00:00Z; this machine's clock says 1970-04-12T00:00:00Z";
    assert_eq!(at(101 * 86_400, &good), [expired]);
    let early = "problem: CN=a is valid from 1970-01-01T00:16:40Z on; this machine's clock says 1970-01-01T00:00:00Z";
    assert_eq!(at(0, &good), [early]);

    let stranger = Shown { trust: Judgement::Bad, name: Judgement::Bad, ..good.clone() };
    let of_trust = "problem: it is signed by CN=root, which is not among what kafka.tls.ca trusts";
    let of_name = "problem: it is for k, 10.0.0.1, and the client connects to kafka-1:9093";
    assert_eq!(at(2_000, &stranger), [of_trust, of_name]);
    let with = |name: &str, value: &str| Kafka { properties: [(name.to_owned(), value.to_owned())].into(), ..kafka() };
    let any_name = with("ssl.endpoint.identification.algorithm", "none");
    assert_eq!(lines(&any_name, 2_000, Ok(stranger.clone())), [of_trust]);
    let anybody = lines(&with("enable.ssl.certificate.verification", "false"), 2_000, Ok(stranger));
    assert!(anybody.len() == 1 && anybody[0].starts_with("warning: "), "{anybody:?}");

    let odd = Shown { trust: Judgement::Unknown("odd".into()), ..good };
    assert!(at(2_000, &odd)[0].starts_with("unknown: this check cannot judge it (odd)"));
    assert_eq!(lines(&kafka(), 0, Err("no answer".into())), ["unknown: it was not seen: no answer"]);
}

#[test]
fn a_certificates_dates_and_the_clock() {
    let certificate = certificate();
    let severity = |now_s| judge_certificate("kafka.tls.cert", &certificate, now_s).map(|finding| finding.severity);
    assert_eq!(severity(999), Some(Severity::Problem), "the clock was never set");
    assert_eq!(severity(1_000), None);
    assert_eq!(severity(70 * 86_400), None);
    assert_eq!(severity(70 * 86_400 + 1), Some(Severity::Warning));
    assert_eq!(severity(100 * 86_400), Some(Severity::Problem));
}
