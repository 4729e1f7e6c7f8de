//! CloudEvents 1.0 headers, binary content mode (cloudevents/spec, `kafka-protocol-binding.md` 3.2): the value stays
//! what it is, attributes stand in headers.

use super::message::{Metric, Own};
use crate::config::{Encoding, Form, Shape};

/// The header of the event's id.
pub const ID: &str = "ce_id";

/// What a stream's events have in common.
#[derive(Debug)]
pub struct Events {
    stream: String,
    kind: &'static str,
    content_type: &'static str,
    /// Before a schema's id.
    schemas_url: String,
}

impl Events {
    /// For a stream; `registry_url` is only used where it has a schema.
    pub fn new(stream: &str, form: Form, registry_url: &str) -> Self {
        let content_type = match form.encoding {
            Encoding::Json => "application/json",
            Encoding::Avro => "application/avro",
            Encoding::Protobuf => "application/protobuf",
        };
        let kind = match form.shape {
            Shape::Wide => "forebay.reading",
            Shape::Narrow => "forebay.metric",
        };
        Self { stream: stream.to_owned(), kind, content_type, schemas_url: format!("{registry_url}/schemas/ids/") }
    }

    /// The headers that all messages of a record share.
    pub fn headers(&self, own: &Own<'_>, schema_id: Option<u32>, out: &mut Vec<(&'static str, String)>) {
        let mut time = Vec::with_capacity(24);
        crate::reading::json::write_time(&mut time, own.wall_us);
        out.extend([
            ("ce_specversion", "1.0".to_owned()),
            // Gateway ids and stream names are letters, digits and `._-`: they stand in a URI as they are.
            ("ce_source", format!("/forebay/{}/{}", own.gateway, self.stream)),
            ("ce_type", self.kind.to_owned()),
            ("ce_time", String::from_utf8_lossy(&time).into_owned()),
            ("content-type", self.content_type.to_owned()),
        ]);
        // An attribute that is there must not be empty.
        if !own.device.is_empty() {
            out.extend([("ce_subject", own.device.to_owned()), ("ce_partitionkey", own.device.to_owned())]);
        }
        if let Some(id) = schema_id {
            out.push(("ce_dataschema", format!("{}{id}", self.schemas_url)));
        }
    }

    /// Unique with `ce_source`, and the same when a record is sent again.
    pub fn id(&self, own: &Own<'_>, metric: Option<&Metric<'_>>) -> String {
        let record = format!("{}-{}-{}", own.queue, own.run, own.seq);
        match metric.and_then(|metric| metric.name) {
            Some(name) => format!("{record}-{name}"),
            None => record,
        }
    }
}
