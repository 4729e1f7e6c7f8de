//! The store thread's sealing: from the tails into blocks, from blocks onto disk, and only then out of the tails.

use std::sync::Arc;

use super::fence::failed;
use super::{Driver, error_text};
use crate::queue::block::{SealContext, SealedBlock};
use crate::queue::retention;
use crate::queue::seal::{self, Cut, Due};
use crate::queue::store::StoreError;
use crate::queue::tail::StreamState;
use crate::reading::{Position, Record};

/// Most saves of marks before a group: with pushes that drop without end the rest is saved before the next group.
const MARK_SAVES_MAX: u32 = 4;

impl Driver {
    /// Writes the next group of what is due. Gives whether anything was left to write.
    pub(super) fn seal_group(&mut self, due: Due) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.inner);
        let mut shared = inner.lock();
        // Records that are dropped while the marks are saved make new ones.
        for _ in 0..MARK_SAVES_MAX {
            if !shared.streams.iter().any(StreamState::has_new_marks) {
                break;
            }
            drop(shared);
            self.save_cursors()?;
            shared = inner.lock();
        }
        let compression = inner.settings.queue.compression;
        let cuts = seal::cut(&mut shared.streams, due, &inner.policy, |stream| SealContext {
            stream: Arc::clone(&stream.name),
            lineage: Arc::clone(&inner.lineage),
            prev_last: stream.disk.last,
            cursor_at_seal: stream.lanes.cursor(),
            compression,
            keys: Arc::clone(&inner.keys),
        });
        drop(shared);
        if cuts.is_empty() {
            return Ok(false);
        }
        let outcome = self.write(&cuts);
        let mut shared = inner.lock();
        for cut in &cuts {
            shared.streams[cut.stream].sealing_through = None;
        }
        drop(shared);
        match outcome {
            Ok(()) => {
                self.works_again();
                if let Err(error) = retention::keep_sizes(self) {
                    // The group is durable all the same; sizes are looked at after the next one.
                    self.failed(&error);
                }
                Ok(true)
            }
            Err(error) => {
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// Makes blocks of the cuts and appends them; only then they leave the tail.
    fn write(&mut self, cuts: &[Cut]) -> Result<(), StoreError> {
        self.note_doubts(cuts)?;
        let mut blocks: Vec<SealedBlock> = Vec::new();
        let mut bytes_of = Vec::with_capacity(cuts.len());
        let mut refused: Vec<(usize, Record)> = Vec::new();
        for cut in cuts {
            let made = seal::blocks(cut, &mut self.fills[cut.stream]);
            if let Some(error) = made.failed {
                return Err(failed("encryption of a block", error.into(), self.dir()));
            }
            refused.extend(made.refused.into_iter().map(|record| (cut.stream, record)));
            bytes_of.push(made.blocks.iter().map(|block| block.bytes.len() as u64).sum::<u64>());
            blocks.extend(made.blocks);
        }
        if !blocks.is_empty() {
            retention::append(self, &blocks)?;
        }
        self.appended(cuts, &bytes_of, blocks.len() as u64);
        for (stream, record) in &refused {
            self.inner.lock().streams[*stream].refused(record.position);
            self.set_aside(*stream, record, "unsealable");
        }
        Ok(())
    }

    fn appended(&mut self, cuts: &[Cut], bytes_of: &[u64], blocks: u64) {
        let disk_bytes = self.store.as_ref().map(|store| store.disk_bytes());
        let inner = &*self.inner;
        let mut shared = inner.lock();
        let now_ns = inner.now_ns();
        let mut ages = Vec::with_capacity(cuts.len());
        let tail_bytes_before = shared.tail_bytes;
        for (cut, bytes) in cuts.iter().zip(bytes_of) {
            let left = shared.streams[cut.stream].sealed(cut.last, *bytes);
            shared.tail_bytes -= left.tail_bytes;
            ages.push(left.oldest_pushed_ns);
        }
        let left_bytes = tail_bytes_before.saturating_sub(shared.tail_bytes) as u64;
        shared.outage.note_group(left_bytes, bytes_of.iter().sum());
        for age in ages {
            shared.note_age(age, now_ns, &inner.metrics);
        }
        // What was acknowledged while it was written is dead on arrival and may be deleted once the cursor is durable.
        shared.note_progress(0, now_ns);
        shared.disk_bytes = disk_bytes.unwrap_or(shared.disk_bytes);
        inner.metrics.queue_written_bytes.inc_by(bytes_of.iter().sum());
        inner.metrics.queue_blocks_sealed.inc_by(blocks);
        if shared.outage.is_up() {
            inner.metrics.queue_blocks_sealed_while_up.inc_by(blocks);
        }
        drop(shared);
        inner.progress.notify_all();
    }

    /// Seals until everything pushed before now is durable.
    pub(super) fn flush(&mut self, ticket: u64) {
        let ends: Vec<Position> = self.inner.lock().streams.iter().map(StreamState::next_position).collect();
        let outcome = if self.store.is_some() { self.seal_below(&ends) } else { Err(self.not_open()) };
        let mut shared = self.inner.lock();
        shared.flush_done = ticket;
        if let Err(error) = outcome {
            shared.flush_error = Some((ticket, error_text(&error)));
        }
        drop(shared);
        self.inner.progress.notify_all();
    }

    pub(in crate::queue) fn seal_below(&mut self, ends: &[Position]) -> Result<(), StoreError> {
        loop {
            let left = {
                let shared = self.inner.lock();
                let fronts = shared.streams.iter().zip(ends);
                fronts
                    .filter_map(|(stream, end)| Some((stream.tail.front()?, end)))
                    .any(|(front, end)| front.record.position < *end)
            };
            if !left || !self.seal_group(Due::All)? {
                return Ok(());
            }
        }
    }
}
