//! Work of the store thread that must not keep other work waiting: failing reads, flushes without a store, a stream that
//! is sealed without a pause.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use forebay::config::Durability;
use forebay::queue::block::SealedBlock;
use forebay::queue::lane::Lanes;
use forebay::queue::store::{BlockStore, Held, OldestBlocks, StoreError};
use forebay::queue::{Limit, PeekError, Queue, StreamIndex};
use forebay::reading::{Name, Position};

use super::memory::{Clock, Disk, MemoryStore, settings, start, start_on};
use super::{drain, record};

const ONE: StreamIndex = StreamIndex(0);
const ALARMS: StreamIndex = StreamIndex(1);
const STREAMS: [(&str, Durability); 2] = [("one", Durability::Window), ("alarms", Durability::EveryRecord)];
const ANY: Limit = Limit { records: 10, bytes: usize::MAX };
const LONG: Duration = Duration::from_secs(20);

#[test]
fn reads_that_fail_do_not_postpone_sealing() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (queue, _) = start(&disk, &settings(&STREAMS, 1 << 20, dir.path()), &clock);
    queue.push(ONE, record(0)).unwrap();
    queue.flush().unwrap();
    disk.with(|platter| platter.failing_reads = true);
    assert!(matches!(queue.peek(ONE, None, ANY), Err(PeekError::Store { .. })));
    // Time stands still, so a wait would never end.
    let mut safe = queue.safe_through(ALARMS);
    queue.push(ALARMS, record(1)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let durable = async { tokio::time::timeout(LONG, safe.wait_for(Option::is_some)).await.map(drop) };
    assert!(runtime.block_on(durable).is_ok(), "a failed read kept the store from sealing");
}

#[test]
fn reads_and_flushes_without_a_store_do_not_postpone_opening_it() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (opens, open_disk) = (Arc::new(AtomicU32::new(0)), disk.clone());
    let counted = Arc::clone(&opens);
    let (queue, _) = start_on(&disk, &settings(&STREAMS, 1 << 20, dir.path()), &clock, 0, move || {
        let is_first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        anyhow::ensure!(!is_first, "the test wants it");
        Ok(Box::new(MemoryStore(open_disk.clone())))
    });
    queue.push(ONE, record(0)).unwrap();
    for _ in 0..10 {
        assert!(matches!(queue.flush(), Err(PeekError::Store { .. })));
        assert!(matches!(queue.peek(ONE, None, ANY), Err(PeekError::Store { .. })));
    }
    assert_eq!(opens.load(Ordering::SeqCst), 1);
    clock.fetch_add(200_000_000, Ordering::SeqCst);
    queue.flush().unwrap();
    assert_eq!(drain(&queue, ONE).len(), 1);
}

/// A store during each of whose appends the next record comes in, so that there is always something to seal.
struct Busy {
    store: MemoryStore,
    queue: Arc<OnceLock<Queue>>,
    stop: Arc<AtomicBool>,
}

impl BlockStore for Busy {
    fn append(&mut self, blocks: &[SealedBlock]) -> Result<(), StoreError> {
        if let Some(queue) = self.queue.get().filter(|_| !self.stop.load(Ordering::SeqCst)) {
            queue.push(ALARMS, record(1)).unwrap();
        }
        self.store.append(blocks)
    }

    fn read(&mut self, stream: &str, at: Position) -> Result<Option<SealedBlock>, StoreError> {
        self.store.read(stream, at)
    }

    fn remove_done(&mut self, lanes: &[(Name, Lanes)]) -> Result<(), StoreError> {
        self.store.remove_done(lanes)
    }

    fn oldest_of(&mut self, stream: &str, lanes: &Lanes, bytes: u64) -> Result<Option<OldestBlocks>, StoreError> {
        self.store.oldest_of(stream, lanes, bytes)
    }

    fn reclaim(&mut self, lanes: &[(Name, Lanes)], percent: u64) -> Result<bool, StoreError> {
        self.store.reclaim(lanes, percent)
    }

    fn held(&self) -> Vec<Held> {
        self.store.held()
    }

    fn disk_bytes(&self) -> u64 {
        self.store.disk_bytes()
    }
}

#[test]
fn a_stream_that_is_sealed_without_a_pause_keeps_neither_reads_nor_cursors_waiting() {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let (cell, stop) = (Arc::new(OnceLock::new()), Arc::new(AtomicBool::new(false)));
    let (open_disk, open_cell, open_stop) = (disk.clone(), Arc::clone(&cell), Arc::clone(&stop));
    let (queue, metrics) = start_on(&disk, &settings(&STREAMS, 1 << 20, dir.path()), &clock, 0, move || {
        let store = MemoryStore(open_disk.clone());
        Ok(Box::new(Busy { store, queue: Arc::clone(&open_cell), stop: Arc::clone(&open_stop) }))
    });
    queue.push(ONE, record(0)).unwrap();
    queue.flush().unwrap();
    assert!(cell.set(queue.clone()).is_ok());
    queue.push(ALARMS, record(0)).unwrap();
    let reader = std::thread::spawn({
        let queue = queue.clone();
        move || queue.peek(ONE, None, ANY)
    });
    let deadline = Instant::now() + LONG;
    while !reader.is_finished() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let answered = reader.is_finished();
    if answered {
        queue.ack(ONE, Position::new(1, 0));
        clock.fetch_add(5_000_000_000, Ordering::SeqCst);
        while metrics.queue_state_writes.get() == 0 && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
    let saves = metrics.queue_state_writes.get();
    stop.store(true, Ordering::SeqCst);
    assert_eq!(reader.join().unwrap().unwrap().unwrap().records.len(), 1);
    assert!(answered, "the read waited for a pause");
    assert!(saves > 0, "the cursor waited for a pause");
    queue.close().unwrap();
}
