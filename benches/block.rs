//! Sealing and opening blocks: bytes and time for each compression on each kind of reading.
//!
//! Prints a table of bytes first; criterion then measures time for a block's records.
#![allow(clippy::unwrap_used, missing_docs)]

mod readings;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use forebay::config::Compression;
use forebay::queue::block::{SealContext, SealedBlock, open, seal};
use forebay::queue::filling::{Fill, Filling};
use forebay::reading::{Position, Record};
use forebay::uplink::encode::encode_json;

const COMPRESSIONS: [(&str, Compression); 3] =
    [("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)];

fn context(compression: Compression) -> SealContext {
    SealContext {
        stream: "telemetry".into(),
        lineage: readings::lineage(),
        prev_last: None,
        cursor_at_seal: Position::ZERO,
        compression,
        keys: std::sync::Arc::default(),
    }
}

/// A block as the queue makes it where records are many: one of those in the middle of a long group, and its records.
fn full_block(records: &[Record], compression: Compression) -> (SealedBlock, Vec<Record>) {
    let mut filling = Filling::new(context(compression), Fill::default());
    records.iter().for_each(|record| filling.add(record.clone()));
    let blocks = filling.finish().0.blocks;
    let block = blocks[blocks.len() / 2].clone();
    let records = open(&block, &Default::default()).unwrap();
    (block, records)
}

fn kinds() -> [(&'static str, Vec<Record>); 3] {
    [
        ("receiver", readings::gnss(20_000)),
        ("boiler", readings::modbus(20_000)),
        ("particulates", readings::particulates(20_000)),
    ]
}

fn json_bytes(records: &[Record]) -> usize {
    let mut out = Vec::new();
    for record in records {
        encode_json(&mut out, "telemetry", &readings::lineage(), record, &[].into());
    }
    out.len()
}

/// A full block of each kind under each compression.
fn print_bytes() {
    println!(
        "{:<14} {:>8} {:>8} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "readings", "codec", "records", "json", "block", "per record", "block/json", "block/none"
    );
    for (kind, all) in kinds() {
        let plain = {
            let (block, records) = full_block(&all, Compression::None);
            block.bytes.len() as f64 / records.len() as f64
        };
        for (name, compression) in COMPRESSIONS {
            let (block, records) = full_block(&all, compression);
            let (count, json, bytes) = (records.len(), json_bytes(&records), block.bytes.len());
            let each = bytes as f64 / count as f64;
            println!(
                "{kind:<14} {name:>8} {count:>8} {json:>10} {bytes:>10} {each:>10.1} {:>10.3} {:>10.3}",
                bytes as f64 / json as f64,
                each / plain
            );
        }
    }
}

fn measure(criterion: &mut Criterion) {
    for (kind, all) in kinds() {
        let mut group = criterion.benchmark_group(format!("block/{kind}"));
        for (name, compression) in COMPRESSIONS {
            let context = context(compression);
            let (sealed, records) = full_block(&all, compression);
            group.throughput(Throughput::Elements(records.len() as u64));
            group.bench_function(BenchmarkId::new("seal", name), |bencher| {
                bencher.iter(|| seal(&context, black_box(&records)).unwrap());
            });
            group.bench_function(BenchmarkId::new("open", name), |bencher| {
                bencher.iter(|| open(black_box(&sealed), &forebay::queue::cipher::Keyring::default()).unwrap());
            });
        }
        group.finish();
    }
}

fn main() {
    print_bytes();
    let mut criterion = Criterion::default().configure_from_args();
    measure(&mut criterion);
    criterion.final_summary();
}
