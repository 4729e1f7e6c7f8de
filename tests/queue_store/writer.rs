//! The writer that storms hit: a queue at its smallest quota, with two streams of different priority, so that it seals,
//! changes epochs, drops and rewrites, drains and deletes all the time. It says on standard output what is durable once
//! it is, and what it acknowledges before it does.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use forebay::config::{self, Compression, Durability, Retention};
use forebay::metrics::Metrics;
use forebay::queue::{Limit, NewRecord, Pushed, Queue, Settings, StreamIndex};
use forebay::reading::{Field, Position, Stamp, Trust, Value};

pub const STREAMS: usize = 2;
/// Makes room for the other where the quota is used up.
pub const LOW: usize = 0;
/// Nothing of it is dropped while there is anything of the other.
pub const HIGH: usize = 1;
const NAMES: [&str; STREAMS] = ["low", "high"];
/// The smallest there is: epochs of 256 KiB, so that all that happens to epochs happens often.
const QUOTA_BYTES: u64 = 16 << 20;
/// Held of the stream of higher priority before some of it is acknowledged: a part of the quota.
const HIGH_HELD_MAX: u64 = 600;
/// One group in so many is followed by the delivery of all of the other stream, which deletes epochs whole.
const GROUPS_A_DRAIN: u32 = 2_000;
const TEXT_BYTES: usize = 2_000;

pub fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.to_owned(),
        gateway: "storm".into(),
        queue: config::Queue {
            quota_bytes: Some(QUOTA_BYTES),
            window: Duration::from_millis(100),
            window_outage: Duration::from_millis(100),
            tail_bytes_max: 1 << 20,
            compression: Compression::None,
            keys: Default::default(),
        },
        streams: (0..STREAMS)
            .map(|stream| config::Stream {
                name: NAMES[stream].into(),
                topic: NAMES[stream].to_owned(),
                priority: stream as u8,
                drain: None,
                rate: Default::default(),
                durability: Durability::Window,
                retention: Retention::default(),
            })
            .collect(),
    }
}

/// What stands at a position of a stream: another text at each, of a length of its own.
pub fn text(stream: usize, position: Position) -> String {
    let mixed = (position.packed() * STREAMS as u64 + stream as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let length = TEXT_BYTES / 2 + (mixed >> 40) as usize % (TEXT_BYTES / 2);
    format!("{mixed:x>length$}")
}

/// Writes until it is killed or nobody listens.
pub fn write_for_ever(dir: &Path, seed: u64) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let queue = Queue::open(settings(dir), Metrics::new().0)?;
    let run = queue.status().run;
    let mut seqs = [0_u64; STREAMS];
    say(&format!("run {run}"))?;
    loop {
        for _ in 0..random.u32(1..40) {
            push(&queue, LOW, run, &mut seqs)?;
            if random.u8(0..12) == 0 {
                push(&queue, HIGH, run, &mut seqs)?;
            }
        }
        queue.flush()?;
        for (stream, seq) in seqs.iter().enumerate().filter(|(_, seq)| **seq > 0) {
            say(&format!("durable {stream} {}", Position::new(run, seq - 1).packed()))?;
        }
        let held = |stream: usize| queue.status().streams[stream].records;
        if held(HIGH) > HIGH_HELD_MAX {
            drain(&queue, HIGH, 100)?;
        }
        if random.u32(0..GROUPS_A_DRAIN) == 0 {
            drain(&queue, LOW, usize::MAX)?;
        } else if random.u8(0..8) == 0 {
            drain(&queue, LOW, 50)?;
        }
    }
}

fn push(queue: &Queue, stream: usize, run: u32, seqs: &mut [u64; STREAMS]) -> anyhow::Result<()> {
    let position = Position::new(run, seqs[stream]);
    let record = NewRecord {
        stamp: Stamp { boot_ns: 1, wall_us: 0, trust: Trust::Unknown },
        source: "storm".into(),
        device: "device".into(),
        fields: vec![Field::new("text", Value::Text(text(stream, position)))],
    };
    let pushed = queue.push(StreamIndex(stream), record)?;
    ensure!(pushed == Pushed::Queued(position), "{pushed:?} instead of {position}");
    seqs[stream] += 1;
    Ok(())
}

/// Acknowledges at most so many records, and says so before.
fn drain(queue: &Queue, stream: usize, records_max: usize) -> anyhow::Result<()> {
    let (mut left, mut after) = (records_max, None);
    while left > 0 {
        let limit = Limit { records: left.min(200), bytes: usize::MAX };
        let Some(batch) = queue.peek(StreamIndex(stream), after, limit)? else { break };
        let Some(last) = batch.records.last().map(|record| record.position) else { break };
        say(&format!("acknowledge {stream} {}", last.packed()))?;
        queue.ack(StreamIndex(stream), last);
        left -= batch.records.len().min(left);
        after = Some(last);
    }
    Ok(())
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
