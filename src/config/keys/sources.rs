//! Keys of `[[source]]`: those of every type, and those of each.

use super::{Default::*, Kind, Section, key, later};

/// Values of `type`.
pub(in crate::config) const TYPES: [&str; 5] = ["gnss", "serial", "modbus", "mqtt", "simulated"];

const PORT: &str = "an absolute path such as `/dev/ttyS1`, or `usb:VENDOR:PRODUCT[:SERIAL]` with hexadecimal ids as `lsusb` prints them";
const DEVICE: &str = "1 to 128 bytes, no control characters";
const FIELD: &str = "1 to 128 bytes, no control characters, not a reserved name";

pub(in crate::config) static SOURCE: Section = Section {
    title: "[[source]]",
    about: "Where readings come from. These keys hold for every type; each type has more.",
    base: None,
    keys: &[
        key("name", Kind::Text("1 to 64 of letters, digits, `.`, `_`, `-`"), Required, "Its name, unique."),
        key("type", Kind::Word(&TYPES, &[]), Required, "What it is."),
        key("enabled", Kind::Boolean, Is("true"), "Whether it runs; it is checked either way."),
        key("stream", Kind::Text("a stream's name"), Is("telemetry"), "Where its readings go."),
    ],
};

pub(in crate::config) static GNSS: Section = Section {
    title: "[[source]] type = \"gnss\"",
    about: "A GNSS receiver that speaks NMEA 0183 or UBX; one reading per navigation epoch.",
    base: Some(&SOURCE),
    keys: &[
        key("port", Kind::Text(PORT), Required, "The receiver's port."),
        key("baud", Kind::Text("`\"auto\"`, or a whole number from 1200 to 4000000"), Is("auto"), "Bits per second."),
        key("device", Kind::Text(DEVICE), Words("the source's name"), "What readings are about."),
        key(
            "no-fix-every",
            Kind::Duration(0, 86_400_000),
            Is("1min"),
            "How often a receiver without a fix says so; `\"0s\"`: never.",
        ),
    ],
};

pub(in crate::config) static SERIAL: Section = Section {
    title: "[[source]] type = \"serial\"",
    about: "A serial sensor that talks by itself. Either `preset`, or `format` and what belongs to it.",
    base: Some(&SOURCE),
    keys: &[
        key("port", Kind::Text(PORT), Required, "The sensor's port."),
        key("baud", Kind::Integer(50, 4_000_000), Is("9600"), "Bits per second."),
        key("data-bits", Kind::Integer(5, 8), Is("8"), "Data bits."),
        key("parity", Kind::Word(&["none", "even", "odd"], &[]), Is("none"), "Parity bit."),
        key("stop-bits", Kind::Integer(1, 2), Is("1"), "Stop bits."),
        key("device", Kind::Text(DEVICE), Words("the source's name"), "What readings are about."),
        key("preset", Kind::Word(&["pms5003"], &[]), Words("none"), "A sensor whose frames the agent knows."),
        key(
            "format",
            Kind::Word(&["csv", "key-value"], &["fixed", "length-prefixed", "cobs", "slip", "delimited"]),
            Words("none"),
            "Lines of columns, or lines of `key=value` pairs.",
        ),
        key("separator", Kind::Text("one ASCII character"), Is(","), "Between columns or pairs."),
        key("assign", Kind::Text("one ASCII character"), Is("="), "Between key and value (`key-value`)."),
        key(
            "columns",
            Kind::Table("1 to 256 of: a name (a float), `\"\"` (skipped), or `{ name, type }`"),
            Words("none"),
            "What each column is (`csv`).",
        ),
        key("line-bytes-max", Kind::Size(16, 65_536), Is("1 KiB"), "Longest line."),
        later("poll", "Sensors that must be asked."),
        later("checksum", "A checksum at the end of each line."),
        later("fields", "Typed fields of binary frames."),
    ],
};

pub(in crate::config) static COLUMN: Section = Section {
    title: "An element of `columns`",
    about: "One column of a CSV line, as a table.",
    base: None,
    keys: &[
        key("name", Kind::Text(FIELD), Required, "The field's name, unique in the source."),
        key("type", Kind::Word(&["float", "integer", "text", "bool"], &[]), Is("float"), "What it holds."),
    ],
};

pub(in crate::config) static MODBUS: Section = Section {
    title: "[[source]] type = \"modbus\"",
    about: "Modbus units behind one connection.",
    base: Some(&SOURCE),
    keys: &[
        key(
            "connect",
            Kind::Text("`tcp://host[:port]`, or `rtu://PORT[?baud=..&parity=..&data-bits=..&stop-bits=..]`"),
            Required,
            "Where the units are; TCP port 502 unless written.",
        ),
        key("unit", Kind::Table("`[[source.unit]]`, 1 to 247"), Required, "The units."),
        later("rs485", "RS-485 direction control."),
    ],
};

