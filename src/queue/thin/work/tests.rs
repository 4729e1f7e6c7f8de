use proptest::prelude::*;

use std::sync::Arc;

use super::*;
use crate::queue::block::SealContext;
use crate::queue::block::tests::sample_records;
use crate::reading::{Lineage, Value};

fn plan(pass: u32) -> Plan {
    Plan { epochs: vec![1], pass, widest: None, density: Density { covered_ns: 1, records: 1 } }
}

fn lineage(boot_index: u32) -> Arc<Lineage> {
    Arc::new(Lineage { gateway: "g".into(), queue: uuid::Uuid::from_u128(1), boot_index })
}

/// Blocks of these lengths, one record a second, with a run and a boot of their own every `of_run` blocks.
fn blocks(lengths: &[u64], of_run: usize) -> Vec<SealedBlock> {
    let mut prev_last = None;
    let mut seq = 0;
    let seal = |(n, length): (usize, &u64)| {
        let run = (n / of_run) as u32;
        let mut records = sample_records(*length);
        for (k, record) in (0..).zip(&mut records) {
            record.position = Position::new(run, seq + k);
            record.stamp.boot_ns = (seq + k) * 1_000_000_000;
            record.skipped = (seq + k) % 7 / 6 * 5;
            record.fields.truncate(1);
            record.fields[0].value = Value::Integer((seq + k) as i64 * 7919 % 1000);
        }
        seq += length;
        let context = SealContext {
            stream: "telemetry".into(),
            lineage: lineage(run),
            prev_last,
            cursor_at_seal: Position::ZERO,
            compression: Compression::None,
            keys: Default::default(),
        };
        let block = block::seal(&context, &records).unwrap();
        prev_last = Some(block.header.last);
        block
    };
    lengths.iter().enumerate().map(seal).collect()
}

fn thin(blocks: &[SealedBlock], plan: &Plan, compression: Compression) -> anyhow::Result<Thinned> {
    let mut work = Work::new(plan.clone(), blocks.to_vec(), compression, Default::default());
    loop {
        // In pieces of different lengths.
        if let Some(thinned) = work.advance(1 + work.next % 3 * 2_000)? {
            return Ok(thinned);
        }
    }
}

fn records(blocks: &[SealedBlock]) -> Vec<Record> {
    blocks.iter().flat_map(|block| block::open(block, &Default::default()).unwrap()).collect()
}

fn told(records: &[Record]) -> u64 {
    records.len() as u64 + records.iter().map(|record| record.skipped).sum::<u64>()
}

#[test]
fn a_block_that_is_there_twice_counts_once() {
    let mut twice = blocks(&[40, 40, 40], 9);
    let once = thin(&twice, &plan(4), Compression::None).unwrap();
    twice.insert(1, twice[0].clone());
    let thinned = thin(&twice, &plan(4), Compression::None).unwrap();
    assert_eq!((thinned.removed, thinned.blocks), (once.removed, once.blocks));
}

#[test]
fn a_new_pass_begins_where_it_is_of_use() {
    let all = blocks(&[100; 6], 9);
    let dense = Density { covered_ns: 600 * 1_000_000_000, records: 600 };
    let thinned = thin(&all, &Plan { widest: Some(20), density: dense, ..plan(1) }, Compression::None).unwrap();
    // Four of a device may survive an interval, at one a second: 4 s.
    assert_eq!(thinned.pass, super::super::plan::pass_of(4_000_000_000 * sample_devices(&all)));
    assert!(thinned.removed > 0);
    let capped = thin(&all, &Plan { widest: Some(1), density: dense, ..plan(1) }, Compression::None).unwrap();
    assert_eq!((capped.pass, capped.removed), (1, 0));
}

fn sample_devices(blocks: &[SealedBlock]) -> u128 {
    let devices: std::collections::BTreeSet<_> = records(blocks).iter().map(|record| record.device.clone()).collect();
    devices.len() as u128
}

#[test]
fn a_block_that_cannot_be_decoded_stops_it() {
    let mut all = blocks(&[10, 10], 9);
    let end = all[1].bytes.len() - 1;
    all[1].bytes[end] ^= 1;
    assert!(thin(&all, &plan(4), Compression::None).is_err());
}

proptest! {
    /// Whatever passes there are: survivors are originals, the chain holds, and `skipped` tells of all that is gone, run
    /// by run.
    #[test]
    fn nothing_goes_untold(
        lengths in proptest::collection::vec(1..80_u64, 1..12), of_run in 1..6_usize,
        passes in proptest::collection::vec(1..10_u32, 1..4),
    ) {
        let before = blocks(&lengths, of_run);
        let originals = records(&before);
        let (mut now, mut removed) = (before.clone(), 0);
        for pass in passes {
            let thinned = thin(&now, &plan(pass), Compression::Zstd).unwrap();
            prop_assert_eq!(thinned.pass, pass);
            removed += thinned.removed;
            now = thinned.blocks;
        }
        let survivors = records(&now);
        prop_assert_eq!(survivors.len() as u64 + removed, originals.len() as u64);
        prop_assert_eq!(survivors.iter().map(|record| record.thinned).sum::<u64>(),
            // What a record that is gone told of is told on, as skipped.
            removed);
        for survivor in &survivors {
            let original = originals.iter().find(|record| record.position == survivor.position).unwrap();
            let untold = Record { skipped: original.skipped, thinned: 0, ..survivor.clone() };
            prop_assert_eq!(&untold, original);
        }
        for run in 0..before.len() as u32 {
            let of_run = |records: &[Record]| {
                told(&records.iter().filter(|record| record.position.run() == run).cloned().collect::<Vec<_>>())
            };
            prop_assert_eq!(of_run(&originals), of_run(&survivors), "run {}", run);
        }
        prop_assert_eq!(now[0].header.prev_last, before[0].header.prev_last);
        prop_assert_eq!(now[now.len() - 1].header.last, before[before.len() - 1].header.last);
        for two in now.windows(2) {
            prop_assert_eq!(two[1].header.prev_last, Some(two[0].header.last));
        }
        for block in &now {
            prop_assert_eq!(block.header.lineage.boot_index, block.header.first.run());
        }
    }
}
