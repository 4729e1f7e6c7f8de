//! Records written here and read back with the libraries of others: apache-avro, and protox and prost-reflect.

use apache_avro::types::Value as Avro;
use proptest::prelude::*;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, Value as Proto};

use super::*;
use crate::config::{Durability, Retention};
use crate::reading::{Field, Position, Stamp, Trust, Value};

pub(super) const TIME_US: i64 = 1_795_348_800_123_456;

pub(super) fn lineage() -> Lineage {
    Lineage {
        gateway: "truck-17".into(),
        queue: uuid::Uuid::from_u128(0x5f0c_9a1e_0000_4000_8000_0000_0000_0001),
        boot_index: 0,
    }
}

pub(super) fn record(fields: Vec<Field>) -> Record {
    Record {
        position: Position::new(17, 48_213),
        skipped: 0,
        thinned: 0,
        stamp: Stamp { boot_ns: 1, wall_us: TIME_US, trust: Trust::Gnss },
        source: "plc".into(),
        device: "boiler".into(),
        fields,
    }
}

/// An encoder of the stream `telemetry`; the source `yard` is untyped.
pub(super) fn encoder(encoding: Encoding, shape: Shape, cloudevents: bool) -> Encoder {
    let stream = Stream {
        name: "telemetry".into(),
        topic: "plant.telemetry".into(),
        priority: 0,
        durability: Durability::Window,
        retention: Retention::default(),
        drain: None,
        rate: Default::default(),
    };
    let tags = [("site".to_owned(), "north".to_owned())].into();
    let gateway = Gateway { id: "truck-17".into(), state_dir: "/nowhere".into(), tags };
    let registry = crate::config::Registry {
        tls: true,
        host: "registry.example".into(),
        port: 443,
        path: String::new(),
        username: None,
        password: None,
        ca: None,
        timeout: std::time::Duration::from_secs(1),
    };
    let output = Output {
        forms: [("telemetry".into(), Form { encoding, shape })].into(),
        registry: Some(registry),
        cloudevents,
        untyped_sources: ["yard".into()].into(),
        dead_letter_topic: None,
    };
    Encoder::new(&stream, &gateway, &output)
}

/// Registers what is planned, as a registry would that gives this id.
fn register(encoder: &mut Encoder, id: u32) -> String {
    let plan = encoder.plan().unwrap();
    let schema = plan.schema(&plan.columns);
    encoder.registered(Registered { id, columns: plan.columns });
    schema
}

/// The values of all messages, and the schema they are written with. Each record is encoded as the drain does it.
pub(super) fn encoded(encoder: &mut Encoder, record: &Record) -> (Vec<Vec<u8>>, String) {
    let mut out = Encoded::default();
    let mut schema = String::new();
    if encoder.encode(&lineage(), record, &mut out) == Err(NotEncoded::Unregistered) {
        assert_eq!(out.count(), 0);
        assert!(encoder.learn(record));
        schema = register(encoder, 7);
        encoder.encode(&lineage(), record, &mut out).unwrap();
    } else if let Some(plan) = encoder.plan() {
        schema = plan.schema(&plan.columns);
    }
    ((0..out.count()).map(|index| out.payload(index).to_vec()).collect(), schema)
}

fn avro(payload: &[u8], schema: &str) -> BTreeMap<String, Avro> {
    assert_eq!(payload[..5], [0, 0, 0, 0, 7], "wire format: zero, id");
    let schema = apache_avro::Schema::parse_str(schema).unwrap();
    let mut rest = &payload[5..];
    let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
    let Avro::Record(members) = reader.read_value(&mut rest).unwrap() else { panic!() };
    assert!(rest.is_empty(), "bytes are left over");
    let plain = |value| if let Avro::Union(_, inner) = value { *inner } else { value };
    members.into_iter().map(|(name, value)| (name, plain(value))).collect()
}

/// The pool of a schema's text, compiled by protox.
fn pool(schema: &str) -> DescriptorPool {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("schema.proto"), schema).unwrap();
    let files = protox::compile(["schema.proto"], [dir.path()]).unwrap_or_else(|error| panic!("{error:?}\n{schema}"));
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

fn protobuf(payload: &[u8], schema: &str) -> DynamicMessage {
    assert_eq!(payload[..6], [0, 0, 0, 0, 7, 0], "wire format: zero, id, first message");
    let descriptor = pool(schema).get_message_by_name("forebay.PlantTelemetry").unwrap();
    DynamicMessage::decode(descriptor, &payload[6..]).unwrap()
}

