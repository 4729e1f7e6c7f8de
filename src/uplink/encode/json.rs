//! The default encoding: one flat JSON object a message, stable in names and order, ready for ClickHouse, Flink,
//! ksqlDB and Kafka Connect.

use std::collections::BTreeMap;

use super::message::{Metric, Own};
use super::names::shown_names;
use crate::reading::json::Object;
use crate::reading::{Field, Value};

/// Appends a whole record to `out`. The record's own members come first, then the tags, then the fields in the order
/// of the device, under names that no two members share.
pub fn write_wide(out: &mut Vec<u8>, own: &Own<'_>, tags: &BTreeMap<String, String>, fields: &[Field]) {
    let mut object = begin(out, own, tags);
    for (name, field) in shown_names(tags, fields).zip(fields) {
        object.value(&name, &field.value);
    }
    object.end();
}

/// Appends one field of a record: the record's own members, the tags, `metric`, and the value under a name of its
/// type.
pub fn write_narrow(out: &mut Vec<u8>, own: &Own<'_>, tags: &BTreeMap<String, String>, metric: &Metric<'_>) {
    let mut object = begin(out, own, tags);
    if let Some(name) = metric.name {
        object.text("metric", name);
    }
    let members = [
        ("value", metric.value.map(Value::Float)),
        ("integer", metric.integer.map(Value::Integer)),
        ("flag", metric.flag.map(Value::Bool)),
    ];
    for (name, value) in members {
        if let Some(value) = value {
            object.value(name, &value);
        }
    }
    if let Some(text) = &metric.text {
        object.text("text", text);
    }
    object.end();
}

fn begin<'a>(out: &'a mut Vec<u8>, own: &Own<'_>, tags: &BTreeMap<String, String>) -> Object<'a> {
    let mut object = Object::begin(out);
    object.text("gateway", own.gateway);
    object.text("stream", own.stream);
    object.text("device", own.device);
    object.text("source", own.source);
    object.time("time", own.wall_us);
    object.text("clock", own.clock);
    object.text("queue", own.queue);
    object.unsigned("run", u64::from(own.run));
    object.unsigned("seq", own.seq);
    if own.skipped > 0 {
        object.unsigned("skipped", own.skipped);
    }
    if own.thinned > 0 {
        object.unsigned("thinned", own.thinned);
    }
    for (name, text) in tags {
        object.text(name, text);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Lineage, Position, Record, Stamp, Trust};
    use crate::uplink::encode::message::queue_digits;

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
        let (lineage, mut digits) = (lineage(), Default::default());
        let queue = queue_digits(&lineage, &mut digits);
        write_wide(&mut out, &Own::new("telemetry", queue, &lineage, record), tags, &record.fields);
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

    #[test]
    fn a_narrow_message_has_one_field_under_a_name_of_its_type() {
        let tags = [("site".to_owned(), "north".to_owned())].into();
        let record = record(Vec::new());
        let (lineage, mut digits) = (lineage(), Default::default());
        let queue = queue_digits(&lineage, &mut digits);
        let own = Own::new("telemetry", queue, &lineage, &record);
        let of = |value| {
            let mut out = Vec::new();
            write_narrow(&mut out, &own, &tags, &Metric::from(&Field::new("x", value)));
            let text = String::from_utf8(out).unwrap();
            text.split_once(r#""seq":48213,"site":"north","metric":"x""#).unwrap().1.to_owned()
        };
        assert_eq!(of(Value::Float(1.0)), r#","value":1.0}"#);
        assert_eq!(of(Value::Integer(-3)), r#","value":-3.0}"#);
        assert_eq!(of(Value::Integer(i64::MIN)), r#","integer":-9223372036854775808}"#);
        assert_eq!(of(Value::Unsigned((1 << 53) + 1)), r#","integer":9007199254740993}"#);
        assert_eq!(of(Value::Unsigned(u64::MAX)), r#","text":"18446744073709551615"}"#);
        assert_eq!(of(Value::Bool(false)), r#","flag":false}"#);
        assert_eq!(of(Value::Text("on".into())), r#","text":"on"}"#);
        assert_eq!(of(Value::Null), "}");
    }
}
