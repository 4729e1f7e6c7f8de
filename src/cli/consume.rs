//! `forebay consume`: reads topics back and gives the account, so that a fleet can be audited from any machine.

mod reading;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::{EXIT_CONFIGURATION, EXIT_FAILURE};
use crate::config::{Form, Kafka, KafkaCompression, Stream};
use crate::kafka::Start;

const EXAMPLES: &str = "\
Examples:
  forebay consume --config /etc/forebay/forebay.toml              every stream's topic, with its TLS and SASL
  forebay consume --brokers kafka-1:9092 --topic telemetry --json
  forebay consume --brokers kafka-1:9092 --topic telemetry --from 2026-11-22T00:00:00Z
  forebay consume --brokers kafka-1:9092 --topic telemetry --follow    account at Ctrl-C

Exit codes:
  0   everything read was whole and in order (copies are allowed: delivery is at least once)
  1   something is missing or out of order, or the account is incomplete; or reading failed
  78  the configuration is wrong

A hole at the end of a run cannot be seen: nothing says where a run ended. Where reading does not begin with a topic's
first record (--from, or Kafka's retention removed it), holes are judged from 10 s after the beginning on.
The account holds at most 1,000,000 streams, runs, devices and ranges together (below 200 MiB); beyond, it says so.";

/// Arguments of `forebay consume`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConsumeArguments {
    /// Take brokers, TLS, SASL and topics from this configuration [default: /etc/forebay/forebay.toml]
    #[arg(short, long, value_name = "FILE", conflicts_with = "brokers")]
    config: Option<PathBuf>,
    /// Read from these brokers without a configuration
    #[arg(short, long, value_name = "HOST:PORT", value_delimiter = ',', requires = "topic")]
    brokers: Vec<String>,
    /// Read this topic (may be given several times) [default: the topics of all streams of the configuration]
    #[arg(short, long, value_name = "TOPIC")]
    topic: Vec<String>,
    /// Where to begin: `beginning`, or a time such as 2026-11-22T12:00:00Z
    #[arg(long, value_name = "FROM", default_value = "beginning", value_parser = parse_start)]
    from: Start,
    /// Go on reading until interrupted, instead of stopping at what is there now
    #[arg(long)]
    follow: bool,
    /// Print the account as one JSON document
    #[arg(long)]
    json: bool,
}

/// What is to be read, and how.
#[derive(Debug)]
struct Plan {
    kafka: Kafka,
    topics: Vec<String>,
    start: Start,
    follow: bool,
}

/// Most topics read at once: each has a client of its own.
const TOPICS_MAX: usize = crate::config::STREAMS_MAX;

