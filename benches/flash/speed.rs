//! Throughput and CPU of both stores, and of the codecs.

use std::time::{Duration, Instant};

use forebay::config::Compression;
use forebay::queue::block::{open, seal};
use forebay::reading::Position;
use rustix::time::{ClockId, clock_gettime};

use crate::bytes::mb;
use crate::engine::Engine;
use crate::telemetry::{Sealer, kinds, noise};

const PAYLOAD_BYTES: u64 = 128 << 20;
const GROUP_BYTES: usize = 256 * 1024;

/// CPU time of this process, all threads.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Wall and CPU time of `work`.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration, Duration) {
    let (began, began_cpu) = (Instant::now(), cpu());
    let done = work();
    (done, began.elapsed(), cpu() - began_cpu)
}

/// Append in groups of 256 KiB, then drain, of each engine.
pub fn engines() {
    println!("{:<8} {:>13} {:>15} {:>13} {:>15}", "", "append MB/s", "CPU us/record", "drain MB/s", "CPU us/record");
    let mut rates = Vec::new();
    for (name, mut engine) in ["queue", "file"].into_iter().zip(Engine::both()) {
        let mut sealer = Sealer::new(noise(4_000), Compression::None);
        let (mut groups, mut bytes, mut records) = (Vec::new(), 0, 0_u64);
        while bytes < PAYLOAD_BYTES {
            let group = sealer.group_of_bytes(GROUP_BYTES);
            bytes += group.iter().map(|block| block.bytes.len() as u64).sum::<u64>();
            records += group.iter().map(|block| u64::from(block.header.count)).sum::<u64>();
            groups.push(group);
        }
        let ((), append, append_cpu) = timed(|| groups.iter().for_each(|group| engine.append(group)));
        drop(groups);
        let (read, drain, drain_cpu) = timed(|| drain(&mut engine));
        assert_eq!(read, records, "the store gives back what it took");
        let rate = |took: Duration| mb(bytes) / took.as_secs_f64();
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / records as f64;
        println!(
            "{name:<8} {:>13.1} {:>15.2} {:>13.1} {:>15.2}",
            rate(append),
            each(append_cpu),
            rate(drain),
            each(drain_cpu)
        );
        rates.push((rate(append), rate(drain)));
    }
    println!("queue / file: append {:.2}, drain {:.2}", rates[0].0 / rates[1].0, rates[0].1 / rates[1].1);
}

/// Reads and opens everything, the cursor durable every MiB.
fn drain(engine: &mut Engine) -> u64 {
    let (mut cursor, mut since_cursor, mut records) = (Position::ZERO, 0, 0);
    while let Some(block) = engine.read(cursor) {
        records += open(&block, &Default::default()).unwrap().len() as u64;
        cursor = block.header.last.next();
        since_cursor += block.bytes.len();
        if since_cursor >= 1 << 20 {
            since_cursor = 0;
            engine.done_below(cursor);
        }
    }
    engine.done_below(cursor);
    records
}

/// Bytes and CPU of each codec on each kind of reading, in full blocks.
pub fn compressions() {
    const RECORDS: usize = 200_000;
    println!(
        "{:<13} {:>6} {:>16} {:>18} {:>18}",
        "readings", "codec", "bytes a record", "seal us/record", "open us/record"
    );
    for (kind, records) in kinds() {
        for (name, compression) in [("none", Compression::None), ("lz4", Compression::Lz4), ("zstd", Compression::Zstd)]
        {
            let blocks = Sealer::new(records.clone(), compression).group(RECORDS);
            let bytes: usize = blocks.iter().map(|block| block.bytes.len()).sum();
            let (opened, _, open_cpu) =
                timed(|| blocks.iter().map(|block| open(block, &Default::default()).unwrap()).collect::<Vec<_>>());
            let count: usize = opened.iter().map(Vec::len).sum();
            let contexts = blocks.iter().map(|block| forebay::queue::block::SealContext {
                stream: block.header.stream.clone(),
                lineage: block.header.lineage.clone(),
                prev_last: None,
                cursor_at_seal: Position::ZERO,
                compression,
                keys: Default::default(),
            });
            let contexts: Vec<_> = contexts.collect();
            let (_, _, seal_cpu) = timed(|| {
                let sealed = contexts.iter().zip(&opened).map(|(context, records)| seal(context, records).unwrap());
                sealed.map(|block| block.bytes.len()).sum::<usize>()
            });
            let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count as f64;
            println!(
                "{kind:<13} {name:>6} {:>16.1} {:>18.2} {:>18.2}",
                bytes as f64 / count as f64,
                each(seal_cpu),
                each(open_cpu)
            );
        }
    }
}
