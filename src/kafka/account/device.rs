//! One device of one stream: how many of its records arrived, and which messages of the record that came last.
//!
//! A narrow record is several messages, told apart by their metrics. Those of a device follow each other in their
//! partition, and what is sent again after a break begins with a whole record, at or before the one that was broken
//! off. So of all records that are there only the last that came for the first time can lack messages: its metrics
//! are kept, for each partition that has the device, and a further message of any other record is a copy. One case is
//! missed: with newest-first, newer records may come between a record that was broken off and its rest, which then
//! counts as repeated.

use super::head::{Head, Unreadable};
use super::{Added, METRICS_MAX};
use crate::reading::Position;

/// Metrics for which room is made at a time; counted as one entry of the account.
const ROOM: usize = 16;

/// What is known of one device's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceAccount {
    /// Records, each identity once.
    pub received: u64,
    /// Further copies; of narrow records, of their messages.
    pub repeated: u64,
    /// First copies that came after a later record of the device.
    pub out_of_order: u64,
    /// The highest position.
    pub highest: Option<Position>,
    /// The latest `time` of its records, microseconds since 1970 UTC.
    pub latest_us: Option<i64>,
}

/// A device, and what is to be remembered to tell its messages from copies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Device {
    pub(super) account: DeviceAccount,
    /// Narrow records only; one for each partition.
    last: Vec<Last>,
}

/// The record of a partition that came last for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Last {
    partition: i32,
    position: Position,
    /// Fingerprints; not beyond [`METRICS_MAX`].
    metrics: Vec<u64>,
}

impl Device {
    /// Takes a message into account; `is_new` says that its record was never seen.
    pub(super) fn add(&mut self, head: &Head, partition: i32, is_new: bool) -> Added {
        if is_new {
            self.begin(head, partition);
            return Added::New;
        }
        let position = head.position();
        let last = self.last.iter_mut().find(|last| last.position == position);
        if let (Some(last), Some(metric)) = (last, head.metric)
            && !last.metrics.contains(&metric)
        {
            if last.metrics.len() >= METRICS_MAX {
                return Added::Unreadable(Unreadable::Metrics);
            }
            last.put(metric);
            return Added::Further;
        }
        self.account.repeated += 1;
        Added::Repeated
    }

    fn begin(&mut self, head: &Head, partition: i32) {
        let (account, position) = (&mut self.account, head.position());
        account.received += 1;
        if account.highest.is_some_and(|highest| position < highest) {
            account.out_of_order += 1;
        }
        account.highest = account.highest.max(Some(position));
        account.latest_us = account.latest_us.max(head.time_us);
        let Some(metric) = head.metric else { return };
        match self.last.iter_mut().find(|last| last.partition == partition) {
            Some(last) => {
                last.position = position;
                last.metrics.clear();
                last.put(metric);
            }
            None => {
                let mut last = Last { partition, position, metrics: Vec::new() };
                last.put(metric);
                self.last.push(last);
            }
        }
    }

    /// What it costs in memory, in entries of the account, beside itself. A message adds at most two.
    pub(super) fn entries(&self) -> usize {
        self.last.iter().map(|last| 1 + last.metrics.capacity().div_ceil(ROOM)).sum()
    }
}

impl Last {
    fn put(&mut self, metric: u64) {
        if self.metrics.len() == self.metrics.capacity() {
            self.metrics.reserve_exact(ROOM);
        }
        self.metrics.push(metric);
    }
}
