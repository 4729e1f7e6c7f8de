//! What came of a transaction, told to the queue and to the stream's lane.

use std::sync::PoisonError;

use super::cursor::Range;
use super::session::Event as Turn;
use super::thread::Exactly;
use crate::clock::boot_ns;
use crate::kafka::{Class, Failure};
use crate::metrics::{ByKind, ByStream};
use crate::reading::Position;
use crate::uplink::lane::Event;

impl Exactly<'_> {
    fn count(&self, kind: &'static str) {
        self.metrics.uplink_transactions.get_or_create(&ByKind { kind }).inc();
    }

    pub(super) fn committed(&mut self) {
        let Some(open) = self.open.take() else { return };
        let now_ns = boot_ns();
        self.let_in(open.place, open.began_ns);
        self.count("committed");
        self.metrics.uplink_possible_duplicates.inc_by(open.doubtful);
        self.size.took(open.bytes, now_ns.saturating_sub(open.began_ns));
        if open.range.is_some() {
            self.session.proven();
        }
        let outlet = &mut self.outlets[open.place];
        outlet.committed_ns = Some(now_ns);
        self.stalls.ended(outlet.index.0, false);
        if let (Some(skipped), Some((position, _))) = (open.letter, open.range) {
            return self.letter_committed(open.place, position, skipped);
        }
        let mut through: Option<Position> = None;
        let mut events = Vec::new();
        if !open.records.is_empty() {
            outlet.timestamps.accepted(open.timestamp_ms);
        }
        // The last first: then all of them are settled by one report, the first one's.
        for sent in open.records.iter().rev() {
            for event in outlet.lane.reported(open.serial(sent), None, now_ns, fastrand::f64()) {
                match event {
                    Event::Acknowledged(sent) => through = Some(sent.position),
                    event => events.push(event),
                }
            }
        }
        if open.range.is_none() {
            events.extend(outlet.lane.goes_on());
        }
        let (index, stream) = (outlet.index, outlet.name.clone());
        if let Some(through) = through {
            self.queue.ack(index, through);
        }
        self.settle_doubt(open.place);
        let delivered = open.count as u64;
        self.metrics.uplink_records_delivered.get_or_create(&ByStream { stream }).inc_by(delivered);
        self.metrics.uplink_in_flight_records.set(0);
        self.follow(open.place, events);
    }

    /// A transaction has arrived: what of the doubtful records it had is in doubt no more.
    pub(super) fn settle_doubt(&mut self, place: usize) {
        let outlet = &mut self.outlets[place];
        let lanes = self.queue.lanes(outlet.index);
        outlet.doubtful = outlet
            .doubtful
            .filter(|(first, last)| lanes.as_ref().is_some_and(|lanes| lanes.first_open(*first) <= *last));
        self.note_doubt(place, None);
    }

    /// Tells the queue what may be in Kafka or not: the open transaction's records, and those that are sent again as Kafka
    /// has forgotten what became of them, until they have arrived.
    pub(super) fn note_doubt(&self, place: usize, open: Option<Range>) {
        let outlet = &self.outlets[place];
        let doubt = match (outlet.doubtful, open) {
            (Some((first, last)), Some((open_first, open_last))) => Some((first.min(open_first), last.max(open_last))),
            (doubtful, open) => doubtful.or(open),
        };
        match doubt {
            Some((first, last)) => self.queue.begin_transaction(outlet.index, first, last),
            None => self.queue.end_transaction(outlet.index),
        }
    }

    pub(super) fn aborted(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.let_in(open.place, open.began_ns);
        self.count("aborted");
        self.metrics.uplink_in_flight_records.set(0);
        let (culprit, failure) =
            open.failure.clone().unwrap_or_else(|| (None, Failure::retried("transaction was aborted".into())));
        let now_ns = boot_ns();
        let outlet = &mut self.outlets[open.place];
        self.stalls.ended(outlet.index.0, self.session.has_timed_out());
        if failure.class == Class::Retried && !open.incomplete {
            self.size.timed_out();
        }
        if failure.class == Class::Held {
            // Whether the topic is there is asked before the next.
            outlet.committed_ns = None;
        }
        if open.letter.is_some() {
            self.note_doubt(open.place, None);
            return self.letter_failed(open.place, failure);
        }
        let mut events = Vec::new();
        for (number, sent) in open.records.iter().enumerate() {
            let own = open.refused.contains(&number) || culprit.is_none_or(|culprit| culprit == number);
            let failure = if own { failure.clone() } else { Failure::retried(failure.text.clone()) };
            events.extend(outlet.lane.reported(open.serial(sent), Some(failure), now_ns, fastrand::f64()));
        }
        if open.range.is_some() {
            self.note_doubt(open.place, None);
        } else {
            events.extend(outlet.lane.put_off(failure, now_ns, fastrand::f64()));
        }
        self.follow(open.place, events);
    }

    /// The client is gone, and what became of the open transaction is not known.
    pub(super) fn lost(&mut self, turn: Turn) {
        if let Some(open) = self.open.take().filter(|open| open.range.is_some()) {
            self.count("unknown");
            self.outlets[open.place].letter_in_doubt = open.letter.is_some();
        }
        self.metrics.uplink_client_rebuilds.inc();
        self.metrics.uplink_in_flight_records.set(0);
        let (now_ns, chance) = (boot_ns(), fastrand::f64());
        for place in 0..self.outlets.len() {
            let outlet = &mut self.outlets[place];
            outlet.committed_ns = None;
            outlet.group = None;
            let events = outlet.lane.client_lost(now_ns, chance);
            self.follow(place, events);
            self.outlets[place].forget_ready();
        }
        let error = self.health().status().last_error.unwrap_or_default();
        let reason = match turn {
            Turn::Fenced => {
                self.metrics.uplink_fenced.set(1);
                format!("another agent delivers as transactional id {:?}; nothing is lost here meanwhile", self.id)
            }
            Turn::Denied => error,
            _ => {
                tracing::warn!(error, "kafka client is built anew; sending goes on at Kafka's cursor");
                return;
            }
        };
        for outlet in &self.outlets {
            self.health().hold(&outlet.name, reason.clone());
        }
    }

    /// What held all streams is over: those go on that wait for nothing else.
    pub(super) fn release_all(&mut self) {
        self.metrics.uplink_fenced.set(0);
        for outlet in &mut self.outlets {
            if outlet.group.is_some() {
                // Held for its group's sake until now, or for its topic's, which is asked for anew.
                let _ = outlet.lane.goes_on();
            }
            let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            // A key that is missing is found out anew.
            outlet.unopened_until_ns = None;
            health.release_unless(&outlet.name, outlet.lane.held().or_else(|| outlet.writer.held()));
        }
    }

    pub(super) fn follow(&mut self, place: usize, events: Vec<Event>) {
        for event in events {
            let outlet = &mut self.outlets[place];
            match event {
                Event::Acknowledged(through) => self.queue.ack(outlet.index, through.position),
                Event::Held(reason) => {
                    let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
                    health.hold(&outlet.name, reason);
                }
                Event::Released => {
                    // A key that is missing is found out anew.
                    outlet.unopened_until_ns = None;
                    let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
                    health.release_unless(&outlet.name, outlet.writer.held());
                }
                Event::SetAside(position, failure) => self.set_aside(place, position, failure),
                // The session finds that out by itself.
                Event::Rebuild(_) => {}
            }
        }
        let outlet = &mut self.outlets[place];
        if outlet.lane.take_rewound() {
            outlet.forget_ready();
        }
    }
}
