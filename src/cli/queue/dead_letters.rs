//! `forebay queue dead-letters`: what was set aside because no block could take it or Kafka never will, and another try.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::target::{agent_of, not_answering};
use super::{Ended, Look};
use crate::control::Command;
use crate::metrics::Metrics;
use crate::queue::letters::{self, Content, SetAside};
use crate::queue::{LetterChoice, Queue, Requeued, Settings};
use crate::reading::Position;

/// What the help says behind the options.
const ABOUT_THE_TOPIC: &str = "\
This is about the dead-letter file in the state directory: what no block could take, and what Kafka refuses where
kafka.dead-letter-topic is not configured or does not take it either. Records in that topic are read from Kafka;
their headers forebay-* say where they come from and why.";

/// Arguments of `forebay queue dead-letters`.
#[derive(Debug, Args)]
#[command(after_help = ABOUT_THE_TOPIC)]
pub(super) struct DeadLettersArguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// One line for each: number, why, stream, position, time, device, what Kafka said
    List(Choice),
    /// The records with why they were set aside, as JSON lines in clear
    Export(Choice),
    /// Give them new positions at the end of their streams, and take them out of the file
    Requeue(Choice),
}

/// Which of them.
#[derive(Debug, Args)]
struct Choice {
    /// Only records of this stream (may be repeated)
    #[arg(long, value_name = "NAME")]
    stream: Vec<String>,
    /// Only the record at this position (may be repeated, up to 256 times)
    #[arg(long, value_name = "RUN:SEQ")]
    position: Vec<Position>,
}

/// Most positions of one request.
const POSITIONS_MAX: usize = 256;

pub(super) fn run(look: &Look, arguments: &DeadLettersArguments, out: &mut impl Write) -> anyhow::Result<Ended> {
    match &arguments.command {
        Action::List(choice) => show(look, choice, out, |out, line, record| list_line(look.json, out, line, record)),
        Action::Export(choice) => show(look, choice, out, |out, _, record| writeln!(out, "{}", record.text)),
        Action::Requeue(choice) => requeue(look, choice, out),
    }
}

impl Choice {
    fn chosen(&self) -> LetterChoice {
        LetterChoice { streams: self.stream.clone(), positions: self.position.clone() }
    }
}

fn show<W: Write>(
    look: &Look,
    choice: &Choice,
    out: &mut W,
    mut each: impl FnMut(&mut W, u64, &SetAside) -> std::io::Result<()>,
) -> anyhow::Result<Ended> {
    let letters = letters::read(look.inspection.dir(), &look.keys).context("dead-letter file")?;
    let chosen = choice.chosen();
    let (mut broken, mut closed) = (0u64, 0u64);
    for letter in &letters {
        match &letter.content {
            Content::Record(record) if chosen.takes(record) => each(out, letter.line, record)?,
            Content::Record(_) => {}
            Content::KeyMissing(key) => {
                closed += 1;
                eprintln!("forebay: line {} is encrypted with key {key}: give it with --key", letter.line);
            }
            Content::Broken => {
                broken += 1;
                eprintln!("forebay: line {} is cut off or damaged", letter.line);
            }
        }
    }
    Ok(match (broken, closed) {
        (0, 0) => Ended::Well,
        (0, _) => Ended::KeyMissing,
        _ => Ended::Damaged,
    })
}

fn list_line(json: bool, out: &mut impl Write, line: u64, record: &SetAside) -> std::io::Result<()> {
    let text = |name| record.text_of(name).unwrap_or("-");
    let position = record.position().map(|position| position.to_string());
    if json {
        let line = serde_json::json!({
            "line": line, "set_aside": text("set_aside"), "stream": text("stream"), "position": position,
            "time": text("time"), "device": text("device"), "error": record.text_of("error"),
        });
        return writeln!(out, "{line}");
    }
    let position = position.as_deref().unwrap_or("-");
    let [reason, stream, device, error] =
        ["set_aside", "stream", "device", "error"].map(|name| text(name).escape_debug());
    writeln!(out, "{line:>5} {reason:<12} {stream:<16} {position:>14} {} {device} {error}", text("time"))
}

fn requeue(look: &Look, choice: &Choice, out: &mut impl Write) -> anyhow::Result<Ended> {
    let positions = choice.position.len();
    anyhow::ensure!(positions <= POSITIONS_MAX, "{positions} positions, limit is {POSITIONS_MAX} at a time");
    let dir = look.inspection.dir();
    let outcome: Requeued = match agent_of(dir)? {
        Some(client) => {
            let positions = choice.position.iter().map(Position::to_string).collect();
            client.ask(Command::Requeue { streams: choice.stream.clone(), positions })?
        }
        None => requeue_closed(look, &choice.chosen())?,
    };
    if look.json {
        writeln!(out, "{}", serde_json::to_string(&outcome)?)?;
    } else {
        writeln!(out, "{} records queued again, {} stay set aside", outcome.records, outcome.kept)?;
        if let Some(why) = &outcome.why {
            writeln!(out, "the first that stays: {why}")?;
        }
    }
    Ok(if outcome.kept > 0 { Ended::Damaged } else { Ended::Well })
}

/// Without an agent: one run of the queue, in which only these records are pushed.
fn requeue_closed(look: &Look, choice: &LetterChoice) -> anyhow::Result<Requeued> {
    let dir = look.inspection.dir();
    let config = look.config.as_ref().context(
        "no agent runs on this queue; give its configuration with --config, so that the records get its gateway id and streams",
    )?;
    let settings = Settings {
        dir: dir.to_owned(),
        gateway: Arc::clone(&config.gateway.id),
        queue: config.queue.clone(),
        streams: config.streams.clone(),
    };
    let queue = Queue::open(settings, Metrics::new().0).map_err(|error| not_answering(error, dir))?;
    let outcome = queue.requeue(choice);
    queue.close()?;
    Ok(outcome?)
}
