//! The blocks that take the place of others: of the survivors, each saying how many records before it are gone.
//!
//! Two looks at the same blocks, one decoded at a time: the first chooses, the second seals. So memory does not grow
//! with what the blocks hold.

use std::sync::Arc;

use anyhow::ensure;

use super::plan::Density;
use super::select::{Composition, Selector};
use super::{Plan, width_ns};
use crate::config::Compression;
use crate::queue::block::{self, SealContext, SealedBlock};
use crate::queue::seal;
use crate::reading::{Lineage, Position, Record};

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

/// Thins the blocks of one stream, which are ordered by their first positions. A record that two of them hold counts once.
///
/// # Errors
/// When a block does not decode or the survivors cannot be sealed.
pub(in crate::queue) fn thin(blocks: &[SealedBlock], plan: &Plan, compression: Compression) -> anyhow::Result<Thinned> {
    let mut pass = plan.pass;
    let (mut survivors, seen) = select(blocks, pass)?;
    if let Some(useful) = plan.widest.map(|widest| useful_pass(&plan.density, &seen).min(widest))
        && useful > pass
    {
        pass = useful;
        survivors = select(blocks, pass)?.0;
    }
    let mut survivors = survivors.into_iter().peekable();
    let mut sealing = Sealing::new(compression);
    let mut removed = 0;
    each_record(blocks, |from, record| {
        if survivors.next_if_eq(&record.position).is_some() {
            sealing.keep(from, record)
        } else {
            removed += 1;
            sealing.leave_out(&record);
            Ok(())
        }
    })?;
    Ok(Thinned { pass, blocks: sealing.finish()?, removed })
}

fn select(blocks: &[SealedBlock], pass: u32) -> anyhow::Result<(Vec<Position>, Composition)> {
    let mut selector = Selector::new(width_ns(pass));
    each_record(blocks, |from, record| {
        selector.add(&from.header.lineage, &record);
        Ok(())
    })?;
    Ok(selector.finish())
}

/// The pass whose intervals hold as much as may survive of them at most, by the stream's density as a whole and by what
/// these blocks are made of. Far less than the most survives, as a rule.
fn useful_pass(density: &Density, seen: &Composition) -> u32 {
    let fields = seen.fields / seen.records.max(1);
    let survivors = u128::from(seen.devices.max(1)) * u128::from(2 + 2 * fields);
    let width_ns = density.covered_ns * survivors / u128::from(density.records.max(1));
    super::plan::pass_of(width_ns)
}

fn each_record(
    blocks: &[SealedBlock],
    mut each: impl FnMut(&SealedBlock, Record) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut last: Option<Position> = None;
    for block in blocks {
        for record in block::open(block)? {
            // A group that failed half way may have left a block that was written once more.
            if last.is_none_or(|last| record.position > last) {
                last = Some(record.position);
                each(block, record)?;
            }
        }
    }
    Ok(())
}

/// Gathers survivors and seals them.
struct Sealing {
    compression: Compression,
    context: Option<SealContext>,
    made: seal::Blocks,
    gathered: Vec<Record>,
    bytes: usize,
    /// Records left out since the last survivor, with those that they told of; of these, thinned.
    skipped: u64,
    thinned: u64,
}

impl Sealing {
    fn new(compression: Compression) -> Self {
        let (made, gathered) = (seal::Blocks::default(), Vec::new());
        Self { compression, context: None, made, gathered, bytes: 0, skipped: 0, thinned: 0 }
    }

    fn leave_out(&mut self, record: &Record) {
        self.skipped = self.skipped.saturating_add(record.skipped).saturating_add(1);
        self.thinned = self.thinned.saturating_add(record.thinned).saturating_add(1);
    }

    fn keep(&mut self, from: &SealedBlock, mut record: Record) -> anyhow::Result<()> {
        record.skipped = record.skipped.saturating_add(std::mem::take(&mut self.skipped));
        record.thinned = record.thinned.saturating_add(std::mem::take(&mut self.thinned));
        let more = block::record_bytes(&record);
        let is_other = self.gathered.last().is_some_and(|before| before.position.run() != record.position.run())
            || self.context.as_ref().is_some_and(|context| *context.lineage != *from.header.lineage);
        if !self.gathered.is_empty() && (is_other || seal::is_full(self.bytes, more)) {
            self.seal()?;
        }
        if self.gathered.is_empty() {
            self.begin(from);
        }
        self.bytes += more;
        self.gathered.push(record);
        Ok(())
    }

    /// The next block is one of the same lineage as `from`; the first one follows what `from` followed.
    fn begin(&mut self, from: &SealedBlock) {
        let header = &from.header;
        let prev_last = self.context.as_ref().map_or(header.prev_last, |context| context.prev_last);
        self.context = Some(SealContext {
            stream: Arc::clone(&header.stream),
            lineage: Arc::<Lineage>::clone(&header.lineage),
            prev_last,
            cursor_at_seal: header.cursor_at_seal,
            compression: self.compression,
        });
    }

    fn seal(&mut self) -> anyhow::Result<()> {
        if let Some(context) = &mut self.context {
            seal::seal_or_split(context, &self.gathered, &mut self.made);
        }
        self.gathered.clear();
        self.bytes = 0;
        ensure!(self.made.refused.is_empty(), "a record that was in a block does not fit one");
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<Vec<SealedBlock>> {
        if !self.gathered.is_empty() {
            self.seal()?;
        }
        // The last record always survives.
        ensure!(self.skipped == 0, "{} records left out at the end have no survivor to tell of them", self.skipped);
        Ok(self.made.blocks)
    }
}

#[cfg(test)]
mod tests;
