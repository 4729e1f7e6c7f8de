//! One pass over some blocks of a stream, in pieces short enough that the store thread can seal in between.
//!
//! Two looks at the same blocks, one decoded at a time: the first chooses, the second seals. So memory does not grow
//! with what the blocks hold.

use std::iter::Peekable;
use std::sync::Arc;
use std::vec::IntoIter;

use super::plan::{Density, pass_of};
use super::reseal::Sealing;
use super::select::{Composition, Selector};
use super::{Plan, width_ns};
use crate::config::Compression;
use crate::queue::block::{self, SealedBlock};
use crate::queue::cipher::Keyring;
use crate::reading::{Position, Record};

/// What a pass makes of a stream's blocks.
#[derive(Debug)]
pub(in crate::queue) struct Thinned {
    /// The pass: the one planned, or a wider one where the planned one would have been of no use.
    pub(in crate::queue) pass: u32,
    /// The survivors.
    pub(in crate::queue) blocks: Vec<SealedBlock>,
    /// Records that are gone.
    pub(in crate::queue) removed: u64,
}

/// A pass under way.
pub(in crate::queue) struct Work {
    plan: Plan,
    compression: Compression,
    keys: Arc<Keyring>,
    blocks: Vec<SealedBlock>,
    /// The block that is next in this stage, and the last record before it.
    next: usize,
    last: Option<Position>,
    pass: u32,
    stage: Stage,
}

enum Stage {
    Choosing(Selector),
    Sealing { survivors: Peekable<IntoIter<Position>>, sealing: Sealing, removed: u64 },
}

impl Work {
    /// A pass over blocks that are ordered by their first positions. A record that two of them hold counts once.
    pub(in crate::queue) fn new(
        plan: Plan,
        blocks: Vec<SealedBlock>,
        compression: Compression,
        keys: Arc<Keyring>,
    ) -> Self {
        let (pass, stage) = (plan.pass, Stage::Choosing(Selector::new(width_ns(plan.pass))));
        Self { plan, compression, keys, blocks, next: 0, last: None, pass, stage }
    }

    /// What was planned.
    pub(in crate::queue) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The blocks as they are.
    pub(in crate::queue) fn blocks(&self) -> &[SealedBlock] {
        &self.blocks
    }

    /// Goes on through blocks of so many bytes before compression, a block at least. Gives what has become of them once it
    /// is done; not to be called again then.
    ///
    /// # Errors
    /// When a block does not decode or the survivors cannot be sealed.
    pub(in crate::queue) fn advance(&mut self, plain_bytes: usize) -> anyhow::Result<Option<Thinned>> {
        let mut seen_bytes = 0;
        while seen_bytes < plain_bytes {
            if self.next == self.blocks.len() {
                if let Some(done) = self.end_stage()? {
                    return Ok(Some(done));
                }
                continue;
            }
            let block = &self.blocks[self.next];
            seen_bytes += block.plain_bytes();
            for record in block::open(block, &self.keys)? {
                // A group that failed half way may have left a block that was written once more.
                if self.last.is_none_or(|last| record.position > last) {
                    self.last = Some(record.position);
                    self.stage.take(block, record);
                }
            }
            self.next += 1;
        }
        Ok(None)
    }

    fn end_stage(&mut self) -> anyhow::Result<Option<Thinned>> {
        (self.next, self.last) = (0, None);
        let begun = Stage::Choosing(Selector::new(width_ns(self.pass)));
        match std::mem::replace(&mut self.stage, begun) {
            Stage::Choosing(selector) => {
                let (survivors, seen) = selector.finish();
                // Only once: the next time the pass is this one.
                let useful = self.plan.widest.take().map(|widest| useful_pass(&self.plan.density, &seen).min(widest));
                if let Some(useful) = useful.filter(|useful| *useful > self.pass) {
                    self.pass = useful;
                    self.stage = Stage::Choosing(Selector::new(width_ns(useful)));
                    return Ok(None);
                }
                let survivors = survivors.into_iter().peekable();
                self.stage = Stage::Sealing {
                    survivors,
                    sealing: Sealing::new(self.compression, Arc::clone(&self.keys)),
                    removed: 0,
                };
                Ok(None)
            }
            Stage::Sealing { sealing, removed, .. } => {
                Ok(Some(Thinned { pass: self.pass, blocks: sealing.finish()?, removed }))
            }
        }
    }
}

impl Stage {
    fn take(&mut self, from: &SealedBlock, record: Record) {
        match self {
            Self::Choosing(selector) => selector.add(&from.header.lineage, &record),
            Self::Sealing { survivors, sealing, removed } => {
                if survivors.next_if_eq(&record.position).is_some() {
                    sealing.keep(from, record);
                } else {
                    *removed += 1;
                    sealing.leave_out(&record);
                }
            }
        }
    }
}

/// The pass whose intervals hold as much as may survive of them at most, by the stream's density as a whole and by what
/// these blocks are made of. Far less than the most survives, as a rule.
fn useful_pass(density: &Density, seen: &Composition) -> u32 {
    let fields = seen.fields / seen.records.max(1);
    let survivors = u128::from(seen.devices.max(1)) * u128::from(2 + 2 * fields);
    let width_ns = density.covered_ns * survivors / u128::from(density.records.max(1));
    pass_of(width_ns)
}

#[cfg(test)]
mod tests;
