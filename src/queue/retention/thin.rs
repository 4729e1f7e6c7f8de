//! When streams are thinned: from a part of the quota, or of a stream's own size, on, before anything is dropped.

use std::sync::Arc;

use super::{STEPS_MAX, durable_lanes, excess};
use crate::config::WhenFull;
use crate::queue::block::SealedBlock;
use crate::queue::engine::{Inner, Shared};
use crate::queue::lane::Lanes;
use crate::queue::store::{Held, Replacement, StoreError};
use crate::queue::store_thread::Driver;
use crate::queue::thin::{self, Thinned, Work};
use crate::reading::{Name, Position};

/// Part of the quota, or of a stream's size, from which on it is thinned, percent.
const THIN_FROM_PERCENT: u64 = 85;

/// Bytes before compression of the blocks that are looked at in one piece, a block at least: some ten milliseconds of a
/// small processor.
const PLAIN_BYTES_A_PIECE: usize = 32 * 1024;

/// Plans of one look: each but the last has met an epoch that a newer agent has to read, which no plan takes again.
const PLANS_MAX: u32 = 16;

/// What is being thinned.
pub(in crate::queue) struct Job {
    stream: usize,
    work: Work,
}

/// What one step came to.
enum Step {
    /// Records gave way.
    Gained,
    /// Nothing yet: it goes on, or what was looked at had too little to give.
    Passed,
    /// It cannot be done.
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

/// After a group was written: notes whether something is to be thinned, piece by piece, while there is nothing else to do.
pub(super) fn look(driver: &mut Driver) {
    let shared = driver.inner().lock();
    let wanted = next_for_quota(&shared).is_some() || next_for_size(&shared).is_some();
    drop(shared);
    driver.thin_wanted = wanted;
}

/// A piece of what is to be thinned, or one step to find out that there is nothing.
pub(in crate::queue) fn turn_of_thinning(driver: &mut Driver) -> Result<(), StoreError> {
    if driver.thinning.is_none() && !begin_next(driver)? {
        driver.thin_wanted = false;
        return Ok(());
    }
    match advance(driver, PLAIN_BYTES_A_PIECE)? {
        Step::Gained => look(driver),
        Step::Passed => {}
        // It is tried again after the next group.
        Step::Nothing => driver.thin_wanted = false,
    }
    Ok(())
}

fn begin_next(driver: &mut Driver) -> Result<bool, StoreError> {
    let (for_size, for_quota) = {
        let shared = driver.inner().lock();
        (next_for_size(&shared), next_for_quota(&shared))
    };
    if let Some(stream) = for_size
        && begin(driver, stream)?
    {
        return Ok(true);
    }
    let Some(streams) = for_quota else { return Ok(false) };
    if holds_unconfigured(driver)? {
        return Ok(false);
    }
    for stream in streams {
        if begin(driver, stream)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A stream whose own size is nearly used up.
fn next_for_size(shared: &Shared) -> Option<usize> {
    (0..shared.streams.len()).find(|index| {
        let stream = &shared.streams[*index];
        let limit = stream.retention.size_bytes.filter(|_| stream.retention.when_full == WhenFull::Thin);
        limit.is_some_and(|limit| is_nearly_full(stream.disk.bytes, limit))
    })
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
    let lanes: Vec<_> = {
        let shared = driver.inner().lock();
        shared.unconfigured.iter().map(|control| (Arc::clone(&control.stream), control.lanes.clone())).collect()
    };
    if lanes.is_empty() {
        return Ok(false);
    }
    let held = driver.with_store(|store| Ok(store.held()))?;
    let is_done = |held: &Held, lanes: &Lanes| lanes.is_range_done(held.first, held.last);
    Ok(held.iter().any(|held| lanes.iter().any(|(name, lanes)| *name == held.stream && !is_done(held, lanes))))
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

/// Thins a stream while it is larger than its own size, before its oldest records are dropped.
pub(super) fn for_size(driver: &mut Driver, stream: usize) -> Result<(), StoreError> {
    for _ in 0..STEPS_MAX {
        let is_full = {
            let shared = driver.inner().lock();
            let queue = &shared.streams[stream];
            queue.retention.when_full == WhenFull::Thin && excess(&shared, stream).is_some()
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
        if driver.thinning.as_ref().is_none_or(|job| job.stream != stream) && !begin(driver, stream)? {
            return Ok(false);
        }
        match advance(driver, usize::MAX)? {
            Step::Gained => return Ok(true),
            Step::Passed => {}
            Step::Nothing => return Ok(false),
        }
    }
    Ok(false)
}

/// Plans and reads what is to be thinned next. False: there is nothing.
fn begin(driver: &mut Driver, stream: usize) -> Result<bool, StoreError> {
    driver.thinning = None;
    let inner = Arc::clone(driver.inner());
    let lanes = durable_lanes(&inner);
    let (name, untouched) = untouched(&inner, stream);
    for _ in 0..PLANS_MAX {
        let held = driver.with_store(|store| Ok(store.epochs_of(&name)))?;
        let Some(plan) = thin::plan(&held.epochs, &untouched, held.bytes_max) else { break };
        // An error of the store, unlike one of the rewrite, leaves the store as it is for everything else.
        let blocks = match driver.with_store(|store| Ok(store.blocks_of(&name, &plan.epochs, &lanes)))? {
            Ok(blocks) => blocks,
            Err(error) => {
                tracing::debug!(%error, "epochs cannot be thinned");
                break;
            }
        };
        if blocks.iter().any(|block| block.header.newer.is_some()) {
            continue;
        }
        let work = Work::new(plan, blocks, inner.settings.queue.compression, Arc::clone(&inner.keys));
        driver.thinning = Some(Job { stream, work });
        return Ok(true);
    }
    Ok(false)
}

/// The stream's name, and what of it may be thinned.
fn untouched(inner: &Inner, stream: usize) -> (Name, Vec<(Position, Position)>) {
    let shared = inner.lock();
    (Arc::clone(&shared.streams[stream].name), shared.streams[stream].untouched())
}

/// Takes the job under way further by blocks of so many bytes before compression, and puts what came of it in place.
fn advance(driver: &mut Driver, plain_bytes: usize) -> Result<Step, StoreError> {
    let Some(mut job) = driver.thinning.take() else { return Ok(Step::Nothing) };
    let thinned = match job.work.advance(plain_bytes) {
        Ok(Some(thinned)) => thinned,
        Ok(None) => {
            driver.thinning = Some(job);
            return Ok(Step::Passed);
        }
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "blocks cannot be thinned, they stay as they are");
            // As they are they gain nothing: only the pass is kept in mind, or they would be tried for ever.
            Thinned { pass: job.work.plan().pass, blocks: job.work.blocks().to_vec(), removed: 0 }
        }
    };
    put_in_place(driver, job, thinned)
}

fn put_in_place(driver: &mut Driver, job: Job, thinned: Thinned) -> Result<Step, StoreError> {
    let inner = Arc::clone(driver.inner());
    let (name, untouched) = untouched(&inner, job.stream);
    let old = job.work.blocks();
    let are_inside = |(from, end): &(Position, Position)| {
        old.iter().all(|block| *from <= block.header.first && block.header.last < *end)
    };
    if !untouched.iter().any(are_inside) {
        // The uplink has come here meanwhile.
        return Ok(Step::Passed);
    }
    let bytes = |blocks: &[SealedBlock]| blocks.iter().map(|block| block.bytes.len() as u64).sum::<u64>();
    let (gained, removed) = (bytes(old).saturating_sub(bytes(&thinned.blocks)), thinned.removed);
    let replacement = Replacement {
        stream: Arc::clone(&name),
        epochs: job.work.plan().epochs.clone(),
        pass: thinned.pass,
        records_before: old.iter().map(|block| u64::from(block.header.count)).sum(),
        blocks: thinned.blocks,
    };
    let stream = job.stream;
    // The store reads them once more; they need not be in memory twice.
    drop(job);
    let lanes = durable_lanes(&inner);
    let outcome = driver.with_store(|store| Ok((store.replace(replacement, &lanes), store.disk_bytes())));
    let (replaced, disk_bytes) = outcome?;
    let mut shared = inner.lock();
    shared.disk_bytes = disk_bytes;
    match replaced {
        Ok(true) => {
            shared.streams[stream].thinned(removed, gained);
            drop(shared);
            inner.counters[stream].thinned.inc_by(removed);
            let width_s = thin::width_ns(thinned.pass) / 1_000_000_000;
            tracing::info!(stream = %name, records = removed, width_s, "old records thinned out to make room");
            Ok(Step::Gained)
        }
        Ok(false) => Ok(Step::Passed),
        Err(error) => {
            // Without room for a rewrite whole epochs are dropped.
            tracing::debug!(%error, "epochs cannot be thinned");
            Ok(Step::Nothing)
        }
    }
}
