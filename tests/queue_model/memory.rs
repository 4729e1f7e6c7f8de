//! `MemoryStore`: a test double of the block store. What it holds outlives the queue that wrote it, so that a crash
//! is dropping the queue and starting another on the same [`Disk`].

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};

use anyhow::anyhow;
use forebay::config::{Compression, Durability, Retention, Stream};
use forebay::metrics::Metrics;
use forebay::queue::block::{Header, SealedBlock};
use forebay::queue::lane::Lanes;
use forebay::queue::store::{BlockStore, Held, OldestBlocks, Replacement, StoreError, StreamEpochs};
use forebay::queue::{Backend, OpenedStore, Queue, Settings, Start, StreamControl};
use forebay::reading::{Lineage, Name, Position};

use super::rewriting::{open_records, put_together, split, stream_epoch};

/// Blocks of one epoch of the double.
const EPOCH_BLOCKS: usize = 3;

/// What survives a crash.
#[derive(Default)]
pub struct Platter {
    pub epochs: Vec<Vec<SealedBlock>>,
    pub controls: Vec<StreamControl>,
    /// Which boot began when, as far as it was saved.
    pub boots: BTreeMap<u32, i64>,
    pub run: u32,
    /// Appends refused with an error from now on; each leaves the first half of its blocks behind.
    pub failing_appends: u32,
    /// Reads fail while this is set.
    pub failing_reads: bool,
    /// Calls that panic from now on.
    pub panicking_appends: u32,
    /// Blocks of so many full epochs at most; more are refused as `Full`.
    pub epochs_max: Option<usize>,
    /// Bytes of blocks at most; more are refused as `Full`.
    pub bytes_max: Option<u64>,
    /// Somebody else has filled the disk.
    pub filled_by_others: bool,
    /// There is no room to rewrite an epoch.
    pub failing_reclaims: bool,
    /// The pass of thinning that the epoch has seen in which the stream begins there.
    passes: Vec<(Name, Position, u32)>,
    /// Appends wait while this is set.
    pub stalled: bool,
    /// Opening waits while this is set.
    pub opening_held: bool,
    /// Saves wait while this is set.
    pub saving_held: bool,
    /// An append or a save waits.
    pub waiting: bool,
    pub appended_blocks: usize,
    pub saves: usize,
}

/// The double's disk.
#[derive(Clone, Default)]
pub struct Disk(Arc<(Mutex<Platter>, Condvar)>);

impl Disk {
    pub fn with<T>(&self, change: impl FnOnce(&mut Platter) -> T) -> T {
        let out = change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        out
    }

    /// Keeps recovery from coming to an end until the guard is dropped.
    pub fn hold(&self) -> HeldDisk {
        self.with(|platter| platter.opening_held = true);
        HeldDisk(self.clone())
    }

    fn wait_until_let_go(&self) {
        let mut platter = self.0.0.lock().unwrap();
        while platter.opening_held {
            platter = self.0.1.wait(platter).unwrap();
        }
    }

    fn wait_to_save(&self) {
        let mut platter = self.0.0.lock().unwrap();
        platter.waiting = platter.saving_held;
        self.0.1.notify_all();
        while platter.saving_held {
            platter = self.0.1.wait(platter).unwrap();
        }
        platter.waiting = false;
    }

    /// Blocks until an append or a save is stuck in the stall.
    pub fn wait_until_stuck(&self) {
        let mut platter = self.0.0.lock().unwrap();
        while !platter.waiting {
            platter = self.0.1.wait(platter).unwrap();
        }
    }
}

/// The version of blocks that only a newer agent can open.
pub const NEWER: u16 = 2;

/// The same frame under another version, with its checksum.
pub fn put_version(frame: &mut [u8], version: u16) {
    frame[8..10].copy_from_slice(&version.to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&frame[..20]), &frame[24..]);
    frame[20..24].copy_from_slice(&sum.to_le_bytes());
}

