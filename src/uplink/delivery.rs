//! Which records are in flight, and how far their reports reach without a gap. Pure.
//!
//! Reports may come in any order; only the contiguous prefix of delivered records may be acknowledged to the queue.

use std::collections::VecDeque;

use crate::reading::Position;

/// What became of a record in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Delivered,
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    lane: Position,
    position: Position,
    bytes: usize,
    state: State,
}

/// How far a lane is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Through {
    /// Where the reading of the lane began.
    pub lane: Position,
    /// Everything sent of it up to here is delivered.
    pub position: Position,
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
    /// A record of the lane that is read from `lane` on was handed over; gives the serial under which it is to be
    /// reported.
    pub fn sent(&mut self, lane: Position, position: Position, bytes: usize) -> u64 {
        let serial = self.next_serial();
        self.entries.push_back(Entry { lane, position, bytes, state: State::Pending });
        self.pending += 1;
        self.pending_bytes += bytes;
        serial
    }

    /// The serial that the next record will get.
    pub fn next_serial(&self) -> u64 {
        self.first_serial + self.entries.len() as u64
    }

    /// A record was reported. Gives how far lanes are delivered without a gap in the order of sending, where that moved.
    /// A serial that is not in flight (any more) changes nothing.
    pub fn reported(&mut self, serial: u64, delivered: bool) -> Vec<Through> {
        let index = serial.checked_sub(self.first_serial).and_then(|index| usize::try_from(index).ok());
        let entry = index.and_then(|index| self.entries.get_mut(index));
        let Some(entry) = entry.filter(|entry| entry.state == State::Pending) else { return Vec::new() };
        entry.state = if delivered { State::Delivered } else { State::Failed };
        self.pending -= 1;
        self.pending_bytes -= entry.bytes;
        let mut through: Vec<Through> = Vec::new();
        while let Some(first) = self.entries.front().filter(|entry| entry.state == State::Delivered) {
            match through.last_mut().filter(|through| through.lane == first.lane) {
                Some(through) => through.position = first.position,
                None => through.push(Through { lane: first.lane, position: first.position }),
            }
            self.entries.pop_front();
            self.first_serial += 1;
        }
        through
    }

    /// Records in flight and not reported.
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
        let serials: Vec<u64> = sent.iter().map(|(lane, seq)| tracker.sent(*lane, position(*seq), 1)).collect();
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
        let serials: Vec<u64> = (0..4).map(|seq| tracker.sent(LANE, position(seq), 10)).collect();
        assert_eq!(tracker.reported(serials[2], true), []);
        assert_eq!(tracker.reported(serials[0], true), through(0));
        assert_eq!(tracker.reported(serials[1], false), []);
        assert_eq!(tracker.reported(serials[3], true), []);
        assert_eq!((tracker.pending(), tracker.unacknowledged(), tracker.first()), (0, 3, Some(position(1))));
        tracker.rewind();
        let again = tracker.sent(LANE, position(1), 10);
        assert_eq!(tracker.reported(serials[1], true), [], "a stale report is ignored");
        assert_eq!(tracker.reported(again, true), through(1));
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
        /// Whatever the order and outcome of reports, what is acknowledged is exactly the longest delivered prefix.
        #[test]
        fn the_acknowledged_prefix_is_exact(
            outcomes in proptest::collection::vec(proptest::bool::weighted(0.9), 1..80),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 80),
        ) {
            let mut tracker = Tracker::default();
            let mut waiting: Vec<(u64, usize)> =
                (0..outcomes.len()).map(|seq| (tracker.sent(LANE, position(seq as u64), seq + 1), seq)).collect();
            let mut reported = vec![None; outcomes.len()];
            let mut acknowledged = None;
            for pick in order.iter().take(outcomes.len()) {
                let (serial, seq) = waiting.swap_remove(pick.index(waiting.len()));
                reported[seq] = Some(outcomes[seq]);
                for through in tracker.reported(serial, outcomes[seq]) {
                    prop_assert!(acknowledged < Some(through.position));
                    acknowledged = Some(through.position);
                }
                let prefix = reported.iter().take_while(|outcome| **outcome == Some(true)).count();
                prop_assert_eq!(acknowledged, prefix.checked_sub(1).map(|last| position(last as u64)));
                let bytes: usize = waiting.iter().map(|(_, seq)| seq + 1).sum();
                prop_assert_eq!((tracker.pending(), tracker.pending_bytes()), (waiting.len(), bytes));
                prop_assert_eq!(tracker.unacknowledged(), outcomes.len() - prefix);
            }
        }
    }
}
