//! Room on disk: what is done goes first, then the oldest data of all, counted and marked, so that the newest can stay.

use std::sync::Arc;

use super::block::SealedBlock;
use super::store::{Dropped, StoreError};
use super::store_thread::Driver;

/// Most epochs dropped for one group: far more than its bytes can need, so that a store that frees nothing ends the loop.
const DROPS_MAX: u32 = 8;

/// Appends a group; where the quota does not allow it, makes room by the rule `drop-oldest` and tries again.
pub(super) fn append(driver: &mut Driver, blocks: &[SealedBlock]) -> Result<(), StoreError> {
    let mut outcome = driver.with_store(|store| store.append(blocks));
    if matches!(outcome, Err(StoreError::Full { .. })) {
        driver.save_cursors()?;
        outcome = driver.with_store(|store| store.append(blocks));
    }
    let mut drops = 0;
    while matches!(outcome, Err(StoreError::Full { .. })) && drops < DROPS_MAX {
        if !drop_oldest(driver)? {
            break;
        }
        drops += 1;
        outcome = driver.with_store(|store| store.append(blocks));
    }
    outcome
}

/// Removes the oldest epoch: first the lanes and marks are made durable, then the data goes. False: there is none.
fn drop_oldest(driver: &mut Driver) -> Result<bool, StoreError> {
    let inner = Arc::clone(driver.inner());
    let cursors: Vec<_> = {
        let shared = inner.lock();
        shared.streams.iter().map(|stream| (Arc::clone(&stream.name), stream.lanes.cursor())).collect()
    };
    let dropped = driver.with_store(|store| store.oldest(&cursors))?;
    if dropped.is_empty() {
        return Ok(false);
    }
    {
        let mut shared = inner.lock();
        for range in &dropped {
            note(&inner, &mut shared, range);
        }
    }
    // Not `save_cursors`: it would delete the epoch as done, and `drop_oldest` would take the next one.
    driver.save_control()?;
    driver.with_store(|store| store.drop_oldest())?;
    Ok(true)
}

fn note(inner: &super::engine::Inner, shared: &mut super::engine::Shared, range: &Dropped) {
    tracing::warn!(
        stream = %range.stream, first = %range.first, last = %range.last, records = range.records,
        "disk quota is used up, oldest records dropped"
    );
    let Some(index) = shared.streams.iter().position(|stream| stream.name == range.stream) else { return };
    inner.counters[index].dropped_quota.inc_by(range.records);
    shared.streams[index].drop_from_disk(range.last, range.records);
}
