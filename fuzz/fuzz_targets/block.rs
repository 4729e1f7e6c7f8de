//! Any bytes as a block: parsing and decoding give an error or records, never a panic, never a large allocation.
#![no_main]

use forebay::queue::block;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(sealed) = block::parse(bytes) {
        let _ = block::open(&sealed, &Default::default());
    }
});