impl Disk {
    /// Makes those blocks newer that `is_newer` says, and all others known.
    pub fn put_versions(&self, mut is_newer: impl FnMut(&Header) -> bool) {
        self.with(|platter| {
            for block in platter.epochs.iter_mut().flatten() {
                let newer = is_newer(&block.header).then_some(NEWER);
                block.header.newer = newer;
                put_version(&mut block.bytes, newer.unwrap_or(1));
            }
        });
    }
}

/// See [`Disk::hold`].
pub struct HeldDisk(Disk);

impl Drop for HeldDisk {
    fn drop(&mut self) {
        self.0.with(|platter| platter.opening_held = false);
    }
}

pub struct MemoryStore(pub Disk);

fn failed(what: &'static str) -> StoreError {
    StoreError::Failed { what, path: "memory".to_owned(), source: anyhow!("the test wants it") }
}

impl BlockStore for MemoryStore {
    fn append(&mut self, blocks: &[SealedBlock]) -> Result<(), StoreError> {
        let (lock, changed) = &*(self.0.0);
        let mut platter = lock.lock().unwrap();
        platter.waiting = platter.stalled;
        changed.notify_all();
        while platter.stalled {
            platter = changed.wait(platter).unwrap();
        }
        platter.waiting = false;
        if platter.panicking_appends > 0 {
            platter.panicking_appends -= 1;
            drop(platter);
            panic!("the test wants the store to panic");
        }
        let held = platter.epochs.iter().map(Vec::len).sum::<usize>();
        let outside = platter.filled_by_others;
        let bytes = platter.epochs.iter().flatten().chain(blocks).map(|block| block.bytes.len() as u64).sum::<u64>();
        let is_full = platter.epochs_max.is_some_and(|max| held >= max * EPOCH_BLOCKS)
            || platter.bytes_max.is_some_and(|max| bytes > max);
        if outside || is_full {
            return Err(StoreError::Full { needed_bytes: 1, free_bytes: 0, path: "memory".to_owned(), outside });
        }
        let fails = platter.failing_appends > 0;
        platter.failing_appends = platter.failing_appends.saturating_sub(1);
        let kept = if fails { &blocks[..blocks.len() / 2] } else { blocks };
        for block in kept {
            if platter.epochs.last().is_none_or(|epoch| epoch.len() >= EPOCH_BLOCKS) {
                platter.epochs.push(Vec::new());
            }
            platter.epochs.last_mut().unwrap().push(block.clone());
            platter.appended_blocks += 1;
        }
        if fails { Err(failed("append")) } else { Ok(()) }
    }

    fn read(&mut self, stream: &str, at: Position) -> Result<Option<SealedBlock>, StoreError> {
        if self.0.with(|platter| platter.failing_reads) {
            return Err(failed("read"));
        }
        Ok(self.0.with(|platter| {
            let blocks = platter.epochs.iter().flatten();
            let mine = blocks.filter(|block| &*block.header.stream == stream && block.header.last >= at);
            mine.min_by_key(|block| (block.header.first, block.header.last)).cloned()
        }))
    }

    fn remove_done(&mut self, lanes: &[(Name, Lanes)]) -> Result<(), StoreError> {
        self.0.with(|platter| {
            platter.epochs.retain(|epoch| epoch.iter().any(|block| !is_done(block, lanes)));
        });
        Ok(())
    }

    fn oldest_of(&mut self, stream: &str, lanes: &Lanes, bytes: u64) -> Result<Option<OldestBlocks>, StoreError> {
        Ok(self.0.with(|platter| {
            let cursor = lanes.cursor();
            let mine = |block: &&SealedBlock| {
                &*block.header.stream == stream && !lanes.is_range_done(block.header.first, block.header.last)
            };
            let (epoch, blocks) =
                platter.epochs.iter().enumerate().find(|(_, blocks)| blocks.iter().any(|block| mine(&block)))?;
            let mut mine: Vec<&SealedBlock> = blocks.iter().filter(mine).collect();
            mine.sort_by_key(|block| (block.header.first, block.header.last));
            let mut oldest: Option<OldestBlocks> = None;
            for block in mine {
                let from = oldest.as_ref().map_or(cursor, |oldest| oldest.last.next());
                if oldest.as_ref().is_some_and(|oldest| oldest.bytes >= bytes) || block.header.last < from {
                    continue;
                }
                let (records, skipped) = open_records(block, from, lanes);
                let first = lanes.first_open(block.header.first.max(from));
                let found = oldest.get_or_insert(OldestBlocks {
                    epoch: epoch as u64,
                    first,
                    last: first,
                    records: 0,
                    skipped: 0,
                    bytes: 0,
                });
                found.last = block.header.last;
                found.records += records;
                found.skipped += skipped;
                found.bytes += block.bytes.len() as u64;
            }
            oldest
        }))
    }

