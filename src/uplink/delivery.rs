//! Which records are in flight, and how far their reports reach without a gap. Pure.
//!
//! Reports may come in any order; only the contiguous prefix of delivered records may be acknowledged to the queue.

use std::collections::VecDeque;

use crate::reading::Position;

/// A record between hand-over and acknowledgement. It may be several messages.
#[derive(Debug, Clone, Copy)]
struct Entry {
    lane: Position,
    position: Position,
    /// Of its messages, until all that were handed over are reported.
    bytes: usize,
    /// Messages handed over and not reported.
    open: usize,
    /// All of its messages were handed over.
    whole: bool,
    /// One of them was not delivered.
    failed: bool,
    /// Kafka refused the batch that one of them was in for good.
    refused: bool,
}

impl Entry {
    fn is_delivered(&self) -> bool {
        self.open == 0 && self.whole && !self.failed
    }
}

/// How far a lane is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Through {
    /// Where the reading of the lane began.
    pub lane: Position,
    /// Everything sent of it up to here is delivered.
    pub position: Position,
}

/// Where to look for the record that Kafka refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspects {
    /// The first record of a refused batch.
    pub first: Position,
    /// Records of the same lane that go before it.
    pub innocent: usize,
    /// Records of the lane from it to the last of a refused batch.
    pub count: usize,
}

/// The records of one stream between hand-over to the client and acknowledgement to the queue, in the order they were
/// sent: of each lane in order of position.
#[derive(Debug, Default)]
pub struct Tracker {
    entries: VecDeque<Entry>,
    /// Serial of the first entry; serials count records sent and never repeat.
    first_serial: u64,
    pending: usize,
    pending_bytes: usize,
}

impl Tracker {
    /// A message of a record of the lane that is read from `lane` on was handed over, `last` of it or not; gives the
    /// serial under which it is to be reported.
    pub fn sent(&mut self, lane: Position, position: Position, bytes: usize, last: bool) -> u64 {
        let serial = self.next_serial();
        self.pending += 1;
        self.pending_bytes += bytes;
        match self.entries.back_mut().filter(|entry| !entry.whole) {
            Some(entry) => {
                entry.bytes += bytes;
                entry.open += 1;
                entry.whole = last;
            }
            None => {
                let (open, failed, refused) = (1, false, false);
                self.entries.push_back(Entry { lane, position, bytes, open, whole: last, failed, refused });
            }
        }
        serial
    }

    /// The serial that the next message will get: its record's.
    pub fn next_serial(&self) -> u64 {
        self.first_serial + self.entries.len() as u64 - u64::from(self.is_partial())
    }

    /// Whether messages of the last record are still to be handed over.
    pub fn is_partial(&self) -> bool {
        self.entries.back().is_some_and(|entry| !entry.whole)
    }

    /// A message was reported. Gives how far lanes are delivered without a gap in the order of sending, where that
    /// moved. A serial that is not in flight (any more) changes nothing.
    pub fn reported(&mut self, serial: u64, delivered: bool) -> Vec<Through> {
        let index = serial.checked_sub(self.first_serial).and_then(|index| usize::try_from(index).ok());
        let entry = index.and_then(|index| self.entries.get_mut(index));
        let Some(entry) = entry.filter(|entry| entry.open > 0) else { return Vec::new() };
        entry.open -= 1;
        entry.failed |= !delivered;
        self.pending -= 1;
        if entry.open == 0 {
            self.pending_bytes -= std::mem::take(&mut entry.bytes);
        }
        let mut through: Vec<Through> = Vec::new();
        while let Some(first) = self.entries.front().filter(|entry| entry.is_delivered()) {
            match through.last_mut().filter(|through| through.lane == first.lane) {
                Some(through) => through.position = first.position,
                None => through.push(Through { lane: first.lane, position: first.position }),
            }
            self.entries.pop_front();
            self.first_serial += 1;
        }
        through
    }

