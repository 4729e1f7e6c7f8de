//! Where a block lies: names of epochs, trees and keys; and the epoch that is appended to.

use super::database::Database;
use crate::queue::block::SealedBlock;
use crate::queue::summary::Entry;

/// Blocks of one tree: sled consolidates, and so rewrites, a page at its tenth link.
const TREE_BLOCKS: u64 = 8;
/// Of the names of epochs.
pub(super) const EPOCH_PREFIX: &str = "epoch-";

/// The epoch that is appended to.
pub(super) struct Writer {
    pub(super) number: u64,
    pub(super) database: Database,
    pub(super) entries: Vec<Entry>,
    pub(super) bytes: u64,
    pub(super) new: bool,
}

impl Writer {
    /// Inserts a block under the next key; durable after [`Self::sync`].
    pub(super) fn insert(&mut self, block: &SealedBlock) -> anyhow::Result<()> {
        let key = self.entries.len() as u64;
        self.database.insert(&tree_of(key), &key.to_be_bytes(), &block.bytes)?;
        self.entries.push(Entry::new(key, &block.header, block.bytes.len()));
        self.bytes += block.bytes.len() as u64;
        Ok(())
    }

    /// Makes all inserts durable; the first time the epoch itself as well.
    pub(super) fn sync(&mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.new) { self.database.sync_new() } else { self.database.sync() }
    }
}

/// Directory name of an epoch's generation.
pub(super) fn epoch_name(number: u64, generation: u32) -> String {
    format!("{EPOCH_PREFIX}{number:010}.{generation}")
}

/// Inverse of [`epoch_name`].
pub(crate) fn parse_name(name: &str) -> Option<(u64, u32)> {
    let (number, generation) = name.strip_prefix(EPOCH_PREFIX)?.split_once('.')?;
    Some((number.parse().ok()?, generation.parse().ok()?))
}

/// The tree of a key.
pub(super) fn tree_of(key: u64) -> [u8; 8] {
    (key / TREE_BLOCKS).to_be_bytes()
}

/// The frame under a key.
pub(super) fn get_block(database: &mut Database, key: u64) -> anyhow::Result<Option<Vec<u8>>> {
    database.get(&tree_of(key), &key.to_be_bytes())
}
