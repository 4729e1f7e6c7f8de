use std::time::Duration;

use super::*;

/// Epochs of an hour each, one record a second.
fn hours(passes: &[u32]) -> Vec<StreamEpoch> {
    let hour = |(n, pass): (u64, &u32)| StreamEpoch {
        number: n + 1,
        first: Position::new(1, n * 3_600),
        last: Position::new(1, n * 3_600 + 3_599),
        records: 3_600,
        oldest: (0, Duration::from_secs(n * 3_600)),
        newest: (0, Duration::from_secs(n * 3_600 + 3_500)),
        covered: Duration::from_secs(3_500),
        pass: *pass,
        epoch_bytes: 1_000,
        epoch_blocks: 10,
        rewritable: true,
    };
    (0..).zip(passes).map(hour).collect()
}

fn all_from(from: Position) -> [(Position, Position); 1] {
    [(from, Position::END)]
}

fn next(epochs: &[StreamEpoch]) -> Option<(Vec<u64>, u32, bool)> {
    let plan = plan(epochs, &all_from(Position::ZERO), 1_500)?;
    Some((plan.epochs, plan.pass, plan.widest.is_some()))
}

#[test]
fn a_pass_goes_from_the_oldest_to_the_newest_and_the_next_one_begins_again() {
    assert_eq!(next(&hours(&[0, 0, 0])), Some((vec![1], 1, true)));
    assert_eq!(next(&hours(&[4, 0, 0])), Some((vec![2], 4, false)));
    assert_eq!(next(&hours(&[4, 4, 3])), Some((vec![3], 4, false)));
    assert_eq!(next(&hours(&[4, 4, 4])), Some((vec![1], 5, true)));
}

#[test]
fn neighbours_are_put_together_while_they_fit() {
    let mut epochs = hours(&[4, 3, 3, 0]);
    for epoch in &mut epochs[1..] {
        epoch.epoch_bytes = 500;
    }
    assert_eq!(next(&epochs), Some((vec![2, 3, 4], 4, false)));
    epochs[2].epoch_blocks = BLOCKS_MAX as u32;
    assert_eq!(next(&epochs), Some((vec![2], 4, false)));
    epochs[2].epoch_blocks = 1;
    epochs[3].rewritable = false;
    assert_eq!(next(&epochs), Some((vec![2, 3], 4, false)));
}

#[test]
fn what_the_uplink_has_seen_and_what_is_written_stay_as_they_are() {
    let mut epochs = hours(&[0, 0, 0]);
    let from = all_from(Position::new(1, 1));
    assert_eq!(plan(&epochs, &from, 1_500).unwrap().epochs, [2]);
    epochs[1].rewritable = false;
    assert_eq!(plan(&epochs, &from, 1_500).unwrap().epochs, [3]);
    assert_eq!(plan(&epochs, &all_from(Position::new(1, 7_201)), 1_500), None);
}

#[test]
fn lanes_are_thinned_apart_and_what_crosses_their_ends_is_not() {
    let at = |seq| Position::new(1, seq);
    let mut epochs = hours(&[0, 0, 0, 0]);
    for epoch in &mut epochs {
        epoch.epoch_bytes = 100;
    }
    let plan_of = |lanes: &[(Position, Position)]| plan(&epochs, lanes, 1_500).map(|plan| plan.epochs);
    assert_eq!(plan_of(&[(at(0), at(7_200)), (at(7_200), Position::END)]), Some(vec![1, 2]), "not put together");
    assert_eq!(plan_of(&[(at(1), at(7_200)), (at(7_200), Position::END)]), Some(vec![2]));
    assert_eq!(plan_of(&[(at(1), at(7_199)), (at(7_200), Position::END)]), Some(vec![3, 4]));
    assert_eq!(plan_of(&[(at(1), at(7_199)), (at(7_201), at(14_399))]), None);
}

#[test]
fn epochs_that_hold_the_same_positions_are_rewritten_together_or_not_at_all() {
    let mut epochs = hours(&[0, 0, 0]);
    epochs[1].first = Position::new(1, 3_000);
    assert_eq!(next(&epochs), Some((vec![1, 2], 1, true)));
    epochs[1].rewritable = false;
    assert_eq!(next(&epochs), Some((vec![3], 1, true)));
}

#[test]
fn no_interval_is_wider_than_a_twelfth_of_the_time() {
    // Three hours: 900 s at most, so 512 s.
    let widest = pass_of(512_000_000_000);
    assert_eq!(width_ns(widest), 512_000_000_000);
    assert_eq!(plan(&hours(&[widest - 1; 3]), &all_from(Position::ZERO), 1_500).unwrap().pass, widest);
    assert_eq!(next(&hours(&[widest; 3])), None);
    assert_eq!(next(&hours(&[widest + 3, widest, 0])), Some((vec![3], widest, false)), "it was longer before");
    assert_eq!(next(&hours(&[0])), Some((vec![1], 1, true)));
    assert_eq!(next(&[]), None);
}

#[test]
fn boots_add_up() {
    let mut epochs = hours(&[0, 0, 0]);
    let together = density(&items(&epochs));
    assert_eq!((together.covered_ns, together.records), (10_700_000_000_000, 10_800));
    for (boot, epoch) in (0..).zip(&mut epochs) {
        epoch.oldest = (boot, Duration::ZERO);
        epoch.newest = (boot, Duration::from_secs(3_500));
    }
    assert_eq!(density(&items(&epochs)).covered_ns, 10_500_000_000_000);
}
