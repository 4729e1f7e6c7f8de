//! Blocks to write: of noise, which does not compress, and of what the three kinds of devices say.

use forebay::config::Compression;
use forebay::queue::block::{SealContext, SealedBlock};
use forebay::queue::filling::{Fill, Filling};
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

/// Makes groups of blocks of record after record as the queue does, over and over, with positions that never end.
pub struct Sealer {
    records: Vec<Record>,
    next: usize,
    seq: u64,
    context: SealContext,
    fill: Fill,
    /// Records and bytes of the last group.
    last: (usize, usize),
}

impl Sealer {
    pub fn new(records: Vec<Record>, compression: Compression) -> Self {
        let context = SealContext {
            stream: STREAM.into(),
            lineage: readings::lineage(),
            prev_last: None,
            cursor_at_seal: Position::ZERO,
            compression,
            keys: Default::default(),
        };
        Self { records, next: 0, seq: 0, context, fill: Fill::default(), last: (1, 1_000) }
    }

    /// Blocks of so many records.
    pub fn group(&mut self, records: usize) -> Vec<SealedBlock> {
        let mut filling = Filling::new(self.context.clone(), self.fill);
        for _ in 0..records {
            let position = Position::new(1, self.seq);
            filling.add(Record { position, ..self.records[self.next % self.records.len()].clone() });
            (self.next, self.seq) = (self.next + 1, self.seq + 1);
        }
        let (made, fill) = filling.finish();
        assert!(made.refused.is_empty() && made.failed.is_none());
        self.fill = fill;
        self.context.prev_last = made.blocks.last().map(|block| block.header.last).or(self.context.prev_last);
        self.last = (records, made.blocks.iter().map(|block| block.bytes.len()).sum());
        made.blocks
    }

    /// Blocks of about so many bytes: of as many records as would have made them of the last group. So does the queue
    /// know when a group is large enough.
    pub fn group_of_bytes(&mut self, bytes: usize) -> Vec<SealedBlock> {
        let (records, took) = self.last;
        self.group((records * bytes / took.max(1)).max(1))
    }
}
