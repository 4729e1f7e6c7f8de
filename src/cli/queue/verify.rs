//! `forebay queue verify`: reads every block and says what is damaged or missing.

use std::io::Write;
use std::ops::ControlFlow;

use serde_json::json;

use super::{Ended, Look, walk};
use crate::queue::inspect::{Finding, Verifier};
use crate::queue::lane::Lanes;
use crate::reading::Name;

pub(super) fn run(look: &Look, out: &mut impl Write) -> anyhow::Result<Ended> {
    let lanes = look.inspection.state().map(|state| state.lanes()).unwrap_or_default();
    let mut verifier = Verifier::new(&look.inspection, &lanes);
    let (mut blocks, mut records, mut unfinished) = (0u64, 0u64, 0u64);
    let met = walk::epochs(look, |view| {
        verifier.check(view);
        blocks += view.blocks.len() as u64;
        records += view.blocks.iter().map(|block| u64::from(block.header.count)).sum::<u64>();
        unfinished += u64::from(view.unfinished && !view.closed);
        Ok(ControlFlow::Continue(()))
    })?;
    let lanes_now: Vec<(Name, Lanes)> = look.inspection.read_state()?.map(|state| state.lanes()).unwrap_or_default();
    let verdict = verifier.finish(&lanes_now);
    let state_whole = look.inspection.state().is_some();
    for finding in &verdict.findings {
        if look.json {
            writeln!(out, "{}", to_json(finding))?;
        } else {
            writeln!(out, "{}", to_text(finding))?;
        }
    }
    let findings = verdict.findings.len() as u64 + verdict.more + u64::from(!state_whole);
    let damaged = findings > 0;
    if look.json {
        let line = json!({
            "finding": "summary", "ok": !damaged, "epochs": met.epochs, "epochs_vanished": met.vanished, "blocks": blocks,
            "records": records, "newer_blocks": met.newer, "unfinished_blocks": unfinished, "findings": findings,
            "closed_blocks": verdict.closed, "state": state_whole, "quarantined_epochs": look.inspection.quarantined(),
        });
        writeln!(out, "{line}")?;
        return Ok(Ended::damaged(damaged));
    }
    if !state_whole {
        writeln!(out, "no durable state is whole: what was delivered cannot be told from what waits")?;
    }
    if verdict.more > 0 {
        writeln!(out, "and {} more", verdict.more)?;
    }
    let notes = [
        (verdict.closed, "blocks are encrypted with keys not given (--key): of them only the checksums were looked at"),
        (met.newer, "blocks of a newer version, kept for a newer forebay"),
        (unfinished, "blocks at an end that were being written, or that a crash cut off before they were durable"),
        (met.vanished, "epochs vanished meanwhile: delivered or dropped by the agent"),
        (look.inspection.quarantined() as u64, "damaged epochs in quarantine, after a rescue"),
    ];
    for (count, what) in notes.into_iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "note: {count} {what}")?;
    }
    let verdict = if damaged { format!("DAMAGED: {findings} findings") } else { "ok".to_owned() };
    writeln!(out, "{verdict}: {records} records in {blocks} whole blocks, {} epochs", met.epochs)?;
    Ok(Ended::damaged(damaged))
}

fn to_json(finding: &Finding) -> serde_json::Value {
    match finding {
        Finding::Damaged { epoch, stream, first, last, records, done, reason } => json!({
            "finding": "damaged", "epoch": epoch, "stream": &**stream, "first": first.to_string(), "last": last.to_string(),
            "records": records, "delivered": done, "reason": reason,
        }),
        Finding::Broken { epoch, blocks } => json!({"finding": "broken", "epoch": epoch, "blocks": blocks}),
        Finding::Missing(lost) => json!({
            "finding": "missing", "stream": &*lost.stream, "after": lost.after.map(|after| after.to_string()),
            "through": lost.through.to_string(),
        }),
        Finding::Oversize { epoch } => json!({"finding": "oversize", "epoch": epoch}),
    }
}

fn to_text(finding: &Finding) -> String {
    match finding {
        Finding::Damaged { epoch, stream, first, last, records, done, reason } => {
            let fate = if *done { "delivered before" } else { "not delivered" };
            format!("epoch {epoch}: block {first} to {last} of stream {stream:?} ({records} records, {fate}) {reason}")
        }
        Finding::Broken { epoch, blocks } => {
            format!("epoch {epoch}: {blocks} blocks are not whole, their headers are lost")
        }
        Finding::Missing(lost) => {
            let after = lost.after.map_or_else(|| "the beginning".to_owned(), |after| format!("{after}"));
            format!(
                "stream {:?}: records after {after} through {} are missing, not delivered",
                lost.stream, lost.through
            )
        }
        Finding::Oversize { epoch } => format!("epoch {epoch}: larger than any epoch, the rest was not looked at"),
    }
}
