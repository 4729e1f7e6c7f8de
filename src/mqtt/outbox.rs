//! What the local broker has not acknowledged yet. Pure: the publisher moves publications through it.
//!
//! A publication waits, is handed to the session, is sent under a packet id, and leaves when acknowledged. When the
//! session is lost all that was handed over goes back to the front, in order.

use std::collections::VecDeque;

/// One message for the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publication {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    /// The gateway's status: not counted, not kept across sessions (it is said anew on each connection).
    pub is_status: bool,
}

impl Publication {
    fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// Most of an outbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Readings waiting or in flight.
    pub records: usize,
    /// Bytes of their topics and payloads.
    pub bytes: usize,
    /// Publications handed to the session and not acknowledged. Mosquitto takes 20 by default.
    pub in_flight: usize,
}

#[derive(Debug)]
struct Handed {
    packet_id: Option<u16>,
    publication: Publication,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    limits: Limits,
    waiting: VecDeque<Publication>,
    handed: VecDeque<Handed>,
    bytes: usize,
    status: Option<Publication>,
}

impl Outbox {
    pub fn new(limits: Limits) -> Self {
        Self { limits, waiting: VecDeque::new(), handed: VecDeque::new(), bytes: 0, status: None }
    }

    /// Takes a reading's publication; the oldest that wait make room, or it is itself dropped where all others are in
    /// flight. Returns how many were dropped.
    pub fn push(&mut self, publication: Publication) -> u64 {
        let mut dropped = 0;
        let bytes = publication.bytes();
        while self.len() >= self.limits.records || self.bytes + bytes > self.limits.bytes {
            dropped += 1;
            match self.waiting.pop_front() {
                Some(oldest) => self.bytes -= oldest.bytes(),
                None => return dropped,
            }
        }
        self.bytes += bytes;
        self.waiting.push_back(publication);
        dropped
    }

    /// Sets what is to be said of the gateway next; it goes before all readings.
    pub fn set_status(&mut self, publication: Publication) {
        self.status = Some(publication);
    }

    /// The next publication to hand to the session, while fewer than the allowance are in flight.
    pub fn hand_over(&mut self) -> Option<&Publication> {
        if self.handed.len() >= self.limits.in_flight {
            return None;
        }
        let publication = self.status.take().or_else(|| self.waiting.pop_front())?;
        self.handed.push_back(Handed { packet_id: None, publication });
        self.handed.back().map(|handed| &handed.publication)
    }

    /// The oldest publication handed over and not yet sent went out under this id. Whether it was a QoS 0 reading, which
    /// is done with that.
    pub fn sent(&mut self, packet_id: u16) -> bool {
        let Some(index) = self.handed.iter().position(|handed| handed.packet_id.is_none()) else {
            return false;
        };
        if packet_id == 0 {
            return self.remove(index);
        }
        self.handed[index].packet_id = Some(packet_id);
        false
    }

    /// The broker acknowledged this id. Whether it was a reading.
    pub fn acknowledged(&mut self, packet_id: u16) -> bool {
        match self.handed.iter().position(|handed| handed.packet_id == Some(packet_id)) {
            Some(index) => self.remove(index),
            None => false,
        }
    }

    fn remove(&mut self, index: usize) -> bool {
        match self.handed.remove(index) {
            Some(Handed { publication, .. }) if !publication.is_status => {
                self.bytes -= publication.bytes();
                true
            }
            _ => false,
        }
    }

    /// The session is gone: what it had not acknowledged waits again, before all else, in order.
    pub fn session_lost(&mut self) {
        while let Some(Handed { publication, .. }) = self.handed.pop_back() {
            if !publication.is_status {
                self.waiting.push_front(publication);
            }
        }
    }

    /// Readings waiting or in flight.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.handed.iter().filter(|handed| !handed.publication.is_status).count()
    }

    /// Nothing waits and nothing is in flight, the status included.
    pub fn is_drained(&self) -> bool {
        self.waiting.is_empty() && self.handed.is_empty() && self.status.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(number: u32) -> Publication {
        Publication { topic: "t".into(), payload: number.to_be_bytes().into(), qos: 1, retain: false, is_status: false }
    }

    fn number(publication: &Publication) -> u32 {
        u32::from_be_bytes(publication.payload.clone().try_into().unwrap())
    }

    #[test]
    fn the_oldest_waiting_makes_room_and_what_is_in_flight_stays() {
        let mut outbox = Outbox::new(Limits { records: 3, bytes: 1_000, in_flight: 1 });
        assert_eq!((0..3).map(|n| outbox.push(reading(n))).sum::<u64>(), 0);
        assert_eq!(outbox.hand_over().map(number), Some(0));
        assert_eq!(outbox.hand_over(), None);
        assert_eq!(outbox.push(reading(3)), 1);
        outbox.session_lost();
        let mut left = Vec::new();
        while let Some(publication) = outbox.hand_over() {
            left.push(number(publication));
            outbox.sent(7);
            assert!(outbox.acknowledged(7));
        }
        assert_eq!(left, [0, 2, 3]);
        assert!(outbox.is_drained());
    }

    #[test]
    fn the_byte_bound_holds() {
        let mut outbox = Outbox::new(Limits { records: 100, bytes: 12, in_flight: 1 });
        assert_eq!((outbox.push(reading(0)), outbox.push(reading(1)), outbox.push(reading(2))), (0, 0, 1));
        assert_eq!(outbox.len(), 2);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push,
        Hand,
        Send,
        Acknowledge(usize),
        Lose,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Push),
            4 => Just(Step::Hand),
            3 => Just(Step::Send),
            3 => (0usize..4).prop_map(Step::Acknowledge),
            1 => Just(Step::Lose),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn every_reading_is_acknowledged_or_counted_as_dropped(steps in steps()) {
            let mut outbox = Outbox::new(Limits { records: 10, bytes: 1_000, in_flight: 4 });
            let (mut pushed, mut dropped, mut done, mut next_id) = (0u32, 0u64, 0u64, 1u16);
            let mut unsent = 0usize;
            let mut open = Vec::new();
            for step in steps {
                match step {
                    Step::Push => { dropped += outbox.push(reading(pushed)); pushed += 1; }
                    Step::Hand => unsent += usize::from(outbox.hand_over().is_some()),
                    Step::Send if unsent > 0 => {
                        prop_assert!(!outbox.sent(next_id));
                        open.push(next_id);
                        next_id += 1;
                        unsent -= 1;
                    }
                    Step::Acknowledge(index) if index < open.len() => {
                        prop_assert!(outbox.acknowledged(open.remove(index)));
                        done += 1;
                    }
                    Step::Lose => { outbox.session_lost(); open.clear(); unsent = 0; }
                    _ => {}
                }
                prop_assert!(outbox.len() <= 10);
                prop_assert!(unsent + open.len() <= 4);
                prop_assert_eq!(u64::from(pushed), dropped + done + outbox.len() as u64);
            }
            outbox.session_lost();
            let mut last = None;
            while let Some(publication) = outbox.hand_over() {
                let this = number(publication);
                prop_assert!(last < Some(this), "order: {:?} then {}", last, this);
                last = Some(this);
                outbox.sent(1);
                outbox.acknowledged(1);
            }
        }
    }
}
