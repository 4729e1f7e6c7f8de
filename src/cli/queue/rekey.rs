//! `forebay queue rekey`: writes everything anew under the current key, so that old keys can be destroyed.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::target::Target;
use super::{Ended, Look, read_key};
use crate::queue::admin::Task;

/// Arguments of `forebay queue rekey`.
#[derive(Debug, Args)]
pub(super) struct RekeyArguments {
    /// The new key of a queue that no agent holds; --key gives the old ones [default: queue.key of the configuration]
    #[arg(long, value_name = "FILE", conflicts_with = "plain")]
    new_key: Option<PathBuf>,
    /// No key: decrypt everything, of a queue that no agent holds
    #[arg(long)]
    plain: bool,
}

pub(super) fn run(look: &Look, arguments: &RekeyArguments, out: &mut impl Write) -> anyhow::Result<Ended> {
    let chosen = arguments.new_key.is_some() || arguments.plain;
    let keys = match &arguments.new_key {
        Some(path) => look.keys.with_current(Some(&read_key(path)?)),
        None if arguments.plain => look.keys.with_current(None),
        None => Arc::clone(&look.keys),
    };
    if let Some(client) = super::target::agent_of(look.inspection.dir())? {
        anyhow::ensure!(
            !chosen,
            "process {} runs on this queue with keys of its own: set queue.key and queue.old-keys, restart it, then rekey",
            client.info.pid
        );
        let key = client.info.key.clone();
        return change(look, Target::Agent(client), key, out);
    }
    anyhow::ensure!(
        chosen || look.config.is_some(),
        "which key is new? give --new-key FILE, or --plain, or --config FILE with queue.key"
    );
    let target = Target::find(look.inspection.dir(), &keys)?;
    if let Target::Closed(closed) = &target {
        closed.begin_rekey()?;
    }
    change(look, target, keys.current_id().map(|key| key.to_string()), out)
}

fn change(look: &Look, mut target: Target, key: Option<String>, out: &mut impl Write) -> anyhow::Result<Ended> {
    let pid = target.pid();
    let blocks = target.all_steps(|after| Task::Rekey { after })?;
    let letters = target.step(Task::RekeyDeadLetters)?;
    target.finish()?;
    let (held, quarantined) = (blocks.held + letters.held, look.inspection.quarantined());
    if look.json {
        let line = json!({
            "key": key, "blocks": blocks.blocks, "dead_letters": letters.blocks, "held": held, "agent_pid": pid,
            "quarantined_epochs": quarantined,
        });
        writeln!(out, "{line}")?;
    } else {
        let now = key.map_or_else(|| "not encrypted any more".to_owned(), |key| format!("encrypted with key {key}"));
        writeln!(out, "{} blocks and {} dead letters are now {now}", blocks.blocks, letters.blocks)?;
        if held > 0 {
            let why = "their keys are not at hand, a newer version wrote them, or they are not authentic";
            writeln!(out, "{held} stay as they are: {why}")?;
        }
        if quarantined > 0 {
            writeln!(out, "note: {quarantined} damaged generations in quarantine/ are as they were")?;
        }
    }
    Ok(if held > 0 { Ended::KeyMissing } else { Ended::Well })
}