fn proto_text(message: &DynamicMessage, name: &str) -> String {
    message.get_field_by_name(name).unwrap().as_str().unwrap().to_owned()
}

pub(super) fn one_of_each() -> Vec<Field> {
    vec![
        Field::new("temperature_c", Value::float(71.5)),
        Field::new("pump_on", Value::Bool(true)),
        Field::new("count", Value::Integer(-123_456_789_012)),
        Field::new("energy", Value::Unsigned(u64::MAX)),
        Field::new("Zustand Öl", Value::Text("läuft".into())),
        Field::new("broken", Value::Null),
    ]
}

#[test]
fn an_avro_record_reads_back_whole() {
    let mut encoder = encoder(Encoding::Avro, Shape::Wide, false);
    let record = Record { skipped: 3, ..record(one_of_each()) };
    let (payloads, schema) = encoded(&mut encoder, &record);
    let members = avro(&payloads[0], &schema);
    let text = |text: &str| Avro::String(text.to_owned());
    for (name, expected) in [
        ("gateway", text("truck-17")),
        ("stream", text("telemetry")),
        ("device", text("boiler")),
        ("source", text("plc")),
        ("time", Avro::TimestampMicros(TIME_US)),
        ("clock", text("gnss")),
        ("queue", text("5f0c9a1e")),
        ("run", Avro::Int(17)),
        ("seq", Avro::Long(48_213)),
        ("skipped", Avro::Long(3)),
        ("site", text("north")),
        ("temperature_c", Avro::Double(71.5)),
        ("pump_on", Avro::Boolean(true)),
        ("count", Avro::Long(-123_456_789_012)),
        ("Zustand__l", text("läuft")),
    ] {
        assert_eq!(members[name], expected, "{name}");
    }
    let Avro::Decimal(energy) = &members["energy"] else { panic!("{:?}", members["energy"]) };
    let bytes: Vec<u8> = energy.try_into().unwrap();
    assert_eq!(bytes, [0, 255, 255, 255, 255, 255, 255, 255, 255]);
    assert!(!members.contains_key("broken"), "a null makes no column");
    assert!(schema.contains(r#""field":"Zustand Öl""#), "{schema}");
}

#[test]
fn a_protobuf_record_reads_back_whole() {
    let mut encoder = encoder(Encoding::Protobuf, Shape::Wide, false);
    let record = Record { skipped: 3, ..record(one_of_each()) };
    let (payloads, schema) = encoded(&mut encoder, &record);
    let message = protobuf(&payloads[0], &schema);
    for (name, expected) in [
        ("gateway", "truck-17"),
        ("stream", "telemetry"),
        ("device", "boiler"),
        ("source", "plc"),
        ("clock", "gnss"),
        ("queue", "5f0c9a1e"),
        ("site", "north"),
        ("Zustand__l", "läuft"),
    ] {
        assert_eq!(proto_text(&message, name), expected, "{name}");
    }
    for (name, expected) in [
        ("run", Proto::U32(17)),
        ("seq", Proto::U64(48_213)),
        ("skipped", Proto::U64(3)),
        ("temperature_c", Proto::F64(71.5)),
        ("pump_on", Proto::Bool(true)),
        ("count", Proto::I64(-123_456_789_012)),
        ("energy", Proto::U64(u64::MAX)),
    ] {
        assert_eq!(*message.get_field_by_name(name).unwrap(), expected, "{name}");
    }
    let time = message.get_field_by_name("time").unwrap();
    let part = |name| time.as_message().unwrap().get_field_by_name(name).unwrap().into_owned();
    assert_eq!((part("seconds"), part("nanos")), (Proto::I64(1_795_348_800), Proto::I32(123_456_000)));
    let json_name = |name: &str| message.descriptor().get_field_by_name(name).unwrap().json_name().to_owned();
    assert_eq!((json_name("temperature_c"), json_name("Zustand__l")), ("temperature_c".into(), "Zustand Öl".into()));
}

#[test]
fn schemas_have_every_member_that_is_reserved() {
    for shape in [Shape::Wide, Shape::Narrow] {
        let avro: serde_json::Value =
            serde_json::from_str(&register(&mut encoder(Encoding::Avro, shape, false), 7)).unwrap();
        let proto = pool(&register(&mut encoder(Encoding::Protobuf, shape, false), 7));
        let message = proto.get_message_by_name("forebay.PlantTelemetry").unwrap();
        for name in crate::reading::RESERVED_FIELDS {
            assert!(avro["fields"].as_array().unwrap().iter().any(|field| field["name"] == name), "{name}");
            assert!(message.get_field_by_name(name).is_some(), "{name}");
        }
    }
}

#[test]
fn what_is_not_in_a_record_is_absent_in_its_message() {
    for encoding in [Encoding::Avro, Encoding::Protobuf] {
        let mut encoder = encoder(encoding, Shape::Wide, false);
        encoded(&mut encoder, &record(one_of_each()));
        let (payloads, schema) = encoded(&mut encoder, &record(vec![Field::new("count", Value::Integer(0))]));
        if encoding == Encoding::Avro {
            let members = avro(&payloads[0], &schema);
            assert_eq!((&members["count"], &members["pump_on"]), (&Avro::Long(0), &Avro::Null));
            assert_eq!(members["skipped"], Avro::Null);
        } else {
            let message = protobuf(&payloads[0], &schema);
            assert!(message.has_field_by_name("count"), "zero is a value");
            assert!(!message.has_field_by_name("pump_on") && !message.has_field_by_name("skipped"));
        }
    }
}

#[test]
fn a_value_of_another_type_gets_a_column_beside_the_first() {
    let mut encoder = encoder(Encoding::Avro, Shape::Wide, false);
    encoded(&mut encoder, &record(vec![Field::new("x", Value::Bool(true))]));
    let (payloads, schema) = encoded(&mut encoder, &record(vec![Field::new("x", Value::Text("on".into()))]));
    let members = avro(&payloads[0], &schema);
    assert_eq!((&members["x"], &members["x_text"]), (&Avro::Null, &Avro::String("on".into())));
    let (payloads, same) = encoded(&mut encoder, &record(vec![Field::new("x", Value::Bool(false))]));
    assert_eq!((same == schema, &avro(&payloads[0], &schema)["x"]), (true, &Avro::Boolean(false)));
}

#[test]
fn numbers_of_an_untyped_source_share_one_column() {
    let mut encoder = encoder(Encoding::Avro, Shape::Wide, false);
    let of_yard = |value| Record { source: "yard".into(), ..record(vec![Field::new("t", value)]) };
    let (_, first) = encoded(&mut encoder, &of_yard(Value::Integer(20)));
    let (payloads, second) = encoded(&mut encoder, &of_yard(Value::Float(20.5)));
    assert_eq!(first, second);
    assert_eq!(avro(&payloads[0], &second)["t"], Avro::Double(20.5));
    let (payloads, third) = encoded(&mut encoder, &of_yard(Value::Integer((1 << 53) + 1)));
    assert_eq!(avro(&payloads[0], &third)["t_long"], Avro::Long((1 << 53) + 1), "not exact as a float");
}

#[test]
fn names_that_become_the_same_stay_apart() {
    for encoding in [Encoding::Avro, Encoding::Protobuf] {
        let mut encoder = encoder(encoding, Shape::Wide, false);
        let names = ["a b", "a_b", "aB", "a-b", "1", "_1", "seq", "site", "seq_"];
        let fields = names.iter().zip(0..).map(|(name, number)| Field::new(*name, Value::Integer(number))).collect();
        let (payloads, schema) = encoded(&mut encoder, &record(fields));
        let numbers: BTreeSet<i64> = if encoding == Encoding::Avro {
            let long = |value| if let Avro::Long(number) = value { Some(number) } else { None };
            avro(&payloads[0], &schema).into_values().filter_map(long).filter(|number| *number < 9).collect()
        } else {
            let message = protobuf(&payloads[0], &schema);
            message.fields().filter_map(|(_, value)| value.as_i64()).collect()
        };
        assert_eq!(numbers, (0..9).collect(), "{schema}");
        // And what the registry gives back says the same.
        let plan = encoder.plan().unwrap();
        assert_eq!(plan.merged(&schema).unwrap(), plan.columns);
    }
}

#[test]
fn fields_of_other_gateways_stand_before_ours() {
    for encoding in [Encoding::Avro, Encoding::Protobuf] {
        let mut theirs = encoder(encoding, Shape::Wide, false);
        let (_, latest) = encoded(
            &mut theirs,
            &record(vec![Field::new("a", Value::Float(1.0)), Field::new("b c", Value::Bool(true))]),
        );
        let mut ours = encoder(encoding, Shape::Wide, false);
        let fields = vec![Field::new("d", Value::Float(2.0)), Field::new("a", Value::Text("x".into()))];
        assert!(ours.learn(&record(fields)));
        let plan = ours.plan().unwrap();
        let columns = plan.merged(&latest).unwrap();
        let shown: Vec<_> =
            columns.list().iter().map(|column| (column.name.as_str(), column.field.as_str(), column.number)).collect();
        assert_eq!(
            shown,
            [("site", "site", 32), ("a", "a", 33), ("b_c", "b c", 34), ("d", "d", 35), ("a_text", "a", 36)]
        );
        // Registered again, nothing changes: numbers and names are for ever.
        assert_eq!(plan.merged(&plan.schema(&columns)).unwrap(), columns);
    }
}

#[test]
fn a_schema_has_a_limit() {
    let mut encoder = encoder(Encoding::Avro, Shape::Wide, false);
    for number in 0..COLUMNS_MAX - 1 {
        assert!(encoder.learn(&record(vec![Field::new(format!("f{number}"), Value::Bool(true))])));
    }
    assert!(!encoder.learn(&record(vec![Field::new("one_more", Value::Bool(true))])));
    assert!(encoder.learn(&record(vec![Field::new("f7", Value::Bool(true))])), "what is there has room");
    let plan = encoder.plan().unwrap();
    assert_eq!(plan.columns.list().len(), COLUMNS_MAX);
    let other = r#"{"fields":[{"name":"theirs","type":["null","long"]}]}"#;
    assert_eq!(plan.merged(other), None, "together they are too many");
}

#[test]
fn a_narrow_record_is_a_message_a_field() {
    for encoding in [Encoding::Avro, Encoding::Protobuf] {
        let mut encoder = encoder(encoding, Shape::Narrow, false);
        let record = Record { skipped: 2, ..record(one_of_each()) };
        let (payloads, schema) = encoded(&mut encoder, &record);
        assert_eq!(payloads.len(), 6);
        if encoding == Encoding::Protobuf {
            let first = protobuf(&payloads[0], &schema);
            assert_eq!(
                (proto_text(&first, "metric"), proto_text(&first, "site")),
                ("temperature_c".into(), "north".into())
            );
            assert_eq!(*first.get_field_by_name("value").unwrap(), Proto::F64(71.5));
            assert!(protobuf(&payloads[1], &schema).has_field_by_name("flag"));
            continue;
        }
        let all: Vec<_> = payloads.iter().map(|payload| avro(payload, &schema)).collect();
        assert_eq!((&all[0]["skipped"], &all[1]["skipped"]), (&Avro::Long(2), &Avro::Null), "said once");
        assert_eq!((&all[0]["value"], &all[1]["flag"]), (&Avro::Double(71.5), &Avro::Boolean(true)));
        assert_eq!(all[2]["value"], Avro::Double(-123_456_789_012.0));
        assert_eq!(all[3]["text"], Avro::String("18446744073709551615".into()));
        assert_eq!(all[5]["metric"], Avro::String("broken".into()));
        assert!(["value", "integer", "flag", "text"].iter().all(|name| all[5][*name] == Avro::Null));
    }
}

#[test]
fn a_narrow_record_without_fields_is_one_message() {
    let mut encoder = encoder(Encoding::Json, Shape::Narrow, false);
    let (payloads, _) = encoded(&mut encoder, &record(Vec::new()));
    assert!(payloads[0].ends_with(br#""seq":48213,"site":"north"}"#) && payloads.len() == 1);
}

#[test]
fn events_have_the_attributes_that_the_specification_asks_for() {
    let mut encoder = encoder(Encoding::Avro, Shape::Narrow, true);
    let record = record(one_of_each());
    encoded(&mut encoder, &record);
    let mut out = Encoded::default();
    encoder.encode(&lineage(), &record, &mut out).unwrap();
    let headers: BTreeMap<&str, &str> = out.headers(1).into_iter().collect();
    let expected = [
        ("ce_specversion", "1.0"),
        ("ce_id", "5f0c9a1e-17-48213-pump_on"),
        ("ce_source", "/forebay/truck-17/telemetry"),
        ("ce_type", "forebay.metric"),
        ("ce_time", "2026-11-22T12:00:00.123Z"),
        ("ce_subject", "boiler"),
        ("ce_partitionkey", "boiler"),
        ("ce_dataschema", "https://registry.example/schemas/ids/7"),
        ("content-type", "application/avro"),
    ];
    assert_eq!(headers, expected.into());
    let without = super::tests::encoder(Encoding::Json, Shape::Wide, false);
    without.encode(&lineage(), &record, &mut out).unwrap();
    assert!(out.headers(0).is_empty() && out.count() == 1);
}

pub(super) fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Integer),
        (i64::MAX as u64 + 1..).prop_map(Value::Unsigned),
        any::<f64>().prop_map(Value::float),
        "\\PC{0,20}".prop_map(Value::Text),
    ]
}

/// What must be read back for a value: as text, as the two libraries have types of their own.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Unsigned(number) => Some(number.to_string()),
        Value::Float(number) => Some(format!("{:?}", number.to_bits())),
        Value::Text(text) => Some(format!("{text:?}")),
    }
}

