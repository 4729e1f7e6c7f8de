//! Records that Kafka refuses: into the dead-letter topic, by a client of their own, so that a topic that is missing or
//! takes nothing keeps nobody waiting but the stream whose record it is; or into the dead-letter file.

use super::{Drain, as_ns};
use crate::clock::{boot_ns, wall_us};
use crate::kafka::{Class, Failure, Notice, Outgoing, Producer, Report, SendError, Traffic};
use crate::metrics::{ByKind, ByStreamAndReason};
use crate::queue::{Limit, StreamIndex};
use crate::reading::Position;
use crate::uplink::encode::Encoded;
use crate::uplink::letter::{self, Letter, Next};

/// How long the client is kept after the last letter.
const CLIENT_IDLE: std::time::Duration = std::time::Duration::from_secs(60);

/// What is on its way to the dead-letter topic: at most one record a stream.
#[derive(Default)]
pub(super) struct Letters {
    client: Option<Producer>,
    used_ns: u64,
    traffic: Traffic,
    next_token: usize,
    encoded: Encoded,
    mails: Vec<Mail>,
}

struct Mail {
    stream: StreamIndex,
    letter: Letter,
    posted: Option<Posted>,
}

/// A letter that the client has.
struct Posted {
    first_token: usize,
    /// Messages handed over.
    count: usize,
    reported: usize,
    failure: Option<Failure>,
    /// What the record said was left out before it.
    skipped: u64,
}

impl Letters {
    /// Whether the stream waits for a letter.
    pub(super) fn waits(&self, stream: StreamIndex) -> bool {
        self.mails.iter().any(|mail| mail.stream == stream)
    }

    /// Whether Kafka has to report any.
    pub(super) fn are_posted(&self) -> bool {
        self.mails.iter().any(|mail| mail.posted.is_some())
    }

    /// The client is to be made anew, as the TLS files were renewed or it can do no more; what it has not reported is sent again.
    pub(super) fn renew(&mut self) {
        self.client = None;
        self.mails.iter_mut().for_each(|mail| mail.posted = None);
    }

    fn take(&mut self, stream: StreamIndex) -> Option<Mail> {
        let index = self.mails.iter().position(|mail| mail.stream == stream)?;
        Some(self.mails.swap_remove(index))
    }
}

