//! Limits that hold on the way: rates, and the budget with its reserve.

use forebay::config::{Budget, Rate};

use super::*;

#[test]
fn a_rate_holds_and_everything_arrives() {
    let mut bench = Bench::new(&["telemetry", "alarms"]);
    bench.settings.streams[0].rate = Rate { records: Some(1_000), bytes: None };
    bench.push(0, 1_500);
    let begun = Instant::now();
    let uplink = bench.start();
    bench.push(1, 500);
    bench.drained(1);
    assert!(bench.queue.status().streams[0].records > 0, "the other stream has no limit");
    bench.drained(0);
    // 250 go at once.
    assert!(begun.elapsed() >= Duration::from_millis(1_200), "1500 records in {:?}", begun.elapsed());
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 1_500);
}

#[test]
fn a_rate_in_bytes_holds_for_all_streams_together() {
    let mut bench = Bench::new(&["telemetry", "alarms"]);
    bench.settings.kafka.rate = Rate { records: None, bytes: Some(200_000) };
    bench.push(0, 1_000);
    bench.push(1, 1_000);
    let begun = Instant::now();
    let uplink = bench.start();
    bench.drained(0);
    bench.drained(1);
    let took = begun.elapsed();
    bench.end(uplink);
    let bytes: usize = ["telemetry", "alarms"].iter().flat_map(|topic| bench.read(topic)).map(|r| r.value.len()).sum();
    let least = Duration::from_secs_f64(bytes as f64 / 200_000.0 - 0.3);
    assert!(took >= least, "{bytes} bytes in {took:?}");
}

pub(super) fn budget(bench: &mut Bench) {
    bench.settings.kafka.properties.insert("statistics.interval.ms".into(), "50".into());
    bench.settings.kafka.compression = KafkaCompression::None;
    bench.settings.kafka.budget =
        Some(Budget { day_bytes: Some(200_000), month_bytes: None, reserve_percent: 50, reserve_priority: 5 });
    bench.settings.streams[1].priority = 9;
}

#[test]
fn a_budget_stops_the_backlog_keeps_its_reserve_and_outlives_a_restart() {
    let mut bench = Bench::new(&["telemetry", "alarms"]);
    budget(&mut bench);
    bench.push(0, 2_000);
    let uplink = bench.start();
    wait_for("the budget to be used up", || bench.metrics.uplink_budget_exhausted.get() == 1);
    wait_for("what is in flight", || bench.metrics.uplink_in_flight_records.get() == 0);
    let waiting = bench.queue.status().streams[0].records;
    assert!(waiting > 500, "{waiting} wait");
    bench.push(1, 50);
    bench.drained(1);
    let used = bench.metrics.uplink_budget_day_bytes.get();
    assert!((90_000..130_000).contains(&used), "{used} bytes used");
    bench.stop.cancel();
    uplink.join();

    bench.reopen();
    let uplink = bench.start();
    bench.push(1, 50);
    bench.drained(1);
    wait_for("the budget to be known", || bench.metrics.uplink_budget_exhausted.get() == 1);
    assert_eq!(bench.queue.status().streams[0].records, waiting, "a restart brings no budget back");
    bench.end(uplink);
    assert_whole(&bench.account("alarms"), 100);
}
