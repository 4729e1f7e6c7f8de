//! From the queue into the client: strict priority between streams, 256 KiB in turn among equals.

use std::sync::PoisonError;

use super::Drain;
use crate::clock::{boot_ns, wall_us};
use crate::kafka::{Outgoing, Producer, SendError, stream_window};
use crate::metrics::ByKind;
use crate::queue::{Limit, PeekError};
use crate::uplink::delivery::Sent;
use crate::uplink::reader::Ready;

/// What one stream sends before an equal one has its turn.
const TURN_BYTES: usize = 256 * 1024;
/// Most records read from the queue at once.
const PEEK_RECORDS: usize = 1_000;
/// Most records of a turn of a newest-first stream while the link is down.
const PROBE_RECORDS: usize = 100;

impl Drain<'_> {
    /// One turn of the highest stream that has something and may send it. Gives the records sent.
    pub(super) fn fill(&mut self, client: &Producer) -> usize {
        for place in 0..self.outlets.len() {
            let (sent, full) = self.turn(client, place);
            if sent > 0 {
                self.step_back(place);
            }
            if sent > 0 || full {
                return sent;
            }
        }
        0
    }

    /// Puts a stream behind its equals.
    fn step_back(&mut self, place: usize) {
        let priority = self.outlets[place].priority;
        let equals = self.outlets[place..].iter().take_while(|outlet| outlet.priority == priority).count();
        self.outlets[place..place + equals].rotate_left(1);
    }

    /// Sends of one stream what its turn and the window allow. Gives the records sent, and whether the client is full.
    fn turn(&mut self, client: &Producer, place: usize) -> (usize, bool) {
        let outcome = self.send_turn(client, place);
        self.outlets[place].lane.turn_ended();
        outcome
    }

    fn send_turn(&mut self, client: &Producer, place: usize) -> (usize, bool) {
        let (mut sent, mut bytes) = (0, 0);
        let batch_alone_bytes = client.batch_alone_bytes();
        let waits = batch_alone_bytes.is_some() && self.outlets[place].lane.in_flight().0 > 0;
        if waits || !self.begin_turn(place) {
            return (0, false);
        }
        let window = stream_window(&self.settings.kafka, self.outlets.len());
        let bytes_max = self.outlets[place].link.window_bytes(window.bytes_max, self.outlets.len());
        let turn_bytes = self.turn_bytes(place, batch_alone_bytes.unwrap_or(TURN_BYTES));
        while bytes < turn_bytes {
            let now_ns = boot_ns();
            if self.rate_closed_until_ns(&self.outlets[place], now_ns).is_some() {
                break;
            }
            let outlet = &mut self.outlets[place];
            let room = outlet.lane.room(now_ns, window.records_max, bytes_max);
            if room == 0 || !self.read_ahead(place, room, now_ns) || !self.encode_ready(place, now_ns) {
                break;
            }
            match self.send_next(client, place, now_ns) {
                Ok(size) => {
                    sent += 1;
                    bytes += size;
                    self.metering.sent(size, now_ns);
                    self.outlets[place].rate.took(size, now_ns);
                }
                Err(SendError::Full) => return (sent, true),
                Err(SendError::Failed(failure)) => {
                    let outlet = &mut self.outlets[place];
                    let Some(position) = outlet.reader.ready().map(|ready| ready.record.position) else { break };
                    self.metrics.uplink_errors.get_or_create(&ByKind { kind: failure.class.as_str() }).inc();
                    let events = outlet.lane.refused(position, failure, now_ns, fastrand::f64());
                    self.follow(place, events);
                    break;
                }
            }
        }
        (sent, false)
    }

    /// Whether the stream may have a turn. One that drains newest-first leaves what is new for the moment the link is
    /// back: while it is down, a few records are enough to find that out.
    fn begin_turn(&mut self, place: usize) -> bool {
        let down = self.health().is_down();
        if self.letters.waits(self.outlets[place].index) {
            return false;
        }
        let outlet = &mut self.outlets[place];
        if outlet.lane.is_partial() {
            // The rest of a record goes before anything else.
            return true;
        }
        if down && outlet.reader.is_newest_first() && outlet.lane.in_flight().0 > 0 {
            return false;
        }
        let (is_idle, isolates) = (outlet.lane.is_idle(), outlet.lane.suspect().is_some());
        let failed = outlet.reader.begin_turn(&self.queue, is_idle, isolates).err();
        let known = std::mem::replace(&mut outlet.split_failed, failed.is_some());
        if let Some(error) = failed.filter(|_| !known) {
            tracing::warn!(stream = outlet.name, %error, "what is newest cannot be told, so it does not go first yet");
        }
        true
    }

    /// Makes sure that a record is ready. Gives whether there is one.
    fn read_ahead(&mut self, place: usize, room: usize, now_ns: u64) -> bool {
        let records_max = if self.health().is_down() { PROBE_RECORDS } else { PEEK_RECORDS };
        let outlet = &mut self.outlets[place];
        let limit = Limit { records: room.min(records_max), bytes: TURN_BYTES };
        let suspect = outlet.lane.suspect();
        match outlet.reader.read(&self.queue, limit, now_ns, suspect, |lane| outlet.lane.has_of(lane)) {
            Ok(ready) => {
                outlet.peek_failed &= !ready;
                self.note_blocked(place);
                ready
            }
            Err(error) => self.cannot_read(place, &error),
        }
    }

    /// Says so, once. There is no record then.
    fn cannot_read(&mut self, place: usize, error: &PeekError) -> bool {
        let outlet = &mut self.outlets[place];
        if !std::mem::replace(&mut outlet.peek_failed, true) {
            tracing::warn!(stream = outlet.name, error = %error, "queue cannot be read");
        }
        false
    }

    /// Holds the stream while a block of it cannot be opened.
    fn note_blocked(&mut self, place: usize) {
        let outlet = &mut self.outlets[place];
        let blocked = outlet.reader.blocked();
        if std::mem::replace(&mut outlet.is_blocked, blocked.is_some()) == blocked.is_some() {
            return;
        }
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        match blocked {
            Some(reason) => health.hold(&outlet.name, reason.to_owned()),
            None => health.release_unless(&outlet.name, outlet.lane.held().or_else(|| outlet.writer.held())),
        }
    }

    /// Sends the messages of the record that is ready; those that the client does not take are sent next. Gives their
    /// bytes.
    fn send_next(&mut self, client: &Producer, place: usize, now_ns: u64) -> Result<usize, SendError> {
        let outlet = &mut self.outlets[place];
        let Some(Ready { lane, record, .. }) = outlet.reader.ready() else { return Ok(0) };
        let refused = outlet.lane.refused_time(record.position);
        let timestamp_ms =
            outlet.timestamps.of(record.stamp, refused, now_ns, || self.queue.wall_us().unwrap_or_else(wall_us));
        let count = outlet.front.encoded.count();
        let bytes = outlet.front.encoded.bytes() + count * record.device.len();
        while outlet.front.handed_over < count {
            let index = outlet.front.handed_over;
            let serial = outlet.lane.next_serial();
            let token = self.tokens.take(Sent { stream: outlet.index.0, serial, timestamp_ms });
            let payload = outlet.front.encoded.payload(index);
            let headers = outlet.front.encoded.headers(index);
            let key = &record.device;
            let outgoing = Outgoing { topic: &outlet.topic, key, payload, headers: &headers, timestamp_ms, token };
            if let Err(error) = client.send(outgoing) {
                self.tokens.give_back(token);
                return Err(error);
            }
            outlet.front.handed_over += 1;
            outlet.lane.took(lane, record.position, bytes / count, index + 1 == count);
        }
        outlet.reader.took();
        outlet.front.forget();
        Ok(bytes)
    }
}
