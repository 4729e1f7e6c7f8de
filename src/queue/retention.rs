//! Room, on disk and in the tail: what is done goes first, then what each stream's rule gives up, counted and marked.
//!
//! A removal only moves the stream's lanes past its oldest blocks and makes that durable; the disk comes back with the
//! epochs that hold nothing else, or by rewriting one. So a crash between the two loses nothing and brings nothing back.

use std::sync::Arc;
use std::time::Duration;

use super::block::{self, SealedBlock};
use super::engine::{Inner, Shared, StreamCounters};
use super::store::{OldestBlocks, StoreError};
use super::store_thread::Driver;
use super::types::PushError;
use crate::reading::{Lineage, Name, Position, Stamp, Trust};

/// Most steps of making room for one group: far more than its bytes can need, so that a store that frees nothing ends
/// the loop.
const STEPS_MAX: u32 = 64;
/// An epoch that is done to this part is rewritten before anything is dropped: three bytes are then written at most for
/// one that is gained.
const RECLAIM_PERCENT: u64 = 25;
/// After a drop, which gains nothing otherwise.
const RECLAIM_PERCENT_MIN: u64 = 2;
/// What a stream gives up beyond its excess, as a part of its size, so that each drop is worth a write of the state.
const SIZE_STEP: u64 = 16;
/// Most blocks that expire in one step.
const EXPIRE_BLOCKS_MAX: u32 = 256;
/// How often ages are looked at: an eighth of the age, within these limits.
const EXPIRE_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Which rule removed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Quota,
    Size,
    Age,
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
        let queue = &shared.streams[stream];
        let used_bytes = queue.disk.bytes + queue.tail_bytes as u64;
        if let Some(limit_bytes) = queue.retention.size_bytes.filter(|limit| used_bytes + bytes as u64 > *limit) {
            return Err(PushError::StreamFull { stream: Arc::clone(&queue.name), used_bytes, limit_bytes });
        }
        // What is never dropped must not keep the others out of the tail.
        limit -= tail_bytes_max / 4;
    }
    if shared.make_room(stream, bytes, limit, counters) {
        return Ok(());
    }
    Err(PushError::TailFull { used: shared.tail_bytes, limit })
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
    if outside && !is_tail_used_up(driver) {
        // What others have filled they may give back, so memory is used up before anything is given up for them.
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

fn is_tail_used_up(driver: &Driver) -> bool {
    let inner = driver.inner();
    let limit = inner.settings.queue.tail_bytes_max;
    inner.lock().tail_bytes >= limit / 2
}

/// Has the store rewrite an epoch; `None` where that failed.
fn reclaim(driver: &mut Driver, percent: u64) -> Result<Option<bool>, StoreError> {
    let cursors = durable_cursors(driver.inner());
    let outcome = driver.with_store(|store| Ok((store.reclaim(&cursors, percent), store.disk_bytes())));
    let (reclaimed, disk_bytes) = outcome?;
    driver.inner().lock().disk_bytes = disk_bytes;
    Ok(reclaimed.inspect_err(|error| tracing::warn!(error = %error, "epoch cannot be rewritten")).ok())
}

fn durable_cursors(inner: &Inner) -> Vec<(Name, Position)> {
    let shared = inner.lock();
    shared.streams.iter().map(|stream| (Arc::clone(&stream.name), stream.cursor_durable)).collect()
}

/// Gives up the oldest epoch's blocks of the streams of the lowest priority that have any, or of all that may be dropped
/// from where `whole`. False: there are none.
fn drop_oldest(driver: &mut Driver, whole: bool) -> Result<bool, StoreError> {
    let candidates: Vec<(usize, u8, Name, Position)> = {
        let shared = driver.inner().lock();
        let streams = shared.streams.iter().enumerate().filter(|(index, _)| !shared.keeps(*index));
        streams.map(|(index, s)| (index, s.priority, Arc::clone(&s.name), s.lanes.cursor())).collect()
    };
    let mut found: Vec<(usize, u8, OldestBlocks)> = Vec::new();
    for (index, priority, name, cursor) in candidates {
        if let Some(blocks) = driver.with_store(|store| store.oldest_of(&name, cursor, u64::MAX))? {
            found.push((index, priority, blocks));
        }
    }
    if !whole {
        let lowest = found.iter().map(|(_, priority, _)| *priority).min();
        found.retain(|(_, priority, _)| Some(*priority) == lowest);
    }
    let Some(epoch) = found.iter().map(|(_, _, blocks)| blocks.epoch).min() else { return Ok(false) };
    found.retain(|(_, _, blocks)| blocks.epoch == epoch);
    for (index, _, blocks) in &found {
        remove(driver.inner(), *index, blocks, Rule::Quota);
    }
    driver.save_cursors()?;
    Ok(true)
}

/// Takes blocks out of a stream, in memory; the caller makes it durable before it deletes anything.
fn remove(inner: &Inner, stream: usize, blocks: &OldestBlocks, rule: Rule) {
    let counters = &inner.counters[stream];
    let (counter, why) = match rule {
        Rule::Quota => (&counters.dropped_quota, "disk quota is used up, oldest records dropped"),
        Rule::Size => (&counters.dropped_size, "stream's size is used up, oldest records dropped"),
        Rule::Age => (&counters.dropped_age, "records are too old, dropped"),
    };
    let mut shared = inner.lock();
    let queue = &mut shared.streams[stream];
    queue.drop_from_disk(blocks.last, blocks.records);
    counter.inc_by(blocks.records);
    tracing::warn!(
        stream = %queue.name, first = %blocks.first, last = %blocks.last, records = blocks.records, "{why}"
    );
}

/// Drops the oldest blocks of streams that are larger than their own size.
pub(super) fn keep_sizes(driver: &mut Driver) -> Result<(), StoreError> {
    let mut removed = false;
    for stream in 0..driver.inner().settings.streams.len() {
        for _ in 0..STEPS_MAX {
            let Some((name, cursor, bytes)) = excess(&driver.inner().lock(), stream) else { break };
            let Some(blocks) = driver.with_store(|store| store.oldest_of(&name, cursor, bytes))? else { break };
            remove(driver.inner(), stream, &blocks, Rule::Size);
            removed = true;
        }
    }
    if removed { driver.save_cursors() } else { Ok(()) }
}

/// What a stream has to give up to be within its size.
fn excess(shared: &Shared, stream: usize) -> Option<(Name, Position, u64)> {
    let queue = &shared.streams[stream];
    let limit = queue.retention.size_bytes.filter(|limit| queue.disk.bytes > *limit && !shared.keeps(stream))?;
    Some((Arc::clone(&queue.name), queue.lanes.cursor(), queue.disk.bytes - limit + limit / SIZE_STEP))
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
            let (name, cursor, now) = {
                let shared = inner.lock();
                let queue = &shared.streams[stream];
                (Arc::clone(&queue.name), queue.lanes.cursor(), Now::of(&inner, &shared))
            };
            let Some(oldest) = driver.with_store(|store| store.read(&name, cursor))? else { break };
            if now.age_min(&oldest) <= limit {
                break;
            }
            let Some(blocks) = driver.with_store(|store| store.oldest_of(&name, cursor, 1))? else { break };
            // A damaged block in front may have been passed over by the read.
            if blocks.last > oldest.header.last {
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
    trusted: Option<Stamp>,
}

impl Now {
    fn of(inner: &Inner, shared: &Shared) -> Self {
        Self { boot_ns: inner.now_ns(), lineage: Arc::clone(&inner.lineage), trusted: shared.trusted_stamp }
    }

    /// The age that every record of the block has at least: by boot time within this boot; of an earlier boot the time
    /// since this one began, or by the wall clock where it could be trusted then and now.
    fn age_min(&self, block: &SealedBlock) -> Duration {
        let written = &block.header.lineage;
        if (written.queue, written.boot_index) == (self.lineage.queue, self.lineage.boot_index) {
            return Duration::from_nanos(self.boot_ns.saturating_sub(block.header.boot_ns.1));
        }
        let since_boot = Duration::from_nanos(self.boot_ns);
        self.wall_us().and_then(|now_us| age_by_wall(block, now_us)).map_or(since_boot, |age| age.max(since_boot))
    }

    /// The wall time now.
    fn wall_us(&self) -> Option<i64> {
        let trusted = self.trusted?;
        let since_us = i64::try_from(self.boot_ns.saturating_sub(trusted.boot_ns) / 1_000).ok()?;
        Some(trusted.wall_us.saturating_add(since_us))
    }
}

fn age_by_wall(block: &SealedBlock, now_us: i64) -> Option<Duration> {
    let records = block::open(block).ok()?;
    if records.iter().any(|record| record.stamp.trust < Trust::Corrected) {
        return None;
    }
    let newest_us = records.iter().map(|record| record.stamp.wall_us).max()?;
    Some(Duration::from_micros(u64::try_from(now_us.saturating_sub(newest_us)).unwrap_or(0)))
}
