//! Two streams with two partitions each, and what the client says of them.

use super::*;
use crate::kafka::PartitionProgress;

const STALL: u64 = 60;
const INTERVAL: u64 = 300;

/// A client since 1000 that has something in flight of both streams.
fn watchdog() -> Watchdog {
    let mut watchdog = Watchdog::new(["a", "b"].into_iter(), STALL, INTERVAL);
    watchdog.new_client(1_000);
    busy(&mut watchdog, 1_000);
    watchdog
}

fn busy(watchdog: &mut Watchdog, now_ns: u64) {
    (0..2).for_each(|stream| watchdog.in_flight(stream, 10, now_ns));
}

/// Statistics: of each partition of a topic, what was taken and what was sent.
fn says(watchdog: &mut Watchdog, topic: &str, now_ns: u64, partitions: &[(i32, u64, u64)]) {
    let partitions = partitions.iter();
    let partitions =
        partitions.map(|&(partition, taken, transmitted)| PartitionProgress { partition, taken, transmitted });
    watchdog.progressed(&[TopicProgress { topic: topic.into(), partitions: partitions.collect() }], now_ns);
}

fn doubt(topic: &str, partitions: &[i32]) -> Doubt {
    Doubt { topic: topic.into(), partitions: partitions.into() }
}

#[test]
fn a_client_that_says_nothing_is_in_doubt_with_the_streams_that_have_no_report() {
    let mut watchdog = watchdog();
    watchdog.reported(1, 0, 1_030);
    assert_eq!(watchdog.doubts(1_059), []);
    assert_eq!(watchdog.doubts(1_060), [doubt("a", &[])]);
    assert_eq!(watchdog.doubts(1_090), [doubt("a", &[]), doubt("b", &[])]);
    watchdog.in_flight(0, 0, 1_090);
    assert_eq!(watchdog.doubts(1_090), [doubt("b", &[])], "nothing of it is in flight");
}

#[test]
fn a_stream_that_sends_does_not_hide_one_that_does_not() {
    let mut watchdog = watchdog();
    for now_ns in (1_005..=1_200).step_by(5) {
        says(&mut watchdog, "a", now_ns, &[(0, 10, 0)]);
        // Refused for now, for want of replicas: sent again and again, and never reported.
        says(&mut watchdog, "b", now_ns, &[(0, 10, now_ns)]);
    }
    assert_eq!(watchdog.doubts(1_200), [doubt("a", &[0])]);
}

#[test]
fn a_partition_that_is_delivered_does_not_hide_one_of_the_same_stream_that_is_not() {
    let mut watchdog = watchdog();
    for count in 1..=12_u64 {
        let now_ns = 1_000 + 5 * count;
        says(&mut watchdog, "a", now_ns, &[(0, count, count), (1, 5, 5)]);
        watchdog.reported(0, 0, now_ns);
    }
    watchdog.in_flight(1, 0, 1_064);
    assert_eq!(watchdog.doubts(1_064), []);
    assert_eq!(watchdog.doubts(1_065), [doubt("a", &[1])], "sent once, and neither reported nor sent again");
}

#[test]
fn partitions_that_are_sent_again_and_again_are_in_no_doubt() {
    let mut watchdog = watchdog();
    for now_ns in (1_030..=1_300).step_by(30) {
        says(&mut watchdog, "a", now_ns, &[(0, 10, now_ns), (1, 10, now_ns)]);
        says(&mut watchdog, "b", now_ns, &[(0, 10, now_ns)]);
        assert_eq!(watchdog.doubts(now_ns + 29), [], "at {now_ns}");
    }
}

#[test]
fn a_partition_that_had_nothing_to_send_has_not_stood_still() {
    let mut watchdog = watchdog();
    watchdog.in_flight(1, 0, 1_000);
    says(&mut watchdog, "a", 1_005, &[(0, 1, 1), (1, 1, 1)]);
    (0..2).for_each(|partition| watchdog.reported(0, partition, 1_006));
    // Partition 1 idles, whatever became of what it had: refused, or acknowledged as sent twice.
    says(&mut watchdog, "a", 1_500, &[(0, 2, 2), (1, 1, 1)]);
    assert_eq!(watchdog.doubts(1_505), []);
    says(&mut watchdog, "a", 1_505, &[(0, 2, 3), (1, 2, 1)]);
    assert_eq!(watchdog.doubts(1_506), [], "what it has was only just taken");
    says(&mut watchdog, "a", 1_564, &[(0, 2, 4), (1, 2, 1)]);
    assert_eq!(watchdog.doubts(1_564), []);
    assert_eq!(watchdog.doubts(1_565), [doubt("a", &[1])]);
}

