//! Any text as a configuration: mistakes are errors with a place, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        match forebay::config::parse(text, Path::new("fuzz.toml")) {
            Ok(_) => {}
            Err(errors) => assert!(!errors.to_string().is_empty()),
        }
    }
});
