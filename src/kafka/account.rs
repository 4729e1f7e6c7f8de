//! The account of what arrived in Kafka: nothing lost, what came twice, what came out of order.
//!
//! Pure: fed with the values of records in the order in which a consumer read them. `seq` counts per stream, so what
//! is missing is found per (gateway, queue, stream, run); order is kept per device, so it is judged per device.
//! Bounded by [`ENTRIES_MAX`] and [`NAME_BYTES_MAX`]; what would go beyond is counted and leaves the account incomplete.

mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::reading::Position;
use run::Run;

/// Most streams, runs, devices, ranges and declarations together: below 200 MiB at 100 to 200 bytes each with short
/// names. A fleet that arrived whole needs one range a run.
pub const ENTRIES_MAX: usize = 1_000_000;
/// Longest gateway, queue, stream or device name taken for one of this agent.
pub const NAME_BYTES_MAX: usize = 512;
/// Where reading did not begin with a topic's first record, so much of what follows the beginning is not judged for
/// holes, as sources of one stream may disagree on the time by some seconds.
pub const UNJUDGED_MS: i64 = 10_000;

/// Where records came from: what has one sequence of positions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
pub struct Origin {
    /// The gateway's id.
    pub gateway: String,
    /// The first 8 hex digits of the queue's uuid.
    pub queue: String,
    /// The stream.
    pub stream: String,
}

/// What [`Account::add`] made of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// Seen for the first time.
    New,
    /// Its identity was seen before.
    Repeated,
    /// Not a record of this agent.
    Unreadable,
    /// The account is full ([`ENTRIES_MAX`]): counted, and nothing more.
    Beyond,
}

/// Positions that never arrived and that no `skipped` explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// The run.
    pub run: u32,
    /// First `seq` of the hole.
    pub first: u64,
    /// Last `seq` of the hole.
    pub last: u64,
    /// How many of the hole's records are not explained.
    pub unexplained: u64,
}

/// What is known of one device's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceAccount {
    /// Records, each identity once.
    pub received: u64,
    /// Further copies.
    pub repeated: u64,
    /// First copies that came after a later record of the device.
    pub out_of_order: u64,
    /// The highest position.
    pub highest: Option<Position>,
    /// The latest `time` of its records, microseconds since 1970 UTC.
    pub latest_us: Option<i64>,
}

/// What is known of one origin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamAccount {
    runs: BTreeMap<u32, Run>,
    devices: BTreeMap<String, DeviceAccount>,
    /// Reading began in the middle: holes below are not judged. `None` there: none of its records is late enough yet.
    judged_from: Option<Position>,
}

/// The account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    streams: BTreeMap<Origin, StreamAccount>,
    unreadable: u64,
    beyond: u64,
    entries: usize,
    /// Kafka timestamp (ms) below which records may not have been read. `None`: everything was read.
    cut_ms: Option<i64>,
}

#[derive(serde::Deserialize)]
struct Head {
    #[serde(flatten)]
    origin: Origin,
    device: String,
    run: u32,
    seq: u64,
    #[serde(default)]
    skipped: u64,
    #[serde(default)]
    time: Option<String>,
}

impl Head {
    fn parse(value: &[u8]) -> Option<Self> {
        let head: Self = serde_json::from_slice(value).ok()?;
        let Origin { gateway, queue, stream } = &head.origin;
        let named = [gateway, queue, stream, &head.device].iter().all(|name| name.len() <= NAME_BYTES_MAX);
        let possible = head.run <= Position::RUN_MAX && head.seq <= Position::SEQ_MAX;
        (named && possible).then_some(head)
    }

    fn time_us(&self) -> Option<i64> {
        Some(self.time.as_ref()?.parse::<jiff::Timestamp>().ok()?.as_microsecond())
    }
}

impl Account {
    /// Says that records whose Kafka timestamp is below this may not be read: reading begins at a time, or Kafka's
    /// retention removed the beginning. May be said again with a later time while reading. Times ascend with
    /// positions, so that the first record late enough tells from where on holes can be judged.
    pub fn begins_at(&mut self, timestamp_ms: i64) {
        if self.cut_ms.is_none_or(|cut| cut < timestamp_ms) {
            self.cut_ms = Some(timestamp_ms);
            self.streams.values_mut().for_each(|stream| stream.judged_from = None);
        }
    }

    /// Takes a record's value, as JSON, into account.
    pub fn add(&mut self, value: &[u8]) -> Added {
        self.add_stamped(value, None)
    }

