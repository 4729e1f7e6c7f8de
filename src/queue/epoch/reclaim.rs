//! What retention asks of the epochs: which blocks of a stream are oldest, and disk back from epochs that are done in
//! parts, because one stream is delivered or removed and another waits.

use anyhow::Context as _;

use super::ahead::Ahead;
use super::{EpochStore, Got, rescue};
use crate::queue::block;
use crate::queue::cipher::missing_key;
use crate::queue::lane::Lanes;
use crate::queue::store::{BlockStore, Held, OldestBlocks};
use crate::queue::summary::Entry;
use crate::reading::{Name, Position};

impl EpochStore {
    /// See [`BlockStore::oldest_of`].
    pub(super) fn oldest_blocks(
        &mut self,
        stream: &str,
        lanes: &Lanes,
        bytes: u64,
    ) -> anyhow::Result<Option<OldestBlocks>> {
        let cursor = lanes.cursor();
        let mut ahead = Ahead::new(self, stream, cursor);
        let mut oldest: Option<OldestBlocks> = None;
        while let Some((number, entry)) = ahead.next(self)? {
            // A group that failed half way may have left a block that was written once more.
            let from = oldest.as_ref().map_or(cursor, |oldest| oldest.last.next());
            if entry.last() < from || lanes.is_range_done(entry.first().max(from), entry.last()) {
                continue;
            }
            if oldest.as_ref().is_some_and(|oldest| oldest.bytes >= bytes || oldest.epoch != number) {
                break;
            }
            let (records, skipped) = self.open_records(number, &entry, from, lanes)?;
            let first = lanes.first_open(from.max(entry.first()));
            let found = oldest.get_or_insert(OldestBlocks {
                epoch: number,
                first,
                last: first,
                records: 0,
                skipped: 0,
                bytes: 0,
            });
            found.last = entry.last();
            found.records += records;
            found.skipped += skipped;
            found.bytes += u64::from(entry.bytes);
        }
        Ok(oldest)
    }

    /// Records of a block at or after a position that are not done, and those that they tell of. It is read only where
    /// some of it are done, or where it may have been thinned.
    fn open_records(
        &mut self,
        number: u64,
        entry: &Entry,
        from: Position,
        lanes: &Lanes,
    ) -> anyhow::Result<(u64, u64)> {
        let lane = lanes.lane_at(entry.first());
        let is_whole = from.max(lane.next) <= entry.first() && entry.last() < lane.end;
        let is_original = self.epochs.get(&number).is_some_and(|epoch| epoch.generation == 0);
        if is_whole && is_original {
            return Ok((u64::from(entry.count), 0));
        }
        let Got::Block(block) = self.get(number, entry)? else {
            return Ok((if is_whole { u64::from(entry.count) } else { 0 }, 0));
        };
        if is_whole && !block::has_thinned(&block.bytes) {
            return Ok((u64::from(entry.count), 0));
        }
        let records = match block::open(&block, &self.keys) {
            Ok(records) => records,
            // Whole, but closed to us: inside a block positions mostly follow each other.
            Err(error) if missing_key(&error).is_some() || block.header.newer.is_some() => {
                let from = from.max(entry.first());
                let span = (entry.last().packed() + 1).saturating_sub(from.packed());
                let open = span.saturating_sub(lanes.done_positions(from, entry.last()));
                return Ok((open.min(u64::from(entry.count)), 0));
            }
            Err(_) => Vec::new(),
        };
        let is_open = |position: Position| position >= from && !lanes.is_done(position);
        let open = || records.iter().filter(|record| is_open(record.position));
        Ok((open().count() as u64, open().map(|record| record.skipped).sum()))
    }

    /// See [`BlockStore::reclaim`].
    pub(super) fn reclaim_emptiest(&mut self, lanes: &[(Name, Lanes)], percent: u64) -> anyhow::Result<bool> {
        let Some(number) = self.emptiest(lanes, percent) else { return Ok(false) };
        let before = self.disk_bytes();
        // The survivors take the place of the ballast until the old generation is gone: the quota holds meanwhile.
        self.ballast.give_up();
        let rewritten = self.rewrite_without_done(number, lanes);
        self.make_ballast();
        rewritten?;
        Ok(self.disk_bytes() < before)
    }

    pub(super) fn make_ballast(&self) {
        if let Err(error) = self.ballast.ensure() {
            tracing::debug!(error = %error, "ballast cannot be made yet");
        }
    }

    /// The epoch with most bytes that are done, if they are at least `percent` of it.
    fn emptiest(&self, lanes: &[(Name, Lanes)], percent: u64) -> Option<u64> {
        let candidates = self.epochs.iter().filter_map(|(number, epoch)| {
            let done: u64 = epoch.totals.iter().map(|held| done_bytes(held, lanes)).sum();
            let all: u64 = epoch.totals.iter().map(|held| held.bytes).sum();
            (done > 0 && done * 100 >= all * percent && !rescue::has_newer(&epoch.dir)).then_some((done, *number))
        });
        candidates.max_by_key(|(done, number)| (*done, std::cmp::Reverse(*number))).map(|(_, number)| number)
    }

    /// Puts what is not done of an epoch into its next generation.
    fn rewrite_without_done(&mut self, number: u64, lanes: &[(Name, Lanes)]) -> anyhow::Result<()> {
        if self.writer.as_ref().is_some_and(|writer| writer.number == number) {
            self.close_writer().context("close epoch")?;
        }
        // An epoch that is damaged is rescued first, and what it lost is counted there.
        self.check(number)?;
        self.readers.retain(|(of, _)| *of != number);
        self.index = None;
        let mut frames = self.scan_epoch(number)?;
        frames.blocks.retain(|block| {
            let header = &block.header;
            let lanes = lanes.iter().find(|(stream, _)| *stream == header.stream);
            lanes.is_none_or(|(_, lanes)| !lanes.is_range_done(header.first, header.last))
        });
        self.rewrite(number, frames, false)
    }
}

/// An estimate of the bytes of a stream that are done, from the sums of an epoch: positions are taken as even.
fn done_bytes(held: &Held, lanes: &[(Name, Lanes)]) -> u64 {
    let Some((_, lanes)) = lanes.iter().find(|(stream, _)| *stream == held.stream) else { return 0 };
    if lanes.is_range_done(held.first, held.last) {
        return held.bytes;
    }
    if held.first.run() != held.last.run() {
        return 0;
    }
    let span = u128::from(held.last.packed() - held.first.packed() + 1);
    let done = u128::from(lanes.done_positions(held.first, held.last));
    u64::try_from(u128::from(held.bytes) * done / span).unwrap_or(0)
}
