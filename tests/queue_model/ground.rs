//! What the model test runs the queue on.

use std::path::Path;

use forebay::config::{KeyBytes, QueueKeys};
use forebay::metrics::Metrics;
use forebay::queue::{Queue, Settings};

use super::memory::{Clock, Disk, start, start_on};
use super::yardstick::{SEGMENT_BYTES, SegmentStore};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// The double in memory, with failures on demand and the test's own time.
    Memory,
    /// The append-only yardstick: files, the double's control state, the test's own time.
    Segments,
    /// The real store on sled, its state, its recovery; the machine's time.
    Epochs,
    /// The same encrypted, under another key at each start.
    EncryptedEpochs,
}

impl Ground {
    pub fn start(self, disk: &Disk, settings: &Settings, clock: &Clock) -> Queue {
        match self {
            Self::Memory => start(disk, settings, clock).0,
            Self::Segments => {
                let dir = settings.dir.join("segments");
                let open = move || -> anyhow::Result<Box<dyn forebay::queue::store::BlockStore>> {
                    Ok(Box::new(SegmentStore::open(&dir, SEGMENT_BYTES / 512, 1 << 30)?))
                };
                start_on(disk, settings, clock, 0, open).0
            }
            Self::Epochs => Queue::open(settings.clone(), Metrics::new().0).unwrap(),
            Self::EncryptedEpochs => {
                let starts = disk.with(|platter| {
                    platter.run += 1;
                    u8::try_from(platter.run).unwrap()
                });
                let mut keys = (1..=starts).rev().map(|byte| KeyBytes::new([byte; 32]));
                let mut settings = settings.clone();
                settings.queue.keys = QueueKeys { current: keys.next(), old: keys.collect() };
                Queue::open(settings, Metrics::new().0).unwrap()
            }
        }
    }

    /// Whether no block is left on disk.
    pub fn is_empty(self, disk: &Disk, dir: &Path) -> bool {
        match self {
            Self::Memory => disk.with(|platter| platter.epochs.is_empty()),
            Self::Segments => entries(&dir.join("segments"), "segment-") == 0,
            Self::Epochs | Self::EncryptedEpochs => entries(&dir.join("queue"), "epoch-") == 0,
        }
    }
}

fn entries(dir: &Path, prefix: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(prefix)).count()
}