impl Drain<'_> {
    /// Sets a record aside that Kafka refuses, the next of its lane.
    pub(super) fn set_aside(&mut self, place: usize, position: Position, failure: Failure) {
        // At the end there is no time to wait for it: it is found again after the next start.
        if self.stop.is_cancelled() {
            return;
        }
        if self.settings.kafka.output.dead_letter_topic.is_some() {
            let stream = self.outlets[place].index;
            self.letters.mails.push(Mail { stream, letter: Letter::new(position, failure), posted: None });
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

    /// Posts letters whose time has come, and takes up what became of those that are posted.
    pub(super) fn post_letters(&mut self) {
        let now_ns = boot_ns();
        if self.letters.mails.is_empty() {
            if now_ns.saturating_sub(self.letters.used_ns) > as_ns(CLIENT_IDLE) {
                self.letters.client = None;
            }
            return;
        }
        self.letters.used_ns = now_ns;
        let waiting = self.letters.mails.iter().filter(|mail| mail.posted.is_none());
        let streams: Vec<StreamIndex> = waiting.map(|mail| mail.stream).collect();
        for stream in streams {
            let Some(place) = self.outlets.iter().position(|outlet| outlet.index == stream) else { continue };
            if self.outlets[place].lane.room(now_ns, 1, 1) > 0 {
                self.post(place);
            }
        }
        self.take_letter_reports();
    }

    /// Hands a letter to the client.
    fn post(&mut self, place: usize) {
        let stream = self.outlets[place].index;
        let Some(letter) = self.letters.mails.iter().find(|mail| mail.stream == stream).map(|mail| mail.letter.clone())
        else {
            return;
        };
        let before = letter.position.packed().checked_sub(1).map(Position::from_packed);
        let batch = match self.queue.peek(stream, before, Limit { records: 1, bytes: 0 }) {
            Ok(batch) => batch,
            Err(error) => return self.letter_failed(place, Failure::retried(error.to_string())),
        };
        let next = batch.as_ref().and_then(|batch| Some((&batch.lineage, batch.records.first()?)));
        let Some((lineage, record)) = next.filter(|(_, record)| record.position == letter.position) else {
            // Retention took it meanwhile.
            return self.letter_is_settled(place);
        };
        let outlet = &mut self.outlets[place];
        if let Err(error) = outlet.writer.encoder.encode(lineage, record, &mut self.letters.encoded) {
            return self.letter_failed(place, Failure::unwritable(error.to_string()));
        }
        if self.letters.client.is_none() {
            match Producer::for_letters(&self.settings.kafka) {
                Ok(client) => (self.letters.client, self.letters.traffic) = (Some(client), Traffic::default()),
                Err(error) => return self.letter_failed(place, Failure::held(error.to_string())),
            }
        }
        let (Some(client), Some(topic)) = (&self.letters.client, &self.settings.kafka.output.dead_letter_topic) else {
            return;
        };
        let refused = outlet.lane.refused_time(record.position);
        let timestamp_ms =
            outlet.timestamps.of(record.stamp, refused, boot_ns(), || self.queue.wall_us().unwrap_or_else(wall_us));
        let own = letter::headers(lineage, &outlet.name, &outlet.topic, record, &letter.failure);
        let (first_token, skipped) = (self.letters.next_token, record.skipped);
        let mut posted = Posted { first_token, count: 0, reported: 0, failure: None, skipped };
        for index in 0..self.letters.encoded.count() {
            let mut headers = self.letters.encoded.headers(index);
            headers.extend(own.iter().map(|(name, value)| (*name, value.as_str())));
            let payload = self.letters.encoded.payload(index);
            let token = first_token.wrapping_add(index);
            let key = &record.device;
            match client.send(Outgoing { topic, key, payload, timestamp_ms, headers: &headers, token }) {
                Ok(()) => posted.count += 1,
                Err(SendError::Failed(failure)) => posted.failure = Some(failure),
                Err(SendError::Full) => posted.failure = Some(Failure::retried("client is full".into())),
            }
            if posted.failure.is_some() {
                break;
            }
        }
        self.letters.next_token = first_token.wrapping_add(posted.count);
        if let Some(mail) = self.letters.mails.iter_mut().find(|mail| mail.stream == stream) {
            mail.posted = Some(posted);
        }
    }

    fn take_letter_reports(&mut self) {
        let (mut reports, mut notices) = (Vec::<Report>::new(), Vec::new());
        if let Some(client) = &self.letters.client {
            client.poll(std::time::Duration::ZERO, &mut reports, &mut notices);
        }
        for notice in notices {
            match notice {
                Notice::Traffic(traffic) => {
                    self.metering.counted_beside(self.letters.traffic, traffic, &self.metrics);
                    self.letters.traffic = traffic;
                }
                Notice::Trouble(failure) => tracing::debug!(error = %failure, "kafka client of dead letters"),
                Notice::Connected | Notice::AllBrokersDown | Notice::Progress(_) => {}
            }
        }
        for report in reports {
            let is_of = |posted: &&mut Posted| report.token.wrapping_sub(posted.first_token) < posted.count;
            let posted = self.letters.mails.iter_mut().filter_map(|mail| mail.posted.as_mut()).find(is_of);
            if let Some(posted) = posted {
                posted.reported += 1;
                posted.failure = posted.failure.take().or(report.failure);
            }
        }
        let is_done = |mail: &&Mail| mail.posted.as_ref().is_some_and(|posted| posted.reported >= posted.count);
        let done: Vec<StreamIndex> = self.letters.mails.iter().filter(is_done).map(|mail| mail.stream).collect();
        let mut fatal = false;
        for stream in done {
            let Some(place) = self.outlets.iter().position(|outlet| outlet.index == stream) else { continue };
            let mail = self.letters.mails.iter_mut().find(|mail| mail.stream == stream);
            let Some((letter, posted)) = mail.and_then(|mail| Some((mail.letter.clone(), mail.posted.take()?))) else {
                continue;
            };
            match posted.failure {
                Some(failure) => {
                    // That client never sends again.
                    fatal |= failure.class == Class::Fatal;
                    self.letter_failed(place, failure);
                }
                None => self.letter_delivered(place, &letter, posted.skipped),
            }
        }
        if fatal {
            self.letters.renew();
        }
    }

    /// Kafka has the letter.
    fn letter_delivered(&mut self, place: usize, letter: &Letter, skipped: u64) {
        let outlet = &self.outlets[place];
        self.queue.pass_over(outlet.index, letter.position, skipped);
        let (stream, position, error) = (outlet.name.clone(), letter.position, &letter.failure.text);
        let topic = self.settings.kafka.output.dead_letter_topic.as_deref();
        tracing::warn!(stream, %position, topic, error, "record that kafka refuses is in the dead-letter topic");
        self.metrics.records_set_aside.get_or_create(&ByStreamAndReason { stream, reason: letter::REASON }).inc();
        self.letter_is_settled(place);
    }

    /// The letter did not arrive: into the file where the topic will not have it, and otherwise once more.
    fn letter_failed(&mut self, place: usize, failure: Failure) {
        let is_up = self.health().is_up();
        let outlet = &mut self.outlets[place];
        let Some(mail) = self.letters.mails.iter_mut().find(|mail| mail.stream == outlet.index) else { return };
        if mail.letter.failed(&failure, is_up) == Next::Again {
            let events = outlet.lane.put_off(Failure::retried(failure.text), boot_ns(), fastrand::f64());
            return self.follow(place, events);
        }
        let (position, why) = (mail.letter.position, mail.letter.failure.text.clone());
        self.letters.take(outlet.index);
        let kind = failure.class.as_str();
        self.metrics.uplink_dead_letter_fallbacks.get_or_create(&ByKind { kind }).inc();
        tracing::warn!(stream = outlet.name, %position, error = %failure, "dead-letter topic does not take the record");
        self.put_into_file(place, position, &why);
    }

    fn letter_is_settled(&mut self, place: usize) {
        let outlet = &mut self.outlets[place];
        self.letters.take(outlet.index);
        let events = outlet.lane.was_set_aside().into_iter().collect();
        self.follow(place, events);
    }
}