    fn reclaim(&mut self, lanes: &[(Name, Lanes)], _percent: u64) -> Result<bool, StoreError> {
        self.0.with(|platter| {
            if platter.failing_reclaims {
                return Err(failed("reclaim"));
            }
            let done = |epoch: &Vec<SealedBlock>| epoch.iter().any(|block| is_done(block, lanes));
            let Some(epoch) = platter.epochs.iter_mut().find(|epoch| done(epoch)) else { return Ok(false) };
            epoch.retain(|block| !is_done(block, lanes));
            platter.epochs.retain(|epoch| !epoch.is_empty());
            Ok(true)
        })
    }

    fn epochs_of(&self, stream: &str) -> StreamEpochs {
        self.0.with(|platter| {
            let writing = platter.epochs.len().saturating_sub(1);
            let epochs = platter.epochs.iter().enumerate().filter_map(|(number, blocks)| {
                let headers = blocks.iter().map(|block| (&block.header, block.bytes.len()));
                let mut epoch = stream_epoch(number as u64, headers, stream, &[], number < writing)?;
                let seen = |(name, first, _): &&(Name, Position, u32)| &**name == stream && *first == epoch.first;
                epoch.pass = platter.passes.iter().find(seen).map_or(0, |(_, _, pass)| *pass);
                Some(epoch)
            });
            StreamEpochs { epochs: epochs.collect(), bytes_max: EPOCH_BLOCKS as u64 * 20_000 }
        })
    }

    fn blocks_of(
        &mut self,
        stream: &str,
        epochs: &[u64],
        lanes: &[(Name, Lanes)],
    ) -> Result<Vec<SealedBlock>, StoreError> {
        let all = self.0.with(|platter| epochs.iter().flat_map(|n| platter.epochs[*n as usize].clone()).collect());
        Ok(split(stream, all, lanes).0)
    }

    fn replace(&mut self, replacement: Replacement, lanes: &[(Name, Lanes)]) -> Result<bool, StoreError> {
        let Replacement { ref stream, epochs: ref numbers, pass, .. } = replacement;
        let held = self.epochs_of(stream).epochs;
        let firsts: Vec<Position> =
            held.iter().filter(|epoch| numbers.contains(&epoch.number)).map(|epoch| epoch.first).collect();
        self.0.with(|platter| {
            if platter.failing_reclaims {
                return Err(failed("rewrite"));
            }
            // Numbers are places here, which may have moved since: then it is not what it was made of.
            let old = numbers.iter().filter_map(|number| platter.epochs.get(*number as usize)).flatten().cloned();
            let together =
                put_together(&replacement, old.collect(), lanes).map_err(|_| failed("rewrite of other blocks"))?;
            platter.passes.retain(|(name, first, _)| name != stream || !firsts.contains(first));
            platter.passes.extend(firsts.iter().map(|first| (stream.clone(), *first, pass)));
            let Some(blocks) = together else { return Ok(false) };
            let target = numbers.iter().min().map_or(0, |number| *number as usize);
            platter.epochs[target] = blocks;
            let mut number = 0;
            platter.epochs.retain(|_| {
                number += 1;
                number - 1 == target || !numbers.contains(&(number as u64 - 1))
            });
            Ok(true)
        })
    }

