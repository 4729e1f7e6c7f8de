use proptest::prelude::*;

use super::*;

const BACKOFF: Backoff = Backoff { first_ns: 100, max_ns: 1_000 };

fn failure(class: Class) -> Failure {
    Failure { class, text: "no".into(), name: "", timestamp_refused: false }
}

fn position(seq: u64) -> Position {
    Position::new(1, seq)
}

fn acknowledged(seq: u64) -> Event {
    Event::Acknowledged(Through { lane: Position::ZERO, position: position(seq) })
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
    let serials: Vec<u64> = (0..3).map(|seq| lane.took(Position::ZERO, position(seq), 10, true)).collect();
    assert_eq!(lane.reported(serials[0], None, 0, 1.0), [acknowledged(0)]);
    assert_eq!(lane.reported(serials[1], Some(failure(Class::Retried)), 0, 1.0), []);
    assert_eq!(room(&mut lane, 5_000), 0, "one is still in flight");
    assert_eq!(lane.reported(serials[2], None, 0, 1.0), []);
    assert!(lane.take_rewound(), "reads again from the cursor");
    assert_eq!((room(&mut lane, 99), room(&mut lane, 100)), (0, 100));
}

#[test]
fn a_record_of_several_messages_is_delivered_once() {
    let mut lane = Lane::new(BACKOFF);
    let sent: Vec<u64> =
        [(0, false), (0, true), (1, true)].map(|(seq, last)| lane.took(Position::ZERO, position(seq), 10, last)).into();
    for (serial, delivered) in sent.into_iter().zip([0, 1, 1]) {
        lane.reported(serial, None, 0, 1.0);
        assert_eq!(lane.take_delivered(), delivered);
    }
    let serial = lane.took(Position::ZERO, position(2), 10, true);
    lane.reported(serial, Some(failure(Class::Retried)), 0, 1.0);
    assert_eq!(lane.take_delivered(), 0, "it is sent again");
}

#[test]
fn a_held_stream_probes_with_one_record_and_says_so_once() {
    let mut lane = Lane::new(BACKOFF);
    let serial = lane.took(Position::ZERO, position(0), 10, true);
    assert_eq!(lane.reported(serial, Some(failure(Class::Held)), 0, 1.0), [Event::Held("no".into())]);
    assert_eq!(room(&mut lane, 100), 1);
    let serial = lane.took(Position::ZERO, position(0), 10, true);
    assert_eq!(room(&mut lane, 100), 0, "the probe is out");
    assert_eq!(lane.reported(serial, Some(failure(Class::Held)), 100, 1.0), []);
    assert_eq!((room(&mut lane, 299), room(&mut lane, 300)), (0, 1), "the delay has doubled");
    let serial = lane.took(Position::ZERO, position(0), 10, true);
    assert_eq!(lane.reported(serial, None, 300, 1.0), [acknowledged(0), Event::Released]);
    assert_eq!(lane.held(), None);
    assert_eq!(room(&mut lane, 300), 2);
}

#[test]
fn the_limits_of_records_and_bytes_leave_at_least_one_record() {
    let mut lane = Lane::new(BACKOFF);
    assert_eq!(lane.room(0, 2, 10), 2);
    lane.took(Position::ZERO, position(0), 5_000, true);
    assert_eq!(lane.room(0, 2, 10), 0);
}

#[test]
fn a_refused_timestamp_is_replaced_twice_and_then_held() {
    let refusal = Failure { timestamp_refused: true, ..failure(Class::Poison) };
    let mut lane = Lane::new(BACKOFF);
    for refused in [Refused::Own, Refused::Replacement] {
        let serial = lane.took(Position::ZERO, position(7), 10, true);
        assert_eq!(lane.reported(serial, Some(refusal.clone()), 0, 1.0), []);
        assert_eq!((lane.refused_time(position(7)), lane.refused_time(position(8))), (refused, Refused::Nothing));
    }
    let serial = lane.took(Position::ZERO, position(7), 10, true);
    let events = lane.reported(serial, Some(refusal), 0, 1.0);
    let reason = "record 1:7: no, also with the present time";
    assert_eq!(events, [Event::Held(reason.into())], "never set aside");
    assert_eq!(lane.refused_time(position(7)), Refused::Replacement, "it is probed with the present time");
}

#[test]
fn what_is_delivered_beyond_one_that_is_not_is_bounded() {
    let mut lane = Lane::new(BACKOFF);
    let stuck = lane.took(Position::ZERO, position(0), 1, true);
    let mut sent = 1;
    while room(&mut lane, 0) > 0 {
        let serial = lane.took(Position::ZERO, position(sent), 1, true);
        assert_eq!(lane.reported(serial, None, 0, 1.0), [], "the first is not delivered");
        sent += 1;
    }
    assert_eq!(sent, 400, "four windows");
    assert_eq!(lane.reported(stuck, None, 0, 1.0), [acknowledged(399)]);
    assert_eq!(room(&mut lane, 0), 100);
}

