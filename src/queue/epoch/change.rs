//! Epochs written anew because an operator asked for it: under another key, without a purged stream, or because a check
//! finds them damaged. One epoch a step, from its whole blocks into its next generation, as every rewrite.

use anyhow::Context as _;

use super::EpochStore;
use crate::queue::admin::Step;
use crate::queue::block::{SealedBlock, at_rest};
use crate::queue::cipher::missing_key;
use crate::queue::store::Change;

impl EpochStore {
    /// See [`crate::queue::store::BlockStore::change`].
    pub(super) fn change_next(&mut self, change: &Change, after: Option<u64>) -> anyhow::Result<Option<Step>> {
        let numbers = || self.epochs.keys().copied().filter(|number| after.is_none_or(|after| *number > after));
        let Some(number) = numbers().next() else { return Ok(None) };
        let epochs_left = numbers().count() as u64 - 1;
        let mut step = match change {
            Change::Check => self.check_again(number),
            Change::Rekey => self.rekey_epoch(number),
            Change::Remove { stream, below } => {
                self.write_anew(number, |block| match block.header.stream == *stream && block.header.last < *below {
                    true => Fate::Goes,
                    false => Fate::Stays,
                })
            }
        }
        .with_context(|| format!("epoch {number}"))?;
        (step.epoch, step.epochs_left) = (Some(number), epochs_left);
        Ok(Some(step))
    }

    fn check_again(&mut self, number: u64) -> anyhow::Result<Step> {
        if self.is_written(number) {
            // Its blocks were durable a moment ago; nothing but this process has touched it.
            return Ok(Step::default());
        }
        let counts = |store: &Self| (store.metrics.queue_blocks_lost.get(), store.metrics.queue_blocks_salvaged.get());
        let before = counts(self);
        self.let_go(number);
        if let Some(epoch) = self.epochs.get_mut(&number) {
            epoch.checked = false;
        }
        self.check(number)?;
        let now = counts(self);
        Ok(Step { lost: now.0 - before.0, blocks: now.1 - before.1, ..Step::default() })
    }

    fn rekey_epoch(&mut self, number: u64) -> anyhow::Result<Step> {
        let keys = std::sync::Arc::clone(&self.keys);
        self.write_anew(number, |block| {
            if block.header.key == keys.current_id() {
                return Fate::Stays;
            }
            match at_rest::reseal(block, &keys) {
                Ok(changed) => Fate::Becomes(changed),
                // A newer agent's may be encrypted with an old key: it must not be thought to be done.
                Err(error) if missing_key(&error).is_some() || block.header.newer.is_some() => Fate::Held,
                // Its checksum holds and it does not open: nothing is better for its bytes than to stay.
                Err(_) => Fate::Stays,
            }
        })
    }

    /// Puts an epoch's blocks, each as `fate` says, into its next generation, where that makes a difference.
    fn write_anew(&mut self, number: u64, fate: impl Fn(&SealedBlock) -> Fate) -> anyhow::Result<Step> {
        // An epoch that is damaged is rescued first, and what it lost is counted there.
        if !self.is_written(number) {
            self.check(number)?;
        }
        if !self.epochs.contains_key(&number) {
            return Ok(Step::default());
        }
        let mut frames = self.scan_epoch(number)?;
        anyhow::ensure!(!frames.is_cut_off(), "it is too large to be written anew");
        let mut step = Step::default();
        let mut blocks = Vec::with_capacity(frames.blocks.len());
        for block in std::mem::take(&mut frames.blocks) {
            match fate(&block) {
                Fate::Stays => blocks.push(block),
                Fate::Held => {
                    step.held += 1;
                    blocks.push(block);
                }
                Fate::Becomes(changed) => {
                    step.blocks += 1;
                    blocks.push(changed);
                }
                Fate::Goes => step.blocks += 1,
            }
        }
        frames.blocks = blocks;
        if step.blocks == 0 {
            return Ok(step);
        }
        if self.is_written(number) {
            self.close_writer().context("close")?;
        }
        self.let_go(number);
        // The new generation takes the place of the ballast until the old one is gone: the quota holds meanwhile.
        self.ballast.give_up();
        let rewritten = self.rewrite(number, frames, false);
        self.make_ballast();
        rewritten?;
        Ok(step)
    }

    fn is_written(&self, number: u64) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.number == number)
    }

    fn let_go(&mut self, number: u64) {
        self.readers.retain(|(of, _)| *of != number);
        self.index = None;
    }
}

/// What becomes of a block.
enum Fate {
    Stays,
    /// It stays for want of its key, or of a newer agent.
    Held,
    Becomes(SealedBlock),
    Goes,
}
