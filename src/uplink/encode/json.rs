//! The default encoding: one flat JSON object a record, stable in names and order, ready for ClickHouse, Flink,
//! ksqlDB and Kafka Connect.

use std::collections::BTreeMap;

use crate::reading::json::Object;
use crate::reading::{Lineage, Record, is_reserved};

/// Appends the record to `out`. The record's own members come first, then the tags, then the fields in the order of
/// the device. A field named like a tag or like one of the record's own members gets trailing underscores, as many as
/// it takes that no member appears twice.
pub fn encode_json(
    out: &mut Vec<u8>,
    stream: &str,
    lineage: &Lineage,
    record: &Record,
    tags: &BTreeMap<String, String>,
) {
    let queue = lineage.queue.simple().to_string();
    let mut object = Object::begin(out);
    object.text("gateway", &lineage.gateway);
    object.text("stream", stream);
    object.text("device", &record.device);
    object.text("source", &record.source);
    object.time("time", record.stamp.wall_us);
    object.text("clock", record.stamp.trust.as_str());
    object.text("queue", queue.get(..8).unwrap_or(&queue));
    object.unsigned("run", u64::from(record.position.run()));
    object.unsigned("seq", record.position.seq());
    if record.skipped > 0 {
        object.unsigned("skipped", record.skipped);
    }
    if record.thinned > 0 {
        object.unsigned("thinned", record.thinned);
    }
    for (name, text) in tags {
        object.text(name, text);
    }
    let is_taken = |name: &str| is_reserved(name) || tags.contains_key(name);
    let mut renamed: Vec<String> = Vec::new();
    for field in &record.fields {
        if !is_taken(&field.name) {
            object.value(&field.name, &field.value);
            continue;
        }
        let mut name = format!("{}_", field.name);
        while is_taken(&name) || renamed.contains(&name) || record.fields.iter().any(|other| *other.name == *name) {
            name.push('_');
        }
        object.value(&name, &field.value);
        renamed.push(name);
    }
    object.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Field, Position, Stamp, Trust, Value};

    fn lineage() -> Lineage {
        Lineage {
            gateway: "truck-17-4f2a9c".into(),
            queue: uuid::Uuid::from_u128(0x5f0c_9a1e_0000_4000_8000_0000_0000_0001),
            boot_index: 0,
        }
    }

    fn record(fields: Vec<Field>) -> Record {
        Record {
            position: Position::new(17, 48_213),
            skipped: 0,
            thinned: 0,
            stamp: Stamp { boot_ns: 1, wall_us: 1_795_348_800_123_456, trust: Trust::Gnss },
            source: "plc".into(),
            device: "boiler".into(),
            fields,
        }
    }

    fn encoded(record: &Record, tags: &BTreeMap<String, String>) -> String {
        let mut out = Vec::new();
        encode_json(&mut out, "telemetry", &lineage(), record, tags);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_documented_record() {
        let fields = vec![Field::new("temperature_c", Value::float(71.5)), Field::new("pump_on", Value::Bool(true))];
        assert_eq!(
            encoded(&record(fields), &BTreeMap::new()),
            concat!(
                r#"{"gateway":"truck-17-4f2a9c","stream":"telemetry","device":"boiler","source":"plc","#,
                r#""time":"2026-11-22T12:00:00.123Z","clock":"gnss","queue":"5f0c9a1e","run":17,"seq":48213,"#,
                r#""temperature_c":71.5,"pump_on":true}"#
            )
        );
    }

    #[test]
    fn skipped_stands_only_where_something_was_and_tags_stand_in_every_record() {
        let tags = [("site".to_owned(), "north".to_owned()), ("line".to_owned(), "2".to_owned())].into();
        let record = Record { skipped: 12, ..record(vec![Field::new("t", Value::Null)]) };
        assert!(
            encoded(&record, &tags)
                .ends_with(r#""run":17,"seq":48213,"skipped":12,"line":"2","site":"north","t":null}"#)
        );
    }

    #[test]
    fn no_member_appears_twice() {
        let tags = [("site".to_owned(), "north".to_owned())].into();
        let fields = vec![Field::new("seq", Value::Integer(-1)), Field::new("site", Value::Text("south".into()))];
        assert!(encoded(&record(fields), &tags).ends_with(r#""seq":48213,"site":"north","seq_":-1,"site_":"south"}"#));
        let tags = [("a", "0"), ("a_", "1")].map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let fields = ["a", "a_", "a__"].map(|name| Field::new(name, Value::Null)).to_vec();
        assert!(encoded(&record(fields), &tags).ends_with(r#""a":"0","a_":"1","a___":null,"a____":null,"a__":null}"#));
    }
}