    /// Kafka refused the batch with this message for good.
    pub fn refused(&mut self, serial: u64) {
        let index = serial.checked_sub(self.first_serial).and_then(|index| usize::try_from(index).ok());
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) {
            entry.refused = true;
        }
    }

    /// Of the records sent and not acknowledged: those that may be the reason why a batch was refused, lane by lane.
    pub fn suspects(&self) -> VecDeque<Suspects> {
        let mut lanes: Vec<Position> = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.refused) {
            if !lanes.contains(&entry.lane) {
                lanes.push(entry.lane);
            }
        }
        lanes.into_iter().filter_map(|lane| self.suspects_of(lane)).collect()
    }

    fn suspects_of(&self, lane: Position) -> Option<Suspects> {
        let of_lane = || self.entries.iter().filter(|entry| entry.lane == lane);
        let innocent = of_lane().position(|entry| entry.refused)?;
        let last = of_lane().enumerate().filter(|(_, entry)| entry.refused).last()?.0;
        Some(Suspects { first: of_lane().nth(innocent)?.position, innocent, count: last + 1 - innocent })
    }

    /// Messages in flight and not reported.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Their bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Records sent and not acknowledged: in flight, failed, or delivered behind such.
    pub fn unacknowledged(&self) -> usize {
        self.entries.len()
    }

    /// Whether records of the lane that is read from here on are sent and not acknowledged.
    pub fn has_of(&self, lane: Position) -> bool {
        self.entries.iter().any(|entry| entry.lane == lane)
    }

    /// How many of these were sent before the record at `position`; all, where nothing of it is in flight. The order of
    /// sending is that of positions only within a lane.
    pub fn unacknowledged_before(&self, position: Position) -> usize {
        self.entries.iter().take_while(|entry| entry.position != position).count()
    }

    /// The first record that is not delivered.
    pub fn first(&self) -> Option<Position> {
        self.entries.front().map(|entry| entry.position)
    }

    /// Forgets everything after the contiguous prefix: it will be sent again. Reports still to come are ignored.
    pub fn rewind(&mut self) {
        self.first_serial += self.entries.len() as u64;
        self.entries.clear();
        self.pending = 0;
        self.pending_bytes = 0;
    }
}

/// What a token stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Which stream.
    pub stream: usize,
    /// The serial its tracker gave.
    pub serial: u64,
    /// The Kafka timestamp it was sent with, ms since 1970 UTC.
    pub timestamp_ms: i64,
}

/// Delivery tokens: small integers that fit a pointer on 32-bit machines, used again once reported.
#[derive(Debug, Default)]
pub struct Tokens {
    slots: Vec<Option<Sent>>,
    free: Vec<usize>,
}

impl Tokens {
    /// A token for this record.
    pub fn take(&mut self, sent: Sent) -> usize {
        if let Some(token) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(token)
        {
            *slot = Some(sent);
            return token;
        }
        self.slots.push(Some(sent));
        self.slots.len() - 1
    }

    /// What the token was given for; the token is free afterwards.
    pub fn give_back(&mut self, token: usize) -> Option<Sent> {
        let owner = self.slots.get_mut(token)?.take();
        if owner.is_some() {
            self.free.push(token);
        }
        owner
    }

