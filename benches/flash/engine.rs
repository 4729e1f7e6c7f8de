//! The two that are compared: the queue's block store on sled with its state, and the append-only segments with a cursor
//! file. Each on a file system of its own.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use forebay::metrics::Metrics;
use forebay::queue::block::SealedBlock;
use forebay::queue::lane::Lanes;
use forebay::queue::recovery;
use forebay::queue::store::BlockStore;
use forebay::reading::{Name, Position};

use crate::disk::LoopDisk;
use crate::yardstick::{SEGMENT_BYTES, SegmentStore};

/// Epochs have their full size from here on.
pub const QUOTA_BYTES: u64 = 256 << 20;
const DISK_MIB: u64 = 1024;
pub const STREAM: &str = "telemetry";

pub enum Engine {
    Epochs { opened: Box<recovery::Opened>, disk: LoopDisk },
    Segments { store: SegmentStore, cursor: File, disk: LoopDisk },
}

impl Engine {
    /// The queue's, and the yardstick.
    pub fn both() -> [Self; 2] {
        let disk = LoopDisk::make(DISK_MIB).unwrap();
        let opened = recovery::open(&disk.mount_point.join("state"), Some(QUOTA_BYTES), Metrics::new().0).unwrap();
        let epochs = Self::Epochs { opened: Box::new(opened), disk };
        let disk = LoopDisk::make(DISK_MIB).unwrap();
        let store = SegmentStore::open(&disk.mount_point.join("segments"), SEGMENT_BYTES, QUOTA_BYTES).unwrap();
        let cursor = File::create(disk.mount_point.join("cursor")).unwrap();
        [epochs, Self::Segments { store, cursor, disk }]
    }

    fn disk(&self) -> &LoopDisk {
        match self {
            Self::Epochs { disk, .. } | Self::Segments { disk, .. } => disk,
        }
    }

    fn store(&mut self) -> &mut dyn BlockStore {
        match self {
            Self::Epochs { opened, .. } => &mut opened.store,
            Self::Segments { store, .. } => store,
        }
    }

    /// One group, durable when it returns.
    pub fn append(&mut self, group: &[SealedBlock]) {
        self.store().append(group).unwrap();
    }

    pub fn read(&mut self, at: Position) -> Option<SealedBlock> {
        self.store().read(STREAM, at).unwrap()
    }

    /// Makes the cursor durable and deletes what is below it.
    pub fn done_below(&mut self, cursor: Position) {
        match self {
            Self::Epochs { opened, .. } => opened.state.save(&mut opened.state_value).unwrap(),
            Self::Segments { cursor: file, .. } => {
                file.write_all_at(&cursor.packed().to_le_bytes(), 0).unwrap();
                file.sync_data().unwrap();
            }
        }
        self.store().remove_done(&[(Name::from(STREAM), Lanes::from_cursor(cursor))]).unwrap();
    }

    /// Bytes that the device has been asked to write, with what the kernel held back.
    pub fn device_bytes(&self) -> u64 {
        self.disk().sync().unwrap();
        self.disk().written_bytes().unwrap()
    }
}
