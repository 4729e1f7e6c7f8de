//! Any bytes as a damaged database file: the scan ends, and the windowed scan finds what the whole scan finds.
#![no_main]

use forebay::queue::scan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut whole = Vec::new();
    scan::scan(bytes, |offset, _| whole.push(offset));
    let mut windowed = Vec::new();
    let mut reader = bytes;
    let _ = scan::scan_file(&mut reader, |offset, _| windowed.push(offset));
    assert_eq!(whole, windowed);
});