    /// How many are out.
    pub fn taken(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The client is gone and will report nothing more.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(seq: u64) -> Position {
        Position::new(1, seq)
    }

    const LANE: Position = Position::ZERO;

    fn through(seq: u64) -> Vec<Through> {
        vec![Through { lane: LANE, position: position(seq) }]
    }

    #[test]
    fn lanes_are_acknowledged_apart_in_the_order_of_sending() {
        let mut tracker = Tracker::default();
        let (old, new) = (position(0), position(100));
        let sent = [(old, 0), (old, 1), (new, 100), (old, 2)];
        let serials: Vec<u64> = sent.iter().map(|(lane, seq)| tracker.sent(*lane, position(*seq), 1, true)).collect();
        for serial in &serials[1..] {
            assert_eq!(tracker.reported(*serial, true), [], "the first is not delivered");
        }
        assert!(tracker.has_of(new));
        let through = |lane, seq| Through { lane, position: position(seq) };
        assert_eq!(tracker.reported(serials[0], true), [through(old, 1), through(new, 100), through(old, 2)]);
        assert!(!tracker.has_of(new));
    }

    #[test]
    fn a_failure_stops_the_prefix_until_it_is_sent_again() {
        let mut tracker = Tracker::default();
        let serials: Vec<u64> = (0..4).map(|seq| tracker.sent(LANE, position(seq), 10, true)).collect();
        assert_eq!(tracker.reported(serials[2], true), []);
        assert_eq!(tracker.reported(serials[0], true), through(0));
        assert_eq!(tracker.reported(serials[1], false), []);
        assert_eq!(tracker.reported(serials[3], true), []);
        assert_eq!((tracker.pending(), tracker.unacknowledged(), tracker.first()), (0, 3, Some(position(1))));
        tracker.rewind();
        let again = tracker.sent(LANE, position(1), 10, true);
        assert_eq!(tracker.reported(serials[1], true), [], "a stale report is ignored");
        assert_eq!(tracker.reported(again, true), through(1));
    }

    #[test]
    fn a_record_of_which_messages_are_missing_is_not_delivered() {
        let mut tracker = Tracker::default();
        let first = tracker.sent(LANE, position(0), 10, false);
        assert_eq!(tracker.reported(first, true), [], "its second message is not even sent");
        assert_eq!((tracker.pending(), tracker.is_partial(), tracker.unacknowledged()), (0, true, 1));
        assert_eq!(tracker.sent(LANE, position(0), 10, true), first, "the same record");
        assert_eq!(tracker.reported(first, true), through(0));
        let second = tracker.sent(LANE, position(1), 10, false);
        tracker.rewind();
        assert!(!tracker.is_partial());
        assert_eq!(tracker.sent(LANE, position(1), 10, true), second + 1);
        assert_eq!(tracker.reported(second, true), [], "a report of what is sent again");
    }

    #[test]
    fn tokens_are_used_again_and_unknown_ones_are_ignored() {
        let mut tokens = Tokens::default();
        let sent = Sent { stream: 3, serial: 70, timestamp_ms: 1 };
        let first = tokens.take(sent);
        assert_eq!(tokens.give_back(first), Some(sent));
        assert_eq!(tokens.give_back(first), None);
        assert_eq!(tokens.take(Sent { stream: 4, ..sent }), first);
        assert_eq!(tokens.give_back(99), None);
        assert_eq!(tokens.taken(), 1);
    }

    proptest! {
        /// Whatever the order and outcome of reports, what is acknowledged is exactly the longest prefix of records all
        /// of whose messages are delivered.
        #[test]
        fn the_acknowledged_prefix_is_exact(
            outcomes in proptest::collection::vec(
                proptest::collection::vec(proptest::bool::weighted(0.95), 1..4), 1..60),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 180),
        ) {
            let mut tracker = Tracker::default();
            let mut waiting: Vec<(u64, usize, usize)> = Vec::new();
            for (record, messages) in outcomes.iter().enumerate() {
                for message in 0..messages.len() {
                    let serial = tracker.next_serial();
                    let last = message + 1 == messages.len();
                    prop_assert_eq!(tracker.sent(LANE, position(record as u64), record + 1, last), serial);
                    prop_assert_eq!(tracker.is_partial(), !last);
                    waiting.push((serial, record, message));
                }
            }
            let mut reported: Vec<Vec<Option<bool>>> = outcomes.iter().map(|messages| vec![None; messages.len()]).collect();
            let mut acknowledged = None;
            for pick in order.iter().take(waiting.len()) {
                let (serial, record, message) = waiting.swap_remove(pick.index(waiting.len()));
                let delivered = outcomes[record][message];
                reported[record][message] = Some(delivered);
                for through in tracker.reported(serial, delivered) {
                    prop_assert!(acknowledged < Some(through.position));
                    acknowledged = Some(through.position);
                }
                let is_whole = |messages: &&Vec<Option<bool>>| messages.iter().all(|outcome| *outcome == Some(true));
                let prefix = reported.iter().take_while(is_whole).count();
                prop_assert_eq!(acknowledged, prefix.checked_sub(1).map(|last| position(last as u64)));
                // A record's bytes count until its last message is reported.
                let open = reported.iter().enumerate().filter(|(_, messages)| messages.contains(&None));
                let bytes: usize = open.map(|(record, messages)| (record + 1) * messages.len()).sum();
                prop_assert_eq!((tracker.pending(), tracker.pending_bytes()), (waiting.len(), bytes));
                prop_assert_eq!(tracker.unacknowledged(), outcomes.len() - prefix);
            }
        }
    }
}
