//! Any bytes as an MQTT payload, as JSON and as a raw value: an error, or fields within their limits, each name once.
#![no_main]

use std::collections::BTreeSet;

use forebay::decode::payload::{NAME_BYTES_MAX, json, raw};
use forebay::reading::{FIELDS_MAX, Field, Value, is_reserved};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let of_json = json(bytes).unwrap_or_default();
    assert!(of_json.iter().all(|field| !is_reserved(&field.name) && field.name.len() <= NAME_BYTES_MAX));
    let names: BTreeSet<_> = of_json.iter().map(|field| &field.name).collect();
    assert!(of_json.len() <= FIELDS_MAX && names.len() == of_json.len());
    let of_raw = raw(bytes).unwrap_or_default();
    assert!(of_raw.len() <= 1 && of_raw.iter().all(|field| &*field.name == "value"));
    let is_finite = |field: &Field| !matches!(field.value, Value::Float(number) if !number.is_finite());
    assert!(of_json.iter().chain(&of_raw).all(is_finite));
});
