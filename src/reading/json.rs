//! Flat JSON objects, written straight into a buffer: the one shape of records in Kafka, payloads on MQTT and exports.
//!
//! Strings are escaped by `serde_json`; floats always carry a fraction or exponent, so that a consumer's schema never
//! flips between integer and float.

use jiff::fmt::temporal::DateTimePrinter;

use super::Value;

/// A JSON object under construction.
#[derive(Debug)]
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Begins an object at the end of `out`.
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Ends it.
    pub fn end(self) {
        self.out.push(b'}');
    }

    /// A text member.
    pub fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        write_text(self.out, text);
    }

    /// An unsigned integer member.
    pub fn unsigned(&mut self, name: &str, number: u64) {
        self.name(name);
        write_number(self.out, number);
    }

    /// A member of RFC 3339 UTC text with milliseconds, from microseconds since 1970.
    pub fn time(&mut self, name: &str, wall_us: i64) {
        self.name(name);
        self.out.push(b'"');
        write_time(self.out, wall_us);
        self.out.push(b'"');
    }

    /// A field's member.
    pub fn value(&mut self, name: &str, value: &Value) {
        self.name(name);
        match value {
            Value::Null => self.out.extend_from_slice(b"null"),
            Value::Bool(flag) => self.out.extend_from_slice(if *flag { b"true" } else { b"false" }),
            Value::Integer(number) => write_number(self.out, *number),
            Value::Unsigned(number) => write_number(self.out, *number),
            // As the shortest text that reads back the same, `71.0` for whole numbers, `null` for NaN.
            Value::Float(number) => write_number(self.out, *number),
            Value::Text(text) => write_text(self.out, text),
        }
    }

    fn name(&mut self, name: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        write_text(self.out, name);
        self.out.push(b':');
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    // Writing to a Vec does not fail, and a str is always valid JSON text once escaped.
    let _ = serde_json::to_writer(out, text);
}

fn write_number(out: &mut Vec<u8>, number: impl serde::Serialize) {
    let _ = serde_json::to_writer(out, &number);
}

const TIME: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

/// `2026-11-22T12:00:00.123Z`. Times outside the years 0 to 9999 are printed at the nearer end.
pub fn write_time(out: &mut Vec<u8>, wall_us: i64) {
    const YEAR_0_US: i64 = -62_167_219_200_000_000;
    const YEAR_9999_US: i64 = 253_402_207_200_000_000 - 1;
    let clamped = wall_us.clamp(YEAR_0_US, YEAR_9999_US);
    if let Ok(timestamp) = jiff::Timestamp::from_microsecond(clamped) {
        let _ = TIME.print_timestamp(&timestamp, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_escaped_and_floats_stay_floats() {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        object.text("a\"b", "line\nend");
        object.value("whole", &Value::Float(71.0));
        object.value("small", &Value::Float(1.5e-9));
        object.value("nothing", &Value::Null);
        object.value("big", &Value::Unsigned(u64::MAX));
        object.unsigned("n", 3);
        object.end();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"a\"b":"line\nend","whole":71.0,"small":1.5e-9,"nothing":null,"big":18446744073709551615,"n":3}"#
        );
    }

    #[test]
    fn times_have_milliseconds_and_zulu() {
        let of = |us| {
            let mut out = Vec::new();
            write_time(&mut out, us);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(of(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(of(1_795_348_800_123_456), "2026-11-22T12:00:00.123Z");
        assert!(of(i64::MAX).starts_with("9999-12-30T"));
        assert!(of(i64::MIN).starts_with("0000-01-01T"));
    }
}
