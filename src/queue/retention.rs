//! Room, on disk and in the tail: what is done goes first, then what each stream's rule gives up, counted and marked.
//!
//! A removal only moves the stream's lanes past its oldest blocks and makes that durable; the disk comes back with the
//! epochs that hold nothing else, or by rewriting one. So a crash between the two loses nothing and brings nothing back.

pub(super) mod thin;

use std::sync::Arc;
use std::time::Duration;

use super::block::{self, SealedBlock};
use super::boots::Boots;
use super::cipher::Keyring;
use super::engine::{Inner, Shared, StreamCounters};
use super::lane::Lanes;
use super::store::{OldestBlocks, StoreError};
use super::store_thread::Driver;
use super::tail::StreamState;
use super::types::PushError;
use crate::clock::wall_at;
use crate::metrics::ByStreamAndReason;
use crate::reading::{Lineage, Name, Trust};

/// Most steps of making room for one group: far more than its bytes can need, so that a store that frees nothing ends
/// the loop.
const STEPS_MAX: u32 = 64;
/// An epoch that is done to this part is rewritten before anything is dropped: three bytes are then written at most for
/// one that is gained.
const RECLAIM_PERCENT: u64 = 25;
/// After a drop, which gains nothing otherwise.
const RECLAIM_PERCENT_MIN: u64 = 2;
/// What a stream gives up beyond its excess, as a part of its size, so that each drop is worth a write of the state; and
/// what must be free before one takes again that refused.
const SIZE_STEP: u64 = 16;
/// Most blocks that expire in one step.
const EXPIRE_BLOCKS_MAX: u32 = 256;
/// How often ages are looked at: an eighth of the age, within these limits.
const EXPIRE_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Which rule removed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Quota,
    Size,
    Age,
    /// An operator's word.
    Purge,
}

/// Whether a record may enter the tail; makes room for it where its stream's rule allows that.
pub(super) fn admit(
    shared: &mut Shared,
    stream: usize,
    bytes: usize,
    tail_bytes_max: usize,
    counters: &[StreamCounters],
) -> Result<(), PushError> {
    let mut limit = tail_bytes_max;
    if shared.keeps(stream) {
        refuse_over_size(&mut shared.streams[stream], bytes as u64)?;
        // What is never dropped must not keep the others out of the tail.
        limit -= tail_bytes_max / 4;
    }
    if shared.make_room(stream, bytes, limit, counters) {
        return Ok(());
    }
    Err(PushError::TailFull { used: shared.tail_bytes, limit })
}

/// Refuses at the size, and then until a step of it is free, so that a stream at its limit does not go to and fro.
fn refuse_over_size(stream: &mut StreamState, bytes: u64) -> Result<(), PushError> {
    let Some(limit_bytes) = stream.retention.size_bytes else { return Ok(()) };
    let used_bytes = stream.disk.bytes + stream.tail_bytes as u64;
    let limit_now = if stream.refusing { limit_bytes - limit_bytes / SIZE_STEP } else { limit_bytes };
    stream.refusing = used_bytes + bytes > limit_now;
    if stream.refusing {
        return Err(PushError::StreamFull { stream: Arc::clone(&stream.name), used_bytes, limit_bytes });
    }
    Ok(())
}

/// Appends a group; where there is no room on disk, makes some and tries again.
pub(super) fn append(driver: &mut Driver, blocks: &[SealedBlock]) -> Result<(), StoreError> {
    let mut outcome = driver.with_store(|store| store.append(blocks));
    if !matches!(outcome, Err(StoreError::Full { .. })) {
        return outcome;
    }
    if is_control_due(driver) {
        driver.save_cursors()?;
        outcome = driver.with_store(|store| store.append(blocks));
    }
    for _ in 0..STEPS_MAX {
        let Err(StoreError::Full { outside, .. }) = outcome else { break };
        if !make_room(driver, outside)? {
            break;
        }
        outcome = driver.with_store(|store| store.append(blocks));
    }
    outcome
}

fn is_control_due(driver: &Driver) -> bool {
    let shared = driver.inner().lock();
    shared.streams.iter().any(|stream| stream.cursor_is_due() || stream.has_new_marks())
}

/// One step: disk of what is done, else of the oldest blocks of the lowest priority. False: nothing may go.
fn make_room(driver: &mut Driver, outside: bool) -> Result<bool, StoreError> {
    if reclaim(driver, RECLAIM_PERCENT)? == Some(true) {
        return Ok(true);
    }
    if outside {
        // What others have filled they may give back, and what is dropped now they may fill as well: what is durable
        // stays, and when memory is used up the rule takes its oldest records.
        return Ok(false);
    }
    if !drop_oldest(driver, false)? {
        return Ok(false);
    }
    if reclaim(driver, RECLAIM_PERCENT_MIN)?.is_none() {
        // There is no room even for a rewrite: give up the epoch whole.
        drop_oldest(driver, true)?;
    }
    Ok(true)
}

