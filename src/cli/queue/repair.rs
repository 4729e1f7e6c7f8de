//! `forebay queue repair`: what a start of the agent and its first reads would do, on demand: bring back the whole blocks
//! of epochs that were not closed in order or are damaged, set damaged generations aside, delete leftovers.

use std::io::Write;
use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;

use super::target::Target;
use super::{Ended, Look, walk};
use crate::queue::admin::Task;

/// Arguments of `forebay queue repair`.
#[derive(Debug, Args)]
pub(super) struct RepairArguments {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(look: &Look, arguments: &RepairArguments, out: &mut impl Write) -> anyhow::Result<Ended> {
    if arguments.dry_run { dry_run(look, out) } else { repair(look, out) }
}

fn repair(look: &Look, out: &mut impl Write) -> anyhow::Result<Ended> {
    let leftovers = look.inspection.leftovers()?;
    let mut target = Target::find(look.inspection.dir(), &look.keys)?;
    let (pid, opened) = match &target {
        Target::Agent(client) => (Some(client.info.pid), 0),
        Target::Closed(closed) => (None, closed.salvaged().blocks),
    };
    let checked = target.all_steps(|after| Task::Check { after })?;
    target.finish()?;
    let (salvaged, lost) = (opened + checked.blocks, checked.lost);
    let (state, quarantined) = (look.inspection.read_state()?.is_some(), look.inspection.quarantined());
    if look.json {
        let line = json!({
            "salvaged_blocks": salvaged, "lost_blocks": lost, "leftovers_deleted": if pid.is_some() { 0 } else { leftovers },
            "quarantined_epochs": quarantined, "state": state, "agent_pid": pid,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(
            out,
            "{salvaged} blocks brought back, {lost} damaged beyond that, {quarantined} generations in quarantine"
        )?;
        if !state {
            writeln!(out, "no durable state is whole: the next start counts everything on disk as waiting")?;
        }
    }
    Ok(if lost > 0 || !state { Ended::Damaged } else { Ended::Well })
}

fn dry_run(look: &Look, out: &mut impl Write) -> anyhow::Result<Ended> {
    let running = look.inspection.agent_pid();
    let newest = look.inspection.epochs()?.last().map(|files| files.number);
    let (mut epochs, mut salvageable, mut lost) = (0u64, 0u64, 0u64);
    walk::epochs(look, |view| {
        let (whole, damaged) = (view.blocks.len() + view.newer.len(), view.damaged());
        let written_now = running.is_some() && newest == Some(view.number);
        if (view.closed && damaged == 0) || written_now {
            return Ok(ControlFlow::Continue(()));
        }
        let action = match (view.closed, whole) {
            (_, 0) if damaged == 0 => "delete",
            (true, _) => "rescue and quarantine",
            (false, _) => "rescue",
        };
        epochs += 1;
        salvageable += whole as u64;
        lost += damaged;
        if look.json {
            let line =
                json!({"epoch": view.number, "action": action, "whole_blocks": whole, "damaged_blocks": damaged});
            writeln!(out, "{line}")?;
        } else {
            let why = if view.closed { "is damaged" } else { "was not closed in order" };
            writeln!(out, "epoch {} {why}: {action}, {whole} whole blocks, {damaged} damaged", view.number)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let (leftovers, state) = (look.inspection.leftovers()?, look.inspection.state().is_some());
    if look.json {
        let line = json!({
            "dry_run": true, "epochs": epochs, "whole_blocks": salvageable, "damaged_blocks": lost, "leftovers": leftovers,
            "state": state, "agent_pid": running,
        });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{epochs} epochs to repair, {leftovers} leftovers to delete; nothing was changed")?;
        if !state {
            writeln!(out, "no durable state is whole: the next start counts everything on disk as waiting")?;
        }
    }
    Ok(if lost > 0 || !state { Ended::Damaged } else { Ended::Well })
}
