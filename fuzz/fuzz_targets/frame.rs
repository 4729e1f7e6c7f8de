//! Any bytes through the frame decoder: every frame it finds has all its fields, however the bytes were split.
#![no_main]

use forebay::decode::frame::{Decoder, PMS5003};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    Decoder::new(PMS5003).push(bytes, &mut |fields| whole.push(fields));
    let mut decoder = Decoder::new(PMS5003);
    for chunk in bytes.chunks(7) {
        decoder.push(chunk, &mut |fields| parts.push(fields));
    }
    assert_eq!(whole, parts);
    assert!(whole.iter().all(|fields| fields.len() == PMS5003.fields.len()));
});
