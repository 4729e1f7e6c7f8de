//! `forebay queue purge`: removes what waits in a stream, from the oldest on.

use std::io::{IsTerminal as _, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::records::parse_time;
use super::target::Target;
use super::{Ended, Look, walk};
use crate::control::{Command, Newest};
use crate::queue::admin::Task;
use crate::reading::{Name, Position};

/// Arguments of `forebay queue purge`.
#[derive(Debug, Args)]
pub(super) struct PurgeArguments {
    /// The stream
    #[arg(long, value_name = "NAME")]
    stream: String,
    /// Only up to this position, which goes too
    #[arg(long, value_name = "RUN:SEQ", conflicts_with = "before")]
    through: Option<Position>,
    /// Only up to the first record that was measured at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: Option<i64>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(look: &Look, arguments: &PurgeArguments, out: &mut impl Write) -> anyhow::Result<Ended> {
    let limit = arguments.through.unwrap_or(Position::from_packed(Position::END.packed() - 1));
    let seen = survey(look, &arguments.stream, limit, arguments.before)?;
    let through = match arguments.before {
        Some(_) => seen.last,
        None => Some(limit),
    };
    let name: Name = arguments.stream.as_str().into();
    let Some(through) = through else {
        return report(look, out, &name, None, (0, 0));
    };
    if !arguments.yes && !confirmed(&seen, &name, arguments)? {
        anyhow::bail!("nothing was removed");
    }
    let mut target = Target::find(look.inspection.dir(), &look.keys)?;
    let pid = target.pid();
    let through = match &target {
        // What is pushed from now on stays.
        Target::Agent(client) => {
            let newest: Newest = client.ask(Command::Newest { stream: arguments.stream.clone() })?;
            through.min(newest.position.parse()?)
        }
        Target::Closed(_) => through,
    };
    let purge = |_| Task::Purge { stream: Arc::clone(&name), through };
    let removed = target.all_steps(purge)?;
    let scrubbed = target.all_steps(|after| Task::Scrub { stream: Arc::clone(&name), after })?;
    target.finish()?;
    report(look, out, &name, pid, (removed.records, scrubbed.blocks))
}

fn report(
    look: &Look,
    out: &mut impl Write,
    stream: &str,
    agent: Option<u32>,
    (records, blocks): (u64, u64),
) -> anyhow::Result<Ended> {
    if look.json {
        let line = json!({"purged_records": records, "scrubbed_blocks": blocks, "stream": stream, "agent_pid": agent});
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{records} records of stream {stream:?} removed; the next one says so by `skipped`")?;
    }
    Ok(Ended::Well)
}

/// What of a stream is on disk and would go.
#[derive(Default)]
struct Survey {
    records: u64,
    last: Option<Position>,
}

/// Counts the records on disk that wait, up to `limit` and to the first measured at or after `before_us`.
fn survey(look: &Look, stream: &str, limit: Position, before_us: Option<i64>) -> anyhow::Result<Survey> {
    let lanes = look.inspection.lanes(stream);
    let mut seen = Survey::default();
    let mut known =
        look.inspection.state().is_some_and(|state| state.streams.iter().any(|known| &*known.name == stream));
    walk::blocks(look, |view, block, first_new| {
        let header = &block.header;
        if &*header.stream != stream {
            return Ok(ControlFlow::Continue(()));
        }
        known = true;
        if header.first > limit {
            return Ok(ControlFlow::Break(()));
        }
        if before_us.is_none() && first_new == header.first && header.last <= limit && !lanes.is_done(header.first) {
            seen.records += u64::from(header.count);
            seen.last = Some(header.last);
            return Ok(ControlFlow::Continue(()));
        }
        let records = match view.read(block) {
            Ok(records) => records,
            // Which records are older cannot be told past it.
            Err(error) if before_us.is_some() => return Err(error),
            Err(_) => return Ok(ControlFlow::Continue(())),
        };
        for record in records.iter().filter(|record| record.position >= first_new && !lanes.is_done(record.position)) {
            if record.position > limit || before_us.is_some_and(|before_us| record.stamp.wall_us >= before_us) {
                return Ok(ControlFlow::Break(()));
            }
            seen.records += 1;
            seen.last = Some(record.position);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    // A running agent may know a stream that was never written to disk; it says so itself.
    anyhow::ensure!(known || look.inspection.agent_pid().is_some(), "stream {stream:?} is not in the queue");
    Ok(seen)
}

fn confirmed(seen: &Survey, stream: &str, arguments: &PurgeArguments) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    anyhow::ensure!(stdin.is_terminal(), "purge asks before it removes; say --yes where nobody can answer");
    let memory = if arguments.before.is_some() { "" } else { ", and what a running agent has of it in memory," };
    let last = seen.last.map_or_else(String::new, |last| format!(" through {last}"));
    eprint!("Remove {} records of stream {stream:?}{last}{memory} for ever? [y/N] ", seen.records);
    std::io::stderr().flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
