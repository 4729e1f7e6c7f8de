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
use crate::config::{Encoding, Kafka, KafkaCompression, Stream};
use crate::kafka::Start;

const EXAMPLES: &str = "\
Examples:
  forebay consume --config /etc/forebay/forebay.toml              every stream's topic, with its TLS and SASL
  forebay consume --brokers kafka-1:9092 --topic telemetry --json
  forebay consume --brokers kafka-1:9092 --topic metrics --encoding avro
  forebay consume --brokers kafka-1:9092 --topic telemetry --from 2026-11-22T00:00:00Z
  forebay consume --brokers kafka-1:9092 --topic telemetry --follow    account at Ctrl-C

Exit codes:
  0   everything read was whole and in order (copies are allowed: delivery is at least once)
  1   something is missing, out of order or unreadable, or the account is incomplete; or reading failed
  78  the configuration is wrong

A message that is no record of forebay, or not in the encoding it is read as, is unreadable: it may be any record.
A record counts once as received, also where it is a message a field (narrow); what is repeated counts by message.
That one field of a narrow record is missing cannot be seen: nothing says how many it had.
A hole at the end of a run cannot be seen: nothing says where a run ended. Where reading does not begin with a topic's
first record (--from, or Kafka's retention removed it), holes are judged from 10 s after the beginning on.
The account holds at most 1,000,000 streams, runs, devices and ranges together, and for narrow records an entry a device
and 16 fields (below 200 MiB); beyond, it says so.";

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
    /// What the topics are written as: json, avro or protobuf [default: as the configuration says, otherwise json]
    #[arg(long, value_name = "ENCODING", value_parser = parse_encoding)]
    encoding: Option<Encoding>,
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
    topics: Vec<(String, Encoding)>,
    start: Start,
    follow: bool,
}

/// Most topics read at once: each has a client of its own.
const TOPICS_MAX: usize = crate::config::STREAMS_MAX;

/// Reads, prints the account, and gives 1 where something is missing, out of order or unreadable.
pub(super) fn run(arguments: &ConsumeArguments) -> anyhow::Result<ExitCode> {
    let (kafka, streams, mut topics) = if arguments.brokers.is_empty() {
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
        (kafka, config.streams, topics)
    } else {
        (plain(&arguments.brokers), Vec::new(), arguments.topic.clone())
    };
    topics.sort();
    topics.dedup();
    anyhow::ensure!(topics.len() <= TOPICS_MAX, "{} topics, at most {TOPICS_MAX} are read at once", topics.len());
    let topics = topics.into_iter().map(|topic| {
        let encoding = arguments.encoding.unwrap_or_else(|| configured(&kafka, &streams, &topic));
        (topic, encoding)
    });
    let topics = topics.collect();
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

/// What the configuration says of a topic; JSON where it has no stream.
fn configured(kafka: &Kafka, streams: &[Stream], topic: &str) -> Encoding {
    let stream = streams.iter().find(|stream| stream.topic == topic);
    stream.map_or(Encoding::Json, |stream| kafka.output.form(&stream.name).encoding)
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

fn parse_encoding(text: &str) -> Result<Encoding, String> {
    let known = [Encoding::Json, Encoding::Avro, Encoding::Protobuf];
    let found = known.into_iter().find(|encoding| encoding.as_str() == text);
    found.ok_or_else(|| "allowed: json, avro, protobuf".to_owned())
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
    fn a_topic_is_read_as_its_stream_is_written() {
        let text = "[[stream]]\nname = \"a\"\nencoding = \"avro\"\n[kafka]\nbrokers = [\"k:1\"]\n\
            encoding = \"protobuf\"\nregistry = { url = \"http://r:1\" }";
        let config = crate::config::parse(text, Path::new("forebay.toml")).unwrap().config;
        let kafka = config.kafka.unwrap();
        let of = |topic| configured(&kafka, &config.streams, topic);
        assert_eq!((of("a"), of("telemetry"), of("other")), (Encoding::Avro, Encoding::Protobuf, Encoding::Json));
    }

    #[test]
    fn encodings_are_said_in_the_words_of_the_configuration() {
        for encoding in [Encoding::Json, Encoding::Avro, Encoding::Protobuf] {
            assert_eq!(parse_encoding(encoding.as_str()), Ok(encoding));
        }
        assert!(parse_encoding("Avro").is_err());
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
