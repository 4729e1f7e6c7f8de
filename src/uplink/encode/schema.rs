//! One stream's schema: what is registered, and what has been learned beyond that.

use std::collections::BTreeMap;

use super::columns::{Cell, Columns};
use super::message::Message;
use super::names::shown_names;
use super::{NotEncoded, avro, protobuf};
use crate::config::{Encoding, Form};
use crate::reading::{Field, Value};

/// What is to be registered.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The registry's name for the schemas of the topic: the topic and `-value`, as its clients expect.
    pub subject: String,
    /// Encoding and shape.
    pub form: Form,
    /// The columns that are needed.
    pub columns: Columns,
    record_name: String,
}

impl Plan {
    /// These columns behind those of the schema that was registered last, whoever did it; `None` where that is more
    /// than [`super::COLUMNS_MAX`].
    pub fn merged(&self, latest: &str) -> Option<Columns> {
        let latest = match self.form.encoding {
            Encoding::Protobuf => protobuf::columns(latest),
            Encoding::Avro | Encoding::Json => avro::columns(latest, self.form.shape),
        };
        self.columns.behind(&latest)
    }

    /// The schema that has these columns, as the registry takes it.
    pub fn schema(&self, columns: &Columns) -> String {
        match self.form.encoding {
            Encoding::Protobuf => protobuf::schema(&self.record_name, self.form.shape, columns),
            Encoding::Avro | Encoding::Json => avro::schema(&self.record_name, self.form.shape, columns),
        }
    }
}

/// A schema as the registry has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    /// The registry's id.
    pub id: u32,
    /// Its columns.
    pub columns: Columns,
}

/// One stream's schema.
#[derive(Debug)]
pub(super) struct Schema {
    plan: Plan,
    registered: Option<Registered>,
}

impl Schema {
    /// Of a topic; nothing is registered yet. Tags are in every schema.
    pub fn new(topic: &str, form: Form, tags: &BTreeMap<String, String>) -> Self {
        let mut columns = Columns::default();
        // The configuration allows far fewer tags than there may be columns.
        for (name, text) in tags {
            columns.add(name, Cell::Text(text));
        }
        let plan = Plan { subject: format!("{topic}-value"), form, columns, record_name: record_name(topic) };
        Self { plan, registered: None }
    }

    pub fn plan(&self) -> Plan {
        self.plan.clone()
    }

    pub fn id(&self) -> Option<u32> {
        self.registered.as_ref().map(|registered| registered.id)
    }

    pub fn registered(&mut self, registered: Registered) {
        // What was learned while the registry was asked stays to be registered.
        if let Some(columns) = self.plan.columns.behind(&registered.columns) {
            self.plan.columns = columns;
        }
        self.registered = Some(registered);
    }

    /// Takes columns for all that is not null. Gives false where there is no room.
    pub fn learn(&mut self, tags: &BTreeMap<String, String>, fields: &[Field], untyped: bool) -> bool {
        shown_names(tags, fields).zip(fields).all(|(name, field)| {
            let placed = self.plan.columns.place(&name, &field.value, untyped).map(|(cell, _)| cell);
            placed.is_none_or(|cell| self.plan.columns.add(&name, cell))
        })
    }

    /// The cells of a record in the order of the registered columns.
    pub fn cells<'a>(
        &self,
        tags: &'a BTreeMap<String, String>,
        fields: &'a [Field],
        untyped: bool,
    ) -> Result<Vec<Option<Cell<'a>>>, NotEncoded> {
        let columns = &self.registered.as_ref().ok_or(NotEncoded::Unregistered)?.columns;
        let mut cells: Vec<Option<Cell<'a>>> = vec![None; columns.list().len()];
        for (name, text) in tags {
            let place = columns.text_place(name).ok_or(NotEncoded::Unregistered)?;
            cells[place] = Some(Cell::Text(text));
        }
        for (name, field) in shown_names(tags, fields).zip(fields) {
            let value: &'a Value = &field.value;
            let Some((cell, place)) = columns.place(&name, value, untyped) else { continue };
            cells[place.ok_or(NotEncoded::Unregistered)?] = Some(cell);
        }
        Ok(cells)
    }

    /// Appends a message in Confluent's wire format: a zero, the schema's id, in Protobuf the place of the message in
    /// its schema (the first: a zero), and the message.
    pub fn write(&self, out: &mut Vec<u8>, message: &Message<'_>) -> Result<(), NotEncoded> {
        let registered = self.registered.as_ref().ok_or(NotEncoded::Unregistered)?;
        out.push(0);
        out.extend_from_slice(&registered.id.to_be_bytes());
        match self.plan.form.encoding {
            Encoding::Protobuf => {
                out.push(0);
                protobuf::write(out, message, &registered.columns);
            }
            Encoding::Avro | Encoding::Json => avro::write(out, message),
        }
        Ok(())
    }
}

/// A name for the records of a topic: its words in capitals, `plant.alarms` is `PlantAlarms`.
fn record_name(topic: &str) -> String {
    let mut name = String::new();
    for word in topic.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        let (first, rest) = word.split_at(1);
        name.push_str(&first.to_ascii_uppercase());
        name.push_str(rest);
    }
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) { name } else { format!("Topic{name}") }
}

#[cfg(test)]
mod tests {
    use super::record_name;

    #[test]
    fn topics_make_names_of_records() {
        for (topic, name) in
            [("telemetry", "Telemetry"), ("plant.alarms-v2", "PlantAlarmsV2"), ("2nd", "Topic2nd"), ("__", "Topic")]
        {
            assert_eq!(record_name(topic), name);
        }
    }
}