fn shown_avro(value: &Avro) -> Option<String> {
    match value {
        Avro::Null => None,
        Avro::Boolean(flag) => Some(flag.to_string()),
        Avro::Long(number) => Some(number.to_string()),
        Avro::Decimal(decimal) => {
            let bytes: Vec<u8> = decimal.try_into().unwrap();
            Some(u64::from_be_bytes(bytes[1..].try_into().unwrap()).to_string())
        }
        Avro::Double(number) => Some(format!("{:?}", number.to_bits())),
        Avro::String(text) => Some(format!("{text:?}")),
        other => panic!("{other:?}"),
    }
}

fn shown_proto(value: &Proto) -> String {
    match value {
        Proto::Bool(flag) => flag.to_string(),
        Proto::I64(number) => number.to_string(),
        Proto::U64(number) => number.to_string(),
        Proto::F64(number) => format!("{:?}", number.to_bits()),
        Proto::String(text) => format!("{text:?}"),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever fields come in whatever order and types, every value of every record is read back, with the schema of
    /// its time, from the column of its field; and schemas only grow at their end.
    #[test]
    fn every_value_is_read_back(
        records in proptest::collection::vec(
            proptest::collection::btree_map("[a-cA-B_ ]{1,2}|seq|SEQ_|site|Ö|ü|a \\(long\\)|\\[x|\"\\\\|\u{0}|\n|\t1", any_value(), 0..5), 1..6),
    ) {
        for encoding in [Encoding::Avro, Encoding::Protobuf] {
            let mut encoder = encoder(encoding, Shape::Wide, false);
            let mut before: Vec<Column> = Vec::new();
            for fields in &records {
                let fields: Vec<_> = fields.iter().map(|(name, value)| Field::new(name.as_str(), value.clone())).collect();
                let (payloads, schema) = encoded(&mut encoder, &record(fields.clone()));
                let columns = encoder.plan().unwrap().columns;
                prop_assert_eq!(&columns.list()[..before.len()], &before[..]);
                before = columns.list().to_vec();
                let mut expected: Vec<_> = fields.iter().filter_map(|field| shown(&field.value)).collect();
                // Whole numbers may stand in a column of floats where the field has only that.
                let floats: Vec<_> = fields.iter().map(|field| match &field.value {
                    Value::Integer(number) if number.unsigned_abs() <= 1 << 53 =>
                        Some(format!("{:?}", (*number as f64).to_bits())),
                    _ => None,
                }).collect();
                expected.sort();
                let ours = |name: &str| columns.list().iter().any(|column| column.name == name && column.field != "site");
                let mut found: Vec<String> = match encoding {
                    Encoding::Avro => avro(&payloads[0], &schema).iter()
                        .filter(|(name, _)| ours(name)).filter_map(|(_, value)| shown_avro(value)).collect(),
                    _ => protobuf(&payloads[0], &schema).fields()
                        .filter(|(field, _)| ours(field.name())).map(|(_, value)| shown_proto(value)).collect(),
                };
                for (field, float) in fields.iter().zip(floats) {
                    let Some(float) = float else { continue };
                    if let Some(place) = found.iter().position(|shown| *shown == float) {
                        found[place] = shown(&field.value).unwrap();
                    }
                }
                found.sort();
                prop_assert_eq!(found, expected);
            }
        }
    }

    /// No text from a registry, however spoilt, does harm; and columns made of it are sound.
    #[test]
    fn any_text_may_come_from_a_registry(text in "\\PC*|(optional (double|bool|x) [a-z ]{0,3}= ?[0-9]{0,6}[; \\[\"a-z_=]{0,20}\n)*") {
        for encoding in [Encoding::Avro, Encoding::Protobuf] {
            let mut encoder = encoder(encoding, Shape::Wide, false);
            prop_assert!(encoder.learn(&record(one_of_each())));
            let plan = encoder.plan().unwrap();
            let columns = plan.merged(&text).unwrap();
            if encoding == Encoding::Protobuf {
                pool(&plan.schema(&columns));
            } else {
                apache_avro::Schema::parse_str(&plan.schema(&columns)).unwrap();
            }
        }
    }
}
