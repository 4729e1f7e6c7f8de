//! The next record of a stream as messages, and the registry's part in that.

use std::sync::PoisonError;

use super::Drain;
use crate::clock::boot_ns;
use crate::kafka::Failure;
use crate::metrics::ByKind;
use crate::reading::Position;
use crate::uplink::encode::{Encoded, NotEncoded};
use crate::uplink::reader::Ready;

/// The messages of the record that is next, and how many of them the client has.
#[derive(Debug, Default)]
pub(super) struct Front {
    /// The record; another one may be ready by now.
    of: Option<Position>,
    pub(super) encoded: Encoded,
    pub(super) handed_over: usize,
}

impl Front {
    /// The next record is another one, or the same from its beginning.
    pub(super) fn forget(&mut self) {
        self.of = None;
        self.encoded.clear();
        self.handed_over = 0;
    }
}

impl Drain<'_> {
    /// Takes up what earlier runs registered.
    pub(super) fn load_schemas(&mut self) {
        for outlet in &mut self.outlets {
            self.schemas.load(&outlet.name, &mut outlet.writer);
        }
    }

    /// Makes messages of the record that is ready, unless that is done. Gives whether it can be handed over now.
    pub(super) fn encode_ready(&mut self, place: usize, now_ns: u64) -> bool {
        let outlet = &mut self.outlets[place];
        let Some(Ready { record, lineage, .. }) = outlet.reader.ready() else { return false };
        let position = record.position;
        if outlet.front.of == Some(position) {
            return true;
        }
        outlet.front.forget();
        if outlet.writer.is_shut(now_ns) {
            return false;
        }
        match outlet.writer.encoder.encode(lineage, record, &mut outlet.front.encoded) {
            Ok(()) => {
                outlet.front.of = Some(position);
                true
            }
            Err(NotEncoded::Unregistered) if outlet.writer.learn(outlet.reader.ready_records()) => {
                self.schemas.need(&outlet.name, &mut outlet.writer, now_ns);
                false
            }
            Err(NotEncoded::Unregistered | NotEncoded::TooManyColumns) => {
                let failure = Failure::unwritable(NotEncoded::TooManyColumns.to_string());
                self.metrics.uplink_errors.get_or_create(&ByKind { kind: failure.class.as_str() }).inc();
                let events = outlet.lane.refused(position, failure, now_ns, fastrand::f64());
                self.follow(place, events);
                false
            }
        }
    }

    /// Takes up what the registry answered.
    pub(super) fn look_at_registry(&mut self) {
        while let Some(outcome) = self.schemas.outcome() {
            let Some(outlet) = self.outlets.iter_mut().find(|outlet| outlet.name == outcome.stream) else { continue };
            let kind = outlet.writer.take_up(outcome, self.health, boot_ns(), fastrand::f64());
            self.metrics.uplink_schema_requests.get_or_create(&ByKind { kind }).inc();
            if let (None, Some(other)) = (outlet.writer.held(), outlet.lane.held().or_else(|| outlet.reader.blocked()))
            {
                // It still waits, for something else.
                self.health.lock().unwrap_or_else(PoisonError::into_inner).hold(&outlet.name, other.to_owned());
            }
        }
    }
}
