//! `forebay check --online`: connects as the agent would and says what would go wrong.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use uuid::Uuid;

use crate::cli::EXIT_FAILURE;
use crate::clock::{BUILD_FLOOR_MS, Clock, boot_ns, wall_us};
use crate::config::{Config, Kafka, Tls};
use crate::kafka::{Certificate, inspect, look_at_brokers, read_certificates};
use crate::queue::inspect::Inspection;
use crate::queue::state::State;
use crate::reading::Trust;
use crate::uplink::preflight::{self, Finding, Severity};

/// Looks and prints; 1 where a problem was found.
pub(super) fn run(config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let Some(kafka) = &config.kafka else {
        anyhow::bail!("--online: the configuration has no [kafka] section, so there is nothing to connect to");
    };
    let findings = look(config, kafka)?;
    if as_json {
        println!("{:#}", json!({ "findings": findings }));
    } else {
        for finding in &findings {
            println!("{finding}");
        }
        println!("{}", summary(kafka, &findings));
    }
    let is_fine = findings.iter().all(|finding| finding.severity != Severity::Problem);
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}

fn look(config: &Config, kafka: &Kafka) -> anyhow::Result<Vec<Finding>> {
    let streams = &config.streams;
    let (mut findings, now_s) = (Vec::new(), wall_us() / 1_000_000);
    if Clock::new().stamp(boot_ns(), None).trust == Trust::Unknown {
        findings.push(preflight::clock_unknown());
    }
    findings.extend(preflight::clock_before(now_s, BUILD_FLOOR_MS / 1_000));
    findings.extend(kafka.tls.iter().flat_map(|tls| of_files(tls, now_s)));
    let mut topics: Vec<String> = streams.iter().map(|stream| stream.topic.clone()).collect();
    topics.extend(kafka.output.dead_letter_topic.clone());
    topics.sort();
    topics.dedup();
    let transactions =
        preflight::transaction_questions(kafka, &config.gateway.id, streams, queue_of(&config.gateway.state_dir));
    let later_ms = now_s.saturating_mul(1_000).saturating_add(later_ms());
    let seen = inspect(kafka, &topics, later_ms, transactions.as_ref())?;
    findings.extend(kafka.tls.iter().flat_map(|tls| of_brokers(kafka, tls, &seen.brokers, now_s)));
    findings.extend(preflight::judge(kafka, streams, &seen));
    Ok(findings)
}

/// The identity of the queue, which is part of the names that exactly-once delivery has on Kafka; `None` where there is no
/// queue yet, or this user may not read it.
fn queue_of(state_dir: &Path) -> Option<Uuid> {
    let inspection = Inspection::open(state_dir).ok()?;
    inspection.state().map(State::queue)
}

fn later_ms() -> i64 {
    i64::try_from(preflight::LATER.as_millis()).unwrap_or(i64::MAX)
}

/// The certificates of the brokers that are configured and of those that they name.
fn of_brokers(kafka: &Kafka, tls: &Tls, named: &[String], now_s: i64) -> Vec<Finding> {
    let mut brokers = kafka.brokers.clone();
    brokers.extend(named.iter().filter(|broker| !kafka.brokers.contains(broker)).cloned());
    let looked = look_at_brokers(tls, &brokers, now_s);
    looked.iter().flat_map(|found| preflight::judge_broker(kafka, found, now_s)).collect()
}

/// The dates of our certificate, and of the trust anchor that lasts longest.
fn of_files(tls: &Tls, now_s: i64) -> Vec<Finding> {
    let until = |certificate: &Certificate| certificate.not_after_s;
    let ours = |found: Vec<Certificate>| found.into_iter().min_by_key(until);
    let anchor = |found: Vec<Certificate>| found.into_iter().max_by_key(until);
    let of_file = |role: &str, file: &Path, pick: &dyn Fn(Vec<Certificate>) -> Option<Certificate>| {
        let role = format!("{role} {}", file.display());
        match read_certificates(file) {
            Ok(found) => pick(found).and_then(|certificate| preflight::judge_certificate(&role, &certificate, now_s)),
            Err(why) => Some(preflight::unreadable(&role, &why)),
        }
    };
    let of_cert = tls.cert.iter().filter_map(|file| of_file("kafka.tls.cert", file, &ours));
    of_cert.chain(tls.ca.iter().filter_map(|file| of_file("kafka.tls.ca", file, &anchor))).collect()
}

fn summary(kafka: &Kafka, findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let [problems, warnings, unknown] = [Severity::Problem, Severity::Warning, Severity::Unknown].map(count);
    let brokers = kafka.brokers.join(", ");
    format!("online: {brokers}: {problems} problems, {warnings} warnings, {unknown} not looked at")
}