#[test]
fn a_fatal_error_asks_for_a_new_client() {
    let mut lane = Lane::new(BACKOFF);
    let serial = lane.took(Position::ZERO, position(0), 10, true);
    lane.took(Position::ZERO, position(1), 10, true);
    assert_eq!(lane.reported(serial, Some(failure(Class::Fatal)), 0, 1.0), [Event::Rebuild("no".into())]);
    assert_eq!(lane.client_lost(0, 1.0), []);
    assert_eq!((lane.in_flight(), lane.take_rewound(), room(&mut lane, 0)), ((0, 0), true, 100));
}

#[test]
fn a_client_that_stops_because_of_a_refusal_does_not_hide_it() {
    let mut lane = Lane::new(BACKOFF);
    let serials: Vec<u64> = (0..4).map(|seq| lane.took(Position::ZERO, position(seq), 1, true)).collect();
    // The client has stopped: what is behind the cause is reported with other errors, or not at all.
    lane.reported(serials[3], Some(failure(Class::Fatal)), 0, 1.0);
    for serial in &serials[..2] {
        lane.reported(*serial, Some(failure(Class::Poison)), 0, 1.0);
    }
    lane.reported(serials[2], Some(failure(Class::Retried)), 0, 1.0);
    assert_eq!(lane.client_lost(0, 1.0), []);
    assert_eq!((room(&mut lane, 0), lane.is_careful()), (1, true), "the suspects are halved");
    let serial = lane.took(Position::ZERO, position(0), 1, true);
    assert_eq!(room(&mut lane, 0), 0);
    assert_eq!(
        lane.reported(serial, Some(failure(Class::Poison)), 0, 1.0),
        [Event::SetAside(position(0), failure(Class::Poison))]
    );
}

#[test]
fn a_record_in_parts_is_finished_first_and_isolated_whole() {
    let mut lane = Lane::new(BACKOFF);
    let first = lane.took(Position::ZERO, position(0), 10, true);
    let second = lane.took(Position::ZERO, position(1), 10, false);
    assert_eq!(lane.room(0, 1, 1), 1, "the rest of a record goes before all limits");
    // Its second message is refused at once, while the one before it is on its way.
    assert_eq!(lane.refused(position(1), failure(Class::Poison), 0, 0.5), []);
    assert_eq!(lane.room(0, 100, 1_000), 0);
    assert_eq!(lane.reported(first, None, 0, 0.5), [acknowledged(0)]);
    let events = lane.reported(second, None, 0, 0.5);
    assert!(matches!(&events[..], [Event::SetAside(at, _)] if *at == position(1)), "{events:?}");
    assert!(lane.take_rewound());
    assert_eq!(lane.was_set_aside(), None);
    assert_eq!((lane.is_idle(), lane.room(0, 100, 1_000)), (true, 1));
}

#[test]
fn a_record_that_is_refused_at_once_waits_for_those_before_it() {
    let mut lane = Lane::new(BACKOFF);
    let serial = lane.took(Position::ZERO, position(0), 1, true);
    assert_eq!(lane.refused(position(1), failure(Class::Poison), 0, 1.0), []);
    assert_eq!(room(&mut lane, 0), 0);
    assert_eq!(lane.reported(serial, Some(failure(Class::Retried)), 0, 1.0), [], "that one comes first");
    let serial = lane.took(Position::ZERO, position(0), 1, true);
    assert_eq!(lane.refused(position(1), failure(Class::Poison), 0, 1.0), []);
    let events = lane.reported(serial, None, 0, 1.0);
    assert_eq!(events, [acknowledged(0), Event::SetAside(position(1), failure(Class::Poison))]);
}

#[test]
fn what_cannot_be_set_aside_is_held_and_tried_again() {
    let mut lane = Lane::new(BACKOFF);
    let set_aside = [Event::SetAside(position(0), failure(Class::Poison))];
    assert_eq!(lane.refused(position(0), failure(Class::Poison), 0, 1.0), set_aside);
    assert_eq!(lane.not_set_aside("full".into(), 0, 1.0), [Event::Held("full".into())]);
    assert_eq!((room(&mut lane, 99), room(&mut lane, 100)), (0, 1));
    assert_eq!(lane.refused(position(0), failure(Class::Poison), 100, 1.0), set_aside);
    assert_eq!(lane.was_set_aside(), Some(Event::Released));
    assert_eq!(lane.held(), None);
    assert_eq!(room(&mut lane, 100), 1);
}

