//! One stream on its way into transactions, and the transaction that is open.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::cursor::Range;
use super::limits::Allowance;
use crate::config::Stream;
use crate::kafka::{Failure, Group};
use crate::queue::StreamIndex;
use crate::reading::{Lineage, Position, Record};
use crate::uplink::lane::{Backoff, Lane};
use crate::uplink::letter::Letter;
use crate::uplink::rate::RateLimit;
use crate::uplink::schemas::Writer;
use crate::uplink::timestamp::Timestamps;

/// A stream as the thread knows it.
pub(super) struct Outlet {
    pub(super) name: String,
    pub(super) topic: String,
    pub(super) priority: u8,
    pub(super) index: StreamIndex,
    pub(super) lane: Lane,
    pub(super) writer: Writer,
    pub(super) rate: RateLimit,
    /// Read and not yet sent: of one lane, one run, one lineage.
    pub(super) ready: VecDeque<Arc<Record>>,
    pub(super) ready_bytes: usize,
    /// Nothing that belongs to `ready` follows it.
    pub(super) ready_is_whole: bool,
    /// When the first of `ready` was read, boot time in ns.
    pub(super) ready_since_ns: u64,
    /// Something of it has waited since then for the end of a transaction of less priority, boot time in ns.
    pub(super) waits_since_ns: Option<u64>,
    pub(super) lineage: Option<Arc<Lineage>>,
    pub(super) timestamps: Timestamps,
    /// Its next block cannot be opened here; it is looked at again then, boot time in ns.
    pub(super) unopened_until_ns: Option<u64>,
    /// The group that keeps the cursor, once it was asked.
    pub(super) group: Option<Group>,
    /// When this client last committed the cursor, boot time in ns.
    pub(super) committed_ns: Option<u64>,
    /// Records that Kafka may have already.
    pub(super) doubtful: Option<Range>,
    /// Its first record goes to the dead-letter topic.
    pub(super) letter: Option<Letter>,
    /// It was sent, and what became of its transaction is not known.
    pub(super) letter_in_doubt: bool,
    /// Its records could not be read the last time.
    pub(super) peek_failed: bool,
}

impl Outlet {
    pub(super) fn new(index: usize, stream: &Stream, writer: Writer, backoff: Backoff) -> Self {
        Self {
            name: stream.name.to_string(),
            topic: stream.topic.clone(),
            priority: stream.priority,
            index: StreamIndex(index),
            lane: Lane::new(backoff),
            writer,
            rate: RateLimit::new(stream.rate),
            ready: VecDeque::new(),
            ready_bytes: 0,
            ready_is_whole: false,
            ready_since_ns: 0,
            waits_since_ns: None,
            lineage: None,
            timestamps: Timestamps::default(),
            unopened_until_ns: None,
            group: None,
            committed_ns: None,
            doubtful: None,
            letter: None,
            letter_in_doubt: false,
            peek_failed: false,
        }
    }

    /// Whether so much is read ahead, or all that belongs together.
    pub(super) fn has_ready(&self, enough: Allowance) -> bool {
        self.ready_is_whole || self.ready.len() >= enough.records || self.ready_bytes >= enough.bytes
    }

    /// What was read ahead is read again.
    pub(super) fn forget_ready(&mut self) {
        self.ready.clear();
        (self.ready_bytes, self.ready_is_whole) = (0, false);
    }
}

/// A message of the open transaction: small, as there are many.
pub(super) struct Sent {
    /// What to add to the first serial of the transaction.
    serial: u32,
    pub(super) bytes: u32,
}

/// The open transaction.
pub(super) struct Open {
    /// Which outlet.
    pub(super) place: usize,
    /// First and last position handed over; `None`: it commits the cursor alone.
    pub(super) range: Option<Range>,
    /// What it may have.
    pub(super) most: Allowance,
    /// More is added while the queue has it, of what was there when it began: else what comes in all the time would keep
    /// it open.
    pub(super) is_filling: bool,
    pub(super) until: Position,
    /// A crash would leave word of it.
    pub(super) is_secured: bool,
    /// It puts its one record into the dead-letter topic: what that said was left out before it.
    pub(super) letter: Option<u64>,
    /// Token of the first record; the others follow.
    pub(super) first_token: usize,
    /// One entry a message.
    pub(super) records: Vec<Sent>,
    pub(super) first_serial: u64,
    /// Of the message that was handed over last.
    pub(super) timestamp_ms: i64,
    /// Messages of batches that Kafka refused for good.
    pub(super) refused: BTreeSet<usize>,
    /// How many records these messages are.
    pub(super) count: usize,
    pub(super) bytes: usize,
    pub(super) began_ns: u64,
    /// Records of it that Kafka may have already.
    pub(super) doubtful: u64,
    /// A record of several messages was taken in part, so many of them.
    pub(super) incomplete: bool,
    pub(super) further_tokens: usize,
    pub(super) reported: usize,
    pub(super) reported_bytes: usize,
    /// What went wrong first, and with which record, if with one.
    pub(super) failure: Option<(Option<usize>, Failure)>,
}

