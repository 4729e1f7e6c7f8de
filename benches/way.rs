//! The way of a reading, step by step: NMEA decoded, pushed into the queue, encoded for Kafka.
#![allow(clippy::unwrap_used, missing_docs)]

mod readings;

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use forebay::config::{self, Compression, Durability};
use forebay::decode::fix::Assembler;
use forebay::decode::nmea::Scanner;
use forebay::metrics::Metrics;
use forebay::queue::{NewRecord, Pushed, Queue, Settings, StreamIndex};
use forebay::reading::Record;
use forebay::uplink::encode::encode_json;

/// Records between two acknowledgements, as a healthy uplink gives them.
const PUSHED_AT_ONCE: usize = 500;
/// Navigation epochs of one pass of the decoder.
const EPOCHS: u64 = 100;

fn nmea_bytes() -> Vec<u8> {
    let sentence = |body: String| {
        let checksum = body.bytes().fold(0, |sum, byte| sum ^ byte);
        format!("${body}*{checksum:02X}\r\n")
    };
    let epoch = |number: u64| {
        let clock = format!("12{:02}{:02}.00", number / 60, number % 60);
        let place = format!("4717.{:05},N,00833.{:05},E", 11_399 + number * 7, 91_590 - number * 11);
        [
            sentence(format!("GNRMC,{clock},A,{place},30.53,77.52,221126,,,A")),
            sentence(format!("GNGGA,{clock},{place},1,09,0.92,431.7,M,47.6,M,,")),
            sentence("GNGSA,A,3,05,07,13,14,15,17,19,24,30,,,,1.71,0.92,1.44".to_owned()),
        ]
        .concat()
    };
    (0..EPOCHS).map(epoch).collect::<String>().into_bytes()
}

fn decode(criterion: &mut Criterion) {
    let bytes = nmea_bytes();
    let pass = || {
        let (mut scanner, mut assembler, mut fixes) = (Scanner::new(), Assembler::new(0), 0_u64);
        scanner.push(black_box(&bytes), &mut |sentence| assembler.push(sentence, 1, &mut |_| fixes += 1));
        assembler.silence(&mut |_| fixes += 1);
        fixes
    };
    assert_eq!(pass(), EPOCHS, "every epoch becomes one fix");
    let mut group = criterion.benchmark_group("nmea");
    group.throughput(Throughput::Elements(EPOCHS));
    group.bench_function("three sentences to one fix", |bencher| bencher.iter(pass));
    group.finish();
}

fn new_record(record: &Record) -> NewRecord {
    NewRecord {
        stamp: record.stamp,
        source: record.source.clone(),
        device: record.device.clone(),
        fields: record.fields.clone(),
    }
}

fn push(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        dir: dir.path().to_owned(),
        gateway: "bench".into(),
        queue: config::Queue {
            quota_bytes: Some(64 << 20),
            window: std::time::Duration::from_secs(1),
            window_outage: std::time::Duration::from_secs(1),
            tail_bytes_max: 4 << 20,
            compression: Compression::Zstd,
            keys: config::QueueKeys::default(),
        },
        streams: vec![config::Stream {
            name: "telemetry".into(),
            topic: "telemetry".into(),
            priority: 0,
            durability: Durability::Window,
            retention: config::Retention::default(),
            drain: None,
            rate: config::Rate::default(),
        }],
    };
    let (metrics, _) = Metrics::new();
    let queue = Queue::open(settings, metrics).unwrap();
    queue.set_uplink_up(true);
    let records: Vec<NewRecord> = readings::modbus(PUSHED_AT_ONCE as u64).iter().map(new_record).collect();
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(PUSHED_AT_ONCE as u64));
    group.bench_function("push and acknowledge", |bencher| {
        bencher.iter_batched(
            || records.clone(),
            |records| {
                let mut last = None;
                for record in records {
                    if let Pushed::Queued(position) = queue.push(StreamIndex(0), record).unwrap() {
                        last = Some(position);
                    }
                }
                queue.ack(StreamIndex(0), last.unwrap());
            },
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
    queue.close().unwrap();
}

fn encode(criterion: &mut Criterion) {
    let kinds = [
        ("gnss", readings::gnss(100)),
        ("modbus", readings::modbus(100)),
        ("particulates", readings::particulates(100)),
    ];
    let tags = [("site".to_owned(), "north".to_owned())].into();
    let lineage = readings::lineage();
    let mut group = criterion.benchmark_group("json");
    for (kind, records) in kinds {
        let mut out = Vec::new();
        group.throughput(Throughput::Elements(records.len() as u64));
        group.bench_function(kind, |bencher| {
            bencher.iter(|| {
                for record in black_box(&records) {
                    out.clear();
                    encode_json(&mut out, "telemetry", &lineage, record, &tags);
                }
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    decode(&mut criterion);
    push(&mut criterion);
    encode(&mut criterion);
    criterion.final_summary();
}