/// Has the store rewrite an epoch; `None` where that failed.
fn reclaim(driver: &mut Driver, percent: u64) -> Result<Option<bool>, StoreError> {
    let lanes = durable_lanes(driver.inner());
    let outcome = driver.with_store(|store| Ok((store.reclaim(&lanes, percent), store.disk_bytes())));
    let (reclaimed, disk_bytes) = outcome?;
    driver.inner().lock().disk_bytes = disk_bytes;
    Ok(reclaimed.inspect_err(|error| tracing::debug!(error = %error, "epoch cannot be rewritten")).ok())
}

pub(super) fn durable_lanes(inner: &Inner) -> Vec<(Name, Lanes)> {
    let shared = inner.lock();
    let streams = shared.streams.iter().map(|stream| (Arc::clone(&stream.name), stream.lanes_durable.clone()));
    // Those move in `drop_oldest` only, which makes them durable.
    let unconfigured = shared.unconfigured.iter().map(|control| (Arc::clone(&control.stream), control.lanes.clone()));
    streams.chain(unconfigured).collect()
}

/// Gives up the oldest epoch's blocks of the streams of the lowest priority that have any, or of all that may be dropped
/// from where `whole`; streams that are not configured any more come before all others. False: there are none.
fn drop_oldest(driver: &mut Driver, whole: bool) -> Result<bool, StoreError> {
    let mut found: Vec<(Candidate, OldestBlocks)> = Vec::new();
    let candidates = candidates(&driver.inner().lock());
    for candidate in candidates {
        let oldest = driver.with_store(|store| store.oldest_of(&candidate.name, &candidate.lanes, u64::MAX))?;
        found.extend(oldest.map(|blocks| (candidate, blocks)));
    }
    if !whole {
        let lowest = found.iter().map(|(candidate, _)| candidate.priority).min();
        found.retain(|(candidate, _)| Some(candidate.priority) == lowest);
        let turn = thin::turn(&driver.inner().lock(), &found.iter().filter_map(|(c, _)| c.index).collect::<Vec<_>>());
        match turn {
            thin::Turn::OfThinned(streams) if thin::any(driver, &streams)? => return Ok(true),
            thin::Turn::OfThinned(_) => {}
            thin::Turn::OfOthers(others) => found.retain(|(c, _)| c.index.is_none_or(|index| others.contains(&index))),
        }
    }
    let Some(epoch) = found.iter().map(|(_, blocks)| blocks.epoch).min() else { return Ok(false) };
    found.retain(|(_, blocks)| blocks.epoch == epoch);
    for (candidate, blocks) in &found {
        match candidate.index {
            Some(index) => remove(driver.inner(), index, blocks, Rule::Quota),
            None => remove_unconfigured(driver.inner(), &candidate.name, blocks, "quota"),
        }
    }
    driver.save_cursors()?;
    Ok(true)
}

/// A stream whose blocks may make room for others.
struct Candidate {
    /// `None`: it is not configured any more.
    index: Option<usize>,
    /// `None` is below all.
    priority: Option<u8>,
    name: Name,
    lanes: Lanes,
}

fn candidates(shared: &Shared) -> Vec<Candidate> {
    let streams = shared.streams.iter().enumerate().filter(|(index, _)| !shared.keeps(*index));
    let configured = streams.map(|(index, stream)| Candidate {
        index: Some(index),
        priority: Some(stream.priority),
        name: Arc::clone(&stream.name),
        lanes: stream.lanes.clone(),
    });
    let unconfigured = shared.unconfigured.iter().map(|control| Candidate {
        index: None,
        priority: None,
        name: Arc::clone(&control.stream),
        lanes: control.lanes.clone(),
    });
    configured.chain(unconfigured).collect()
}

/// The same for a stream that is not configured any more: should it come back, its first record says what is gone.
pub(super) fn remove_unconfigured(inner: &Inner, name: &Name, blocks: &OldestBlocks, reason: &'static str) {
    let label = ByStreamAndReason { stream: name.to_string(), reason };
    inner.metrics.records_dropped.get_or_create(&label).inc_by(blocks.records);
    tracing::warn!(stream = %name, records = blocks.records, "records of a stream that is not configured dropped");
    let mut shared = inner.lock();
    let Some(control) = shared.unconfigured.iter_mut().find(|control| control.stream == *name) else { return };
    control.lanes.remove_through(blocks.last);
    let skipped = blocks.records + blocks.skipped + control.skipped.iter().map(|(_, records)| records).sum::<u64>();
    control.skipped = vec![(blocks.last.next(), skipped)];
}

/// Takes blocks out of a stream, in memory; the caller makes it durable before it deletes anything.
pub(super) fn remove(inner: &Inner, stream: usize, blocks: &OldestBlocks, rule: Rule) {
    let counters = &inner.counters[stream];
    let (counter, why) = match rule {
        Rule::Quota => (&counters.dropped_quota, "disk quota is used up, oldest records dropped"),
        Rule::Size => (&counters.dropped_size, "stream's size is used up, oldest records dropped"),
        Rule::Age => (&counters.dropped_age, "records are too old, dropped"),
        Rule::Purge => (&counters.dropped_purge, "records purged on demand"),
    };
    let mut shared = inner.lock();
    let queue = &mut shared.streams[stream];
    queue.drop_from_disk(blocks);
    counter.inc_by(blocks.records);
    tracing::warn!(
        stream = %queue.name, first = %blocks.first, last = %blocks.last, records = blocks.records, "{why}"
    );
}

