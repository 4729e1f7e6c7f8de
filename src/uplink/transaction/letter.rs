//! Records that Kafka refuses: into the dead-letter topic, in a transaction with the cursor behind them, so that a letter
//! is there once as well; or into the dead-letter file, where there is no such topic or it refuses them too.

use super::filling::DOUBTFUL;
use super::outlet::Open;
use super::session::Event as Turn;
use super::thread::{Exactly, TOPIC_MAX};
use crate::clock::{boot_ns, wall_us};
use crate::kafka::{Failure, Outgoing, Producer, SendError};
use crate::metrics::{ByKind, ByStreamAndReason};
use crate::queue::{Batch, Limit};
use crate::reading::{Position, Record};
use crate::uplink::letter::{self, Letter, Next};

impl Exactly<'_> {
    /// Sets a record aside that Kafka refuses, the first of its stream that is not delivered.
    pub(super) fn set_aside(&mut self, place: usize, position: Position, failure: Failure) {
        if self.stop.is_cancelled() {
            return;
        }
        if self.settings.kafka.output.dead_letter_topic.is_some() {
            self.outlets[place].letter = Some(Letter::new(position, failure));
        } else {
            self.put_into_file(place, position, &failure.text);
        }
    }

    /// Puts a record into the dead-letter file; where that fails, the stream waits with it.
    fn put_into_file(&mut self, place: usize, position: Position, error: &str) {
        let outlet = &mut self.outlets[place];
        let events = letter::file(&self.queue, outlet.index, &mut outlet.lane, (position, error));
        self.follow(place, events);
    }

    /// Begins the transaction of the letter that the stream has.
    pub(super) fn send_letter(&mut self, client: &Producer, place: usize) -> Option<Turn> {
        let (Some(topic), Some(letter)) =
            (self.settings.kafka.output.dead_letter_topic.clone(), self.outlets[place].letter.clone())
        else {
            return None;
        };
        let outlet = &self.outlets[place];
        let batch = match self.queue.peek(outlet.index, None, Limit { records: 1, bytes: 0 }) {
            Ok(batch) => batch,
            Err(error) => {
                self.cannot_read(place, &error);
                self.put_off(place, Failure::retried(error.to_string()));
                return None;
            }
        };
        let Some(batch) =
            batch.filter(|batch| batch.records.first().is_some_and(|next| next.position == letter.position))
        else {
            // Retention took it.
            self.letter_is_settled(place);
            return None;
        };
        // Kafka's client would try for the whole time of a transaction.
        match client.find_topic(&topic, TOPIC_MAX) {
            Ok(()) => self.begin_letter(client, place, &topic, &batch, &letter),
            Err(failure) => {
                self.letter_failed(place, failure);
                None
            }
        }
    }

    fn begin_letter(
        &mut self,
        client: &Producer,
        place: usize,
        topic: &str,
        batch: &Batch,
        letter: &Letter,
    ) -> Option<Turn> {
        let outlet = &mut self.outlets[place];
        let record = batch.records.first()?;
        if let Err(error) = outlet.writer.encoder.encode(&batch.lineage, record, &mut self.encoded) {
            self.letter_failed(place, Failure::unwritable(error.to_string()));
            return None;
        }
        if let Some(turn) = self.begin(client, place) {
            return Some(turn);
        }
        self.note_doubt(place, Some((letter.position, letter.position)));
        let mut open = Open::of_cursor(place);
        open.first_token = self.next_token;
        open.range = Some((letter.position, letter.position));
        open.letter = Some(record.skipped);
        if let Err(error) = self.hand_letter(client, place, topic, (batch, record), letter, &mut open) {
            open.failure = Some((None, error));
        }
        self.next_token = self.next_token.wrapping_add(open.records.len());
        self.open = Some(open);
        self.session.begun(boot_ns());
        None
    }

    /// Hands the messages of a letter to the client.
    fn hand_letter(
        &mut self,
        client: &Producer,
        place: usize,
        topic: &str,
        (batch, record): (&Batch, &Record),
        letter: &Letter,
        open: &mut Open,
    ) -> Result<(), Failure> {
        let outlet = &mut self.outlets[place];
        let refused = outlet.lane.refused_time(record.position);
        let timestamp_ms =
            outlet.timestamps.of(record.stamp, refused, boot_ns(), || self.queue.wall_us().unwrap_or_else(wall_us));
        let doubtful = outlet.doubtful.is_some_and(|(first, last)| first <= record.position && record.position <= last);
        open.doubtful = u64::from(doubtful);
        let own = letter::headers(&batch.lineage, &outlet.name, &outlet.topic, record, &letter.failure);
        for index in 0..self.encoded.count() {
            let mut headers = self.encoded.headers(index);
            headers.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
            headers.extend(doubtful.then_some(DOUBTFUL));
            let payload = self.encoded.payload(index);
            let token = open.first_token.wrapping_add(open.records.len());
            let sent =
                client.send(Outgoing { topic, key: &record.device, payload, timestamp_ms, headers: &headers, token });
            sent.map_err(|error| match error {
                SendError::Full => Failure::retried("client is full".into()),
                SendError::Failed(failure) => failure,
            })?;
            self.metering.sent(payload.len(), boot_ns());
            open.took(0, timestamp_ms, payload.len());
        }
        Ok(())
    }

    /// The transaction of the letter at this position is committed; `skipped`: what the record itself said.
    pub(super) fn letter_committed(&mut self, place: usize, position: Position, skipped: u64) {
        let outlet = &self.outlets[place];
        self.queue.pass_over(outlet.index, position, skipped);
        self.settle_doubt(place);
        self.letter_arrived(place, position);
    }

    /// The letter is in the topic, and the queue knows that.
    pub(super) fn letter_arrived(&mut self, place: usize, position: Position) {
        let outlet = &self.outlets[place];
        let (stream, topic) = (outlet.name.clone(), self.settings.kafka.output.dead_letter_topic.as_deref());
        let error = outlet.letter.as_ref().map(|letter| letter.failure.text.as_str());
        tracing::warn!(stream, %position, topic, error, "record that kafka refuses is in the dead-letter topic");
        self.metrics.records_set_aside.get_or_create(&ByStreamAndReason { stream, reason: letter::REASON }).inc();
        self.letter_is_settled(place);
    }

    /// The letter did not arrive: into the file where the topic will not have it, and otherwise once more.
    pub(super) fn letter_failed(&mut self, place: usize, failure: Failure) {
        let is_up = self.health().is_up();
        let outlet = &mut self.outlets[place];
        let Some(letter) = &mut outlet.letter else { return };
        if letter.failed(&failure, is_up) == Next::Again {
            return self.put_off(place, Failure::retried(failure.text));
        }
        let (position, why) = (letter.position, letter.failure.text.clone());
        outlet.letter = None;
        let kind = failure.class.as_str();
        self.metrics.uplink_dead_letter_fallbacks.get_or_create(&ByKind { kind }).inc();
        tracing::warn!(stream = outlet.name, %position, error = %failure, "dead-letter topic does not take the record");
        self.put_into_file(place, position, &why);
    }

    fn letter_is_settled(&mut self, place: usize) {
        let outlet = &mut self.outlets[place];
        outlet.letter = None;
        let events = outlet.lane.was_set_aside().into_iter().collect();
        self.follow(place, events);
    }

    pub(super) fn put_off(&mut self, place: usize, failure: Failure) {
        let events = self.outlets[place].lane.put_off(failure, boot_ns(), fastrand::f64());
        self.follow(place, events);
    }
}