/// Refuses the records of which `is_poison` says so; gives how many were set aside before the stream was held.
fn set_aside_until_held(is_poison: impl Fn(u64) -> bool, records: u64) -> usize {
    let mut lane = Lane::new(BACKOFF);
    let mut count = 0;
    for seq in 0..records {
        if !is_poison(seq) {
            let serial = lane.took(Position::ZERO, position(seq), 1, true);
            lane.reported(serial, None, 0, 1.0);
            continue;
        }
        match &lane.refused(position(seq), failure(Class::Poison), 0, 1.0)[..] {
            [Event::SetAside(..)] => {
                lane.was_set_aside();
                count += 1;
            }
            [Event::Held(reason)] => {
                assert!(reason.starts_with("more than 20 of the last 1000 records"), "{reason}");
                return count;
            }
            other => panic!("{other:?}"),
        }
    }
    count
}

#[test]
fn more_than_twenty_in_a_thousand_are_a_configuration_error() {
    assert_eq!(set_aside_until_held(|_| true, 500), 20);
    assert_eq!(set_aside_until_held(|seq| seq % 50 == 0, 10_000), 200, "20 in every 1 000 are borne");
    assert_eq!(set_aside_until_held(|seq| seq % 49 == 0, 10_000), 20);
}

/// Drives a lane against a broker that fails whole batches holding a poison record, and whose client may stop at once
/// then; gives what was delivered first, what was set aside, and how many windows it took.
fn isolate(records: u64, poison: &[u64], client_stops: bool) -> (Vec<u64>, Vec<u64>, usize) {
    let mut lane = Lane::new(BACKOFF);
    let (mut cursor, mut delivered, mut set_aside, mut windows) = (0, Vec::new(), Vec::new(), 0);
    while cursor < records {
        windows += 1;
        let first = cursor;
        let last = (first + room(&mut lane, 0) as u64).min(records);
        let serials: Vec<u64> = (first..last).map(|seq| lane.took(Position::ZERO, position(seq), 1, true)).collect();
        let bad = poison.iter().any(|seq| (first..last).contains(seq));
        let mut events = Vec::new();
        for serial in serials {
            events.extend(lane.reported(serial, bad.then(|| failure(Class::Poison)), 0, 1.0));
            if bad && client_stops {
                events.extend(lane.client_lost(0, 1.0));
                break;
            }
        }
        for event in events {
            match event {
                Event::Acknowledged(Through { position: through, .. }) => {
                    delivered.extend(cursor..=through.seq());
                    cursor = through.seq() + 1;
                }
                Event::SetAside(position, _) => {
                    assert_eq!(position.seq(), cursor, "all before it is delivered");
                    set_aside.push(cursor);
                    cursor += 1;
                    lane.was_set_aside();
                }
                other => panic!("{other:?}"),
            }
        }
    }
    (delivered, set_aside, windows)
}

proptest! {
    #[test]
    fn poison_records_are_found_and_all_others_are_delivered_in_order(
        records in 1_u64..400,
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        client_stops in any::<bool>(),
    ) {
        let mut poison: Vec<u64> = picks.iter().map(|pick| pick.index(records as usize) as u64).collect();
        poison.sort_unstable();
        poison.dedup();
        let (delivered, set_aside, windows) = isolate(records, &poison, client_stops);
        prop_assert_eq!(&set_aside, &poison);
        let rest: Vec<u64> = (0..records).filter(|seq| !poison.contains(seq)).collect();
        prop_assert_eq!(delivered, rest);
        prop_assert!(windows < 40 * (poison.len() + 1), "{} windows", windows);
    }
}

#[test]
fn those_before_a_refused_batch_go_by_themselves_and_only_the_batch_is_searched() {
    let (mut lane, mut cursor, mut windows) = (Lane::new(BACKOFF), 0, Vec::new());
    // Batches of eight as the client makes them of all that it gets at once; a transaction fails as a whole.
    let poison = 85;
    let set_aside = loop {
        let last = cursor + room(&mut lane, 0) as u64;
        windows.push(last - cursor);
        let sent: Vec<_> = (cursor..last).map(|seq| (seq, lane.took(Position::ZERO, position(seq), 1, true))).collect();
        let batch = |seq: u64| (seq - cursor) / 8;
        let bad = (cursor..last).contains(&poison).then(|| batch(poison));
        let mut events = Vec::new();
        for (seq, serial) in sent {
            let class = if bad == Some(batch(seq)) { Class::Poison } else { Class::Retried };
            events.extend(lane.reported(serial, bad.map(|_| failure(class)), 0, 1.0));
        }
        match events.last() {
            Some(Event::SetAside(position, _)) => break position.seq(),
            Some(Event::Acknowledged(through)) => cursor = through.position.seq() + 1,
            _ => {}
        }
    };
    assert_eq!((set_aside, cursor), (poison, poison), "all before it are delivered");
    assert_eq!(windows, [100, 80, 4, 2, 1, 1], "of 100 records only eight are searched");
}