    fn held(&self) -> Vec<Held> {
        self.0.with(|platter| {
            let mut held: Vec<Held> = Vec::new();
            for block in platter.epochs.iter().flatten() {
                let more = Held::of(&block.header, block.bytes.len() as u64);
                match held.iter_mut().find(|held| held.stream == more.stream) {
                    Some(held) => held.add(&more),
                    None => held.push(more),
                }
            }
            held
        })
    }

    fn disk_bytes(&self) -> u64 {
        self.0.with(|platter| platter.epochs.iter().flatten().map(|block| block.bytes.len() as u64).sum())
    }
}

fn is_done(block: &SealedBlock, lanes: &[(Name, Lanes)]) -> bool {
    lanes
        .iter()
        .any(|(name, lanes)| *name == block.header.stream && lanes.is_range_done(block.header.first, block.header.last))
}

/// A queue on the disk, with the run counted up as a start does; time stands still unless the test moves it.
pub fn start(disk: &Disk, settings: &Settings, clock: &Clock) -> (Queue, Arc<Metrics>) {
    let open = disk.clone();
    start_on(disk, settings, clock, 0, move || {
        open.wait_until_let_go();
        Ok(Box::new(MemoryStore(open.clone())))
    })
}

/// The same in a later boot of the machine.
pub fn start_in_boot(disk: &Disk, settings: &Settings, clock: &Clock, boot_index: u32) -> (Queue, Arc<Metrics>) {
    let open = disk.clone();
    start_on(disk, settings, clock, boot_index, move || Ok(Box::new(MemoryStore(open.clone()))))
}

/// The same on any block store; run and control state are kept by the double.
pub fn start_on(
    disk: &Disk,
    settings: &Settings,
    clock: &Clock,
    boot_index: u32,
    mut open: impl FnMut() -> anyhow::Result<Box<dyn BlockStore>> + Send + 'static,
) -> (Queue, Arc<Metrics>) {
    let (metrics, _) = Metrics::new();
    let (run, boots, streams) = disk.with(|platter| {
        platter.run += 1;
        (platter.run, platter.boots.clone().into_iter().collect(), platter.controls.clone())
    });
    let save = disk.clone();
    let backend = Backend {
        open: Box::new(move || Ok(OpenedStore { store: open()?, quota_bytes: 1 << 20, lost: Vec::new() })),
        save: Box::new(move |controls, began_us| {
            save.wait_to_save();
            save.with(|platter| {
                platter.saves += 1;
                platter.controls = controls.to_vec();
                platter.boots.extend(began_us.map(|began_us| (boot_index, began_us)));
                // The durable form has to carry them.
                for control in &platter.controls {
                    assert_eq!(Lanes::decode(&control.lanes.encode()).as_ref(), Ok(&control.lanes));
                }
            });
            Ok(())
        }),
    };
    let lineage = Lineage { gateway: "test".into(), queue: uuid::Uuid::from_u128(7), boot_index };
    let now = Arc::clone(clock);
    let clock: forebay::queue::QueueClock = Arc::new(move || now.load(std::sync::atomic::Ordering::SeqCst));
    let start = Start { lineage, run, boots, streams, backend, clock };
    let queue = Queue::start(settings.clone(), Arc::clone(&metrics), start).unwrap();
    (queue, metrics)
}

/// Nanoseconds, moved by the test.
pub type Clock = Arc<std::sync::atomic::AtomicU64>;

/// Settings with these streams; `fast` ones are durable record by record.
pub fn settings(streams: &[(&str, Durability)], tail_bytes_max: usize, dir: &std::path::Path) -> Settings {
    Settings {
        dir: dir.to_owned(),
        gateway: "test".into(),
        queue: forebay::config::Queue {
            quota_bytes: None,
            window: std::time::Duration::from_secs(1),
            window_outage: std::time::Duration::from_secs(1),
            tail_bytes_max,
            compression: Compression::None,
            keys: forebay::config::QueueKeys::default(),
        },
        streams: streams
            .iter()
            .map(|(name, durability)| Stream {
                name: (*name).into(),
                topic: (*name).to_owned(),
                priority: 0,
                durability: *durability,
                retention: Retention::default(),
                drain: None,
                rate: Default::default(),
            })
            .collect(),
    }
}
