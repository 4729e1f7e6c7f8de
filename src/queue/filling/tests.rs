use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::config::Compression;
use crate::queue::block::tests::context;
use crate::queue::cipher::{Keyring, tests::keyring};
use crate::reading::{Field, Position, Stamp, Trust, Value};
use proptest::prelude::*;

/// What records are made of, from what compresses best to what does not at all.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Nothing but a position, and nothing changes.
    Bare,
    /// The same with fields of long names.
    Still,
    /// Numbers of a device, with their noise.
    Measured,
    /// No two bytes alike, as long as records may be or a few bytes.
    Noise { text_bytes: usize },
}

fn record(seq: u64, kind: Kind, random: &mut fastrand::Rng) -> Record {
    let fields = match kind {
        Kind::Bare => Vec::new(),
        Kind::Still => {
            (0..6).map(|n| Field::new(format!("particles_above_{n}_um_per_litre"), Value::Bool(false))).collect()
        }
        Kind::Measured => (0..8)
            .map(|n| Field::new(format!("temperature_{n}_c"), Value::Float(f64::from(random.u16(..500)) / 10.0)))
            .collect(),
        Kind::Noise { text_bytes } => {
            let text = std::iter::repeat_with(|| char::from(random.u8(b' '..b'~'))).take(text_bytes);
            vec![Field::new("raw", Value::Text(text.collect()))]
        }
    };
    Record {
        position: Position::new(3, seq),
        skipped: 0,
        thinned: 0,
        stamp: Stamp { boot_ns: seq * 1_000_000, wall_us: seq as i64 * 1_000, trust: Trust::Ntp },
        source: "plant".into(),
        device: "boiler".into(),
        fields,
    }
}

fn records(kinds: &[(Kind, usize)]) -> Vec<Record> {
    let mut random = fastrand::Rng::with_seed(17);
    let kinds = kinds.iter().flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count));
    (0..).zip(kinds).map(|(seq, kind)| record(seq, kind, &mut random)).collect()
}

fn context_of(compression: Compression, keys: &Arc<Keyring>) -> SealContext {
    SealContext { keys: Arc::clone(keys), ..context(compression) }
}

/// Fills blocks, and checks what holds for all: every record in one, in order, chained, within all limits.
fn filled(records: &[Record], compression: Compression, keys: &Arc<Keyring>, fill: Fill) -> (Vec<SealedBlock>, Fill) {
    let mut filling = Filling::new(context_of(compression, keys), fill);
    records.iter().for_each(|record| filling.add(record.clone()));
    let (made, fill) = filling.finish();
    assert!(made.failed.is_none() && made.refused.is_empty());
    let mut back = Vec::new();
    let mut prev_last = context(compression).prev_last;
    for block in &made.blocks {
        assert_eq!(block::parse(&block.bytes).as_ref(), Ok(block));
        assert_eq!(block.header.prev_last, prev_last);
        prev_last = Some(block.header.last);
        let opened = block::open(block, keys).unwrap();
        let gathered: usize = opened.iter().map(block::record_bytes).sum();
        assert!(block.bytes.len() <= BLOCK_BYTES_MAX, "{} bytes", block.bytes.len());
        assert!(block.plain_bytes() <= PLAIN_BYTES_MAX, "{} bytes before compression", block.plain_bytes());
        assert!(gathered <= GATHER_BYTES_MAX, "{gathered} bytes gathered");
        assert!(opened.len() <= RECORDS_MAX, "{} records", opened.len());
        back.extend(opened);
    }
    assert_eq!(back, records);
    (made.blocks, fill)
}

fn frames(blocks: &[SealedBlock]) -> Vec<usize> {
    blocks.iter().map(|block| block.bytes.len()).collect()
}

#[test]
fn blocks_are_full_once_they_are_compressed() {
    let clear = Arc::default();
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let (_, fill) = filled(&records(&[(Kind::Measured, 3_000)]), compression, &clear, Fill::default());
        let (blocks, _) = filled(&records(&[(Kind::Measured, 6_000)]), compression, &clear, fill);
        let frames = frames(&blocks);
        let (_rest, full) = frames.split_last().unwrap();
        let in_range = |bytes: &&usize| (16 << 10..=28 << 10).contains(*bytes);
        assert_eq!(full.iter().filter(in_range).count(), full.len(), "{compression:?}: {frames:?}");
        assert!(!full.is_empty());
    }
}