pub(in crate::config) static RTU: Section = Section {
    title: "The query part of `connect = \"rtu://...\"`",
    about: "Line settings of the bus; the defaults are those of Modbus over Serial Line V1.02, 2.5.1.",
    base: None,
    keys: &[
        key("baud", Kind::Integer(50, 4_000_000), Is("19200"), "Bits per second."),
        key("data-bits", Kind::Integer(8, 8), Is("8"), "Data bits; RTU has 8."),
        key("parity", Kind::Word(&["none", "even", "odd"], &[]), Is("even"), "Parity bit."),
        key("stop-bits", Kind::Integer(1, 2), Is("1"), "Stop bits."),
    ],
};

pub(in crate::config) static UNIT: Section = Section {
    title: "[[source.unit]]",
    about: "One Modbus unit.",
    base: None,
    keys: &[
        key(
            "id",
            Kind::Integer(0, 255),
            Required,
            "Unit id: 1 to 247 on RTU, 0 to 255 over TCP; unique in the source.",
        ),
        key("device", Kind::Text(DEVICE), Required, "What readings are about."),
        key("every", Kind::Duration(10, 86_400_000), Is("1s"), "Poll interval."),
        key("timeout", Kind::Duration(10, 60_000), Is("1s"), "How long an answer may take."),
        key("pause", Kind::Duration(0, 10_000), Is("0s"), "Silence on the bus after each answer."),
        key("stream", Kind::Text("a stream's name"), Words("the source's"), "Where its readings go."),
        key("registers", Kind::Table("tables, 1 to 256"), Required, "What to read."),
        later("late-answer-max", "How late an answer may still come."),
    ],
};

pub(in crate::config) static REGISTER: Section = Section {
    title: "An element of `registers`",
    about: "One value of a unit. Exactly one of `holding`, `input`, `coil`, `discrete`; addresses as on the wire, from 0.",
    base: None,
    keys: &[
        key("name", Kind::Text(FIELD), Required, "The field's name, unique in the unit."),
        key("holding", Kind::Integer(0, 65_535), Words("none"), "Address of a holding register (function code 3)."),
        key("input", Kind::Integer(0, 65_535), Words("none"), "Address of an input register (function code 4)."),
        key("coil", Kind::Integer(0, 65_535), Words("none"), "Address of a coil (function code 1)."),
        key("discrete", Kind::Integer(0, 65_535), Words("none"), "Address of a discrete input (function code 2)."),
        key(
            "type",
            Kind::Word(&["u16", "i16", "u32", "i32", "f32"], &["u64", "i64", "f64", "string", "bitfield"]),
            Words("`u16`; coils and discrete inputs are bits"),
            "How the register's bits are to be read.",
        ),
        key(
            "order",
            Kind::Word(&["abcd", "cdab", "badc", "dcba"], &[]),
            Is("abcd"),
            "Byte order of 32-bit values; `a` is the most significant byte.",
        ),
        key("scale", Kind::Number("a finite number, not 0"), Is("1"), "Multiplied in; 1 keeps integers integers."),
        key("stream", Kind::Text("a stream's name"), Words("the unit's"), "Where its value goes."),
        later("deadband", "Changes too small to record."),
    ],
};

pub(in crate::config) static MQTT_SOURCE: Section = Section {
    title: "[[source]] type = \"mqtt\"",
    about: "Topics of the local broker (`[mqtt]`). Messages are acknowledged once they are durable or acknowledged by Kafka; \
            those that can be no reading (too large, retained, no JSON object) at once, counted.",
    base: Some(&SOURCE),
    keys: &[
        key(
            "topics",
            Kind::Texts("MQTT topic filters, 1 to 64, that take in none of our own publications"),
            Required,
            "What to subscribe to.",
        ),
        key("qos", Kind::Integer(0, 2), Is("1"), "QoS of the subscriptions; 2 is asked for as 1."),
        key(
            "device",
            Kind::Text("text with parts `{topic}`, `{topic.N}` (levels count from 0)"),
            Is("{topic}"),
            "What readings are about.",
        ),
        key("payload", Kind::Word(&["json", "raw"], &[]), Is("json"), "A JSON object, or one bare value."),
        key("payload-bytes-max", Kind::Size(16, 256 << 10), Is("16 KiB"), "Largest payload taken; larger are counted."),
        later("retained", "What to do with retained messages; they are ignored."),
    ],
};

pub(in crate::config) static SIMULATED: Section = Section {
    title: "[[source]] type = \"simulated\"",
    about: "Made-up readings, for demos, load and tests.",
    base: Some(&SOURCE),
    keys: &[
        key("devices", Kind::Integer(1, 10_000), Is("1"), "Devices to make up."),
        key("every", Kind::Duration(1, 86_400_000), Is("1s"), "One reading of each device so often."),
    ],
};