impl Open {
    /// One of the cursor alone.
    pub(super) fn of_cursor(place: usize) -> Self {
        Self {
            place,
            range: None,
            most: Allowance { records: 0, bytes: 0 },
            is_filling: false,
            until: Position::ZERO,
            is_secured: false,
            letter: None,
            first_token: 0,
            records: Vec::new(),
            first_serial: 0,
            timestamp_ms: 0,
            refused: BTreeSet::new(),
            count: 0,
            bytes: 0,
            began_ns: crate::clock::boot_ns(),
            doubtful: 0,
            incomplete: false,
            further_tokens: 0,
            reported: 0,
            reported_bytes: 0,
            failure: None,
        }
    }

    /// The client took a message, which the stream's lane knows under this serial.
    pub(super) fn took(&mut self, serial: u64, timestamp_ms: i64, bytes: usize) {
        if self.records.is_empty() {
            self.first_serial = serial;
        }
        let serial = u32::try_from(serial - self.first_serial).unwrap_or(u32::MAX);
        self.records.push(Sent { serial, bytes: u32::try_from(bytes).unwrap_or(u32::MAX) });
        self.timestamp_ms = timestamp_ms;
        self.bytes += bytes;
    }

    /// The serial of a message.
    pub(super) fn serial(&self, sent: &Sent) -> u64 {
        self.first_serial + u64::from(sent.serial)
    }

    /// Messages that the client has not reported, and their bytes.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        (self.records.len() - self.reported, self.bytes - self.reported_bytes)
    }

    /// Whether it may have more.
    pub(super) fn has_room(&self) -> bool {
        self.count == 0 || self.count < self.most.records && self.bytes < self.most.bytes
    }
}

/// How many bytes a transaction may have: what the link carries in a few seconds, so that it neither times out nor holds
/// readers of the same partitions for long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    bytes: usize,
}

/// Bytes of the first transaction of a client: four seconds of 64 kbit/s, should they not compress, as an alarm may wait
/// behind it.
const FIRST_BYTES: usize = 32 * 1024;
/// Most bytes of a transaction: on a fast link, so much that the commit's round trips hardly count.
const BYTES_MAX: usize = 32 << 20;
/// Least bytes of a transaction.
const BYTES_MIN: usize = 16 * 1024;
/// How long a transaction may take, at the rate of the last one.
pub(super) const TARGET: Duration = Duration::from_secs(5);
const TARGET_NS: u64 = TARGET.as_nanos() as u64;

impl Size {
    pub(super) fn new() -> Self {
        Self { bytes: FIRST_BYTES }
    }

    pub(super) fn bytes(self, most: usize) -> usize {
        self.bytes.min(most)
    }

    /// A transaction of so many bytes took so long.
    pub(super) fn took(&mut self, bytes: usize, lasted_ns: u64) {
        if bytes == 0 {
            // The cursor alone says nothing.
            return;
        }
        let at_rate = u128::from(TARGET_NS) * bytes as u128 / u128::from(lasted_ns.max(1));
        let at_rate = usize::try_from(at_rate).unwrap_or(usize::MAX);
        // Small transactions say little about what the link can carry: never less for having sent little.
        let least = if lasted_ns < TARGET_NS { self.bytes } else { BYTES_MIN };
        self.bytes = at_rate.clamp(least, (self.bytes * 4).max(least)).clamp(BYTES_MIN, BYTES_MAX);
    }

    /// A transaction timed out.
    pub(super) fn timed_out(&mut self) {
        self.bytes = (self.bytes / 4).max(BYTES_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_grow_on_a_fast_link_and_shrink_on_a_slow_one() {
        let mut size = Size::new();
        size.took(FIRST_BYTES, 100_000_000);
        assert_eq!(size.bytes(usize::MAX), 4 * FIRST_BYTES);
        assert_eq!(size.bytes(1_000), 1_000);
        size.took(4 * FIRST_BYTES, 4 * TARGET_NS);
        assert_eq!(size.bytes(usize::MAX), FIRST_BYTES);
        size.took(100, 300_000_000);
        assert_eq!(size.bytes(usize::MAX), FIRST_BYTES, "a small one says nothing");
        size.took(0, 4 * TARGET_NS);
        assert_eq!(size.bytes(usize::MAX), FIRST_BYTES, "nor does the cursor alone, however long it took");
        for _ in 0..10 {
            size.timed_out();
        }
        assert_eq!(size.bytes(usize::MAX), BYTES_MIN);
    }
}
