//! When streams are thinned: from a part of the quota, or of a stream's own size, on, before anything is dropped.

use std::sync::Arc;

use super::{STEPS_MAX, durable_cursors};
use crate::config::WhenFull;
use crate::queue::engine::Shared;
use crate::queue::store::{Replacement, StoreError};
use crate::queue::store_thread::Driver;
use crate::queue::thin;

/// Part of the quota, or of a stream's size, from which on it is thinned, percent.
const THIN_FROM_PERCENT: u64 = 85;

/// What one step came to.
enum Step {
    /// Records gave way.
    Gained,
    /// Some epochs were looked at and had too little to give.
    Passed,
    /// There is nothing to thin.
    Nothing,
}

/// Who gives way next, of streams of one priority.
pub(super) enum Turn {
    /// These are thinned, the largest first.
    OfThinned(Vec<usize>),
    /// These drop their oldest records: together they hold more than those that are thinned, which would get coarser
    /// and coarser beside them.
    OfOthers(Vec<usize>),
}

pub(super) fn turn(shared: &Shared, streams: &[usize]) -> Turn {
    let is_thinned = |index: &usize| shared.streams[*index].retention.when_full == WhenFull::Thin;
    let bytes = |streams: &[usize]| streams.iter().map(|index| shared.streams[*index].disk.bytes).sum::<u64>();
    let (mut thinned, others): (Vec<usize>, Vec<usize>) = streams.iter().copied().partition(is_thinned);
    if bytes(&thinned) < bytes(&others) {
        return Turn::OfOthers(others);
    }
    thinned.sort_by_key(|index| std::cmp::Reverse(shared.streams[*index].disk.bytes));
    Turn::OfThinned(thinned)
}

/// After a group was written: thins while the quota is nearly used up and nobody else is to give way first.
pub(super) fn keep_below(driver: &mut Driver) -> Result<(), StoreError> {
    for _ in 0..STEPS_MAX {
        let Some(streams) = next_for_quota(&driver.inner().lock()) else { break };
        if holds_unconfigured(driver)? || !any(driver, &streams)? {
            break;
        }
    }
    Ok(())
}

fn next_for_quota(shared: &Shared) -> Option<Vec<usize>> {
    if shared.quota_bytes == 0 || !is_nearly_full(shared.disk_bytes, shared.quota_bytes) {
        return None;
    }
    let holds = |index: &usize| !shared.keeps(*index) && shared.streams[*index].disk.records > 0;
    let holding: Vec<usize> = (0..shared.streams.len()).filter(holds).collect();
    let lowest = holding.iter().map(|index| shared.streams[*index].priority).min()?;
    let of_lowest: Vec<usize> = holding.into_iter().filter(|index| shared.streams[*index].priority == lowest).collect();
    match turn(shared, &of_lowest) {
        Turn::OfThinned(streams) => Some(streams),
        Turn::OfOthers(_) => None,
    }
}

/// Whether there are blocks of streams that are not configured any more: they go before anything is thinned.
fn holds_unconfigured(driver: &mut Driver) -> Result<bool, StoreError> {
    let cursors: Vec<_> = {
        let shared = driver.inner().lock();
        shared.unconfigured.iter().map(|control| (Arc::clone(&control.stream), control.lanes.cursor())).collect()
    };
    if cursors.is_empty() {
        return Ok(false);
    }
    let held = driver.with_store(|store| Ok(store.held()))?;
    Ok(held.iter().any(|held| cursors.iter().any(|(name, cursor)| *name == held.stream && held.last >= *cursor)))
}

fn is_nearly_full(used_bytes: u64, limit_bytes: u64) -> bool {
    used_bytes > limit_bytes / 100 * THIN_FROM_PERCENT
}

/// Thins the first of these streams that has something to give. False: none has.
pub(super) fn any(driver: &mut Driver, streams: &[usize]) -> Result<bool, StoreError> {
    for stream in streams {
        if thin(driver, *stream)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Thins a stream while its own size is nearly used up.
pub(super) fn for_size(driver: &mut Driver, stream: usize) -> Result<(), StoreError> {
    for _ in 0..STEPS_MAX {
        let is_full = {
            let shared = driver.inner().lock();
            let queue = &shared.streams[stream];
            let limit = queue.retention.size_bytes.filter(|_| queue.retention.when_full == WhenFull::Thin);
            limit.is_some_and(|limit| is_nearly_full(queue.disk.bytes, limit))
        };
        if !is_full || !thin(driver, stream)? {
            break;
        }
    }
    Ok(())
}

/// Thins a stream until something is gained.
fn thin(driver: &mut Driver, stream: usize) -> Result<bool, StoreError> {
    for _ in 0..STEPS_MAX {
        match step(driver, stream)? {
            Step::Gained => return Ok(true),
            Step::Passed => {}
            Step::Nothing => return Ok(false),
        }
    }
    Ok(false)
}

fn step(driver: &mut Driver, stream: usize) -> Result<Step, StoreError> {
    let inner = Arc::clone(driver.inner());
    let cursors = durable_cursors(&inner);
    let compression = inner.settings.queue.compression;
    let (name, from) = {
        let shared = inner.lock();
        (Arc::clone(&shared.streams[stream].name), shared.streams[stream].untouched_from())
    };
    let held = driver.with_store(|store| Ok(store.epochs_of(&name)))?;
    let Some(plan) = thin::plan(&held.epochs, from, held.bytes_max) else { return Ok(Step::Nothing) };
    let (mut removed, mut bytes_before, mut bytes_after) = (0, 0, 0);
    let outcome = driver.with_store(|store| {
        let rewritten = store.rewrite_stream(&name, &plan.epochs, &cursors, &mut |blocks| {
            let thinned = thin::thin(blocks, &plan, compression)?;
            let bytes = |blocks: &[_]| {
                blocks.iter().map(|block: &crate::queue::block::SealedBlock| block.bytes.len() as u64).sum::<u64>()
            };
            (removed, bytes_before, bytes_after) = (thinned.removed, bytes(blocks), bytes(&thinned.blocks));
            Ok(Replacement { pass: thinned.pass, blocks: thinned.blocks })
        });
        Ok((rewritten, store.disk_bytes()))
    });
    let (rewritten, disk_bytes) = outcome?;
    let mut shared = inner.lock();
    shared.disk_bytes = disk_bytes;
    match rewritten {
        Ok(true) => {
            shared.streams[stream].thinned(removed, bytes_before.saturating_sub(bytes_after));
            inner.counters[stream].thinned.inc_by(removed);
            drop(shared);
            let width_s = thin::width_ns(plan.pass) / 1_000_000_000;
            tracing::info!(stream = %name, epochs = plan.epochs.len(), records = removed, width_s, "old records thinned out to make room");
            Ok(Step::Gained)
        }
        Ok(false) => Ok(Step::Passed),
        Err(error) => {
            // Without room for a rewrite whole epochs are dropped.
            tracing::debug!(error = %error, "epochs cannot be thinned");
            Ok(Step::Nothing)
        }
    }
}
