//! Into a transaction: it begins with what was read, and more is added as Kafka takes it, until the queue has no more that
//! belongs to it or it has all that it may. So the link has work while the queue is read, and a backlog is not cut into
//! small pieces.

use std::time::Duration;

use super::limits::Allowance;
use super::outlet::{Open, Outlet, TARGET};
use super::session::Event as Turn;
use super::thread::Exactly;
use crate::clock::{boot_ns, wall_us};
use crate::kafka::{Failure, Outgoing, Producer, SendError};
use crate::metrics::ByKind;
use crate::queue::block;
use crate::reading::{Position, Record};

/// Tells readers that a record may stand twice.
pub(super) const DOUBTFUL: (&str, &str) = ("possible-duplicate", "true");

impl Exactly<'_> {
    /// Begins a transaction with what the outlet has ready, which may have so much.
    pub(super) fn send_ready(&mut self, client: &Producer, place: usize, most: Allowance) -> Option<Turn> {
        let first = self.outlets[place].ready.front()?.position;
        if let Some(turn) = self.begin(client, place) {
            return Some(turn);
        }
        let index = self.outlets[place].index;
        let mut open = Open { most, is_filling: true, first_token: self.next_token, ..Open::of_cursor(place) };
        open.until = self.queue.next_position(index).unwrap_or(Position::ZERO);
        if let Err(error) = self.hand_over(client, &mut open) {
            if open.range.is_none() {
                self.give_up_empty(client);
                self.note_doubt(place, None);
                self.refuse_first(place, first, error);
                return None;
            }
            not_taken(&mut open, &error);
        }
        self.outlets[place].lane.turn_ended();
        self.session.begun(open.began_ns);
        self.keep(open);
        None
    }

    /// The client takes nothing of a record that stands first.
    fn refuse_first(&mut self, place: usize, position: Position, error: SendError) {
        match error {
            SendError::Failed(failure) => {
                self.metrics.uplink_errors.get_or_create(&ByKind { kind: failure.class.as_str() }).inc();
                let events = self.outlets[place].lane.refused(position, failure, boot_ns(), fastrand::f64());
                self.follow(place, events);
            }
            // Not at once again: its schema is missing, or the client has no room for all of its messages.
            SendError::Full => self.put_off(place, Failure::retried("client is full before the first record".into())),
        }
    }

    /// Adds to the open transaction what the queue has and the client has room for.
    pub(super) fn fill(&mut self, client: &Producer) {
        let Some(mut open) = self.open.take_if(|open| open.is_filling && open.failure.is_none()) else { return };
        while open.is_filling {
            let Some(range) = open.range else { break };
            if !open.has_room() || self.is_time(&open) || !self.read_behind(open.place, range, open.until) {
                open.is_filling = false;
            } else if let Err(error) = self.hand_over(client, &mut open) {
                not_taken(&mut open, &error);
                break;
            }
        }
        self.keep(open);
    }

    /// Whether the open transaction has to come to its end, whatever the queue has: the agent ends or changes its client,
    /// readers have waited long enough, or a stream of higher priority wants to send.
    fn is_time(&self, open: &Open) -> bool {
        let now_ns = boot_ns();
        let lasts_ns = now_ns.saturating_sub(open.began_ns);
        let priority = self.outlets[open.place].priority;
        let wants = |outlet: &Outlet| outlet.priority > priority && self.wants_to_send(outlet, now_ns);
        self.stop.is_cancelled()
            || self.renew
            || Duration::from_nanos(lasts_ns) >= TARGET.min(self.how.timeout / 2)
            // What comes singly is gathered as long before it is sent.
            || lasts_ns >= self.gather_ns() && self.outlets.iter().any(wants)
    }

    fn wants_to_send(&self, outlet: &Outlet, now_ns: u64) -> bool {
        let waits = outlet.lane.wakes_at_ns().is_some_and(|at_ns| now_ns < at_ns)
            || outlet.unopened_until_ns.is_some_and(|until_ns| now_ns < until_ns)
            || outlet.peek_failed
            || outlet.writer.is_shut(now_ns)
            || self.metering.closed_until_ns(&outlet.rate, now_ns).is_some();
        !waits && self.queue.waits(outlet.index)
    }

    /// Goes on with the transaction; nothing more is in doubt than it has, once that is known.
    fn keep(&mut self, open: Open) {
        let outlet = &mut self.outlets[open.place];
        if let Some((first, last)) = open.range.filter(|_| !open.is_filling) {
            if outlet.ready.is_empty() {
                outlet.forget_ready();
            }
            self.note_doubt(open.place, Some((first, last)));
        }
        self.metrics.uplink_in_flight_records.set(i64::try_from(open.in_flight().0).unwrap_or(i64::MAX));
        self.open = Some(open);
    }

    /// Hands the outlet's records to the client, as far as the transaction may have them. Gives why the next was not
    /// taken.
    fn hand_over(&mut self, client: &Producer, open: &mut Open) -> Result<(), SendError> {
        let (mut outcome, now_ns) = (Ok(()), boot_ns());
        let outlet = &self.outlets[open.place];
        if let (Some(next), Some(last)) = (outlet.ready.front(), outlet.ready.back()) {
            // Before any of these is sent: a seal from now on makes the doubt durable.
            let first = open.range.map_or(next.position, |(first, _)| first);
            self.note_doubt(open.place, Some((first, last.position)));
        }
        while open.has_room()
            && let Some(record) = self.outlets[open.place].ready.pop_front()
        {
            if let Err(error) = self.send_one(client, &record, open, now_ns) {
                self.outlets[open.place].ready.push_front(record);
                outcome = Err(error);
                break;
            }
            open.range = Some((open.range.map_or(record.position, |(first, _)| first), record.position));
        }
        self.next_token = open.first_token.wrapping_add(open.records.len() + open.further_tokens);
        outcome
    }

    /// Hands the messages of one record to the client.
    fn send_one(&mut self, client: &Producer, record: &Record, open: &mut Open, now_ns: u64) -> Result<(), SendError> {
        let outlet = &mut self.outlets[open.place];
        let Some(lineage) = &outlet.lineage else { return Err(SendError::Full) };
        if outlet.writer.encoder.encode(lineage, record, &mut self.encoded).is_err() {
            // Its schema comes before the next transaction.
            return Err(SendError::Full);
        }
        let count = self.encoded.count();
        let bytes = self.encoded.bytes() + count * record.device.len();
        let (messages, in_flight_bytes) = open.in_flight();
        let is_over = messages + count > self.window.records_max || in_flight_bytes + bytes > self.window.bytes_max;
        if messages > 0 && is_over {
            // The client would take a part of its messages only.
            return Err(SendError::Full);
        }
        let refused = outlet.lane.refused_time(record.position);
        let timestamp_ms =
            outlet.timestamps.of(record.stamp, refused, now_ns, || self.queue.wall_us().unwrap_or_else(wall_us));
        let doubtful = outlet.doubtful.is_some_and(|(first, last)| first <= record.position && record.position <= last);
        for index in 0..count {
            let mut headers = self.encoded.headers(index);
            headers.extend(doubtful.then_some(DOUBTFUL));
            let sent = client.send(Outgoing {
                topic: &outlet.topic,
                key: &record.device,
                payload: self.encoded.payload(index),
                timestamp_ms,
                headers: &headers,
                token: open.first_token.wrapping_add(open.records.len() + index),
            });
            if let Err(error) = sent {
                open.incomplete = index > 0;
                open.further_tokens = index;
                return Err(error);
            }
        }
        for index in 0..count {
            let serial = outlet.lane.took(Position::ZERO, record.position, bytes / count, index + 1 == count);
            open.took(serial, timestamp_ms, bytes / count);
        }
        self.metering.sent(bytes, now_ns);
        outlet.rate.took(bytes, now_ns);
        open.count += 1;
        outlet.ready_bytes = outlet.ready_bytes.saturating_sub(block::record_bytes(record));
        open.doubtful += u64::from(doubtful);
        Ok(())
    }
}

/// The client did not take a record behind others of its transaction.
fn not_taken(open: &mut Open, error: &SendError) {
    if *error == SendError::Full && !open.incomplete && open.in_flight().0 > 0 {
        // There will be room.
        return;
    }
    // What was taken goes first; this one stands first in the next transaction.
    open.is_filling = false;
    if open.incomplete {
        // Not a part of a record may be committed.
        let text = match error {
            SendError::Full => "client is full".to_owned(),
            SendError::Failed(failure) => failure.text.clone(),
        };
        // It is no fault of those that were taken whole: they go again, and then by themselves.
        open.failure = Some((None, Failure::retried(text)));
    }
}
