//! Streams and the Schema Registry: what both ways of delivery do so that the next record finds its schema registered.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::Settings;
use super::encode::Encoder;
use super::gate::Gate;
use super::health::Health;
use super::lane::Backoff;
use super::registrar::{Outcome, Registrar, Wish};
use super::schema_cache::SchemaCache;
use crate::config::Stream;
use crate::reading::Record;

/// One stream's encoder, and whether its next record waits for the registry.
#[derive(Debug)]
pub struct Writer {
    /// Writes its records.
    pub encoder: Encoder,
    gate: Gate,
}

impl Writer {
    /// Of a stream as it is configured.
    pub fn new(stream: &Stream, settings: &Settings, backoff: Backoff) -> Self {
        let encoder = Encoder::new(stream, &settings.gateway, &settings.kafka.output);
        Self { encoder, gate: Gate::new(backoff) }
    }

    /// Whether the next record waits for a schema, and nothing has come of that yet.
    pub fn is_shut(&self, now_ns: u64) -> bool {
        self.gate.is_shut(now_ns)
    }

    /// Why the stream is held by the registry, if it is.
    pub fn held(&self) -> Option<&str> {
        self.gate.held()
    }

    /// Takes the fields of records that are next into the schema to be registered: one version for all of them. Gives
    /// whether the first one's fit; what else does not is found out when it is its turn.
    pub fn learn<'a>(&mut self, mut records: impl Iterator<Item = &'a Record>) -> bool {
        let first_fits = records.next().is_some_and(|record| self.encoder.learn(record));
        for record in records {
            self.encoder.learn(record);
        }
        first_fits
    }

    /// Takes up what the registry answered, and tells the status. Gives a word for the metrics.
    pub fn take_up(&mut self, outcome: Outcome, health: &Mutex<Health>, now_ns: u64, chance: f64) -> &'static str {
        let stream = outcome.stream;
        match outcome.registered {
            Ok(registered) => {
                let (id, fields) = (registered.id, registered.columns.list().len());
                tracing::info!(stream, id, fields, "schema is registered");
                self.encoder.registered(registered);
                if self.gate.succeeded() {
                    health.lock().unwrap_or_else(PoisonError::into_inner).release(&stream);
                }
                "registered"
            }
            Err(trouble) => {
                let reason = trouble.to_string();
                tracing::debug!(stream, reason, "schema is not registered");
                if self.gate.failed(&reason, now_ns, chance) {
                    health.lock().unwrap_or_else(PoisonError::into_inner).hold(&stream, reason);
                }
                trouble.kind()
            }
        }
    }
}

/// The thread that asks the registry, and what earlier runs registered. Neither where no stream has a schema.
pub struct Schemas {
    registrar: Option<Registrar>,
    cache: Option<SchemaCache>,
}

impl Schemas {
    /// Starts the thread where it is needed.
    pub fn start(settings: &Settings, stop: &CancellationToken) -> Self {
        let output = &settings.kafka.output;
        let Some(registry) = output.registry.clone().filter(|_| output.has_schemas()) else {
            return Self { registrar: None, cache: None };
        };
        let cache = SchemaCache::new(&settings.gateway.state_dir, registry.url());
        let registrar = Registrar::start(registry, cache.clone(), stop).inspect_err(
            |error| tracing::error!(error = %format!("{error:#}"), "no schema can be registered in this run"),
        );
        Self { registrar: registrar.ok(), cache: Some(cache) }
    }

    /// Takes up what an earlier run registered for the stream, and has it confirmed when the registry can be reached: it
    /// may have been set up anew.
    pub fn load(&self, stream: &str, writer: &mut Writer) {
        let (Some(cache), Some(plan)) = (&self.cache, writer.encoder.plan()) else { return };
        if let Some(registered) = cache.load(stream, &plan) {
            tracing::debug!(stream, id = registered.id, "schema of an earlier run");
            writer.encoder.registered(registered);
            self.ask(stream, writer);
        }
    }

    /// The stream's next record needs what was learned: asks for it, unless that is done or too early.
    pub fn need(&self, stream: &str, writer: &mut Writer, now_ns: u64) {
        if writer.gate.need(now_ns) {
            self.ask(stream, writer);
        }
    }

    fn ask(&self, stream: &str, writer: &mut Writer) {
        let (Some(registrar), Some(plan)) = (&self.registrar, writer.encoder.plan()) else { return };
        if registrar.ask(Wish { stream: stream.to_owned(), plan }) {
            writer.gate.asked();
        }
    }

    /// The next answer of the registry, if there is one.
    pub fn outcome(&self) -> Option<Outcome> {
        self.registrar.as_ref().and_then(Registrar::outcome)
    }
}
