//! The blocks that take the place of others: of the survivors, each saying how many records before it are gone.

use std::sync::Arc;

use anyhow::ensure;

use crate::config::Compression;
use crate::queue::block::{SealContext, SealedBlock};
use crate::queue::cipher::Keyring;
use crate::queue::filling::{Fill, Filling};
use crate::reading::{Lineage, Record};

/// Gathers survivors and seals them.
pub(super) struct Sealing {
    compression: Compression,
    keys: Arc<Keyring>,
    filling: Option<Filling>,
    /// Records left out since the last survivor, with those that they told of; of these, thinned.
    skipped: u64,
    thinned: u64,
}

impl Sealing {
    pub(super) fn new(compression: Compression, keys: Arc<Keyring>) -> Self {
        Self { compression, keys, filling: None, skipped: 0, thinned: 0 }
    }

    pub(super) fn leave_out(&mut self, record: &Record) {
        self.skipped = self.skipped.saturating_add(record.skipped).saturating_add(1);
        self.thinned = self.thinned.saturating_add(record.thinned).saturating_add(1);
    }

    pub(super) fn keep(&mut self, from: &SealedBlock, mut record: Record) {
        record.skipped = record.skipped.saturating_add(std::mem::take(&mut self.skipped));
        record.thinned = record.thinned.saturating_add(std::mem::take(&mut self.thinned));
        let new_context = || context(from, self.compression, &self.keys);
        let filling = self.filling.get_or_insert_with(|| Filling::new(new_context(), Fill::default()));
        let is_other = filling.gathered().last().is_some_and(|before| before.position.run() != record.position.run());
        if is_other || *filling.context().lineage != *from.header.lineage {
            filling.end_block();
        }
        filling.make_room(&record);
        if filling.gathered().is_empty() {
            // The first block follows what `from` followed, the others follow each other.
            let prev_last = filling.context().prev_last;
            *filling.context() = SealContext { prev_last, ..new_context() };
        }
        filling.add(record);
    }

    pub(super) fn finish(self) -> anyhow::Result<Vec<SealedBlock>> {
        let made = self.filling.map(|filling| filling.finish().0).unwrap_or_default();
        ensure!(made.refused.is_empty(), "a record that was in a block does not fit one");
        // Without a key that seals they stay as they are: never in clear, never gone.
        if let Some(error) = made.failed {
            return Err(error.into());
        }
        // The last record always survives.
        ensure!(self.skipped == 0, "{} records left out at the end have no survivor to tell of them", self.skipped);
        Ok(made.blocks)
    }
}

/// Of a block of the same lineage as `from`.
fn context(from: &SealedBlock, compression: Compression, keys: &Arc<Keyring>) -> SealContext {
    let header = &from.header;
    SealContext {
        stream: Arc::clone(&header.stream),
        lineage: Arc::<Lineage>::clone(&header.lineage),
        prev_last: header.prev_last,
        cursor_at_seal: header.cursor_at_seal,
        compression,
        keys: Arc::clone(keys),
    }
}
