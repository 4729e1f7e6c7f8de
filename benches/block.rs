//! Sealing and opening blocks: bytes and time for each compression on each kind of reading.
//!
//! Prints a table of bytes first; criterion then measures time for a block's records.
#![allow(clippy::unwrap_used, missing_docs)]

mod readings;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use forebay::config::Compression;
use forebay::queue::block::{SEAL_BYTES, SealContext, open, record_bytes, seal};
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

/// As many records as the queue puts into one block.
fn block_of(mut records: Vec<Record>) -> Vec<Record> {
    let mut bytes = 0;
    let count = records.iter().take_while(|record| {
        bytes += record_bytes(record);
        bytes <= SEAL_BYTES
    });
    let count = count.count();
    records.truncate(count);
    records
}

fn kinds() -> [(&'static str, Vec<Record>); 3] {
    [
        ("gnss", block_of(readings::gnss(1_000))),
        ("modbus", block_of(readings::modbus(1_000))),
        ("particulates", block_of(readings::particulates(1_000))),
    ]
}

fn json_bytes(records: &[Record]) -> usize {
    let mut out = Vec::new();
    for record in records {
        encode_json(&mut out, "telemetry", &readings::lineage(), record, &[].into());
    }
    out.len()
}

fn print_bytes() {
    println!(
        "{:<14} {:>8} {:>10} {:>8} {:>10} {:>10} {:>10}",
        "readings", "records", "json", "codec", "block", "per record", "block/json"
    );
    for (kind, records) in kinds() {
        let json = json_bytes(&records);
        for (name, compression) in COMPRESSIONS {
            let block = seal(&context(compression), &records).unwrap().bytes.len();
            let (each, ratio) = (block as f64 / records.len() as f64, block as f64 / json as f64);
            println!("{kind:<14} {:>8} {json:>10} {name:>8} {block:>10} {each:>10.1} {ratio:>10.3}", records.len());
        }
    }
}

fn measure(criterion: &mut Criterion) {
    for (kind, records) in kinds() {
        let mut group = criterion.benchmark_group(format!("block/{kind}"));
        group.throughput(Throughput::Elements(records.len() as u64));
        for (name, compression) in COMPRESSIONS {
            let context = context(compression);
            let sealed = seal(&context, &records).unwrap();
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
