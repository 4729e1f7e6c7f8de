//! What the publisher says on the local broker: readings and the gateway's status as flat JSON.

use crate::reading::json::Object;
use crate::reading::{Position, Reading, Stamp};

/// A reading as a flat JSON object like the one that Kafka gets: without the gateway's tags, `queue`, `skipped` and
/// `thinned`; `run` and `seq` where it has a place in the queue.
pub(crate) fn reading(gateway: &str, reading: &Reading, stamp: Stamp, position: Option<Position>) -> Vec<u8> {
    let mut out = Vec::with_capacity(160 + reading.fields.len() * 24);
    let mut object = Object::begin(&mut out);
    object.text("gateway", gateway);
    object.text("stream", &reading.stream);
    object.text("device", &reading.device);
    object.text("source", &reading.source);
    object.time("time", stamp.wall_us);
    object.text("clock", stamp.trust.as_str());
    if let Some(position) = position {
        object.unsigned("run", u64::from(position.run()));
        object.unsigned("seq", position.seq());
    }
    for field in &reading.fields {
        object.value(&field.name, &field.value);
    }
    object.end();
    out
}

/// `{"gateway":"...","status":"online"}` or `"offline"`: the retained status and the last will.
pub(crate) fn status(gateway: &str, status: &str) -> String {
    let mut out = Vec::with_capacity(64);
    let mut object = Object::begin(&mut out);
    object.text("gateway", gateway);
    object.text("status", status);
    object.end();
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Field, Trust, Value};

    #[test]
    fn a_reading_is_flat_json() {
        let given = Reading {
            source: "plc".into(),
            device: "boiler".into(),
            stream: "telemetry".into(),
            boot_ns: 1,
            measured_us: None,
            from_mqtt: false,
            fields: vec![Field::new("temperature_c", Value::Float(71.0))],
        };
        let stamp = Stamp { boot_ns: 1, wall_us: 0, trust: Trust::Ntp };
        let text = String::from_utf8(reading("gw", &given, stamp, Some(Position::new(17, 3)))).unwrap();
        assert_eq!(
            text,
            r#"{"gateway":"gw","stream":"telemetry","device":"boiler","source":"plc","time":"1970-01-01T00:00:00.000Z","clock":"ntp","run":17,"seq":3,"temperature_c":71.0}"#
        );
        assert_eq!(status("g\"w", "offline"), r#"{"gateway":"g\"w","status":"offline"}"#);
    }
}
