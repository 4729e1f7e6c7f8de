use proptest::prelude::*;

use super::*;

const BACKOFF: Backoff = Backoff { first_ns: 100, max_ns: 1_000 };

fn failure(class: Class) -> Failure {
    Failure { class, text: "no".into(), timestamp_refused: false }
}

fn position(seq: u64) -> Position {
    Position::new(1, seq)
}

fn room(lane: &mut Lane, now_ns: u64) -> usize {
    lane.room(now_ns, 100, 1_000)
}

#[test]
fn delays_double_up_to_the_cap_and_are_spread() {
    assert_eq!([0, 1, 2, 9, 40].map(|attempt| BACKOFF.delay_ns(attempt, 1.0)), [100, 200, 400, 1_000, 1_000]);
    assert_eq!(BACKOFF.delay_ns(1, 0.0), 100);
}

#[test]
fn after_a_failure_it_waits_for_all_reports_and_starts_behind_the_prefix() {
    let mut lane = Lane::new(BACKOFF);
    let serials: Vec<u64> = (0..3).map(|seq| lane.took(position(seq), 10)).collect();
    assert_eq!(lane.reported(serials[0], None, 0, 1.0), [Event::Acknowledged(position(0))]);
    assert_eq!(lane.reported(serials[1], Some(failure(Class::Retried)), 0, 1.0), []);
    assert_eq!((room(&mut lane, 5_000), lane.sent()), (0, Some(position(2))), "one is still in flight");
    assert_eq!(lane.reported(serials[2], None, 0, 1.0), []);
    assert_eq!(lane.sent(), None, "reads again from the cursor");
    assert_eq!((room(&mut lane, 99), room(&mut lane, 100)), (0, 100));
}

#[test]
fn a_held_stream_probes_with_one_record_and_says_so_once() {
    let mut lane = Lane::new(BACKOFF);
    let serial = lane.took(position(0), 10);
    assert_eq!(lane.reported(serial, Some(failure(Class::Held)), 0, 1.0), [Event::Held("no".into())]);
    assert_eq!(room(&mut lane, 100), 1);
    let serial = lane.took(position(0), 10);
    assert_eq!(room(&mut lane, 100), 0, "the probe is out");
    assert_eq!(lane.reported(serial, Some(failure(Class::Held)), 100, 1.0), []);
    assert_eq!((room(&mut lane, 299), room(&mut lane, 300)), (0, 1), "the delay has doubled");
    let serial = lane.took(position(0), 10);
    assert_eq!(lane.reported(serial, None, 300, 1.0), [Event::Acknowledged(position(0)), Event::Released]);
    assert_eq!(lane.held(), None);
    assert_eq!(room(&mut lane, 300), 2);
}

#[test]
fn the_limits_of_records_and_bytes_leave_at_least_one_record() {
    let mut lane = Lane::new(BACKOFF);
    assert_eq!(lane.room(0, 2, 10), 2);
    lane.took(position(0), 5_000);
    assert_eq!(lane.room(0, 2, 10), 0);
}

#[test]
fn a_refused_timestamp_is_replaced_once_and_then_held() {
    let refused = Failure { timestamp_refused: true, ..failure(Class::Poison) };
    let mut lane = Lane::new(BACKOFF);
    let serial = lane.took(position(7), 10);
    assert_eq!(lane.reported(serial, Some(refused.clone()), 0, 1.0), []);
    assert!(lane.is_retimed(position(7)));
    let serial = lane.took(position(7), 10);
    let events = lane.reported(serial, Some(refused), 0, 1.0);
    assert_eq!(events, [Event::Held("poison record 1:7: no".into())]);
}

#[test]
fn a_fatal_error_asks_for_a_new_client() {
    let mut lane = Lane::new(BACKOFF);
    let serial = lane.took(position(0), 10);
    lane.took(position(1), 10);
    assert_eq!(lane.reported(serial, Some(failure(Class::Fatal)), 0, 1.0), [Event::Rebuild("no".into())]);
    lane.client_lost();
    assert_eq!((lane.in_flight(), lane.sent(), room(&mut lane, 0)), ((0, 0), None, 100));
}

/// Drives a lane against a broker that fails whole batches holding the poison record; gives what was acknowledged
/// last, why it is held, and how many windows it took.
fn isolate(records: u64, poison: u64) -> (Option<Position>, Option<String>, usize) {
    let mut lane = Lane::new(BACKOFF);
    let (mut cursor, mut acknowledged, mut windows) = (0, None, 0);
    while lane.held().is_none() && cursor < records {
        windows += 1;
        let first = cursor;
        let last = (first + room(&mut lane, 0) as u64).min(records);
        let serials: Vec<u64> = (first..last).map(|seq| lane.took(position(seq), 1)).collect();
        let bad = (first..last).contains(&poison);
        for serial in serials {
            for event in lane.reported(serial, bad.then(|| failure(Class::Poison)), 0, 1.0) {
                if let Event::Acknowledged(through) = event {
                    acknowledged = Some(through);
                    cursor = through.seq() + 1;
                }
            }
        }
    }
    (acknowledged, lane.held().map(str::to_owned), windows)
}

proptest! {
    #[test]
    fn a_poison_record_is_found_and_all_before_it_are_delivered(records in 1_u64..400, pick in any::<prop::sample::Index>()) {
        let poison = pick.index(records as usize) as u64;
        let (acknowledged, held, windows) = isolate(records, poison);
        prop_assert_eq!(held, Some(format!("poison record 1:{poison}: no")));
        prop_assert_eq!(acknowledged, poison.checked_sub(1).map(position));
        prop_assert!(windows < 60, "{} windows", windows);
    }
}