/// Reads, prints the account, and gives 1 where something is missing or out of order.
pub(super) fn run(arguments: &ConsumeArguments) -> anyhow::Result<ExitCode> {
    let (kafka, mut topics) = if arguments.brokers.is_empty() {
        let path = arguments.config.as_deref().unwrap_or(Path::new("/etc/forebay/forebay.toml"));
        let config = match crate::config::load(path) {
            Ok(loaded) => loaded.config,
            Err(errors) => {
                eprintln!("{errors}");
                return Ok(ExitCode::from(EXIT_CONFIGURATION));
            }
        };
        let kafka = config.kafka.with_context(|| format!("{} has no [kafka] section", path.display()))?;
        let topics = config.streams.iter().map(|stream| stream.topic.clone()).collect();
        let topics = if arguments.topic.is_empty() { topics } else { arguments.topic.clone() };
        refuse_other_forms(&kafka, &config.streams, &topics)?;
        (kafka, topics)
    } else {
        (plain(&arguments.brokers), arguments.topic.clone())
    };
    topics.sort();
    topics.dedup();
    anyhow::ensure!(topics.len() <= TOPICS_MAX, "{} topics, at most {TOPICS_MAX} are read at once", topics.len());
    let plan = Plan { kafka, topics, start: arguments.from, follow: arguments.follow };
    let (stop, runtime) = stop_signal(plan.follow)?;
    let outcome = reading::read(&plan, &stop);
    if let Some(runtime) = runtime {
        runtime.shutdown_background();
    }
    let outcome = outcome?;
    if arguments.json {
        println!("{:#}", report::json(&plan, &outcome));
    } else {
        print!("{}", report::text(&outcome));
    }
    Ok(if outcome.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}

/// The account is taken of whole records in JSON; of anything else it would be wrong.
fn refuse_other_forms(kafka: &Kafka, streams: &[Stream], topics: &[String]) -> anyhow::Result<()> {
    for stream in streams.iter().filter(|stream| topics.contains(&stream.topic)) {
        let form = kafka.output.form(&stream.name);
        anyhow::ensure!(
            form == Form::default(),
            "topic {:?} is written as {} and {}; only json and wide can be read here: name other topics with --topic",
            stream.topic,
            form.encoding.as_str(),
            form.shape.as_str()
        );
    }
    Ok(())
}

/// Brokers without encryption or login, as `--brokers` means them.
fn plain(brokers: &[String]) -> Kafka {
    Kafka {
        brokers: brokers.to_vec(),
        client_id: "forebay-consume".into(),
        tls: None,
        sasl: None,
        compression: KafkaCompression::None,
        in_flight_bytes_max: 0,
        linger: Duration::ZERO,
        drain: Default::default(),
        rate: Default::default(),
        budget: None,
        delivery: crate::config::Delivery::AtLeastOnce,
        properties: [].into(),
        output: Default::default(),
    }
}

/// A flag that SIGINT or SIGTERM sets, and the runtime that waits for them. Without `--follow` they end the process.
fn stop_signal(follow: bool) -> anyhow::Result<(Arc<AtomicBool>, Option<tokio::runtime::Runtime>)> {
    let stop = Arc::new(AtomicBool::new(false));
    if !follow {
        return Ok((stop, None));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let mut terminate = {
        let _entered = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).context("waiting for SIGTERM")?
    };
    let mut interrupt = {
        let _entered = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).context("waiting for SIGINT")?
    };
    let flag = Arc::clone(&stop);
    runtime.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        flag.store(true, Ordering::Relaxed);
    });
    Ok((stop, Some(runtime)))
}

fn parse_start(text: &str) -> Result<Start, String> {
    if text == "beginning" {
        return Ok(Start::Beginning);
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(Start::Time(time.as_millisecond())),
        Err(_) => Err("allowed: beginning, or a time with its zone such as 2026-11-22T12:00:00Z".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_in_other_forms_are_not_read() {
        let text = "[[stream]]\nname = \"a\"\nshape = \"narrow\"\n[kafka]\nbrokers = [\"k:1\"]";
        let config = crate::config::parse(text, Path::new("forebay.toml")).unwrap().config;
        let kafka = config.kafka.unwrap();
        assert!(refuse_other_forms(&kafka, &config.streams, &["telemetry".into()]).is_ok());
        let error = refuse_other_forms(&kafka, &config.streams, &["telemetry".into(), "a".into()]).unwrap_err();
        assert!(error.to_string().contains("\"a\" is written as json and narrow"), "{error}");
    }

    #[test]
    fn reading_begins_at_the_beginning_or_at_a_time_with_its_zone() {
        assert_eq!(parse_start("beginning"), Ok(Start::Beginning));
        assert_eq!(parse_start("2026-11-22T12:00:00.5Z"), Ok(Start::Time(1_795_348_800_500)));
        assert_eq!(parse_start("2026-11-22T13:00:00+01:00"), Ok(Start::Time(1_795_348_800_000)));
        for text in ["", "now", "2026-11-22", "2026-11-22T12:00:00"] {
            assert!(parse_start(text).is_err(), "{text}");
        }
    }
}
