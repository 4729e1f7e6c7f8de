//! Every key of the configuration: its kind, default, limits and meaning.
//!
//! The one place of defaults and limits: the reader takes them from here, unknown keys are told by it, and
//! `docs/configuration.md` is made from it.

mod local;
mod sources;
mod uplink;

/// A table of the configuration.
#[derive(Debug)]
pub(super) struct Section {
    /// How it is written: `[queue]`, `[[source]] type = "gnss"`.
    pub(super) title: &'static str,
    /// What it is for.
    pub(super) about: &'static str,
    /// Keys that it shares with others of its kind.
    pub(super) base: Option<&'static Section>,
    /// Its keys.
    pub(super) keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Default,
    /// What it is for, one or two sentences.
    pub(super) meaning: &'static str,
}

/// What a key may hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Text of a form of its own, described in words.
    Text(&'static str),
    /// One of some words; the second list is known but not yet supported.
    Word(&'static [&'static str], &'static [&'static str]),
    /// `true` or `false`.
    Boolean,
    /// A whole number between two limits, both allowed.
    Integer(i64, i64),
    /// Any finite number, described in words.
    Number(&'static str),
    /// A duration between two limits in milliseconds, both allowed.
    Duration(u64, u64),
    /// A size between two limits in bytes, both allowed.
    Size(u64, u64),
    /// A list of text, described in words.
    Texts(&'static str),
    /// A table, or a list of tables, described in words.
    Table(&'static str),
    /// Not yet supported: refused, never ignored.
    Later,
}

/// What holds where a key is not written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Default {
    /// It must be written.
    Required,
    /// This, as a user would write it.
    Is(&'static str),
    /// Nothing, or something computed, described in words.
    Words(&'static str),
}

impl Section {
    /// The key of this name, of this section or its base.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.all_keys().find(|key| key.name == name)
    }

    /// The default of `name` as a user would write it.
    pub(super) fn default_of(&self, name: &str) -> Option<&'static str> {
        match self.key(name)?.default {
            Default::Is(text) => Some(text),
            Default::Required | Default::Words(_) => None,
        }
    }

    /// Its own keys and those of its base.
    pub(super) fn all_keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.base.map_or(&[][..], |base| base.keys).iter().chain(self.keys)
    }
}

const fn key(name: &'static str, kind: Kind, default: Default, meaning: &'static str) -> Key {
    Key { name, kind, default, meaning }
}

const fn later(name: &'static str, meaning: &'static str) -> Key {
    Key { name, kind: Kind::Later, default: Default::Words("-"), meaning }
}

pub(super) use local::{CLOCK, GATEWAY, INCLUDED, MQTT, OUTBOX, QUEUE, RETENTION, ROOT, STATUS, STREAM};
pub(super) use sources::{COLUMN, GNSS, MODBUS, MQTT_SOURCE, REGISTER, RTU, SERIAL, SIMULATED, SOURCE, TYPES, UNIT};
pub(super) use uplink::{BUDGET, KAFKA, RATE, REGISTRY, SASL, TLS};

/// All sections in the order of the reference page.
pub(super) const SECTIONS: [&Section; 26] = [
    &ROOT,
    &INCLUDED,
    &GATEWAY,
    &SOURCE,
    &GNSS,
    &SERIAL,
    &COLUMN,
    &MODBUS,
    &RTU,
    &UNIT,
    &REGISTER,
    &MQTT_SOURCE,
    &SIMULATED,
    &MQTT,
    &OUTBOX,
    &QUEUE,
    &STREAM,
    &RETENTION,
    &KAFKA,
    &REGISTRY,
    &TLS,
    &SASL,
    &RATE,
    &BUDGET,
    &CLOCK,
    &STATUS,
];

#[cfg(test)]
mod tests {
    use super::super::units;
    use super::*;

    #[test]
    fn every_default_is_within_its_own_limits() {
        for key in SECTIONS.iter().flat_map(|section| section.keys) {
            let Default::Is(text) = key.default else { continue };
            let fits = match key.kind {
                Kind::Duration(min, max) => {
                    units::duration(text).is_some_and(|value| (min..=max).contains(&(value.as_millis() as u64)))
                }
                Kind::Size(min, max) => units::size(text).is_some_and(|value| (min..=max).contains(&value)),
                Kind::Integer(min, max) => text.parse::<i64>().is_ok_and(|value| (min..=max).contains(&value)),
                Kind::Word(now, _) => now.contains(&text),
                Kind::Boolean => text.parse::<bool>().is_ok(),
                Kind::Number(_) => text.parse::<f64>().is_ok(),
                Kind::Text(_) => true,
                Kind::Texts(_) | Kind::Table(_) | Kind::Later => false,
            };
            assert!(fits, "{} = {text}", key.name);
        }
    }

    #[test]
    fn no_key_stands_twice_in_a_section() {
        for section in SECTIONS {
            let mut names: Vec<_> = section.all_keys().map(|key| key.name).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", section.title);
        }
    }
}
