//! MQTT payloads into fields: JSON objects, flattened, and raw values. Pure and bounded.
//!
//! JSON is read as a stream straight into fields, so memory is bounded by the fields' own limits and not by a tree.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

use crate::reading::{FIELDS_MAX, Field, Value, is_reserved};

/// Deepest nesting of objects and arrays.
pub const DEPTH_MAX: usize = 8;
/// Longest flattened field name in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Why a payload is no reading.
#[derive(Debug, Error)]
pub enum PayloadError {
    /// Not JSON, not an object, or beyond a limit; says what and at which line and column.
    #[error("payload: {0}")]
    Json(#[from] serde_json::Error),
    /// A raw payload that is not UTF-8.
    #[error("payload: not UTF-8 from byte {at}")]
    NotText {
        /// Offset of the first bad byte.
        at: usize,
    },
    /// Nothing in it.
    #[error("payload: no fields")]
    Empty,
}

/// The fields of a JSON object, in its order. Nested objects become `outer_inner`, arrays `name_0`, `name_1`, ...
///
/// Names of the record's own members get an underscore at the end; of two members that flatten to the same name the
/// later wins.
///
/// # Errors
/// Not a JSON object, deeper than [`DEPTH_MAX`], more than [`FIELDS_MAX`] fields, a name longer than [`NAME_BYTES_MAX`].
pub fn json(payload: &[u8]) -> Result<Vec<Field>, PayloadError> {
    let mut fields = Vec::new();
    let mut name = String::new();
    let mut reader = serde_json::Deserializer::from_slice(payload);
    Flatten { fields: &mut fields, name: &mut name, depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    if fields.is_empty() { Err(PayloadError::Empty) } else { Ok(fields) }
}

/// One field `value` of a raw payload: a number, `true`, `false`, or text. White space around it is left out.
///
/// # Errors
/// Not UTF-8, or empty.
pub fn raw(payload: &[u8]) -> Result<Vec<Field>, PayloadError> {
    let text = std::str::from_utf8(payload).map_err(|error| PayloadError::NotText { at: error.valid_up_to() })?;
    let text = text.trim();
    if text.is_empty() {
        return Err(PayloadError::Empty);
    }
    Ok(vec![Field::new("value", guess(text))])
}

fn guess(text: &str) -> Value {
    match text {
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return Value::Integer(number);
    }
    if let Ok(number) = text.parse::<u64>() {
        return Value::Unsigned(number);
    }
    // Rust reads `inf` and `nan` as floats; a sensor that sends these words sends text.
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Value::Float(number),
        _ => Value::Text(text.to_owned()),
    }
}

struct Flatten<'a> {
    fields: &'a mut Vec<Field>,
    name: &'a mut String,
    /// 0 at the top, where only an object will do.
    depth: usize,
}

