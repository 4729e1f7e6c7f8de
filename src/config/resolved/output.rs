//! How records are written into Kafka messages: encoding and shape per stream, the Schema Registry, CloudEvents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use crate::reading::Name;

/// How records are written into messages. The default is flat JSON for every stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// By stream; a stream that is not here is written as [`Form::default`].
    pub forms: BTreeMap<Name, Form>,
    /// Where schemas are registered; present where a stream is Avro or Protobuf.
    pub registry: Option<Registry>,
    /// Whether messages bear CloudEvents headers (binary content mode).
    pub cloudevents: bool,
    /// Sources whose numbers carry no type of their own (JSON, `key=value` text): `20` and `20.5` are the same field.
    /// Only filled where a schema makes a difference.
    pub untyped_sources: BTreeSet<Name>,
    /// Where records go that their stream's topic refuses; without it into the dead-letter file.
    pub dead_letter_topic: Option<String>,
}

impl Output {
    /// How records of this stream are written.
    pub fn form(&self, stream: &str) -> Form {
        self.forms.get(stream).copied().unwrap_or_default()
    }

    /// Whether a stream is written with a schema.
    pub fn has_schemas(&self) -> bool {
        self.forms.values().any(|form| form.encoding != Encoding::Json)
    }
}

/// How one stream's records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Form {
    /// The format.
    pub encoding: Encoding,
    /// What a message holds.
    pub shape: Shape,
}

/// The format of a message's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// A JSON object.
    #[default]
    Json,
    /// Avro in Confluent's wire format.
    Avro,
    /// Protobuf in Confluent's wire format.
    Protobuf,
}

impl Encoding {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Avro => "avro",
            Self::Protobuf => "protobuf",
        }
    }
}

/// What a message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// A whole reading, one member a field.
    #[default]
    Wide,
    /// One field of a reading, named by the member `metric`.
    Narrow,
}

impl Shape {
    /// The word of the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Narrow => "narrow",
        }
    }
}

/// `[kafka.registry]`: a Schema Registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What stands before `/subjects`, without a slash at the end; mostly empty.
    pub path: String,
    /// User name for basic authentication.
    pub username: Option<String>,
    /// Password, read from `password-file`.
    pub password: Option<Secret>,
    /// Trust anchors; without it the system's.
    pub ca: Option<PathBuf>,
    /// How long one request may take, connecting included.
    pub timeout: Duration,
}

impl Registry {
    /// The URL as it stands in messages; it never holds a secret.
    pub fn url(&self) -> String {
        let (scheme, default_port) = if self.tls { ("https", 443) } else { ("http", 80) };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = if self.port == default_port { String::new() } else { format!(":{}", self.port) };
        format!("{scheme}://{host}{port}{}", self.path)
    }
}