#[test]
fn counters_that_begin_anew_are_followed() {
    let mut watchdog = watchdog();
    watchdog.in_flight(1, 0, 1_000);
    says(&mut watchdog, "a", 1_005, &[(0, 100, 100)]);
    (0..100).for_each(|_| watchdog.reported(0, 0, 1_006));
    says(&mut watchdog, "a", 1_010, &[(0, 7, 0)]);
    says(&mut watchdog, "a", 1_065, &[(0, 7, 0)]);
    assert_eq!(watchdog.doubts(1_069), []);
    assert_eq!(watchdog.doubts(1_070), [doubt("a", &[0])], "the topic was made anew");
    watchdog.new_client(1_070);
    assert_eq!(watchdog.doubts(1_129), [], "a client that is new");
}

#[test]
fn streams_of_one_topic_are_one() {
    let mut watchdog = Watchdog::new(["a", "a"].into_iter(), STALL, INTERVAL);
    watchdog.new_client(1_000);
    busy(&mut watchdog, 1_000);
    says(&mut watchdog, "a", 1_005, &[(0, 2, 2)]);
    (0..2).for_each(|stream| watchdog.reported(stream, 0, 1_006));
    assert_eq!(watchdog.doubts(1_065), []);
    assert_eq!(watchdog.doubts(1_066), [doubt("a", &[])]);
}

/// Two partitions and one that stand still, and what the cluster says of them at 1100.
fn answered(answers: Vec<(Doubt, Result<(), String>)>) -> Watchdog {
    let mut watchdog = watchdog();
    says(&mut watchdog, "a", 1_005, &[(0, 10, 0), (1, 10, 0)]);
    says(&mut watchdog, "b", 1_005, &[(0, 10, 0)]);
    watchdog.inquiry.answered(answers);
    assert_eq!(watchdog.stuck(1_100), None, "it has time to find out by itself");
    watchdog
}

#[test]
fn the_client_is_stuck_where_the_cluster_could_take_what_still_stands() {
    let unable = || (doubt("a", &[0, 1]), Err("no leader".to_owned()));
    assert_eq!(answered(vec![unable()]).stuck(1_160), None);
    let mut watchdog = answered(vec![unable(), (doubt("b", &[0]), Ok(()))]);
    assert_eq!(watchdog.stuck(1_159), None);
    assert_eq!(watchdog.stuck(1_160), Some("b".into()), "another topic's trouble is its own");
    assert_eq!(watchdog.stuck(1_161), None, "an answer counts once");
    assert_eq!(answered(vec![(doubt("a", &[]), Ok(()))]).stuck(1_160), Some("a".into()));
}

#[test]
fn a_client_that_makes_headway_once_the_cluster_can_take_records_is_not_stuck() {
    let mut watchdog = answered(vec![(doubt("b", &[0]), Ok(()))]);
    watchdog.reported(1, 0, 1_101);
    assert_eq!(watchdog.stuck(1_160), None, "it was slow");
    let mut watchdog = answered(vec![(doubt("a", &[1]), Ok(()))]);
    says(&mut watchdog, "a", 1_101, &[(0, 10, 0), (1, 10, 3)]);
    assert_eq!(watchdog.stuck(1_160), None, "it sends again, and the other partition was not asked about");
    let mut watchdog = answered(vec![(doubt("a", &[]), Ok(()))]);
    watchdog.new_client(1_110);
    busy(&mut watchdog, 1_110);
    assert_eq!(watchdog.stuck(1_170), None, "it is another client");
}

#[test]
fn a_stall_is_three_socket_timeouts_and_never_less_than_a_client_may_be_silent() {
    for (timeout_s, stall_s) in [(20, 60), (60, 180), (1, 60)] {
        assert_eq!(stall(Duration::from_secs(timeout_s)), Duration::from_secs(stall_s), "{timeout_s} s");
    }
}
