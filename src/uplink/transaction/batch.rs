//! From the queue into a transaction: which stream, which records, and when they are enough.

use std::time::Duration;

use super::outlet::{Open, Sent};
use super::session::Event as Turn;
use super::thread::Exactly;
use crate::clock::boot_ns;
use crate::kafka::{Failure, Outgoing, Producer, SendError};
use crate::metrics::ByKind;
use crate::queue::{Limit, block};
use crate::reading::{Position, Record};

/// Most records read from the queue at once.
const PEEK_RECORDS: usize = 1_000;
/// Most bytes read from the queue at once.
const PEEK_BYTES: usize = 256 * 1024;
/// Longest wait for records that come singly.
const GATHER_MAX: Duration = Duration::from_secs(1);
/// Tells readers that a record may stand twice.
pub(super) const DOUBTFUL: (&str, &str) = ("possible-duplicate", "true");

impl Exactly<'_> {
    /// Reads ahead for the outlet. Gives whether a transaction should begin with what there is now.
    pub(super) fn gather(&mut self, place: usize) -> bool {
        let now_ns = boot_ns();
        let window = self.window;
        let Some(allowed) = self.allowance(place, now_ns) else { return false };
        let bytes_max = self.size.bytes(window.bytes_max).min(allowed.bytes);
        let outlet = &mut self.outlets[place];
        let room = outlet.lane.room(now_ns, window.records_max.min(allowed.records), bytes_max);
        if room == 0 {
            return false;
        }
        let mut is_full = outlet.is_full(room, bytes_max);
        while !is_full && !self.is_unopened(place) && self.read_on(place, room, bytes_max) {
            is_full = self.outlets[place].is_full(room, bytes_max);
        }
        let outlet = &self.outlets[place];
        let gathered = now_ns >= outlet.ready_since_ns.saturating_add(self.gather_ns());
        !outlet.ready.is_empty() && (is_full || gathered)
    }

    /// How long records that come singly are gathered: short enough that they are acknowledged before they are sealed.
    pub(super) fn gather_ns(&self) -> u64 {
        let gather = self.settings.kafka.linger.max(self.queue.window() / 8).min(GATHER_MAX);
        u64::try_from(gather.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Reads once. Gives whether anything was added.
    fn read_on(&mut self, place: usize, room: usize, bytes_max: usize) -> bool {
        let outlet = &mut self.outlets[place];
        let left = room.saturating_sub(outlet.ready.len());
        let bytes_left = bytes_max.saturating_sub(outlet.ready_bytes);
        let limit = Limit { records: left.min(PEEK_RECORDS), bytes: bytes_left.min(PEEK_BYTES) };
        let after = outlet.ready.back().map(|record| record.position);
        let batch = match self.queue.peek(outlet.index, after, limit) {
            Ok(Some(batch)) => batch,
            Ok(None) => {
                self.can_read(place);
                return false;
            }
            Err(error) => {
                self.cannot_read(place, &error);
                return false;
            }
        };
        self.can_read(place);
        let outlet = &mut self.outlets[place];
        let Some(first) = outlet.ready.front().or_else(|| batch.records.first()).map(|record| record.position) else {
            return false;
        };
        if outlet.ready.is_empty() {
            outlet.ready_since_ns = boot_ns();
            outlet.lineage = Some(batch.lineage);
        } else if outlet.lineage.as_ref() != Some(&batch.lineage) {
            outlet.ready_is_whole = true;
            return true;
        }
        let end = self.queue.lanes(outlet.index).and_then(|lanes| {
            lanes.pairs().iter().find(|(next, end)| *next <= first && first < *end).map(|(_, end)| *end)
        });
        let end = end.unwrap_or(Position::END);
        for record in batch.records {
            if record.position.run() != first.run() || record.position >= end {
                outlet.ready_is_whole = true;
                break;
            }
            outlet.ready_bytes += block::record_bytes(&record);
            outlet.ready.push_back(record);
        }
        true
    }

    /// Begins a transaction with what the outlet has ready.
    pub(super) fn send_ready(&mut self, client: &Producer, place: usize) -> Option<Turn> {
        let now_ns = boot_ns();
        let outlet = &mut self.outlets[place];
        let (first, last) = (outlet.ready.front()?.position, outlet.ready.back()?.position);
        if let Some(turn) = self.begin(client, place) {
            return Some(turn);
        }
        let index = self.outlets[place].index;
        // Before anything of it is sent: a seal from now on makes it durable.
        self.queue.begin_transaction(index, first, last);
        let Some(sent_last) = self.send_all(client, place) else {
            self.queue.end_transaction(index);
            return None;
        };
        if sent_last != last {
            self.queue.begin_transaction(index, first, sent_last);
        }
        let outlet = &mut self.outlets[place];
        outlet.lane.turn_ended();
        if outlet.ready.is_empty() {
            outlet.forget_ready();
        }
        if let Some(open) = &mut self.open {
            open.range = Some((first, sent_last));
        }
        self.session.begun(now_ns);
        // While the records are on their way.
        if let Err(error) = self.queue.secure_transaction(index) {
            tracing::warn!(%error, "transaction cannot be noted in the queue and is aborted");
            self.fail_open(Failure::retried(format!("queue: {error}")), false);
        }
        None
    }

    /// Hands the outlet's records to the client. Gives the last that it took; `None`: none, and the transaction is given
    /// up.
    fn send_all(&mut self, client: &Producer, place: usize) -> Option<Position> {
        let first_token = self.next_token;
        // Only encoded it is known how large a record is.
        let payload_bytes_max = self.allowance(place, boot_ns()).map_or(0, |allowed| allowed.bytes);
        let mut open = Open {
            place,
            range: None,
            letter: None,
            first_token,
            records: Vec::with_capacity(self.outlets[place].ready.len()),
            count: 0,
            bytes: 0,
            began_ns: boot_ns(),
            doubtful: 0,
            incomplete: false,
            further_tokens: 0,
            reported: 0,
            failure: None,
        };
        let mut last = None;
        let mut refused = None;
        while open.count == 0 || open.bytes < payload_bytes_max {
            let Some(record) = self.outlets[place].ready.pop_front() else { break };
            match self.send_one(client, place, &record, &mut open) {
                Ok(()) => last = Some(record.position),
                Err(error) => {
                    let position = record.position;
                    self.outlets[place].ready.push_front(record);
                    if open.incomplete {
                        // Not a part of a record may be committed.
                        open.failure = Some((None, refusal(&error)));
                    }
                    // What was taken goes first; then this one stands alone.
                    if let (SendError::Failed(failure), None) = (error, last) {
                        refused = Some((position, failure));
                    }
                    break;
                }
            }
        }
        self.next_token = first_token.wrapping_add(open.records.len() + open.further_tokens);
        if last.is_some() {
            self.metrics.uplink_in_flight_records.set(i64::try_from(open.records.len()).unwrap_or(i64::MAX));
            self.open = Some(open);
            return last;
        }
        if let Some((position, failure)) = refused {
            self.metrics.uplink_errors.get_or_create(&ByKind { kind: failure.class.as_str() }).inc();
            let events = self.outlets[place].lane.refused(position, failure, boot_ns(), fastrand::f64());
            self.give_up_empty(client);
            self.follow(place, events);
        } else {
            self.give_up_empty(client);
            // Not at once again: the client has no room for all messages of its first record.
            self.put_off(place, Failure::retried("client is full before the first record".into()));
        }
        None
    }

    /// Hands the messages of one record to the client.
    fn send_one(&mut self, client: &Producer, place: usize, record: &Record, open: &mut Open) -> Result<(), SendError> {
        let outlet = &mut self.outlets[place];
        let Some(lineage) = &outlet.lineage else { return Err(SendError::Full) };
        if outlet.writer.encoder.encode(lineage, record, &mut self.encoded).is_err() {
            // Its schema comes before the next transaction.
            return Err(SendError::Full);
        }
        let count = self.encoded.count();
        let bytes = self.encoded.bytes() + count * record.device.len();
        let messages = open.records.len() + count;
        if open.count > 0 && (messages > self.window.records_max || open.bytes + bytes > self.window.bytes_max) {
            // The client would take a part of its messages only.
            return Err(SendError::Full);
        }
        let refused = outlet.lane.is_retimed(record.position);
        let timestamp_ms = outlet.timestamps.of(record.stamp, refused, boot_ns());
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
            open.records.push(Sent { serial, timestamp_ms });
        }
        self.metering.sent(bytes, boot_ns());
        outlet.rate.took(bytes, boot_ns());
        open.bytes += bytes;
        open.count += 1;
        outlet.ready_bytes = outlet.ready_bytes.saturating_sub(block::record_bytes(record));
        open.doubtful += u64::from(doubtful);
        Ok(())
    }
}

/// Why the client did not take a message.
fn refusal(error: &SendError) -> Failure {
    match error {
        SendError::Full => Failure::retried("client is full".into()),
        SendError::Failed(failure) => failure.clone(),
    }
}
