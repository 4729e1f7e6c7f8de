//! One run of one stream: which `seq`s arrived, and which of the others its records declared as removed on purpose.

use std::collections::BTreeMap;

use super::Missing;

/// Received `seq`s of a run as disjoint ranges (first → last), and what its records said of skipped ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Run {
    ranges: BTreeMap<u64, u64>,
    skipped: BTreeMap<u64, u64>,
}

impl Run {
    /// Whether `seq` is new.
    pub(super) fn insert(&mut self, seq: u64) -> bool {
        let before = self.ranges.range(..=seq).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= seq) {
            return false;
        }
        let first = before.filter(|(_, last)| last + 1 == seq).map_or(seq, |(first, _)| first);
        let last = seq.checked_add(1).and_then(|next| self.ranges.remove(&next)).unwrap_or(seq);
        self.ranges.insert(first, last);
        true
    }

    /// The record at `seq` says that so many before it were removed on purpose. Of several copies a later one may know
    /// of more: what was set aside after the first was sent.
    pub(super) fn declare_skipped(&mut self, seq: u64, count: u64) {
        let most = self.skipped.entry(seq).or_default();
        *most = count.max(*most);
    }

    /// How many were removed on purpose; of counts that no agent writes, the most there is.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped.values().fold(0, |sum: u64, count| sum.saturating_add(*count))
    }

    /// Ranges and declarations held: what the run costs in memory.
    pub(super) fn entries(&self) -> usize {
        self.ranges.len() + self.skipped.len()
    }

    /// Holes at or above `from` that nothing explains, ascending. The end is open.
    pub(super) fn missing(&self, run: u32, from: u64) -> Vec<Missing> {
        let mut holes = Vec::new();
        let mut expected = 0;
        for (first, last) in &self.ranges {
            if *first > expected && expected >= from {
                let size = first - expected;
                let unexplained = size.saturating_sub(self.skipped.get(first).copied().unwrap_or(0));
                if unexplained > 0 {
                    holes.push(Missing { run, first: expected, last: first - 1, unexplained });
                }
            }
            expected = last.saturating_add(1);
        }
        holes
    }
}
