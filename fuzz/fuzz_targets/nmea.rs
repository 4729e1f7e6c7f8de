//! Any bytes through the NMEA scanner and the epoch assembler: a fix with a position is on Earth.
#![no_main]

use forebay::decode::fix::Assembler;
use forebay::decode::nmea::Scanner;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mut scanner, mut assembler) = (Scanner::new(), Assembler::new(20_758));
    let mut fixes = Vec::new();
    for chunk in bytes.chunks(61) {
        scanner.push(chunk, &mut |sentence| {
            if let Some((latitude, longitude)) = sentence.position_deg {
                assert!(latitude.abs() <= 90.0 && longitude.abs() <= 180.0);
            }
            assembler.push(sentence, 0, &mut |fix| fixes.push(fix));
        });
    }
    scanner.silence(&mut |sentence| assembler.push(sentence, 0, &mut |fix| fixes.push(fix)));
    assembler.silence(&mut |fix| fixes.push(fix));
    assert!(fixes.iter().all(|fix| fix.is_valid || fix.measured_us.is_none()));
});
