use proptest::prelude::*;

use super::*;

const GOOD: [u8; 32] = [
    0x42, 0x4D, 0x00, 0x1C, 0x00, 0x05, 0x00, 0x08, 0x00, 0x09, 0x00, 0x05, 0x00, 0x08, 0x00, 0x09, 0x03, 0x84, 0x01,
    0x07, 0x00, 0x3D, 0x00, 0x09, 0x00, 0x02, 0x00, 0x00, 0x97, 0x00, 0x02, 0x45,
];
/// A frame as a real sensor sent it, with two bytes lost on the way and the next frame's sync where its sum should be.
const TRUNCATED: [u8; 30] = [
    0x42, 0x4D, 0x00, 0x1C, 0x00, 0x04, 0x00, 0x05, 0x00, 0x05, 0x00, 0x04, 0x00, 0x05, 0x00, 0x03, 0x7E, 0x00, 0xE2,
    0x00, 0x17, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x97, 0x00, 0x02,
];

const SDS011: Description = Description {
    sync: &[0xAA, 0xC0],
    length: Length::Fixed(10),
    check: Check::Sum8 { from: 2, from_end: 2 },
    fields: &[
        FieldAt { name: "pm2_5", at: 2, number: Number::U16LittleEndian, divide_by: 10, invalid: None },
        FieldAt { name: "pm10", at: 4, number: Number::U16LittleEndian, divide_by: 10, invalid: Some(0xFFFF) },
    ],
};

fn decode(description: Description, bytes: &[u8]) -> (Vec<Vec<Value>>, Trouble) {
    let mut decoder = Decoder::new(description);
    let mut frames = Vec::new();
    decoder.push(bytes, &mut |fields| frames.push(fields.into_iter().map(|field| field.value).collect()));
    (frames, decoder.trouble().take())
}

#[test]
fn a_pms5003_frame_gives_its_twelve_numbers() {
    let (frames, trouble) = decode(PMS5003, &GOOD);
    let expected: Vec<_> = [5, 8, 9, 5, 8, 9, 900, 263, 61, 9, 2, 0].into_iter().map(Value::Integer).collect();
    assert_eq!((frames, trouble), (vec![expected], Trouble::default()));
}

#[test]
fn a_truncated_frame_does_not_eat_the_one_behind_it() {
    let (frames, trouble) = decode(PMS5003, &[&TRUNCATED[..], &GOOD[..]].concat());
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0][6], Value::Integer(900));
    assert_eq!((trouble.checksum, trouble.dropped_bytes), (1, 30));
}

#[test]
fn a_fixed_frame_with_an_8_bit_sum_scales_its_fields() {
    let (frames, _) = decode(SDS011, &[0xAA, 0xC0, 0x8C, 0x00, 0x94, 0x00, 0xBC, 0xF9, 0xD5, 0xAB]);
    assert_eq!(frames, [[Value::Float(14.0), Value::Float(14.8)]]);
    let (frames, _) = decode(SDS011, &[0xAA, 0xC0, 0x8C, 0x00, 0xFF, 0xFF, 0x00, 0x00, 0x8A, 0xAB]);
    assert_eq!(frames, [[Value::Float(14.0), Value::Null]]);
}

proptest! {
    #[test]
    fn any_bytes_in_any_split_stay_bounded_and_a_good_frame_is_found_behind_them(
        noise in proptest::collection::vec(any::<u8>(), 0..600), cut in 1_usize..64,
    ) {
        let mut decoder = Decoder::new(PMS5003);
        let mut frames = 0;
        // The noise may end in something that looks like a frame's start; it is over after one frame's length.
        for chunk in [&noise[..], &[0; 32], &GOOD].concat().chunks(cut) {
            decoder.push(chunk, &mut |_| frames += 1);
            prop_assert!(decoder.pending.len() <= 32);
        }
        prop_assert!(frames >= 1);
    }
}
