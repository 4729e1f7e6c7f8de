//! Thinning: outages much longer than the queue is large leave a coarser history of original records without a hole, and
//! what is gone is said to the record.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay::config::{Durability, WhenFull};
use forebay::metrics::{ByStream, ByStreamAndReason, Metrics};
use forebay::queue::{Limit, NewRecord, Queue, Settings, StreamIndex};
use forebay::reading::{Field, Record, Stamp, Trust, Value};
use proptest::prelude::*;

use super::ground::Ground;
use super::memory::{Clock, Disk, settings};
use super::{drain, number};

const TELEMETRY: StreamIndex = StreamIndex(0);
const ALARMS: StreamIndex = StreamIndex(1);
const DEVICES: u64 = 3;
const ALL: Limit = Limit { records: 100, bytes: usize::MAX };

/// Reading `n` of a plant with three devices, one reading a second: a slow wave, a pump that is switched now and then, a
/// spike up or down every 997 readings.
fn reading(n: u64) -> NewRecord {
    let wave = ((n % 360) as f64).to_radians().sin();
    let spike = match n % 1994 {
        500 => 1_000.0 + n as f64,
        1497 => -1_000.0 - n as f64,
        _ => 0.0,
    };
    NewRecord {
        stamp: Stamp { boot_ns: n * 1_000_000_000, wall_us: n as i64 * 1_000_000, trust: Trust::Ntp },
        source: "plant".into(),
        device: format!("device-{}", n % DEVICES).into(),
        fields: vec![
            Field::new("number", Value::Unsigned(n)),
            Field::new("temperature_c", Value::float(wave + spike)),
            Field::new("pump_on", Value::Bool(n % 6_000 < 3_000)),
            Field::new("state", Value::Text(format!("phase {}", n / 20_000))),
        ],
    }
}

fn is_spike(n: u64) -> bool {
    n % 1994 == 500 || n % 1994 == 1497
}

fn thinning(dir: &std::path::Path, size_bytes: u64) -> Settings {
    let mut settings = settings(&[("telemetry", Durability::Window), ("alarms", Durability::Window)], 1 << 20, dir);
    settings.queue.quota_bytes = Some(16 << 20);
    settings.streams[TELEMETRY.0].retention.size_bytes = Some(size_bytes);
    settings.streams[TELEMETRY.0].retention.when_full = WhenFull::Thin;
    settings
}

fn is_original(record: &Record) -> bool {
    let wanted = reading(number(record));
    (&wanted.stamp, &wanted.source, &wanted.device, &wanted.fields)
        == (&record.stamp, &record.source, &record.device, &record.fields)
}

/// Every device has a survivor in every tenth of the time, and every spike is still there.
fn assert_history(got: &[Record], pushed: u64) {
    let kept: std::collections::BTreeSet<u64> = got.iter().map(number).collect();
    for tenth in 0..10 {
        let range = pushed * tenth / 10..pushed * (tenth + 1) / 10;
        for device in 0..DEVICES {
            assert!(kept.range(range.clone()).any(|n| n % DEVICES == device), "device {device} in {range:?}");
        }
    }
    let lost: Vec<u64> = (0..pushed).filter(|n| is_spike(*n) && !kept.contains(n)).collect();
    assert!(lost.is_empty(), "spikes {lost:?} are gone");
}

/// Ten times what the stream may take, in groups as an outage brings them.
fn long_outage(ground: Ground, size_bytes: u64, readings: u64) {
    let (disk, clock) = (Disk::default(), Clock::default());
    let dir = tempfile::tempdir().unwrap();
    let settings = thinning(dir.path(), size_bytes);
    let queue = ground.start(&disk, &settings, &clock);
    let mut bytes = 0;
    for n in 0..readings {
        let record = reading(n);
        bytes += 60 + record.fields.len() as u64 * 10;
        queue.push(TELEMETRY, record).unwrap();
        if n % 500 == 499 {
            queue.flush().unwrap();
            let held = queue.status().streams[TELEMETRY.0].bytes;
            assert!(held <= size_bytes, "{held} bytes held");
        }
    }
    assert!(bytes > 10 * size_bytes);
    queue.flush().unwrap();
    let held = queue.status().streams[TELEMETRY.0].records;
    queue.abandon().unwrap();
    let queue = ground.start(&disk, &settings, &clock);
    let got = drain(&queue, TELEMETRY);
    assert!(got.iter().all(is_original));
    assert!(got.windows(2).all(|two| two[0].position < two[1].position));
    assert_eq!(got.len() as u64, held, "what was counted is what there is");
    let skipped: u64 = got.iter().map(|record| record.skipped).sum();
    let thinned: u64 = got.iter().map(|record| record.thinned).sum();
    assert_eq!((got.len() as u64 + skipped, thinned), (readings, skipped), "all that is gone was thinned");
    assert_history(&got, readings);
    queue.close().unwrap();
}

#[test]
fn a_long_outage_leaves_a_coarser_history_without_a_hole() {
    long_outage(Ground::Memory, 512 * 1024, 100_000);
}

#[test]
fn the_same_on_append_only_segments() {
    long_outage(Ground::Segments, 256 * 1024, 50_000);
}

#[test]
fn the_same_on_sled() {
    long_outage(Ground::Epochs, 1_300 * 1024, 150_000);
}
