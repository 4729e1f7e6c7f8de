//! Reading the cursors, and going on where they say.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::cursor::{Cursor, Found, Resumed, resume};
use super::session::{Event as Turn, Sight};
use super::thread::Exactly;
use crate::clock::boot_ns;
use crate::kafka::{Class, Committed, CursorReader, Failure};

/// Longest wait of one call of the client.
const SLICE: Duration = Duration::from_secs(1);
/// Longest wait for the answer of one group: connection, TLS and SASL on a slow link included.
const ASK_MAX: Duration = Duration::from_secs(30);
/// After so long without an answer the link counts as down.
const SILENT_MAX: Duration = Duration::from_secs(3);
/// Groups asked at once: each takes a client with threads of its own for the time.
const AT_ONCE: usize = 4;

impl Exactly<'_> {
    /// Reads every stream's cursor. `stable`: after the transactional id was taken over, and so to go on from there.
    pub(super) fn look(&mut self, stable: bool) -> Option<Turn> {
        let (mut sight, mut place, mut known) = (Sight::Own, 0, 0);
        while place < self.outlets.len() && sight == Sight::Own && !self.stop.is_cancelled() {
            let end = self.outlets.len().min(place + AT_ONCE);
            sight = match self.ask(place..end, stable, ASK_MAX) {
                Ok(answers) => {
                    known += answers.iter().filter(|answer| answer.is_ok()).count();
                    self.take(place, answers, stable)
                }
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
            // Nobody is fenced by an agent that may not see whether there is somebody.
            if known == 0 {
                sight = Sight::Nothing;
            }
        }
        let turn = self.session.read(sight, boot_ns(), fastrand::f64());
        if stable && sight == Sight::Own && self.all_held.take().is_some() {
            self.metrics.uplink_fenced.set(0);
            for outlet in self.outlets.iter().filter(|outlet| outlet.group.is_some()) {
                self.health().release(&outlet.name);
            }
        }
        turn
    }

    /// Asks once more for the cursor of a stream that Kafka did not tell, now that no transaction is open.
    pub(super) fn look_again(&mut self, place: usize) -> Option<Turn> {
        match self.ask(place..place + 1, true, SILENT_MAX) {
            Ok(answers) => match self.take(place, answers, true) {
                Sight::Copy => self.session.read(Sight::Copy, boot_ns(), fastrand::f64()),
                Sight::Own | Sight::Nothing => None,
            },
            Err(failure) => {
                self.put_off(place, failure);
                None
            }
        }
    }

    /// Judges cursors of the outlets from `first` on. A stream whose cursor Kafka refuses to tell waits alone.
    fn take(&mut self, first: usize, answers: Vec<Result<Option<Committed>, Failure>>, stable: bool) -> Sight {
        for (place, answer) in (first..).zip(answers) {
            let committed = match answer {
                Ok(committed) => committed,
                Err(failure) => {
                    self.put_off(place, failure);
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
        if let Some(cursor) = cursor {
            self.queue.carry_skipped(outlet.index, cursor.lanes.cursor(), cursor.skipped);
        }
        match doubtful {
            Some((first, last)) if cursor.is_none() => tracing::warn!(stream = outlet.name, %first, %last,
                "kafka has forgotten the cursor while a transaction was in doubt; its records are sent again, marked"),
            Some(_) => {}
            None => self.queue.end_transaction(outlet.index),
        }
        outlet.doubtful = doubtful;
    }

    fn group_id(&self, place: usize) -> String {
        format!("{}.{}", self.id, self.outlets[place].name)
    }

    /// Asks for the cursors of these outlets, all at once and in slices of time, for at most `wait`. Gives for each what
    /// Kafka says, or why it refuses.
    fn ask(
        &mut self,
        places: Range<usize>,
        stable: bool,
        wait: Duration,
    ) -> Result<Vec<Result<Option<Committed>, Failure>>, Failure> {
        let readers =
            places.clone().map(|place| CursorReader::open(&self.settings.kafka, &self.group_id(place), stable));
        let readers = readers.collect::<Result<Vec<_>, _>>()?;
        let began = Instant::now();
        let end = began + wait;
        let mut answers = Vec::with_capacity(readers.len());
        for (place, reader) in places.zip(readers) {
            let committed = loop {
                let failure = match reader.read(&self.outlets[place].topic, SLICE) {
                    Ok(committed) => break Ok(committed),
                    Err(failure) => failure,
                };
                if failure.class == Class::Held {
                    break Err(failure);
                }
                if failure.class != Class::Retried || Instant::now() > end || self.stop.is_cancelled() {
                    return Err(failure);
                }
                if began.elapsed() > SILENT_MAX {
                    self.disconnected(failure.text);
                }
            };
            self.outlets[place].group = match &committed {
                Ok(_) => Some(reader.into_group()?),
                Err(_) => None,
            };
            answers.push(committed);
        }
        Ok(answers)
    }
}
