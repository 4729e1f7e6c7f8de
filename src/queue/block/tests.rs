use super::*;
use crate::reading::{Stamp, Trust};
use proptest::prelude::*;

pub(crate) fn sample_records(count: u64) -> Vec<Record> {
    records_from(Position::new(3, 100), count)
}

pub(crate) fn records_from(first: Position, count: u64) -> Vec<Record> {
    (0..count)
        .map(|n| Record {
            position: Position::from_packed(first.packed() + n),
            skipped: if n == 2 { 7 } else { 0 },
            thinned: 0,
            stamp: Stamp {
                boot_ns: 5_000_000_000 + n * 1_000_000,
                wall_us: 1_795_348_800_123_456 + n as i64 * 1_000,
                trust: Trust::Ntp,
            },
            source: "plc".into(),
            device: if n % 2 == 0 { "boiler".into() } else { "pump".into() },
            fields: vec![
                Field::new("temperature_c", Value::Float(71.5 + n as f64 / 10.0)),
                Field::new("pump_on", Value::Bool(n % 3 == 0)),
                Field::new("count", Value::Integer(-(n as i64))),
                Field::new("total", Value::Unsigned(u64::MAX - n)),
                Field::new("state", Value::Text(format!("läuft {n}"))),
                Field::new("spare", Value::Null),
            ],
        })
        .collect()
}

pub(crate) fn context(compression: Compression) -> SealContext {
    SealContext {
        stream: "telemetry".into(),
        lineage: Arc::new(Lineage {
            gateway: "truck-17".into(),
            queue: uuid::Uuid::from_u128(0x5f0c_9a1e_0000_4000_8000_0000_0000_0001),
            boot_index: 4,
        }),
        prev_last: Some(Position::new(2, 9)),
        cursor_at_seal: Position::new(3, 50),
        compression,
        keys: Arc::default(),
    }
}

#[test]
#[ignore = "writes the sample; run by hand once per version"]
fn write_sample() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/queue/block-v1.bin");
    // A sample that could be written again would prove nothing: it is what an earlier build wrote.
    let mut file = std::fs::File::create_new(path).unwrap();
    std::io::Write::write_all(&mut file, &sealed(&sample_records(20)).bytes).unwrap();
}

#[test]
#[ignore = "writes the sample with thinned records; run by hand once per version"]
fn write_thinned_sample() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/queue/block-v1-thinned.bin");
    let mut file = std::fs::File::create_new(path).unwrap();
    std::io::Write::write_all(&mut file, &sealed(&thinned_records()).bytes).unwrap();
}

/// Every other record left out, as the next one says.
fn thinned_records() -> Vec<Record> {
    let mut records: Vec<Record> = sample_records(21).into_iter().step_by(2).collect();
    for record in &mut records[1..] {
        record.skipped += 1;
        record.thinned = 1;
    }
    records
}

pub(crate) fn sealed(records: &[Record]) -> SealedBlock {
    seal(&context(Compression::Zstd), records).unwrap()
}

#[test]
fn a_block_gives_back_its_records_under_each_codec() {
    let records = sample_records(50);
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let block = seal(&context(compression), &records).unwrap();
        assert_eq!(open(&block, &Keyring::default()).unwrap(), records);
        let parsed = parse(&block.bytes).unwrap();
        assert_eq!(parsed, block);
        assert_eq!((parsed.header.first, parsed.header.count), (Position::new(3, 100), 50));
    }
}

#[test]
fn the_stored_sample_of_version_1_decodes_for_ever() {
    let stored = include_bytes!("../../../tests/data/queue/block-v1.bin");
    let block = parse(stored).unwrap();
    assert_eq!(block.bytes.len(), stored.len());
    assert_eq!(&*block.header.stream, "telemetry");
    assert_eq!(*block.header.lineage, *context(Compression::Zstd).lineage);
    assert_eq!(block.header.prev_last, Some(Position::new(2, 9)));
    assert_eq!(open(&block, &Keyring::default()).unwrap(), sample_records(20));
}

#[test]
fn the_stored_sample_with_thinned_records_decodes_for_ever() {
    let stored = include_bytes!("../../../tests/data/queue/block-v1-thinned.bin");
    let block = parse(stored).unwrap();
    assert_eq!((block.bytes.len(), u16_at(stored, 24) & FLAG_THINNED), (stored.len(), FLAG_THINNED));
    assert_eq!(open(&block, &Keyring::default()).unwrap(), thinned_records());
}

#[test]
fn only_a_block_with_thinned_records_bears_their_flag() {
    let flags = |records: &[Record]| u16_at(&sealed(records).bytes, 24) & FLAG_THINNED;
    assert_eq!((flags(&sample_records(9)), flags(&thinned_records())), (0, FLAG_THINNED));
    // Version 1 without it is as it ever was.
    assert_eq!(
        v1::encode(&sample_records(9), true).unwrap().len(),
        v1::encode(&sample_records(9), false).unwrap().len() + 9
    );
}

#[test]
fn a_newer_version_is_recognised_whole() {
    let mut block = sealed(&sample_records(3));
    block.bytes[8] = 2;
    let sum = checksum(&block.bytes);
    block.bytes[20..24].copy_from_slice(&sum.to_le_bytes());
    let frame_bytes = block.bytes.len();
    assert_eq!(parse(&block.bytes), Err(FrameError::Newer { version: 2, frame_bytes }));
    let known = outline::parse_any(&block.bytes).unwrap();
    assert_eq!(known.header, Header { newer: Some(2), ..block.header });
    assert!(open(&known, &Default::default()).is_err());
}

