//! The way through all blocks, epoch by epoch, oldest first: one epoch's headers are in memory at a time.

use std::ops::ControlFlow;

use super::Look;
use super::progress;
use crate::queue::inspect::{BlockAt, EpochView, Seen};
use crate::reading::Position;

/// What was met beside the blocks handed on.
#[derive(Debug, Default)]
pub(super) struct Met {
    /// Epochs looked at.
    pub(super) epochs: u64,
    /// Epochs that vanished while we looked.
    pub(super) vanished: u64,
    /// Blocks of newer versions.
    pub(super) newer: u64,
    /// Durable blocks that are not whole, as far as headers and summaries say.
    pub(super) damaged: u64,
}

/// Looks at every epoch.
pub(super) fn epochs(
    look: &Look,
    mut each: impl FnMut(&mut EpochView) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<Met> {
    let epochs = look.inspection.epochs()?;
    let bar = progress::bar(epochs.iter().map(|files| files.bytes).sum());
    let mut met = Met::default();
    for files in &epochs {
        let Some(mut view) = look.inspection.look(files, &mut |bytes| bar.inc(bytes))? else {
            met.vanished += 1;
            continue;
        };
        met.epochs += 1;
        met.newer += view.newer.len() as u64;
        met.damaged += view.damaged();
        if each(&mut view)?.is_break() {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(met)
}

/// Looks at every block that holds records not seen in an earlier block; `each` gets the first such position.
pub(super) fn blocks(
    look: &Look,
    mut each: impl FnMut(&EpochView, &BlockAt, Position) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<Met> {
    let mut seen = Seen::default();
    epochs(look, |view| {
        for block in &view.blocks {
            if let Some(first_new) = seen.enter(&block.header)?
                && each(view, block, first_new)?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}
