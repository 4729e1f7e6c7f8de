//! The blocks that take the place of others: of the survivors, each saying how many records before it are gone.

use std::sync::Arc;

use anyhow::ensure;

use crate::config::Compression;
use crate::queue::block::{self, SealContext, SealedBlock};
use crate::queue::cipher::Keyring;
use crate::queue::seal;
use crate::reading::{Lineage, Record};

/// Gathers survivors and seals them.
pub(super) struct Sealing {
    compression: Compression,
    keys: Arc<Keyring>,
    context: Option<SealContext>,
    made: seal::Blocks,
    gathered: Vec<Record>,
    bytes: usize,
    /// Records left out since the last survivor, with those that they told of; of these, thinned.
    skipped: u64,
    thinned: u64,
}

impl Sealing {
    pub(super) fn new(compression: Compression, keys: Arc<Keyring>) -> Self {
        let (made, gathered) = (seal::Blocks::default(), Vec::new());
        Self { compression, keys, context: None, made, gathered, bytes: 0, skipped: 0, thinned: 0 }
    }

    pub(super) fn leave_out(&mut self, record: &Record) {
        self.skipped = self.skipped.saturating_add(record.skipped).saturating_add(1);
        self.thinned = self.thinned.saturating_add(record.thinned).saturating_add(1);
    }

    pub(super) fn keep(&mut self, from: &SealedBlock, mut record: Record) -> anyhow::Result<()> {
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
            keys: Arc::clone(&self.keys),
        });
    }

    fn seal(&mut self) -> anyhow::Result<()> {
        if let Some(context) = &mut self.context {
            seal::seal_or_split(context, &self.gathered, &mut self.made);
        }
        self.gathered.clear();
        self.bytes = 0;
        ensure!(self.made.refused.is_empty(), "a record that was in a block does not fit one");
        // Without a key that seals they stay as they are: never in clear, never gone.
        if let Some(error) = self.made.failed.take() {
            return Err(error.into());
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> anyhow::Result<Vec<SealedBlock>> {
        if !self.gathered.is_empty() {
            self.seal()?;
        }
        // The last record always survives.
        ensure!(self.skipped == 0, "{} records left out at the end have no survivor to tell of them", self.skipped);
        Ok(self.made.blocks)
    }
}