/// Drops the oldest blocks of streams that are larger than their own size.
pub(super) fn keep_sizes(driver: &mut Driver) -> Result<(), StoreError> {
    let mut removed = false;
    for stream in 0..driver.inner().settings.streams.len() {
        thin::for_size(driver, stream)?;
        for _ in 0..STEPS_MAX {
            let Some((name, lanes, bytes)) = excess(&driver.inner().lock(), stream) else { break };
            let Some(blocks) = driver.with_store(|store| store.oldest_of(&name, &lanes, bytes))? else { break };
            remove(driver.inner(), stream, &blocks, Rule::Size);
            removed = true;
        }
    }
    if removed {
        driver.save_cursors()?;
    }
    thin::look(driver);
    Ok(())
}

/// What a stream has to give up to be within its size.
fn excess(shared: &Shared, stream: usize) -> Option<(Name, Lanes, u64)> {
    let queue = &shared.streams[stream];
    let limit = queue.retention.size_bytes.filter(|limit| queue.disk.bytes > *limit && !shared.keeps(stream))?;
    Some((Arc::clone(&queue.name), queue.lanes.clone(), queue.disk.bytes - limit + limit / SIZE_STEP))
}

/// When ages have to be looked at; `None`: no stream with blocks has a limit.
pub(super) fn expire_due_ns(shared: &Shared, expire_at_ns: u64) -> Option<u64> {
    let has = shared.streams.iter().any(|stream| stream.retention.age.is_some() && stream.disk.records > 0);
    has.then_some(expire_at_ns)
}

/// Drops blocks whose records are all certainly older than their stream's limit.
pub(super) fn expire(driver: &mut Driver) -> Result<(), StoreError> {
    let inner = Arc::clone(driver.inner());
    let limits: Vec<(usize, Duration)> =
        inner.lock().streams.iter().enumerate().filter_map(|(n, s)| Some((n, s.retention.age?))).collect();
    let (least, most) = EXPIRE_EVERY;
    let every = limits.iter().map(|(_, age)| (*age / 8).clamp(least, most)).min().unwrap_or(most);
    driver.expire_at_ns = inner.now_ns().saturating_add(every.as_nanos() as u64);
    let mut removed = false;
    for (stream, limit) in limits {
        for _ in 0..EXPIRE_BLOCKS_MAX {
            let (name, lanes, now) = {
                let shared = inner.lock();
                let queue = &shared.streams[stream];
                (Arc::clone(&queue.name), queue.lanes.clone(), Now::of(&inner, &shared))
            };
            // What is done and not deleted yet may stand in front of what is not.
            let Some(blocks) = driver.with_store(|store| store.oldest_of(&name, &lanes, 1))? else { break };
            let Some(oldest) = driver.with_store(|store| store.read(&name, blocks.first))? else { break };
            // The read passes over a damaged block.
            if blocks.last > oldest.header.last || now.age_min(&oldest, &inner.keys) <= limit {
                break;
            }
            remove(&inner, stream, &blocks, Rule::Age);
            removed = true;
        }
    }
    if removed { driver.save_cursors() } else { Ok(()) }
}

/// What is known of the present time.
struct Now {
    boot_ns: u64,
    lineage: Arc<Lineage>,
    boots: Arc<Boots>,
}

impl Now {
    fn of(inner: &Inner, shared: &Shared) -> Self {
        Self {
            boot_ns: inner.now_ns(),
            lineage: Arc::clone(&inner.lineage),
            boots: Arc::clone(&shared.boot_times.boots),
        }
    }

    /// The age that every record of the block has at least: by boot time within this boot; of an earlier boot the time
    /// since this one began, or by the wall clock where it could be trusted then and now.
    fn age_min(&self, block: &SealedBlock, keys: &Keyring) -> Duration {
        let written = &block.header.lineage;
        if (written.queue, written.boot_index) == (self.lineage.queue, self.lineage.boot_index) {
            return Duration::from_nanos(self.boot_ns.saturating_sub(block.header.boot_ns.1));
        }
        let since_boot = Duration::from_nanos(self.boot_ns);
        self.age_by_wall(block, keys).map_or(since_boot, |age| age.max(since_boot))
    }

    fn age_by_wall(&self, block: &SealedBlock, keys: &Keyring) -> Option<Duration> {
        let now_us = wall_at(self.boots.present_us()?, self.boot_ns);
        let records = block::open(block, keys).ok()?;
        let stamps = records.iter().map(|record| self.boots.stamp(&block.header.lineage, record.stamp));
        let newest_us = stamps
            .map(|stamp| (stamp.trust >= Trust::Corrected).then_some(stamp.wall_us))
            .try_fold(i64::MIN, |newest_us, wall_us| Some(newest_us.max(wall_us?)))?;
        Some(Duration::from_micros(u64::try_from(now_us.saturating_sub(newest_us)).unwrap_or(0)))
    }
}
