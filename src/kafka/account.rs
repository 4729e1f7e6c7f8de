//! The account of what arrived in Kafka: nothing lost, what came twice, what came out of order.
//!
//! Pure: fed with the messages in the order in which a consumer read them. `seq` counts per stream, so what is missing
//! is found per (gateway, queue, stream, run); order is kept per device, so it is judged per device. A record counts
//! once, however many messages it is: `head` reads them, `device` tells them from copies. How many metrics a narrow
//! record had is not in its messages, so that one that lacks some cannot be told from one that had no more.
//! Bounded by [`ENTRIES_MAX`] and [`NAME_BYTES_MAX`]; what would go beyond is counted and leaves the account incomplete.

mod binary;
mod device;
mod head;
mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use device::DeviceAccount;
pub use head::Unreadable;

use crate::config::Encoding;
use crate::reading::{FIELDS_MAX, Position};
use device::Device;
use head::Head;
use run::Run;

/// Most streams, runs, devices, ranges, declarations and 16 metrics each together: below 200 MiB at 100 to 200 bytes
/// each with short names. A fleet that arrived whole needs one range a run; of metrics those of one record a device.
pub const ENTRIES_MAX: usize = 1_000_000;
/// Longest gateway, queue, stream or device name taken for one of this agent.
pub const NAME_BYTES_MAX: usize = 512;
/// Most messages of one narrow record: each is a field.
pub const METRICS_MAX: usize = FIELDS_MAX;
/// A message adds at most a stream, a run, a device, a range, a declaration, and a record with 16 metrics.
const MESSAGE_ENTRIES_MAX: usize = 7;
/// Of the queue's uuid, in every record.
const QUEUE_DIGITS: usize = 8;
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

/// A message as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The value.
    pub value: &'a [u8],
    /// What a value in Confluent's wire format is; JSON is told from it by itself.
    pub encoding: Encoding,
    /// Where it was read.
    pub partition: i32,
    /// Kafka's timestamp in milliseconds, which [`Account::begins_at`] is held against.
    pub timestamp_ms: Option<i64>,
}

/// What [`Account::add`] made of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// Its record was seen for the first time.
    New,
    /// A further metric of a narrow record that was seen before.
    Further,
    /// Its identity was seen before.
    Repeated,
    /// Not a record of this agent, or not to be read as one.
    Unreadable(Unreadable),
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

/// What is known of one origin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamAccount {
    runs: BTreeMap<u32, Run>,
    devices: BTreeMap<String, Device>,
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

    /// Takes a message's value, as JSON, into account.
    pub fn add(&mut self, value: &[u8]) -> Added {
        self.take(&Message { value, encoding: Encoding::Json, partition: 0, timestamp_ms: None })
    }

    /// Takes a message into account.
    pub fn take(&mut self, message: &Message<'_>) -> Added {
        let head = match Head::read(message.value, message.encoding) {
            Ok(head) => head,
            Err(why) => {
                self.unreadable += 1;
                return Added::Unreadable(why);
            }
        };
        if self.entries + MESSAGE_ENTRIES_MAX > ENTRIES_MAX {
            self.beyond += 1;
            return Added::Beyond;
        }
        let (cut_ms, timestamp_ms) = (self.cut_ms, message.timestamp_ms);
        let late_enough = cut_ms.is_none_or(|cut| timestamp_ms.is_some_and(|at| at >= cut.saturating_add(UNJUDGED_MS)));
        let streams_before = self.streams.len();
        let stream = self.streams.entry(head.origin.clone()).or_default();
        let before = stream.runs.len() + stream.devices.len();
        let (added, grown) = stream.add(&head, message.partition, late_enough);
        self.entries += stream.runs.len() + stream.devices.len() - before;
        self.entries = self.entries.saturating_add_signed(grown);
        self.entries += self.streams.len() - streams_before;
        if matches!(added, Added::Unreadable(_)) {
            self.unreadable += 1;
        }
        added
    }

    /// What is known, by origin.
    pub fn streams(&self) -> impl Iterator<Item = (&Origin, &StreamAccount)> {
        self.streams.iter()
    }

    /// Messages that were no records of this agent, or could not be read as such.
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

    /// Further copies over all origins; of narrow records, of their messages.
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
    /// Adds a message; also says by how many entries its run and its device grew.
    fn add(&mut self, head: &Head, partition: i32, late_enough: bool) -> (Added, isize) {
        let position = head.position();
        let run = self.runs.entry(head.run).or_default();
        let device = self.devices.entry(head.device.clone()).or_default();
        let before = run.entries() + device.entries();
        let is_new = run.insert(head.seq);
        if head.skipped > 0 {
            run.declare_skipped(head.seq, head.skipped);
        }
        if late_enough && self.judged_from.is_none_or(|from| position < from) {
            self.judged_from = Some(position);
        }
        let added = device.add(head, partition, is_new);
        (added, (run.entries() + device.entries()) as isize - before as isize)
    }

    /// Its devices, by name.
    pub fn devices(&self) -> impl Iterator<Item = (&str, &DeviceAccount)> {
        self.devices.iter().map(|(name, device)| (name.as_str(), &device.account))
    }

    /// All devices together.
    pub fn total(&self) -> DeviceAccount {
        self.devices().fold(DeviceAccount::default(), |sum, (_, device)| DeviceAccount {
            received: sum.received + device.received,
            repeated: sum.repeated + device.repeated,
            out_of_order: sum.out_of_order + device.out_of_order,
            highest: sum.highest.max(device.highest),
            latest_us: sum.latest_us.max(device.latest_us),
        })
    }

    /// How many records the stream itself declared as removed on purpose.
    pub fn skipped(&self) -> u64 {
        self.runs.values().map(Run::skipped).fold(0, u64::saturating_add)
    }

    fn missing_from(&self, from: Position) -> Vec<Missing> {
        let runs = self.runs.range(from.run()..);
        runs.flat_map(|(number, run)| run.missing(*number, if *number == from.run() { from.seq() } else { 0 }))
            .collect()
    }
}
