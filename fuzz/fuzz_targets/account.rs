//! Any bytes as messages of a topic in each encoding: each is counted once, and the account can be taken.
#![no_main]

use forebay::config::Encoding;
use forebay::kafka::account::{Account, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut account = Account::default();
    for encoding in [Encoding::Json, Encoding::Avro, Encoding::Protobuf] {
        account.take(&Message { value: bytes, encoding, partition: 0, timestamp_ms: None });
    }
    let counted = account.received() + account.repeated() + account.unreadable();
    assert!((1..=3).contains(&counted));
    let skipped: Vec<u64> = account.streams().map(|(_, stream)| stream.skipped()).collect();
    std::hint::black_box((account.missing(), account.out_of_order(), skipped));
});
