//! Blocks that only a newer agent can open: what is around them arrives now, they after the upgrade, nothing twice.

use forebay::config::DrainOrder;
use forebay::reading::Position;

use super::*;

const RECORDS: usize = 3_000;

#[test]
fn what_is_around_blocks_of_a_newer_agent_arrives_and_they_do_after_the_upgrade() {
    for order in [DrainOrder::OldestFirst, DrainOrder::NewestFirst] {
        let mut bench = Bench::new(&["telemetry"]);
        bench.settings.kafka.drain = order;
        for _ in 0..3 {
            bench.push(0, RECORDS);
            bench.reopen();
        }
        bench.queue.close().unwrap();
        bench.disk.put_versions(|header| header.first.run() == 2);
        bench.reopen();
        let uplink = bench.start();
        bench.push(0, RECORDS);
        wait_for("all but the newer blocks to be delivered", || {
            let status = &bench.queue.status().streams[0];
            status.newer_records == RECORDS as u64 && status.records == status.newer_records
        });
        assert!(uplink.status().held.is_empty());
        bench.end(uplink);
        assert_eq!(bench.read("telemetry").len(), 3 * RECORDS, "{order:?}");
        bench.queue.close().unwrap();
        bench.disk.put_versions(|_| false);
        bench.reopen();
        wait_for("the blocks to be known", || bench.queue.status().recovered);
        let uplink = bench.start();
        bench.drained(0);
        bench.end(uplink);
        assert_eq!(bench.read("telemetry").len(), 4 * RECORDS, "{order:?}");
        let account = bench.account("telemetry");
        assert_eq!((account.received(), account.missing()), (4 * RECORDS as u64, 0), "{order:?}");
    }
}

#[test]
fn exactly_once_waits_in_front_of_blocks_of_a_newer_agent_and_says_so() {
    let mut bench = once::bench(&["telemetry"]);
    for _ in 0..3 {
        bench.push(0, RECORDS);
        bench.reopen();
    }
    bench.queue.close().unwrap();
    bench.disk.put_versions(|header| header.first.run() == 2);
    bench.reopen();
    let uplink = bench.start();
    let last = Position::new(1, RECORDS as u64 - 1);
    wait_for("what comes first to be delivered", || bench.queue.status().streams[0].acknowledged == Some(last));
    wait_for("the stream to wait", || {
        uplink.status().held.iter().any(|(_, why)| why.contains("of version 2 and wait for a newer forebay"))
    });
    bench.end(uplink);
    assert_eq!(bench.read("telemetry").len(), RECORDS, "nothing is sent past them");
    bench.disk.put_versions(|_| false);
    bench.reopen();
    wait_for("the blocks to be known", || bench.queue.status().recovered);
    let uplink = bench.start();
    bench.drained(0);
    assert!(uplink.status().held.is_empty());
    bench.end(uplink);
    assert_whole(&bench.account("telemetry"), 3 * RECORDS as u64);
}