impl Flatten<'_> {
    fn put<E: serde::de::Error>(self, value: Value) -> Result<(), E> {
        if self.depth == 0 {
            return Err(E::custom("expected a JSON object"));
        }
        let mut name = if self.name.is_empty() { "_".to_owned() } else { self.name.clone() };
        if is_reserved(&name) {
            name.push('_');
        }
        if let Some(field) = self.fields.iter_mut().find(|field| *field.name == *name) {
            field.value = value;
            return Ok(());
        }
        if self.fields.len() >= FIELDS_MAX {
            return Err(E::custom(format_args!("more than {FIELDS_MAX} fields")));
        }
        self.fields.push(Field::new(name, value));
        Ok(())
    }

    /// What stands below `part` of the present name.
    fn below<E: serde::de::Error>(&mut self, part: fmt::Arguments<'_>) -> Result<usize, E> {
        let before = self.name.len();
        if self.depth > 0 && before > 0 {
            self.name.push('_');
        }
        let _ = fmt::Write::write_fmt(self.name, part);
        if self.name.len() > NAME_BYTES_MAX {
            let shown: String = self.name.chars().take(40).collect();
            return Err(E::custom(format_args!(
                "field name `{shown}...` has {} bytes, limit is {NAME_BYTES_MAX}",
                self.name.len()
            )));
        }
        Ok(before)
    }

    fn check_depth<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX}")));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.put(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.put(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.put(Value::Integer(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.put(i64::try_from(value).map_or(Value::Unsigned(value), Value::Integer))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.put(Value::float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.put(Value::Text(value.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.check_depth()?;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let before = self.below(format_args!("{key}"))?;
            map.next_value_seed(Flatten { fields: self.fields, name: self.name, depth: self.depth + 1 })?;
            self.name.truncate(before);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        if self.depth == 0 {
            return Err(A::Error::custom("expected a JSON object, found an array"));
        }
        self.check_depth()?;
        for index in 0_usize.. {
            let before = self.below(format_args!("{index}"))?;
            let next =
                items.next_element_seed(Flatten { fields: self.fields, name: self.name, depth: self.depth + 1 })?;
            self.name.truncate(before);
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(payload: &str) -> Vec<(String, Value)> {
        json(payload.as_bytes()).unwrap().into_iter().map(|field| (field.name.to_string(), field.value)).collect()
    }

    #[test]
    fn objects_are_flattened_in_their_order() {
        assert_eq!(
            shown(r#"{"z":1,"env":{"t":20.5,"ok":true},"xs":[1,{"a":"b"}],"none":null,"big":18446744073709551615}"#),
            [
                ("z".into(), Value::Integer(1)),
                ("env_t".into(), Value::Float(20.5)),
                ("env_ok".into(), Value::Bool(true)),
                ("xs_0".into(), Value::Integer(1)),
                ("xs_1_a".into(), Value::Text("b".into())),
                ("none".into(), Value::Null),
                ("big".into(), Value::Unsigned(u64::MAX)),
            ]
        );
    }

    #[test]
    fn reserved_names_get_an_underscore_and_the_later_of_two_wins() {
        assert_eq!(
            shown(r#"{"time":1,"a_b":2,"a":{"b":3}}"#),
            [("time_".into(), Value::Integer(1)), ("a_b".into(), Value::Integer(3))]
        );
    }

    #[test]
    fn what_is_no_reading_says_why_and_where() {
        let error = |payload: &str| json(payload.as_bytes()).unwrap_err().to_string();
        assert!(error("{\"a\":\n oops}").contains("line 2 column"), "{}", error("{\"a\":\n oops}"));
        assert!(error("[1]").contains("expected a JSON object"));
        assert!(error("1").contains("expected a JSON object"));
        assert!(error("{} x").contains("trailing"));
        assert!(error("{}").contains("no fields"));
        assert!(error(&format!("{}1{}", "{\"a\":".repeat(9), "}".repeat(9))).contains("deeper than 8"));
        assert!(error(&format!("{{\"a\":[{}1]}}", "1,".repeat(256))).contains("more than 256 fields"));
        assert!(error(&format!("{{\"{}\":1}}", "n".repeat(129))).contains("limit is 128"));
        assert!(json(b"\xff").is_err());
    }

    #[test]
    fn numbers_keep_their_last_digit() {
        // A parser that is a bit less than exact gives ..439435 and ..161952.
        for number in [31.245270191439438, 121.48791951161945] {
            let fields = json(format!("{{\"a\":{number}}}").as_bytes()).unwrap();
            assert_eq!(fields[0].value, Value::Float(number));
        }
    }

    #[test]
    fn raw_values_are_guessed() {
        let of = |payload: &[u8]| raw(payload).unwrap()[0].value.clone();
        assert_eq!(of(b" 21.5\n"), Value::Float(21.5));
        assert_eq!(of(b"-3"), Value::Integer(-3));
        assert_eq!(of(b"true"), Value::Bool(true));
        assert_eq!(of(b"nan"), Value::Text("nan".into()));
        assert_eq!(of(b"open"), Value::Text("open".into()));
        assert!(matches!(raw(b"ab\xff"), Err(PayloadError::NotText { at: 2 })));
        assert!(matches!(raw(b"  "), Err(PayloadError::Empty)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_break_the_limits(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = raw(&payload);
            if let Ok(fields) = json(&payload) {
                prop_assert!(fields.len() <= FIELDS_MAX);
            }
        }

        #[test]
        fn json_like_text_keeps_the_limits(payload in r#"(\{|\}|\[|\]|"[a-z]{0,3}"|:|,|[0-9]|null| ){0,60}"#) {
            if let Ok(fields) = json(payload.as_bytes()) {
                let mut names: Vec<_> = fields.iter().map(|field| field.name.clone()).collect();
                names.sort();
                names.dedup();
                prop_assert_eq!(names.len(), fields.len());
                prop_assert!(fields.iter().all(|field| !is_reserved(&field.name)));
            }
        }
    }
}
