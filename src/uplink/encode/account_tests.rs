//! What is written here, taken into the account of `forebay consume`, which reads it without a registry.

use proptest::prelude::*;

use super::tests::{TIME_US, any_value, encoded, encoder, one_of_each, record};
use super::*;
use crate::kafka::account::{Account, Added, Message, Unreadable};
use crate::reading::{Field, Position};

const FORMS: [(Encoding, Shape); 6] = [
    (Encoding::Json, Shape::Wide),
    (Encoding::Json, Shape::Narrow),
    (Encoding::Avro, Shape::Wide),
    (Encoding::Avro, Shape::Narrow),
    (Encoding::Protobuf, Shape::Wide),
    (Encoding::Protobuf, Shape::Narrow),
];

fn take(account: &mut Account, encoding: Encoding, value: &[u8]) -> Added {
    account.take(&Message { value, encoding, partition: 0, timestamp_ms: None })
}

/// The messages of a record in this form, with a tag.
fn payloads(encoding: Encoding, shape: Shape, record: &Record) -> Vec<Vec<u8>> {
    encoded(&mut encoder(encoding, shape, false), record).0
}

#[test]
fn every_member_is_read_in_every_form() {
    for (encoding, shape) in FORMS {
        let record = Record { skipped: 3, thinned: 2, device: "Kessel Süd".into(), ..record(one_of_each()) };
        let payloads = payloads(encoding, shape, &record);
        let mut account = Account::default();
        let added: Vec<_> = payloads.iter().map(|value| take(&mut account, encoding, value)).collect();
        assert_eq!(added[0], Added::New, "{encoding:?} {shape:?}");
        assert!(added[1..].iter().all(|added| *added == Added::Further), "{encoding:?} {shape:?}: {added:?}");
        let (origin, stream) = account.streams().next().unwrap();
        let names = (origin.gateway.as_str(), origin.queue.as_str(), origin.stream.as_str());
        assert_eq!(names, ("truck-17", "5f0c9a1e", "telemetry"), "{encoding:?} {shape:?}");
        let (device, found) = stream.devices().next().unwrap();
        assert_eq!((device, found.received, found.repeated), ("Kessel Süd", 1, 0), "{encoding:?} {shape:?}");
        assert_eq!(found.highest, Some(Position::new(17, 48_213)), "{encoding:?} {shape:?}");
        assert_eq!(found.latest_us.map(|us| us / 1_000), Some(TIME_US / 1_000), "{encoding:?} {shape:?}");
        assert_eq!(stream.skipped(), 3, "{encoding:?} {shape:?}");
        assert_eq!(account.missing(), 48_213 - 3, "{encoding:?} {shape:?}");
        // Sent again.
        let again: Vec<_> = payloads.iter().map(|value| take(&mut account, encoding, value)).collect();
        assert!(again.iter().all(|added| *added == Added::Repeated), "{encoding:?} {shape:?}: {again:?}");
        assert_eq!((account.received(), account.unreadable()), (1, 0), "{encoding:?} {shape:?}");
    }
}

#[test]
fn the_very_first_position_and_a_time_before_1970_are_read() {
    for (encoding, shape) in FORMS {
        let mut first = Record { position: Position::ZERO, ..record(Vec::new()) };
        first.stamp.wall_us = -1_500_000;
        let mut account = Account::default();
        assert_eq!(take(&mut account, encoding, &payloads(encoding, shape, &first)[0]), Added::New);
        let (_, stream) = account.streams().next().unwrap();
        let total = stream.total();
        assert_eq!(
            (total.highest, total.latest_us),
            (Some(Position::ZERO), Some(-1_500_000)),
            "{encoding:?} {shape:?}"
        );
        assert_eq!(account.missing(), 0);
    }
}

