use std::sync::Arc;

use super::*;
use crate::config::{Durability, Retention, Stream};
use crate::queue::StreamControl;
use crate::queue::block::tests::{sample_records, sealed};
use crate::queue::lane::Lanes;

fn at(seq: u64) -> Position {
    Position::new(1, seq)
}

/// A stream in its second run whose first run is to be delivered in these lanes.
fn stream(lanes: &[(Position, Position)], skipped: Vec<(Position, u64)>) -> StreamState {
    let stream = Stream {
        name: "telemetry".into(),
        topic: "telemetry".into(),
        priority: 0,
        durability: Durability::Window,
        retention: Retention::default(),
        drain: None,
        rate: Default::default(),
    };
    let lanes = Lanes::from_pairs(lanes).unwrap();
    StreamState::new(StreamControl { stream: Arc::clone(&stream.name), lanes, skipped, in_doubt: None }, &stream, 2)
}

fn block(first: u64, last: u64) -> Header {
    let header = sealed(&sample_records(1)).header;
    let count = u32::try_from(last - first + 1).unwrap();
    Header { first: at(first), last: at(last), count, newer: Some(2), ..header }
}

#[test]
fn neighbours_share_a_lane_and_what_was_delivered_between_stays_done() {
    let mut queue = stream(&[(at(0), Position::END)], Vec::new());
    queue.keep_apart(&block(10, 19), at(0)).unwrap();
    queue.keep_apart(&block(20, 29), at(20)).unwrap();
    // Positions 30 to 39 were never written: nothing is on disk from 30 on but this.
    queue.keep_apart(&block(40, 49), at(30)).unwrap();
    assert_eq!(queue.lanes.pairs(), [(at(0), at(10)), (at(10), at(50)), (at(50), Position::END)]);
    assert_eq!(queue.newer_records(), 30);
    // Whether something is between is not known where the reading began behind it.
    queue.keep_apart(&block(60, 69), at(55)).unwrap();
    assert_eq!(queue.lanes.pairs()[2..], [(at(50), at(60)), (at(60), at(70)), (at(70), Position::END)]);
    assert_eq!((queue.first_readable(at(12)), queue.first_readable(at(60))), (at(50), at(70)));
    assert!(queue.is_readable(at(55)) && !queue.is_readable(at(65)));

    let mut queue = stream(&[(at(15), at(20)), (at(30), Position::END)], Vec::new());
    queue.keep_apart(&block(10, 19), at(15)).unwrap();
    queue.keep_apart(&block(20, 39), at(30)).unwrap();
    assert_eq!(queue.lanes.pairs(), [(at(15), at(20)), (at(30), at(40)), (at(40), Position::END)], "20 to 29 are done");
    assert_eq!(queue.newer_records(), 15);
}

#[test]
fn acknowledgements_and_closing_pass_over_it_and_leave_its_marks() {
    let marks = vec![(at(5), 1), (at(12), 2), (at(25), 4)];
    let mut queue = stream(&[(at(0), Position::END)], marks);
    queue.keep_apart(&block(10, 19), at(6)).unwrap();
    queue.ack_range(Position::ZERO, at(29));
    assert_eq!(queue.lanes.pairs(), [(at(10), at(20)), (at(30), Position::END)]);
    assert_eq!(queue.control().skipped, [(at(12), 2)], "its first record will say so");
    queue.close_lane(at(10), at(20));
    queue.merge_lanes();
    assert_eq!(queue.lanes.pairs()[0], (at(10), at(20)));

    // Of 5 to 9 nothing is left: the block's first record tells of them, and of what was gone before.
    for (read_from, kept) in [(5, vec![(at(3), 1), (at(10), 6)]), (0, vec![(at(10), 7)])] {
        let mut queue = stream(&[(at(0), Position::END)], vec![(at(3), 1), (at(7), 2), (at(10), 4)]);
        queue.keep_apart(&block(10, 19), at(read_from)).unwrap();
        assert_eq!(queue.control().skipped, kept);
        queue.ack_range(Position::ZERO, at(29));
        assert_eq!(queue.control().skipped, kept[kept.len() - 1..]);
    }

    let mut queue = stream(&[(at(0), at(30)), (at(30), Position::END)], vec![(at(22), 3)]);
    queue.keep_apart(&block(10, 19), at(0)).unwrap();
    queue.close_lane(at(0), at(30));
    assert_eq!(queue.lanes.pairs(), [(at(10), at(20)), (at(30), Position::END)]);
    assert_eq!(queue.control().skipped, [(at(30), 3)], "told by who comes next");
}

#[test]
fn a_drop_takes_it_in_parts() {
    let mut queue = stream(&[(at(0), Position::END)], Vec::new());
    queue.keep_apart(&block(10, 19), at(0)).unwrap();
    queue.keep_apart(&block(20, 29), at(20)).unwrap();
    let drop = |last| crate::queue::store::OldestBlocks {
        epoch: 1,
        first: at(0),
        last: at(last),
        records: 10,
        skipped: 0,
        bytes: 1,
    };
    queue.drop_from_disk(&drop(19));
    assert_eq!((queue.lanes.pairs()[0], queue.newer_records()), ((at(20), at(30)), 10));
    assert!(!queue.is_readable(at(25)));
    queue.drop_from_disk(&drop(29));
    assert_eq!((queue.lanes.pairs().len(), queue.newer_records()), (1, 0));
}

#[test]
fn where_lanes_are_used_up_nothing_is_kept_apart() {
    let mut queue = stream(&[(at(0), Position::END)], Vec::new());
    let mut keep = |n: u64| queue.keep_apart(&block(n * 20 + 10, n * 20 + 19), at(n * 20 + 5));
    let used_up = (0..20).find(|n| keep(*n) == Err(NotApart::LanesUsedUp));
    assert_eq!((used_up, queue.lanes.pairs().len()), (Some(7), 15));
}

#[test]
fn the_last_place_is_for_a_start_that_meets_a_lane_in_parts() {
    let mut lanes: Vec<_> = (0..14).map(|n| (at(n * 20 + 10), at(n * 20 + 20))).collect();
    lanes.push((at(300), Position::END));
    let mut queue = stream(&lanes, Vec::new());
    assert_eq!(queue.keep_apart(&block(300, 309), at(300)), Err(NotApart::LanesUsedUp));
    queue.keep_apart(&block(10, 14), at(10)).unwrap();
    assert_eq!(queue.lanes.pairs().len(), 16);
    queue.keep_apart(&block(15, 19), at(15)).unwrap();
    assert_eq!(queue.lanes.pairs(), lanes);
}

#[test]
fn what_nobody_else_can_have_written_is_not_read_over() {
    let mut queue = stream(&[(at(0), Position::END)], Vec::new());
    let own = Header { first: Position::new(2, 0), last: Position::new(2, 3), ..block(0, 3) };
    assert_eq!(queue.keep_apart(&own, at(0)), Err(NotApart::Ahead));
}