#[test]
fn a_newer_header_may_be_longer_and_one_that_breaks_the_rule_says_nothing() {
    let block = sealed(&sample_records(3));
    let header_bytes = usize::from(u16_at(&block.bytes, 10));
    let newer = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = block.bytes.clone();
        frame[8] = 9;
        change(&mut frame);
        let sum = checksum(&frame);
        frame[20..24].copy_from_slice(&sum.to_le_bytes());
        outline::parse_any(&frame)
    };
    let longer = newer(&|frame| {
        frame.splice(FIXED_BYTES..FIXED_BYTES, [7; 40]);
        frame[10..12].copy_from_slice(&(header_bytes as u16 + 40).to_le_bytes());
    });
    assert_eq!(longer.unwrap().header, Header { newer: Some(9), ..block.header.clone() }, "names are at its end");
    let says_nothing = |change: &dyn Fn(&mut Vec<u8>)| {
        assert!(matches!(newer(change), Err(FrameError::Newer { version: 9, .. })));
    };
    says_nothing(&|frame| frame[26] = 255);
    says_nothing(&|frame| frame[44..52].fill(0));
    says_nothing(&|frame| frame[32..36].fill(0));
    // A header shorter than what every version keeps.
    says_nothing(&|frame| {
        let frame_bytes = frame.len() as u32;
        frame[10..12].copy_from_slice(&99_u16.to_le_bytes());
        frame[12..16].copy_from_slice(&(frame_bytes - 99).to_le_bytes());
    });
}

#[test]
fn reserved_bits_make_a_block_newer_not_damaged() {
    // Codec 3, the first flag that says nothing yet, the last flag, a nonce without a key.
    for (at, bits) in [(24, 0b11), (24, 0b1000), (25, 0x80), (104, 1), (127, 1)] {
        let mut block = sealed(&sample_records(3));
        block.bytes[at] |= bits;
        let sum = checksum(&block.bytes);
        block.bytes[20..24].copy_from_slice(&sum.to_le_bytes());
        let frame_bytes = block.bytes.len();
        assert_eq!(parse(&block.bytes), Err(FrameError::Newer { version: 1, frame_bytes }), "offset {at}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_limit() {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + (state >> 58) as u8 % 64)
    };
    let mut records = sample_records(2);
    for record in &mut records {
        record.fields = vec![Field::new("raw", Value::Text((0..30_000).map(|_| noise()).collect()))];
    }
    let error = seal(&context(Compression::Zstd), &records).unwrap_err().to_string();
    assert!(error.contains("limit is 32000"), "{error}");
    assert!(seal(&context(Compression::Zstd), &[]).is_err());
    let mut unordered = sample_records(3);
    unordered.swap(0, 1);
    assert!(seal(&context(Compression::Zstd), &unordered).is_err());
}

#[test]
fn the_largest_incompressible_record_fits() {
    let mut record = sample_records(1).remove(0);
    record.fields = vec![Field::new("raw", Value::Text(String::new()))];
    let room = RECORD_BYTES_MAX - record_bytes(&record);
    let text: String = (0..room).map(|n| char::from(b'a' + (n * n % 26) as u8)).collect();
    record.fields = vec![Field::new("raw", Value::Text(text))];
    let block = seal(&context(Compression::None), std::slice::from_ref(&record)).unwrap();
    assert!(block.bytes.len() <= BLOCK_BYTES_MAX);
    assert_eq!(open(&block, &Keyring::default()).unwrap(), [record]);
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Integer),
        any::<u64>().prop_map(Value::Unsigned),
        any::<f64>().prop_map(Value::float),
        ".{0,20}".prop_map(Value::Text),
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    let stamp = (any::<u64>(), any::<i64>(), 0u8..6);
    let fields = proptest::collection::vec(("[a-z_]{1,12}", any_value()), 0..6);
    let counts = (any::<u64>(), prop_oneof![Just(0), any::<u64>()]);
    (counts, stamp, "[a-z]{0,6}", "[a-z]{0,6}", fields).prop_map(
        |((skipped, thinned), stamp, source, device, fields)| Record {
            position: Position::ZERO,
            skipped,
            thinned,
            stamp: Stamp { boot_ns: stamp.0, wall_us: stamp.1, trust: Trust::from_u8(stamp.2) },
            source: source.into(),
            device: device.into(),
            fields: fields.into_iter().map(|(name, value)| Field::new(name, value)).collect(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_records_come_back(mut records in proptest::collection::vec(any_record(), 1..20), gap in 1u64..1000) {
        for (n, record) in records.iter_mut().enumerate() {
            record.position = Position::new(9, n as u64 * gap);
        }
        let block = sealed(&records);
        prop_assert_eq!(open(&parse(&block.bytes).unwrap(), &Keyring::default()).unwrap(), records.clone());
        let estimate: usize = records.iter().map(record_bytes).sum();
        let with_thinned = records.iter().any(|record| record.thinned > 0);
        prop_assert!(v1::encode(&records, with_thinned).unwrap().len() <= estimate + 16);
    }

    #[test]
    fn a_changed_byte_never_gives_a_wrong_record(hit in any::<prop::sample::Index>(), mask in 1u8..) {
        let mut block = sealed(&sample_records(5));
        let hit = hit.index(block.bytes.len());
        block.bytes[hit] ^= mask;
        prop_assert!(open(&block, &Keyring::default()).is_err());
    }
}
