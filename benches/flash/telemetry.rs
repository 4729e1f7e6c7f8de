//! Blocks to write: of noise, which does not compress, and of what the three kinds of devices say.

use forebay::config::Compression;
use forebay::queue::block::{SEAL_BYTES, SealContext, SealedBlock, record_bytes, seal};
use forebay::reading::{Field, Position, Record, Stamp, Trust, Value};

use crate::engine::STREAM;
use crate::readings;

/// What a device of each kind says, as long as a block may need.
pub fn kinds() -> [(&'static str, Vec<Record>); 3] {
    [
        ("receiver", readings::gnss(20_000)),
        ("boiler", readings::modbus(20_000)),
        ("particulates", readings::particulates(20_000)),
    ]
}

/// The three kinds in turn, as one gateway with all of them has it.
pub fn mixed() -> Vec<Record> {
    let [(_, receiver), (_, boiler), (_, particulates)] = kinds();
    let turns = receiver.into_iter().zip(boiler).zip(particulates);
    turns.flat_map(|((receiver, boiler), particulates)| [receiver, boiler, particulates]).collect()
}

/// Records of about a kilobyte that no codec makes smaller.
pub fn noise(count: u64) -> Vec<Record> {
    let mut random = fastrand::Rng::with_seed(17);
    let record = |_| Record {
        position: Position::ZERO,
        skipped: 0,
        thinned: 0,
        stamp: Stamp { boot_ns: 0, wall_us: 0, trust: Trust::Unknown },
        source: "noise".into(),
        device: "noise".into(),
        fields: vec![Field::new(
            "text",
            Value::Text(std::iter::repeat_with(|| random.alphanumeric()).take(1_000).collect()),
        )],
    };
    (0..count).map(record).collect()
}

/// Seals record after record into blocks of the queue's size, over and over, with positions that never end.
pub struct Sealer {
    records: Vec<Record>,
    next: usize,
    seq: u64,
    prev_last: Option<Position>,
    compression: Compression,
}

impl Sealer {
    pub fn new(records: Vec<Record>, compression: Compression) -> Self {
        Self { records, next: 0, seq: 0, prev_last: None, compression }
    }

    /// Blocks of so many records.
    pub fn group(&mut self, records: usize) -> Vec<SealedBlock> {
        let mut blocks = Vec::new();
        let mut left = records;
        while left > 0 {
            let block = self.block(left);
            left -= block.header.count as usize;
            blocks.push(block);
        }
        blocks
    }

    /// Blocks of at least so many bytes.
    pub fn group_of_bytes(&mut self, bytes: usize) -> Vec<SealedBlock> {
        let (mut blocks, mut sealed) = (Vec::new(), 0);
        while sealed < bytes {
            let block = self.block(usize::MAX);
            sealed += block.bytes.len();
            blocks.push(block);
        }
        blocks
    }

    /// One block, as full as the queue makes them, of at most so many records.
    pub fn block(&mut self, records_max: usize) -> SealedBlock {
        let (mut gathered, mut bytes) = (Vec::new(), 0);
        while gathered.len() < records_max {
            let mut record = self.records[self.next % self.records.len()].clone();
            bytes += record_bytes(&record);
            if bytes > SEAL_BYTES && !gathered.is_empty() {
                break;
            }
            record.position = Position::new(1, self.seq);
            (self.next, self.seq) = (self.next + 1, self.seq + 1);
            gathered.push(record);
        }
        let context = SealContext {
            stream: STREAM.into(),
            lineage: readings::lineage(),
            prev_last: self.prev_last,
            cursor_at_seal: Position::ZERO,
            compression: self.compression,
            keys: Default::default(),
        };
        let block = seal(&context, &gathered).unwrap();
        self.prev_last = Some(block.header.last);
        block
    }
}
