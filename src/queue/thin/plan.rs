//! Which epochs are thinned next, and how wide their intervals are.
//!
//! What was done is read from the epochs themselves, each of which says which pass it has seen: the pass under way is the
//! highest, and goes on at the oldest epoch that has not seen it. So a restart needs no memory of it.

use crate::queue::store::StreamEpoch;
use crate::reading::Position;

/// Width of the first pass's intervals.
const WIDTH_FIRST_NS: u64 = 1_000_000_000;
/// Passes there can be: the last one's intervals are longer than a gateway's life.
const PASS_MAX: u32 = 32;
/// Part of the covered time that an interval may take at most. A device's first and last record of an interval survive,
/// so each tenth of the time has some, also after a few of the oldest epochs went.
const WIDTH_PART: u128 = 12;
/// Blocks of one epoch, which are not more after they were put together.
const BLOCKS_MAX: u64 = 512;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::queue) struct Plan {
    /// The epochs that become one, by number.
    pub(in crate::queue) epochs: Vec<u64>,
    /// The pass.
    pub(in crate::queue) pass: u32,
    /// A new pass begins: it may as well be a later one, up to this, where this one would be of no use.
    pub(in crate::queue) widest: Option<u32>,
    /// How dense the stream is.
    pub(in crate::queue) density: Density,
}

/// Records of a stream over the time they cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::queue) struct Density {
    /// Time since boot from its first record to the first of its newest block, all boots added up.
    pub(in crate::queue) covered_ns: u128,
    /// Its records in closed epochs.
    pub(in crate::queue) records: u64,
}

/// Width of a pass's intervals.
pub(in crate::queue) fn width_ns(pass: u32) -> u64 {
    WIDTH_FIRST_NS << pass.clamp(1, PASS_MAX).saturating_sub(1)
}

/// The first pass with intervals of at least this width.
pub(super) fn pass_of(width: u128) -> u32 {
    (1..PASS_MAX).find(|pass| u128::from(width_ns(*pass)) >= width).unwrap_or(PASS_MAX)
}

/// Epochs that have to be rewritten together: an append that failed half way has left the same positions in several.
struct Item<'a> {
    epochs: Vec<&'a StreamEpoch>,
    last: Position,
}

impl Item<'_> {
    fn pass(&self) -> u32 {
        self.epochs.iter().map(|epoch| epoch.pass).min().unwrap_or(0)
    }

    fn bytes(&self) -> u64 {
        self.epochs.iter().map(|epoch| epoch.epoch_bytes).sum()
    }

    fn blocks(&self) -> u64 {
        self.epochs.iter().map(|epoch| u64::from(epoch.epoch_blocks)).sum()
    }

    /// The range that holds all of it, where it may be thinned.
    fn range_of(&self, untouched: &[(Position, Position)]) -> Option<usize> {
        let first = self.epochs.first()?.first;
        let is_inside = |(from, end): &(Position, Position)| *from <= first && self.last < *end;
        untouched.iter().position(is_inside).filter(|_| self.epochs.iter().all(|epoch| epoch.rewritable))
    }
}

/// The next step of thinning a stream of which all but the `untouched` ranges `[from, end)` must stay as it is. `None`:
/// there is nothing that may still be thinned. Neighbours of one range are put together while they have at most
/// `bytes_max`, so that epochs do not become many and small.
pub(in crate::queue) fn plan(
    epochs: &[StreamEpoch],
    untouched: &[(Position, Position)],
    bytes_max: u64,
) -> Option<Plan> {
    let items = items(epochs);
    let density = density(&items);
    let widest = (1..=PASS_MAX).rev().find(|pass| u128::from(width_ns(*pass)) * WIDTH_PART <= density.covered_ns)?;
    let open = |item: &Item<'_>| item.range_of(untouched).is_some();
    let under_way = items.iter().map(Item::pass).max().unwrap_or(0).min(widest);
    let behind = items.iter().position(|item| open(item) && item.pass() < under_way);
    let (start, pass, is_new) = match behind {
        Some(start) => (start, under_way, false),
        None => (items.iter().position(|item| open(item) && item.pass() <= under_way)?, under_way + 1, true),
    };
    if pass > widest {
        return None;
    }
    let mut taken = Vec::new();
    let (mut bytes, mut blocks) = (0, 0);
    let range = items[start].range_of(untouched);
    for item in items[start..].iter().take_while(|item| item.range_of(untouched) == range) {
        (bytes, blocks) = (bytes + item.bytes(), blocks + item.blocks());
        if !taken.is_empty() && (bytes > bytes_max || blocks > BLOCKS_MAX) {
            break;
        }
        taken.extend(item.epochs.iter().map(|epoch| epoch.number));
    }
    taken.sort_unstable();
    Some(Plan { epochs: taken, pass, widest: is_new.then_some(widest), density })
}

fn items(epochs: &[StreamEpoch]) -> Vec<Item<'_>> {
    let mut ordered: Vec<&StreamEpoch> = epochs.iter().collect();
    ordered.sort_by_key(|epoch| (epoch.first, epoch.number));
    let mut items: Vec<Item<'_>> = Vec::new();
    for epoch in ordered {
        match items.last_mut().filter(|item| item.last >= epoch.first) {
            Some(item) => {
                item.last = item.last.max(epoch.last);
                item.epochs.push(epoch);
            }
            None => items.push(Item { epochs: vec![epoch], last: epoch.last }),
        }
    }
    items
}

fn density(items: &[Item<'_>]) -> Density {
    let epochs = || items.iter().flat_map(|item| &item.epochs);
    let mut covered_ns: u128 = epochs().map(|epoch| epoch.covered.as_nanos()).sum();
    for (epoch, next) in epochs().zip(epochs().skip(1)) {
        let ((boot, ended), (next_boot, began)) = (epoch.newest, next.oldest);
        if boot == next_boot {
            covered_ns += began.saturating_sub(ended).as_nanos();
        }
    }
    Density { covered_ns, records: epochs().map(|epoch| epoch.records).sum() }
}

#[cfg(test)]
mod tests;
