//! Schemas before transactions: a record whose schema is not registered yet begins none, so that a registry that is away
//! neither keeps a transaction open nor another stream waiting.

use std::sync::PoisonError;

use super::thread::Exactly;
use crate::clock::boot_ns;
use crate::kafka::Failure;
use crate::metrics::ByKind;
use crate::uplink::encode::NotEncoded;

impl Exactly<'_> {
    /// Takes up what earlier runs registered.
    pub(super) fn load_schemas(&mut self) {
        for outlet in &mut self.outlets {
            self.schemas.load(&outlet.name, &mut outlet.writer);
        }
    }

    /// Takes up what the registry answered.
    pub(super) fn look_at_registry(&mut self) {
        while let Some(outcome) = self.schemas.outcome() {
            let Some(outlet) = self.outlets.iter_mut().find(|outlet| outlet.name == outcome.stream) else { continue };
            let kind = outlet.writer.take_up(outcome, self.health, boot_ns(), fastrand::f64());
            self.metrics.uplink_schema_requests.get_or_create(&ByKind { kind }).inc();
            if let (None, Some(other)) = (outlet.writer.held(), outlet.lane.held()) {
                // It still waits, for something else.
                self.health.lock().unwrap_or_else(PoisonError::into_inner).hold(&outlet.name, other.to_owned());
            }
        }
    }

    /// Whether the first record that is ready can be written into messages: only then a transaction begins. A later one
    /// that cannot ends the transaction before it and is the first of the next.
    pub(super) fn can_be_written(&mut self, place: usize) -> bool {
        let outlet = &mut self.outlets[place];
        if !outlet.writer.encoder.has_schema() {
            return true;
        }
        let now_ns = boot_ns();
        if outlet.writer.is_shut(now_ns) {
            return false;
        }
        let (Some(record), Some(lineage)) = (outlet.ready.front(), &outlet.lineage) else { return false };
        let position = record.position;
        match outlet.writer.encoder.encode(lineage, record, &mut self.encoded) {
            Ok(()) => true,
            Err(NotEncoded::Unregistered) if outlet.writer.learn(outlet.ready.iter().map(|record| &**record)) => {
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
}
