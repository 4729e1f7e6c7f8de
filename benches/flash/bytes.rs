//! Bytes on flash.

use forebay::config::Compression;
use forebay::queue::block::SealedBlock;
use forebay::reading::{Position, Record};
use forebay::uplink::encode::encode_json;

use crate::engine::Engine;
use crate::readings;
use crate::telemetry::{Sealer, kinds, mixed, noise};

const PAYLOAD_BYTES: u64 = 64 << 20;
/// Blocks of each kind of reading: an epoch and a half, of half a million records.
const TELEMETRY_BYTES: u64 = 6 << 20;
/// The cursor becomes durable after so many bytes of blocks, as the queue has it.
const CURSOR_BYTES: u64 = 1 << 20;
const BACKLOG_BYTES: u64 = 32 << 20;

fn bytes_of(group: &[SealedBlock]) -> u64 {
    group.iter().map(|block| block.bytes.len() as u64).sum()
}

/// Groups of noise appended in an outage: the device's bytes of both, by the size of a group.
pub fn outage() {
    println!("{:>10} {:>12} {:>12} {:>12} {:>8}", "group KiB", "blocks MB", "queue MB", "file MB", "ratio");
    for group_kib in [16, 64, 256, 1024] {
        let mut written = [0; 2];
        let mut payload = 0;
        for (engine, bytes) in Engine::both().iter_mut().zip(&mut written) {
            let mut sealer = Sealer::new(noise(4_000), Compression::None);
            let before = engine.device_bytes();
            payload = 0;
            while payload < PAYLOAD_BYTES {
                let group = sealer.group_of_bytes(group_kib * 1024);
                payload += bytes_of(&group);
                engine.append(&group);
            }
            *bytes = engine.device_bytes() - before;
        }
        let [queue, file] = written.map(mb);
        println!("{group_kib:>10} {:>12.1} {queue:>12.1} {file:>12.1} {:>8.3}", mb(payload), queue / file);
    }
}

/// A backlog that is drained as fast as it grows: one group in, one out, the cursor durable every MiB.
pub fn steady_drain() {
    println!("{:>10} {:>12} {:>12} {:>12} {:>8}", "group KiB", "blocks MB", "queue MB", "file MB", "ratio");
    for group_kib in [64, 256] {
        let mut written = [0; 2];
        let mut payload = 0;
        for (engine, bytes) in Engine::both().iter_mut().zip(&mut written) {
            let mut sealer = Sealer::new(noise(4_000), Compression::None);
            let mut backlog = 0;
            while backlog < BACKLOG_BYTES {
                let group = sealer.group_of_bytes(group_kib * 1024);
                backlog += bytes_of(&group);
                engine.append(&group);
            }
            let before = engine.device_bytes();
            payload = 0;
            let (mut cursor, mut drained, mut since_cursor) = (Position::ZERO, 0, 0);
            while payload < PAYLOAD_BYTES {
                let group = sealer.group_of_bytes(group_kib * 1024);
                payload += bytes_of(&group);
                engine.append(&group);
                while drained < payload {
                    let block = engine.read(cursor).unwrap();
                    cursor = block.header.last.next();
                    drained += block.bytes.len() as u64;
                    since_cursor += block.bytes.len() as u64;
                }
                if since_cursor >= CURSOR_BYTES {
                    since_cursor = 0;
                    engine.done_below(cursor);
                }
            }
            *bytes = engine.device_bytes() - before;
        }
        let [queue, file] = written.map(mb);
        println!("{group_kib:>10} {:>12.1} {queue:>12.1} {file:>12.1} {:>8.3}", mb(payload), queue / file);
    }
}

fn json_bytes(records: &[Record]) -> u64 {
    let mut out = Vec::new();
    records.iter().for_each(|record| encode_json(&mut out, "telemetry", &readings::lineage(), record, &[].into()));
    out.len() as u64
}

/// What readings of real kinds cost, in groups of 64 KiB, against the same records uncompressed and as JSON.
pub fn of_telemetry() {
    println!(
        "{:<13} {:>6} {:>9} {:>10} {:>10} {:>10} {:>13} {:>11}",
        "readings", "codec", "records", "plain MB", "JSON MB", "flash MB", "flash/plain", "flash/JSON"
    );
    for (kind, records) in kinds().into_iter().chain([("mixed", mixed())]) {
        for (name, compression) in [("zstd", Compression::Zstd), ("lz4", Compression::Lz4)] {
            let [mut engine, _] = Engine::both();
            let mut sealer = Sealer::new(records.clone(), compression);
            let mut plain = Sealer::new(records.clone(), Compression::None);
            let before = engine.device_bytes();
            let (mut count, mut plain_bytes, mut blocks) = (0_usize, 0, 0);
            while blocks < TELEMETRY_BYTES {
                let group = sealer.group_of_bytes(64 * 1024);
                let in_group: usize = group.iter().map(|block| block.header.count as usize).sum();
                plain_bytes += bytes_of(&plain.group(in_group));
                count += in_group;
                blocks += bytes_of(&group);
                engine.append(&group);
            }
            let flash = mb(engine.device_bytes() - before);
            let json = mb(json_bytes(&records)) * count as f64 / records.len() as f64;
            let plain = mb(plain_bytes);
            println!(
                "{kind:<13} {name:>6} {count:>9} {plain:>10.1} {json:>10.1} {flash:>10.1} {:>13.3} {:>11.3}",
                flash / plain,
                flash / json
            );
        }
    }
}

/// What an outage costs a day by rate and window, from a few hundred flushes of each.
pub fn a_day() {
    const FLUSHES: u32 = 600;
    let records = mixed();
    let plain = Sealer::new(records.clone(), Compression::None).group(records.len());
    let record_bytes = bytes_of(&plain) as f64 / records.len() as f64;
    println!("readings of {record_bytes:.0} bytes before compression; zstd; flushed at half the window");
    println!(
        "{:>9} {:>9} {:>9} {:>14} {:>14} {:>9} {:>11} {:>10}",
        "KB/s", "window s", "records", "bytes a flush", "in the file", "ratio", "GB a day", "file GB"
    );
    for kb_s in [0.1, 1.0, 10.0, 50.0] {
        for window_s in [1.0, 10.0, 60.0] {
            let in_group = (kb_s * 1e3 * window_s / 2.0 / record_bytes).round().max(1.0);
            // Slower than a record a flush: a flush a record.
            let every_s = in_group * record_bytes / (kb_s * 1e3);
            let flushes = if in_group > 2_000.0 { FLUSHES / 6 } else { FLUSHES };
            let [queue, file] = Engine::both().map(|mut engine| {
                let mut sealer = Sealer::new(records.clone(), Compression::Zstd);
                let before = engine.device_bytes();
                (0..flushes).for_each(|_| engine.append(&sealer.group(in_group as usize)));
                (engine.device_bytes() - before) as f64 / f64::from(flushes)
            });
            let gb_a_day = |bytes: f64| bytes * 86_400.0 / every_s / 1e9;
            println!(
                "{kb_s:>9} {window_s:>9} {in_group:>9} {queue:>14.0} {file:>14.0} {:>9.3} {:>11.3} {:>10.3}",
                queue / file,
                gb_a_day(queue),
                gb_a_day(file)
            );
        }
    }
}

pub fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
