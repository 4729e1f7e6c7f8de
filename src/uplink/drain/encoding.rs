//! The next record of a stream as messages, and the registry's part in that.

use super::{Drain, Outlet};
use crate::clock::boot_ns;
use crate::config::Stream;
use crate::kafka::Failure;
use crate::metrics::ByKind;
use crate::uplink::Settings;
use crate::uplink::encode::{Encoded, Encoder, NotEncoded};
use crate::uplink::gate::Gate;
use crate::uplink::lane::Backoff;
use crate::uplink::registrar::{Registrar, Wish};
use crate::uplink::schema_cache::SchemaCache;

/// The messages of the record that is next, and how many of them the client has.
#[derive(Debug, Default)]
pub(super) struct Front {
    pub(super) encoded: Encoded,
    pub(super) handed_over: usize,
}

impl Front {
    /// The next record is another one, or the same from its beginning.
    pub(super) fn forget(&mut self) {
        self.encoded.clear();
        self.handed_over = 0;
    }
}

/// One stream's encoder and what surrounds it.
#[derive(Debug)]
pub(super) struct Writer {
    encoder: Encoder,
    pub(super) front: Front,
    gate: Gate,
}

impl Writer {
    pub(super) fn new(stream: &Stream, settings: &Settings, backoff: Backoff) -> Self {
        let encoder = Encoder::new(stream, &settings.gateway, &settings.kafka.output);
        Self { encoder, front: Front::default(), gate: Gate::new(backoff) }
    }
}

/// The thread that registers schemas, where a stream has one.
pub(super) fn start_registrar(settings: &Settings, stop: &tokio_util::sync::CancellationToken) -> Option<Registrar> {
    let output = &settings.kafka.output;
    let registry = output.registry.clone().filter(|_| output.has_schemas())?;
    let cache = SchemaCache::new(&settings.gateway.state_dir, registry.url());
    match Registrar::start(registry, cache, stop) {
        Ok(registrar) => Some(registrar),
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "no schema can be registered in this run");
            None
        }
    }
}

impl Drain<'_> {
    /// Takes up what earlier runs registered, and has it confirmed when the registry can be reached: it may have been
    /// set up anew.
    pub(super) fn load_schemas(&mut self) {
        let Some(registry) = self.settings.kafka.output.registry.as_ref() else { return };
        let cache = SchemaCache::new(&self.settings.gateway.state_dir, registry.url());
        for place in 0..self.outlets.len() {
            let outlet = &mut self.outlets[place];
            let Some(plan) = outlet.writer.encoder.plan() else { continue };
            if let Some(registered) = cache.load(&outlet.name, &plan) {
                tracing::debug!(stream = outlet.name, id = registered.id, "schema of an earlier run");
                outlet.writer.encoder.registered(registered);
                self.ask_registry(place);
            }
        }
    }

    /// Makes messages of the record that is ready, unless that is done. Gives whether it can be handed over now.
    pub(super) fn encode_ready(&mut self, place: usize) -> bool {
        let outlet = &mut self.outlets[place];
        if outlet.writer.front.encoded.count() > 0 {
            return true;
        }
        let now_ns = boot_ns();
        if outlet.writer.gate.is_shut(now_ns) {
            return false;
        }
        let (Some(record), Some(lineage)) = (outlet.ready.front(), &outlet.lineage) else { return false };
        let position = record.position;
        match outlet.writer.encoder.encode(lineage, record, &mut outlet.writer.front.encoded) {
            Ok(()) => true,
            Err(NotEncoded::Unregistered) if learn(outlet) => {
                if outlet.writer.gate.need(now_ns) {
                    self.ask_registry(place);
                }
                false
            }
            Err(NotEncoded::Unregistered | NotEncoded::TooManyColumns) => {
                let text = NotEncoded::TooManyColumns.to_string();
                let failure = Failure::unwritable(text);
                self.metrics.uplink_errors.get_or_create(&ByKind { kind: failure.class.as_str() }).inc();
                let events = outlet.lane.refused(position, failure, now_ns, fastrand::f64());
                self.follow(place, events);
                false
            }
        }
    }

    fn ask_registry(&mut self, place: usize) {
        let outlet = &mut self.outlets[place];
        let (Some(registrar), Some(plan)) = (&self.registrar, outlet.writer.encoder.plan()) else { return };
        if registrar.ask(Wish { stream: outlet.name.clone(), plan }) {
            outlet.writer.gate.asked();
        }
    }

    /// Takes up what the registry answered.
    pub(super) fn look_at_registry(&mut self) {
        while let Some(outcome) = self.registrar.as_ref().and_then(Registrar::outcome) {
            let Some(outlet) = self.outlets.iter_mut().find(|outlet| outlet.name == outcome.stream) else { continue };
            let kind = match outcome.registered {
                Ok(registered) => {
                    let (stream, id, fields) = (&outlet.name, registered.id, registered.columns.list().len());
                    tracing::info!(stream, id, fields, "schema is registered");
                    outlet.writer.encoder.registered(registered);
                    if outlet.writer.gate.succeeded() {
                        self.health.lock().unwrap_or_else(std::sync::PoisonError::into_inner).release(&outlet.name);
                    }
                    "registered"
                }
                Err(trouble) => {
                    let (stream, reason) = (&outlet.name, trouble.to_string());
                    tracing::debug!(stream, reason, "schema is not registered");
                    if outlet.writer.gate.failed(&reason, boot_ns(), fastrand::f64()) {
                        self.health.lock().unwrap_or_else(std::sync::PoisonError::into_inner).hold(stream, reason);
                    }
                    trouble.kind()
                }
            };
            self.metrics.uplink_schema_requests.get_or_create(&ByKind { kind }).inc();
        }
    }
}

/// Takes the fields of all records that are ready into the schema to be registered: one version for all of them. Gives
/// whether the first one's fit.
fn learn(outlet: &mut Outlet) -> bool {
    let mut records = outlet.ready.iter();
    let first_fits = records.next().is_some_and(|record| outlet.writer.encoder.learn(record));
    // What does not fit is found out when it is its turn.
    for record in records {
        outlet.writer.encoder.learn(record);
    }
    first_fits
}