#[test]
fn a_value_that_ends_early_is_named_by_the_member_where_it_ends() {
    for (encoding, shape) in FORMS.into_iter().filter(|(encoding, _)| *encoding != Encoding::Json) {
        let value = payloads(encoding, shape, &record(one_of_each())).remove(0);
        let whole = (0..value.len()).filter(|end| {
            let added = take(&mut Account::default(), encoding, &value[..*end]);
            !matches!(added, Added::Unreadable(_))
        });
        // What follows the members of every record is not needed: of Protobuf it must be there in whole members.
        let own = value.windows(8).position(|eight| eight == b"5f0c9a1e").unwrap() + 8;
        assert!(whole.into_iter().all(|end| end >= own), "{encoding:?} {shape:?}");
        let cut = take(&mut Account::default(), encoding, &value[..8]);
        let member = if encoding == Encoding::Avro { "gateway" } else { "a member" };
        assert_eq!(cut, Added::Unreadable(Unreadable::Member { encoding: encoding.as_str(), member }));
    }
}

#[test]
fn one_encoding_is_not_taken_for_another() {
    for (encoding, shape) in FORMS.into_iter().filter(|(encoding, _)| *encoding != Encoding::Json) {
        let value = payloads(encoding, shape, &record(one_of_each())).remove(0);
        for other in [Encoding::Json, Encoding::Avro, Encoding::Protobuf] {
            let added = take(&mut Account::default(), other, &value);
            assert_eq!(
                !matches!(added, Added::Unreadable(_)),
                other == encoding,
                "{encoding:?} as {other:?}: {added:?}"
            );
        }
    }
    let json = payloads(Encoding::Json, Shape::Wide, &record(one_of_each())).remove(0);
    assert_eq!(take(&mut Account::default(), Encoding::Avro, &json), Added::New, "a topic may have been json before");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the fields and the counts: the account of what was written is that of one record, in every form.
    #[test]
    fn every_record_is_read(
        fields in proptest::collection::btree_map("[a-c]{1,2}|Ö|site|metric|value", any_value(), 0..6),
        device in "\\PC{0,12}",
        (run, seq) in (0..=Position::RUN_MAX, 0..=Position::SEQ_MAX),
        (skipped, wall_us) in (0..1_u64 << 40, -62_000_000_000_000_000..253_000_000_000_000_000_i64),
    ) {
        let fields: Vec<_> = fields.iter().map(|(name, value)| Field::new(name.as_str(), value.clone())).collect();
        for (encoding, shape) in FORMS {
            let position = Position::new(run, seq);
            let mut record = Record { position, skipped, device: device.as_str().into(), ..record(fields.clone()) };
            record.stamp.wall_us = wall_us;
            let payloads = payloads(encoding, shape, &record);
            let mut account = Account::default();
            for value in payloads.iter().chain(&payloads) {
                take(&mut account, encoding, value);
            }
            let counts = (account.received(), account.repeated(), account.unreadable());
            prop_assert_eq!(counts, (1, payloads.len() as u64, 0), "{:?} {:?}", encoding, shape);
            let (_, stream) = account.streams().next().unwrap();
            let (found, total) = (stream.devices().next().unwrap().0, stream.total());
            prop_assert_eq!((found, total.highest, stream.skipped()), (device.as_str(), Some(position), skipped));
            prop_assert_eq!(total.latest_us.map(|us| us.div_euclid(1_000)), Some(wall_us.div_euclid(1_000)));
        }
    }

    /// Nothing that comes does harm, whether it is bytes at random or a message with a few of them changed.
    #[test]
    fn any_bytes_may_come(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in any::<prop::sample::Index>(),
    ) {
        for (encoding, shape) in FORMS {
            let mut account = Account::default();
            take(&mut account, encoding, &bytes);
            take(&mut account, encoding, &[&[0, 0, 0, 0, 7, 0], &bytes[..]].concat());
            let mut value = payloads(encoding, shape, &record(one_of_each())).remove(0);
            for (place, byte) in &changes {
                *place.get_mut(&mut value) = *byte;
            }
            take(&mut account, encoding, &value);
            take(&mut account, encoding, &value[..end.index(value.len())]);
            prop_assert!(account.received() + account.repeated() + account.unreadable() <= 4);
        }
    }
}