    /// The same, with the Kafka timestamp of the record in milliseconds, which [`Account::begins_at`] is held against.
    pub fn add_stamped(&mut self, value: &[u8], timestamp_ms: Option<i64>) -> Added {
        let Some(head) = Head::parse(value) else {
            self.unreadable += 1;
            return Added::Unreadable;
        };
        // A record adds at most a stream, a run, a device, a range and a declaration.
        if self.entries + 5 > ENTRIES_MAX {
            self.beyond += 1;
            return Added::Beyond;
        }
        let time_us = head.time_us();
        let late_enough =
            self.cut_ms.is_none_or(|cut| timestamp_ms.is_some_and(|at| at >= cut.saturating_add(UNJUDGED_MS)));
        let streams_before = self.streams.len();
        let stream = self.streams.entry(head.origin.clone()).or_default();
        let before = stream.runs.len() + stream.devices.len();
        let (added, grown) = stream.add(&head, time_us, late_enough);
        self.entries += stream.runs.len() + stream.devices.len() - before;
        self.entries = self.entries.saturating_add_signed(grown);
        self.entries += self.streams.len() - streams_before;
        added
    }

    /// What is known, by origin.
    pub fn streams(&self) -> impl Iterator<Item = (&Origin, &StreamAccount)> {
        self.streams.iter()
    }

    /// Values that were no records of this agent.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Records that the full account could not take; above 0 it is incomplete.
    pub fn beyond(&self) -> u64 {
        self.beyond
    }

    /// Records of all origins, each identity once.
    pub fn received(&self) -> u64 {
        self.streams.values().map(|stream| stream.total().received).sum()
    }

    /// Further copies over all origins.
    pub fn repeated(&self) -> u64 {
        self.streams.values().map(|stream| stream.total().repeated).sum()
    }

    /// First copies that came late, over all origins.
    pub fn out_of_order(&self) -> u64 {
        self.streams.values().map(|stream| stream.total().out_of_order).sum()
    }

    /// Records missing without explanation, over all origins.
    pub fn missing(&self) -> u64 {
        let holes = self.streams.values().flat_map(|stream| self.missing_of(stream));
        holes.map(|hole| hole.unexplained).sum()
    }

    /// Holes of one of its streams that nothing explains, ascending. `seq` starts at 0 in every run, so a missing
    /// start is a hole too; the end of a run is open. What lies before the place from which reading can judge is none.
    pub fn missing_of(&self, stream: &StreamAccount) -> Vec<Missing> {
        match (self.cut_ms, stream.judged_from) {
            (None, _) => stream.missing_from(Position::ZERO),
            (Some(_), Some(from)) => stream.missing_from(from),
            (Some(_), None) => Vec::new(),
        }
    }
}

impl StreamAccount {
    /// Adds a record; also says by how many entries its run grew.
    fn add(&mut self, head: &Head, time_us: Option<i64>, late_enough: bool) -> (Added, isize) {
        let position = Position::new(head.run, head.seq);
        let run = self.runs.entry(head.run).or_default();
        let before = run.entries();
        let new = run.insert(head.seq);
        if new && head.skipped > 0 {
            run.declare_skipped(head.seq, head.skipped);
        }
        let grown = run.entries() as isize - before as isize;
        if late_enough && self.judged_from.is_none_or(|from| position < from) {
            self.judged_from = Some(position);
        }
        let device = self.devices.entry(head.device.clone()).or_default();
        if !new {
            device.repeated += 1;
            return (Added::Repeated, grown);
        }
        device.received += 1;
        if device.highest.is_some_and(|highest| position < highest) {
            device.out_of_order += 1;
        }
        device.highest = device.highest.max(Some(position));
        device.latest_us = device.latest_us.max(time_us);
        (Added::New, grown)
    }

    /// Its devices, by name.
    pub fn devices(&self) -> impl Iterator<Item = (&str, &DeviceAccount)> {
        self.devices.iter().map(|(name, device)| (name.as_str(), device))
    }

    /// All devices together.
    pub fn total(&self) -> DeviceAccount {
        self.devices.values().fold(DeviceAccount::default(), |sum, device| DeviceAccount {
            received: sum.received + device.received,
            repeated: sum.repeated + device.repeated,
            out_of_order: sum.out_of_order + device.out_of_order,
            highest: sum.highest.max(device.highest),
            latest_us: sum.latest_us.max(device.latest_us),
        })
    }

    /// How many records the stream itself declared as removed on purpose.
    pub fn skipped(&self) -> u64 {
        self.runs.values().map(Run::skipped).sum()
    }

    fn missing_from(&self, from: Position) -> Vec<Missing> {
        let runs = self.runs.range(from.run()..);
        runs.flat_map(|(number, run)| run.missing(*number, if *number == from.run() { from.seq() } else { 0 }))
            .collect()
    }
}
