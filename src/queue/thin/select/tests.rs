use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::reading::{Field as RecordField, Stamp, Trust};

const SECOND_NS: u64 = 1_000_000_000;

fn lineage(boot_index: u32) -> Lineage {
    Lineage { gateway: "g".into(), queue: uuid::Uuid::from_u128(1), boot_index }
}

fn record(seq: u64, boot_s: u64, device: &str, fields: Vec<(&str, Value)>) -> Record {
    Record {
        position: Position::new(1, seq),
        skipped: 0,
        thinned: 0,
        stamp: Stamp { boot_ns: boot_s * SECOND_NS, wall_us: 0, trust: Trust::Unknown },
        source: "s".into(),
        device: device.into(),
        fields: fields.into_iter().map(|(name, value)| RecordField::new(name, value)).collect(),
    }
}

fn select(records: &[Record], width_s: u64) -> Vec<Record> {
    let mut selector = Selector::new(width_s * SECOND_NS);
    for record in records {
        selector.add(&lineage(0), record);
    }
    let kept: BTreeSet<Position> = selector.finish().0.into_iter().collect();
    records.iter().filter(|record| kept.contains(&record.position)).cloned().collect()
}

fn seqs(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.position.seq()).collect()
}

#[test]
fn first_last_lowest_and_highest_of_each_device_survive() {
    let values = [5.0, 1.0, 6.0, 9.0, 2.0, 9.0, 1.0, 4.0];
    let mut records: Vec<Record> = Vec::new();
    for (n, value) in (0..).zip(values) {
        records.push(record(2 * n, n, "a", vec![("t", Value::Float(value))]));
        records.push(record(2 * n + 1, n, "b", vec![("t", Value::Integer(n as i64))]));
    }
    // Of `a` the earlier of equal extremes; of `b` first and last are the extremes.
    assert_eq!(seqs(&select(&records, 100)), [0, 1, 2, 6, 14, 15]);
    assert_eq!(select(&records, 1).len(), records.len(), "one a device and interval");
}

#[test]
fn the_first_and_last_change_of_what_is_no_number_survive() {
    let states = ["idle", "idle", "run", "fault", "run", "run", "idle", "idle"];
    let records: Vec<Record> =
        (0..).zip(states).map(|(n, state)| record(n, n, "a", vec![("state", Value::Text(state.to_owned()))])).collect();
    // 0 and 7: first and last; 2: the change to `run`; 6: that to `idle`.
    assert_eq!(seqs(&select(&records, 100)), [0, 2, 6, 7]);
    let flags: Vec<Record> = (0..9).map(|n| record(n, n, "a", vec![("on", Value::Bool(n == 4))])).collect();
    assert_eq!(seqs(&select(&flags, 100)), [0, 4, 5, 8]);
    // A field that was not there before is a change, also among numbers.
    let late: Vec<Record> = (0..9)
        .map(|n| {
            record(
                n,
                n,
                "a",
                vec![(if n == 4 { "alarm" } else { "t" }, if n == 4 { Value::Null } else { Value::Float(0.0) })],
            )
        })
        .collect();
    assert_eq!(seqs(&select(&late, 100)), [0, 4, 8]);
}

#[test]
fn integers_beyond_the_precision_of_floats_are_told_apart() {
    let value = |n: u64| Value::Unsigned(u64::MAX - 3 + n);
    let records: Vec<Record> =
        [1, 2, 0, 3, 1].into_iter().zip(0..).map(|(n, seq)| record(seq, seq, "a", vec![("c", value(n))])).collect();
    assert_eq!(seqs(&select(&records, 100)), [0, 2, 3, 4]);
}

#[test]
fn boots_are_not_mixed_and_the_last_record_of_a_run_stays_to_carry_skipped() {
    let mut selector = Selector::new(1_000 * SECOND_NS);
    for n in 0..30_u64 {
        let mut record = record(n, n, "a", vec![("t", Value::Float(0.0))]);
        // Runs of ten; the last one is in another boot.
        record.position = Position::new((n / 10) as u32, n);
        selector.add(&lineage(u32::from(n >= 20)), &record);
    }
    let kept: Vec<u64> = selector.finish().0.iter().map(|position| position.seq()).collect();
    assert_eq!(kept, [0, 9, 19, 20, 29]);
}

#[test]
fn a_late_record_belongs_to_those_it_came_with() {
    let times = [0, 1, 12, 9, 13, 8, 14];
    let records: Vec<Record> =
        (0..).zip(times).map(|(seq, at)| record(seq, at, "a", vec![("t", Value::Float(0.0))])).collect();
    assert_eq!(seqs(&select(&records, 10)), [0, 1, 2, 6]);
}

/// Records of three devices with two numeric fields and a flag, in the order of time.
fn history() -> impl Strategy<Value = Vec<Record>> {
    let one = (0..3_usize, 0..4_u64, -5..5_i64, -50..50_i32, any::<bool>());
    proptest::collection::vec(one, 1..200).prop_map(|steps| {
        let mut at = 0;
        let records = steps.into_iter().zip(0..).map(|((device, pause, whole, real, flag), seq)| {
            at += pause;
            let fields = vec![
                ("whole", Value::Integer(whole)),
                ("real", Value::Float(f64::from(real) / 4.0)),
                ("flag", Value::Bool(flag)),
            ];
            record(seq, at, ["a", "b", "c"][device], fields)
        });
        records.collect()
    })
}

type Groups<'a> = BTreeMap<(u64, String), Vec<&'a Record>>;

fn groups(records: &[Record], width_s: u64) -> Groups<'_> {
    let mut groups = Groups::new();
    for record in records {
        let key = (record.stamp.boot_ns / SECOND_NS / width_s, record.device.to_string());
        groups.entry(key).or_default().push(record);
    }
    groups
}

fn extremes(records: &[&Record], field: usize) -> (f64, f64) {
    let value = |record: &&Record| match record.fields[field].value {
        Value::Integer(number) => number as f64,
        Value::Float(number) => number,
        ref other => panic!("{other:?}"),
    };
    let values = || records.iter().map(value);
    (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
}

proptest! {
    /// What is promised of an interval, and no more than the stated number of records.
    #[test]
    fn of_each_interval_and_device_ends_extremes_and_few_others_survive(records in history(), width in 1..60_u64) {
        let kept = select(&records, width);
        let (all, left) = (groups(&records, width), groups(&kept, width));
        prop_assert_eq!(all.keys().collect::<Vec<_>>(), left.keys().collect::<Vec<_>>());
        for (key, before) in &all {
            let after = &left[key];
            prop_assert_eq!((before[0], before[before.len() - 1]), (after[0], after[after.len() - 1]));
            for field in 0..2 {
                prop_assert_eq!(extremes(before, field), extremes(after, field));
            }
            prop_assert!(after.len() <= 2 + 2 * 3, "{} of {}", after.len(), before.len());
        }
    }

    /// Passes after one another give what the last one alone gives: nothing is lost by having been thinned before.
    #[test]
    fn a_pass_over_survivors_gives_what_it_would_give_over_all(mut records in history(), width in 1..20_u64) {
        // But for changes: a capped one may not look like one any more.
        records.iter_mut().for_each(|record| record.fields.truncate(2));
        let thrice = select(&select(&select(&records, width), 2 * width), 4 * width);
        prop_assert_eq!(thrice, select(&records, 4 * width));
    }
}
