//! How records become blocks that are full once they are compressed.
//!
//! What a record takes on disk is known only when its block is sealed: names stand once in a block, and values of one
//! device resemble each other. So a stream's next block gathers as much as would have filled the one before, in steps
//! that are bounded; one that comes out too large all the same is sealed again in halves. Few and full blocks spare
//! flash, because codec and dictionary have more to work with. The most that is gathered bounds what a reader holds.

use super::block::{self, BLOCK_BYTES_MAX, PLAIN_BYTES_MAX, SealContext, SealedBlock};
use super::cipher::CipherError;
use crate::reading::Record;

/// Bytes of a frame that is full: well below [`BLOCK_BYTES_MAX`], as the next records may compress less.
pub const FRAME_AIM_BYTES: usize = 26 * 1024;
/// Bytes of its body before compression, likewise below [`PLAIN_BYTES_MAX`].
const PLAIN_AIM_BYTES: usize = 112 * 1024;
/// Most bytes of records, by [`block::record_bytes`], that a block gathers however well they compress: decoded, they
/// take at most three times as much memory, as a rule one and a half times.
pub const GATHER_BYTES_MAX: usize = 512 * 1024;
/// Most records of a block: what thinning remembers of an epoch grows with them.
pub const RECORDS_MAX: usize = 2_048;
/// What fits a block even if nothing can be compressed, and so what is gathered as long as nothing is known.
const GATHER_BYTES_SURE: usize = FRAME_AIM_BYTES;
/// A block gathers at most so many times what the one before held.
const GROWTH_MAX: usize = 4;

const _: () = assert!(GATHER_BYTES_SURE + 128 + 2 * block::NAME_BYTES_MAX + 64 <= BLOCK_BYTES_MAX);
const _: () = assert!(PLAIN_AIM_BYTES < PLAIN_BYTES_MAX && GATHER_BYTES_SURE >= block::RECORD_BYTES_MAX);

/// How much the next block of a stream gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    gather_bytes: usize,
}

impl Default for Fill {
    fn default() -> Self {
        Self { gather_bytes: GATHER_BYTES_SURE }
    }
}

impl Fill {
    /// Records of so many bytes have become this block.
    fn learn(&mut self, gathered_bytes: usize, block: &SealedBlock) {
        // The product is beyond 32 bits.
        let fills = |aim: usize, took: usize| gathered_bytes as u64 * aim as u64 / took.max(1) as u64;
        let wanted = fills(FRAME_AIM_BYTES, block.bytes.len()).min(fills(PLAIN_AIM_BYTES, block.plain_bytes()));
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let grown = wanted.min(gathered_bytes.saturating_mul(GROWTH_MAX));
        self.gather_bytes = grown.clamp(GATHER_BYTES_SURE, GATHER_BYTES_MAX);
    }
}

/// Blocks of one stream, chained by `prev_last`, and the records that would not go into any.
#[derive(Debug, Default)]
pub struct Blocks {
    /// The blocks.
    pub blocks: Vec<SealedBlock>,
    /// Records that not even a block of their own takes.
    pub refused: Vec<Record>,
    /// Why no block could be made of anything: it is not the records' fault, and they stay where they are.
    pub failed: Option<CipherError>,
}

/// Fills blocks of one stream with ascending records, one run a block.
pub struct Filling {
    context: SealContext,
    fill: Fill,
    gathered: Vec<Record>,
    gathered_bytes: usize,
    made: Blocks,
}

impl Filling {
    /// Begins with the context of the first block.
    pub fn new(context: SealContext, fill: Fill) -> Self {
        Self { context, fill, gathered: Vec::new(), gathered_bytes: 0, made: Blocks::default() }
    }

    /// The next record; what was gathered before it is sealed where the block is full.
    pub fn add(&mut self, record: Record) {
        self.make_room(&record);
        self.gathered_bytes += block::record_bytes(&record);
        self.gathered.push(record);
    }

    /// Seals what was gathered if the block is full without this record.
    pub(super) fn make_room(&mut self, record: &Record) {
        let is_full = self.gathered_bytes + block::record_bytes(record) > self.fill.gather_bytes;
        if is_full || self.gathered.len() >= RECORDS_MAX {
            self.seal(true);
        }
    }

    /// The records gathered for the next block.
    pub(super) fn gathered(&self) -> &[Record] {
        &self.gathered
    }

    /// The context of the next block.
    pub(super) fn context(&mut self) -> &mut SealContext {
        &mut self.context
    }

    /// Seals what has been gathered, however little: what follows does not belong into the same block.
    pub(super) fn end_block(&mut self) {
        self.seal(false);
    }

    /// Seals the rest. Gives the blocks, and how much to gather the next time.
    pub fn finish(mut self) -> (Blocks, Fill) {
        self.seal(false);
        (self.made, self.fill)
    }

    fn seal(&mut self, is_full: bool) {
        let records = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        if !records.is_empty() {
            self.seal_or_split(&records, is_full);
        }
    }

    /// Seals, in halves where the whole is too large for one block. A block that is small only because nothing followed
    /// says little of a full one: nothing is learned from it.
    fn seal_or_split(&mut self, records: &[Record], learns: bool) {
        match block::seal(&self.context, records) {
            Ok(block) => {
                self.context.prev_last = Some(block.header.last);
                if learns {
                    self.fill.learn(records.iter().map(block::record_bytes).sum(), &block);
                }
                self.made.blocks.push(block);
            }
            Err(error) if error.is::<CipherError>() => self.made.failed = error.downcast().ok(),
            Err(_) if records.len() > 1 => {
                let (older, newer) = records.split_at(records.len() / 2);
                self.seal_or_split(older, true);
                self.seal_or_split(newer, true);
            }
            Err(error) => {
                let stream = &self.context.stream;
                tracing::warn!(%stream, error = %format!("{error:#}"), "record does not fit a block");
                self.made.refused.extend_from_slice(records);
            }
        }
    }
}

#[cfg(test)]
mod tests;
