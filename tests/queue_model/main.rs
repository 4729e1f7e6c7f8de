//! The queue against a simple model, on a block store double in memory, on the append-only yardstick and on sled: random pushes, reads, acknowledgements, flushes,
//! failures, restarts and crashes.

#![allow(clippy::unwrap_used)] // helpers of tests; clippy only knows test functions

mod boots;
mod disk;
mod fairness;
mod faults;
mod flips;
mod ground;
mod lanes;
mod memory;
mod model;
mod newer;
mod outage;
mod reader;
mod retention;
mod thin;
mod thin_lanes;
mod transaction;
#[path = "../yardstick/mod.rs"]
mod yardstick;

use yardstick::rewriting;

use std::sync::Arc;

use forebay::queue::{Limit, NewRecord, Queue, StreamIndex};
use forebay::reading::{Field, Position, Record, Stamp, Trust, Value};

/// So many trials, or the share of them that `FOREBAY_TRIALS_PERCENT` says (an emulator is slow); at least one.
pub fn trials(all: u32) -> u32 {
    let share = std::env::var("FOREBAY_TRIALS_PERCENT").ok().and_then(|share| share.parse::<u32>().ok());
    share.map_or(all, |share| (all * share / 100).max(1))
}

/// A record whose one field is `number`.
pub fn record(number: u64) -> NewRecord {
    NewRecord {
        stamp: Stamp { boot_ns: number, wall_us: 0, trust: Trust::Unknown },
        source: "source".into(),
        device: "device".into(),
        fields: vec![Field::new("number", Value::Unsigned(number))],
    }
}

/// What [`record`] put in.
pub fn number(record: &Record) -> u64 {
    match record.fields.first().map(|field| &field.value) {
        Some(Value::Unsigned(number)) => *number,
        Some(Value::Integer(number)) => u64::try_from(*number).unwrap(),
        other => panic!("field is {other:?}"),
    }
}

/// Reads and acknowledges everything there is.
pub fn drain(queue: &Queue, stream: StreamIndex) -> Vec<Record> {
    let mut out: Vec<Record> = Vec::new();
    let mut after: Option<Position> = None;
    while let Some(batch) = queue.peek(stream, after, Limit { records: 7, bytes: 4096 }).unwrap() {
        after = batch.records.last().map(|record| record.position);
        out.extend(batch.records.into_iter().map(Arc::unwrap_or_clone));
        queue.ack(stream, after.unwrap());
    }
    out
}
