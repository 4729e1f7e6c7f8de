//! Reading the cursors, and going on where they say.

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

impl Exactly<'_> {
    /// Reads every stream's cursor. `stable`: after the transactional id was taken over, and so to go on from there.
    pub(super) fn look(&mut self, stable: bool) -> Option<Turn> {
        let mut sight = Sight::Own;
        for place in 0..self.outlets.len() {
            if self.stop.is_cancelled() {
                return None;
            }
            let outlet = &self.outlets[place];
            let id = format!("{}.{}", self.id, outlet.name);
            let found = match self.ask(&id, place, stable) {
                Ok(committed) => self.judge(&id, committed.as_ref()),
                Err(failure) => {
                    tracing::debug!(error = %failure, "cursor cannot be read");
                    self.disconnected(failure.text);
                    sight = Sight::Nothing;
                    break;
                }
            };
            match found {
                Found::Copy => {
                    sight = Sight::Copy;
                    break;
                }
                Found::Own(cursor) if stable => self.resume(place, Some(&cursor)),
                Found::Nothing if stable => self.resume(place, None),
                Found::Own(_) | Found::Nothing => {}
            }
        }
        let another = self.session.another_delivers();
        let turn = self.session.read(sight, boot_ns(), fastrand::f64());
        if sight == Sight::Own {
            self.connected();
        }
        if another && !self.session.another_delivers() {
            self.metrics.uplink_fenced.set(0);
            for outlet in &self.outlets {
                self.health().release(&outlet.name);
            }
        }
        turn
    }

    fn judge(&self, group: &str, committed: Option<&Committed>) -> Found {
        let found = Found::of(committed, self.queue.id(), &self.lives);
        if let (Found::Nothing, Some(committed)) = (&found, committed) {
            let offset = committed.offset;
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
        match doubtful {
            Some((first, last)) if cursor.is_none() => tracing::warn!(stream = outlet.name, %first, %last,
                "kafka has forgotten the cursor while a transaction was in doubt; its records are sent again, marked"),
            Some(_) => {}
            None => self.queue.end_transaction(outlet.index),
        }
        outlet.doubtful = doubtful;
    }

    /// Asks for the cursor of one stream, in slices.
    fn ask(&mut self, group: &str, place: usize, stable: bool) -> Result<Option<Committed>, Failure> {
        let reader = CursorReader::open(&self.settings.kafka, group, stable)?;
        let end = Instant::now() + ASK_MAX;
        loop {
            match reader.read(&self.outlets[place].topic, SLICE) {
                Ok(committed) => {
                    self.outlets[place].group = Some(reader.into_group()?);
                    return Ok(committed);
                }
                Err(failure)
                    if failure.class == Class::Retried && Instant::now() < end && !self.stop.is_cancelled() => {}
                Err(failure) => return Err(failure),
            }
        }
    }
}
