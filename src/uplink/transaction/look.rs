//! Reading the cursors, and going on where they say.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::cursor::{Cursor, Found, Resumed, resume};
use super::names::group_id;
use super::session::{Event as Turn, Sight};
use super::thread::Exactly;
use crate::clock::boot_ns;
use crate::kafka::{Class, Committed, CursorReader, Failure, Traffic};

/// How long the client's first call waits; each later one waits longer, as each asks anew and a slow link's answer to the
/// one before comes too late.
const SLICE_FIRST: Duration = Duration::from_millis(500);
/// Longest wait of one call of the client, so that a stop is noticed.
const SLICE_MAX: Duration = Duration::from_secs(3);
/// Longest wait for the answer of one group: connection, TLS and SASL on a slow link included.
const ASK_MAX: Duration = Duration::from_secs(30);
/// The same while other streams deliver.
const ASK_BESIDE_MAX: Duration = Duration::from_secs(4);
/// Groups asked at once: each takes a client with threads of its own for the time.
const AT_ONCE: usize = 4;

impl Exactly<'_> {
    /// Reads every stream's cursor. `stable`: after the transactional id was taken over, and so to go on from there.
    pub(super) fn look(&mut self, stable: bool) -> Option<Turn> {
        let mut sight = Sight::Own;
        let mut place = 0;
        while place < self.outlets.len() && sight == Sight::Own && !self.stop.is_cancelled() {
            let end = self.outlets.len().min(place + AT_ONCE);
            sight = match self.ask(place..end, stable, ASK_MAX) {
                Ok(answers) => self.take(place, answers, stable),
                Err(failure) => {
                    tracing::debug!(error = %failure, "cursor cannot be read");
                    self.disconnected(failure.text);
                    Sight::Nothing
                }
            };
            place = end;
        }
        if self.stop.is_cancelled() {
            return None;
        }
        if sight == Sight::Own {
            self.connected();
        }
        if sight == Sight::Own && self.outlets.iter().all(|outlet| outlet.group.is_none()) {
            // With none of them it cannot be told whether a copy delivers.
            sight = Sight::Nothing;
        }
        let was_held = self.session.is_held();
        let turn = self.session.read(sight, boot_ns(), fastrand::f64());
        if was_held && !self.session.is_held() {
            self.release_all();
        }
        turn
    }

    /// Reads the cursor of a stream whose right was missing when the client began; until then nothing of it is sent.
    pub(super) fn read_cursor(&mut self, place: usize) -> Option<Turn> {
        let sight = match self.ask(place..place + 1, true, ASK_BESIDE_MAX) {
            Ok(answers) => self.take(place, answers, true),
            Err(failure) => {
                let events = self.outlets[place].lane.put_off(failure, boot_ns(), fastrand::f64());
                self.follow(place, events);
                Sight::Nothing
            }
        };
        if sight == Sight::Copy { self.session.read(sight, boot_ns(), fastrand::f64()) } else { None }
    }

    /// Judges cursors of the outlets from `first` on. A stream whose group is not for us waits alone.
    fn take(&mut self, first: usize, answers: Vec<Answer>, stable: bool) -> Sight {
        for (place, answer) in (first..).zip(answers) {
            let committed = match answer {
                Ok(committed) => committed,
                Err(denied) => {
                    let events = self.outlets[place].lane.put_off(denied, boot_ns(), fastrand::f64());
                    self.follow(place, events);
                    continue;
                }
            };
            match self.judge(place, committed.as_ref()) {
                Found::Copy => return Sight::Copy,
                Found::Own(cursor) if stable => self.resume(place, Some(&cursor)),
                Found::Nothing if stable => self.resume(place, None),
                Found::Own(_) | Found::Nothing => {}
            }
        }
        Sight::Own
    }

    fn judge(&self, place: usize, committed: Option<&Committed>) -> Found {
        let found = Found::of(committed, self.queue.id(), &self.lives);
        if let (Found::Nothing, Some(committed)) = (&found, committed) {
            let (group, offset) = (self.group_id(place), committed.offset);
            tracing::warn!(group, offset, "offset of the group is not this queue's cursor, the queue's own counts");
        }
        found
    }

    /// Goes on with a stream where the queue and Kafka say.
    fn resume(&mut self, place: usize, cursor: Option<&Cursor>) {
        let outlet = &mut self.outlets[place];
        let Some(local) = self.queue.lanes(outlet.index) else { return };
        let Resumed { lanes, doubtful } = resume(&local, self.queue.in_doubt(outlet.index), cursor);
        tracing::debug!(stream = outlet.name, local = %local.cursor(), kafka = ?cursor.map(|cursor| cursor.lanes.cursor()),
            "cursor of the stream");
        self.queue.adopt_lanes(outlet.index, &lanes);
        let posted = std::mem::take(&mut outlet.letter_in_doubt).then_some(outlet.letter.as_ref()).flatten();
        let arrived =
            posted.map(|letter| letter.position).zip(cursor).filter(|(at, cursor)| cursor.lanes.first_open(*at) > *at);
        if let Some(cursor) = cursor {
            self.queue.carry_skipped(outlet.index, cursor.lanes.cursor(), cursor.skipped);
        }
        match doubtful {
            Some((first, last)) if cursor.is_none() => tracing::warn!(stream = outlet.name, %first, %last,
                "kafka has forgotten the cursor while a transaction was in doubt; its records are sent again, marked"),
            _ => {}
        }
        self.outlets[place].doubtful = doubtful;
        self.note_doubt(place, None);
        if let Some((position, _)) = arrived {
            self.letter_arrived(place, position);
        }
    }

    fn group_id(&self, place: usize) -> String {
        group_id(&self.id, &self.outlets[place].name)
    }

    /// Asks for the cursors of these outlets, all at once and in slices of time, until `wait` is over.
    fn ask(&mut self, places: Range<usize>, stable: bool, wait: Duration) -> Result<Vec<Answer>, Failure> {
        let readers =
            places.clone().map(|place| CursorReader::open(&self.settings.kafka, &self.group_id(place), stable));
        let readers = readers.collect::<Result<Vec<_>, _>>()?;
        let began = Instant::now();
        let mut answers = Vec::with_capacity(readers.len());
        for (place, reader) in places.zip(readers) {
            let mut slice = SLICE_FIRST;
            let answer = loop {
                let failure = match reader.read(&self.outlets[place].topic, slice) {
                    Err(failure) if failure.class == Class::Retried => failure,
                    answer => break answer,
                };
                if began.elapsed() > wait || self.stop.is_cancelled() {
                    return Err(failure);
                }
                // One group that answers late says nothing of the link.
                if reader.met_outage() {
                    self.disconnected(failure.text);
                }
                slice = (slice * 2).min(SLICE_MAX);
            };
            if answer.is_ok() {
                self.metering.counted_beside(Traffic::default(), CursorReader::TRAFFIC, &self.metrics);
            }
            self.outlets[place].group = answer.is_ok().then(|| reader.into_group()).transpose()?;
            answers.push(answer);
        }
        Ok(answers)
    }
}

/// What a group says; `Err`: that it is not for us.
type Answer = Result<Option<Committed>, Failure>;
