//! A stream's blocks from a position on, over all epochs: by position, not by the epochs' numbers. After an append that
//! failed half way a later epoch may hold lower positions than an earlier one.

use std::collections::BTreeMap;

use super::{Epoch, EpochStore, Got};
use crate::queue::block::SealedBlock;
use crate::queue::summary::Entry;
use crate::reading::{Name, Position};

/// Blocks of one stream, by the first position at or after `at` that they give, then by epoch and key. An epoch is
/// looked into only when its sums say that it may hold the next one.
pub(super) struct Ahead {
    stream: Name,
    at: Position,
    /// Epochs not looked into, by the lowest position they may give; the next one last.
    epochs: Vec<(Position, u64)>,
    found: BTreeMap<(Position, u64, u64), Entry>,
}

impl Ahead {
    pub(super) fn new(store: &EpochStore, stream: &str, at: Position) -> Self {
        let lowest = |epoch: &Epoch| {
            let held = epoch.totals.iter().find(|held| &*held.stream == stream && held.last >= at)?;
            Some(held.first.max(at))
        };
        let mut epochs: Vec<(Position, u64)> =
            store.epochs.iter().filter_map(|(number, epoch)| Some((lowest(epoch)?, *number))).collect();
        epochs.sort_unstable_by(|a, b| b.cmp(a));
        Self { stream: stream.into(), at, epochs, found: BTreeMap::new() }
    }

    /// The next block and its epoch.
    pub(super) fn next(&mut self, store: &mut EpochStore) -> anyhow::Result<Option<(u64, Entry)>> {
        loop {
            let nearest = self.found.first_key_value().map(|((from, ..), _)| *from);
            match self.epochs.last() {
                Some((lowest, number)) if nearest.is_none_or(|nearest| *lowest < nearest) => {
                    let number = *number;
                    self.epochs.pop();
                    for entry in store.find(number, &self.stream, self.at)? {
                        self.found.insert((entry.first().max(self.at), number, entry.key), entry);
                    }
                }
                _ => return Ok(self.found.pop_first().map(|((_, number, _), entry)| (number, entry))),
            }
        }
    }
}

impl EpochStore {
    fn find(&mut self, number: u64, stream: &str, at: Position) -> anyhow::Result<Vec<Entry>> {
        self.check(number)?;
        let wanted = |entry: &&Entry| &*entry.stream == stream && entry.last() >= at;
        let mut found: Vec<Entry> = self.entries(number).iter().filter(wanted).cloned().collect();
        found.sort_by_key(|entry| entry.first);
        Ok(found)
    }

    /// See [`crate::queue::store::BlockStore::read`].
    pub(super) fn read_next(&mut self, stream: &str, at: Position) -> anyhow::Result<Option<SealedBlock>> {
        let mut ahead = Ahead::new(self, stream, at);
        while let Some((number, entry)) = ahead.next(self)? {
            let got = self.get(number, &entry).inspect_err(|_| self.readers.retain(|(of, _)| *of != number));
            match got? {
                Got::Block(block) => return Ok(Some(block)),
                Got::Newer => {}
                Got::Damaged => {
                    self.metrics.queue_blocks_lost.inc();
                    tracing::warn!(stream, epoch = number, first = %entry.first(), "block is damaged, skipped");
                }
            }
        }
        Ok(None)
    }
}