#[test]
fn what_does_not_compress_fills_blocks_as_well() {
    for (text_bytes, count) in [(50, 3_000), (1_000, 200), (8_000, 30), (20_000, 9)] {
        let records = records(&[(Kind::Noise { text_bytes }, count)]);
        let (blocks, _) = filled(&records, Compression::Zstd, &Arc::default(), Fill::default());
        let frames = frames(&blocks);
        assert!(frames[1..frames.len() - 1].iter().all(|bytes| *bytes >= 14 << 10), "{frames:?}");
    }
}

#[test]
fn however_well_records_compress_a_block_has_an_end() {
    let most = |kind| {
        let all = records(&[(kind, 12_000)]);
        let (blocks, fill) = filled(&all, Compression::Zstd, &Arc::default(), Fill::default());
        (blocks.iter().map(|block| block.header.count as usize).max().unwrap(), fill)
    };
    assert_eq!(most(Kind::Bare).0, RECORDS_MAX);
    let (most, fill) = most(Kind::Still);
    let each = block::record_bytes(&records(&[(Kind::Still, 1)])[0]);
    assert_eq!((most, fill.gather_bytes), (GATHER_BYTES_MAX / each, GATHER_BYTES_MAX));
}

#[test]
fn a_block_that_comes_out_too_large_is_sealed_again_in_parts_each_with_a_nonce_of_its_own() {
    let still = [(Kind::Still, 12_000)];
    let noise = records(&[(Kind::Noise { text_bytes: 900 }, 400)]);
    for keys in [Arc::default(), keyring(&[1])] {
        let (_, fill) = filled(&records(&still), Compression::Zstd, &keys, Fill::default());
        let (blocks, learned) = filled(&noise, Compression::Zstd, &keys, fill);
        assert!(blocks.len() > 10 && learned.gather_bytes < 40 << 10, "{:?}, {learned:?}", frames(&blocks));
        let nonces: BTreeSet<&[u8]> = blocks.iter().map(|block| &block.bytes[104..128]).collect();
        assert_eq!(nonces.len(), if keys.current_id().is_some() { blocks.len() } else { 1 });
    }
}

#[test]
fn a_block_that_is_small_for_want_of_records_teaches_nothing() {
    let few = records(&[(Kind::Measured, 3)]);
    let fill = Fill { gather_bytes: 300 << 10 };
    assert_eq!(filled(&few, Compression::Zstd, &Arc::default(), fill).1, fill);
}

#[test]
fn a_block_grows_in_bounded_steps() {
    let all = records(&[(Kind::Still, 12_000)]);
    let (blocks, _) = filled(&all, Compression::Zstd, &Arc::default(), Fill::default());
    let counts: Vec<u32> = blocks.iter().map(|block| block.header.count).collect();
    assert!(counts.windows(2).all(|pair| pair[1] <= pair[0] * GROWTH_MAX as u32), "{counts:?}");
}

fn any_kind() -> impl Strategy<Value = (Kind, usize)> {
    prop_oneof![
        (Just(Kind::Bare), 1usize..9_000),
        (Just(Kind::Still), 1usize..5_000),
        (Just(Kind::Measured), 1usize..1_500),
        (1usize..40).prop_map(|text_bytes| (Kind::Noise { text_bytes }, 1_000)),
        (1usize..24_000).prop_map(|text_bytes| (Kind::Noise { text_bytes }, 150_000 / text_bytes.max(100))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// What a stream holds may change at any record, and so may what was learned have come from anything.
    #[test]
    fn any_records_are_in_blocks_within_the_limits(
        kinds in proptest::collection::vec(any_kind(), 1..5),
        gather_bytes in GATHER_BYTES_SURE..=GATHER_BYTES_MAX,
        codec in 0usize..3,
        encrypted in any::<bool>(),
    ) {
        let keys = if encrypted { keyring(&[1]) } else { Arc::default() };
        let compression = [Compression::None, Compression::Lz4, Compression::Zstd][codec];
        filled(&records(&kinds), compression, &keys, Fill { gather_bytes });
    }
}
