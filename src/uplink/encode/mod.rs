//! From a record to Kafka messages: one, or one a field; as JSON, Avro or Protobuf; with CloudEvents headers on
//! request.
//!
//! [`Encoder`] is one stream's. Avro and Protobuf need a registered schema: what is not in it yet is learned, and the
//! record waits ([`NotEncoded::Unregistered`]) until the schema that has it is registered.

mod avro;
mod columns;
mod events;
mod json;
mod message;
mod names;
mod protobuf;
mod schema;

use std::collections::{BTreeMap, BTreeSet};

pub use columns::{COLUMNS_MAX, Column, Columns};
pub use schema::{Plan, Registered};

use crate::config::{Encoding, Form, Gateway, Output, Shape, Stream};
use crate::reading::{Lineage, Name, Record};
use events::Events;
use message::{Message, Metric, Own, queue_digits};
use schema::Schema;

/// The messages of one record.
#[derive(Debug, Default)]
pub struct Encoded {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    headers: Vec<(&'static str, String)>,
}

#[derive(Debug)]
struct Part {
    end: usize,
    /// Of the event, where there are headers.
    id: String,
}

impl Encoded {
    /// How many messages.
    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// Bytes of all messages: values and headers.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let ids: usize = self.parts.iter().map(|part| part.id.len()).sum();
        self.bytes.len() + ids + headers * self.parts.len()
    }

    /// The value of message `index`, from 0.
    pub fn payload(&self, index: usize) -> &[u8] {
        let begin = index.checked_sub(1).and_then(|before| self.parts.get(before)).map_or(0, |part| part.end);
        let end = self.parts.get(index).map_or(begin, |part| part.end);
        self.bytes.get(begin..end).unwrap_or_default()
    }

    /// The headers of message `index`.
    pub fn headers(&self, index: usize) -> Vec<(&str, &str)> {
        if self.headers.is_empty() {
            return Vec::new();
        }
        let id = self.parts.get(index).map(|part| (events::ID, part.id.as_str()));
        id.into_iter().chain(self.headers.iter().map(|(name, value)| (*name, value.as_str()))).collect()
    }

    /// Forgets them; the memory is used again.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
        self.headers.clear();
    }
}

/// Why a record has no messages (yet).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotEncoded {
    /// The schema that it needs is not registered: see [`Encoder::plan`].
    #[error("its schema is not registered yet")]
    Unregistered,
    /// The topic's schema has no room for its fields.
    #[error("its fields do not fit into the schema of the topic, which has {COLUMNS_MAX} fields at most")]
    TooManyColumns,
}

/// Writes the records of one stream.
#[derive(Debug)]
pub struct Encoder {
    stream: Name,
    form: Form,
    tags: BTreeMap<String, String>,
    untyped_sources: BTreeSet<Name>,
    events: Option<Events>,
    schema: Option<Schema>,
}

impl Encoder {
    /// For a stream as it is configured.
    pub fn new(stream: &Stream, gateway: &Gateway, output: &Output) -> Self {
        let form = output.form(&stream.name);
        let registry_url = output.registry.as_ref().map(crate::config::Registry::url).unwrap_or_default();
        let events = output.cloudevents.then(|| Events::new(&stream.name, form, &registry_url));
        let schema = (form.encoding != Encoding::Json).then(|| Schema::new(&stream.topic, form, &gateway.tags));
        let (tags, untyped_sources) = (gateway.tags.clone(), output.untyped_sources.clone());
        Self { stream: stream.name.clone(), form, tags, untyped_sources, events, schema }
    }

    /// What is to be registered, for all that was learned so far. `None`: it needs no schema.
    pub fn plan(&self) -> Option<Plan> {
        self.schema.as_ref().map(Schema::plan)
    }

    /// Whether it needs a registered schema.
    pub fn has_schema(&self) -> bool {
        self.schema.is_some()
    }

    /// This schema is registered.
    pub fn registered(&mut self, registered: Registered) {
        if let Some(schema) = &mut self.schema {
            schema.registered(registered);
        }
    }

    /// Takes the fields of a record into the schema to be registered. Gives false where they do not fit.
    pub fn learn(&mut self, record: &Record) -> bool {
        let untyped = self.untyped_sources.contains(&record.source);
        let wide = self.form.shape == Shape::Wide;
        match &mut self.schema {
            Some(schema) if wide => schema.learn(&self.tags, &record.fields, untyped),
            _ => true,
        }
    }

    /// Writes the messages of a record into `out`, in place of what was there.
    ///
    /// # Errors
    /// Its schema is not registered, or cannot be. `out` is empty then.
    pub fn encode(&self, lineage: &Lineage, record: &Record, out: &mut Encoded) -> Result<(), NotEncoded> {
        out.clear();
        let mut digits = Default::default();
        let own = Own::new(&self.stream, queue_digits(lineage, &mut digits), lineage, record);
        if let (Some(events), written) = (&self.events, self.schema.as_ref().and_then(Schema::id)) {
            events.headers(&own, written, &mut out.headers);
        }
        let written = match self.form.shape {
            Shape::Wide => self.write(out, own, record, None),
            Shape::Narrow if record.fields.is_empty() => self.write(out, own, record, Some(Metric::default())),
            Shape::Narrow => self.write_fields(out, own, record),
        };
        if written.is_err() {
            out.clear();
        }
        written
    }

    fn write_fields(&self, out: &mut Encoded, mut own: Own<'_>, record: &Record) -> Result<(), NotEncoded> {
        for field in &record.fields {
            self.write(out, own, record, Some(Metric::from(field)))?;
            // Said once.
            (own.skipped, own.thinned) = (0, 0);
        }
        Ok(())
    }

    fn write(
        &self,
        out: &mut Encoded,
        own: Own<'_>,
        record: &Record,
        metric: Option<Metric<'_>>,
    ) -> Result<(), NotEncoded> {
        let id = self.events.as_ref().map_or_else(String::new, |events| events.id(&own, metric.as_ref()));
        match (&self.schema, &metric) {
            (None, None) => json::write_wide(&mut out.bytes, &own, &self.tags, &record.fields),
            (None, Some(metric)) => json::write_narrow(&mut out.bytes, &own, &self.tags, metric),
            (Some(schema), _) => {
                let fields = if metric.is_some() { &[] } else { record.fields.as_slice() };
                let cells = schema.cells(&self.tags, fields, self.untyped_sources.contains(&record.source))?;
                schema.write(&mut out.bytes, &Message { own, metric, cells })?;
            }
        }
        out.parts.push(Part { end: out.bytes.len(), id });
        Ok(())
    }
}

/// Appends the record as wide JSON to `out`: the default encoding, and that of exports.
pub fn encode_json(
    out: &mut Vec<u8>,
    stream: &str,
    lineage: &Lineage,
    record: &Record,
    tags: &BTreeMap<String, String>,
) {
    let mut digits = Default::default();
    let own = Own::new(stream, queue_digits(lineage, &mut digits), lineage, record);
    json::write_wide(out, &own, tags, &record.fields);
}

#[cfg(test)]
mod account_tests;
#[cfg(test)]
mod tests;
