//! What only the real store can show.

use forebay::config::Durability;
use forebay::metrics::Metrics;
use forebay::queue::{Limit, OpenError, Queue, StreamIndex};
use forebay::reading::Position;

use super::memory::settings;
use super::{drain, number, record};

const ONE: StreamIndex = StreamIndex(0);

#[test]
fn a_healthy_uplink_creates_no_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
    // Longer than the test can take.
    settings.queue.window = std::time::Duration::from_secs(3_600);
    let (metrics, _) = Metrics::new();
    let queue = Queue::open(settings, metrics.clone()).unwrap();
    for n in 0..2_000 {
        queue.push(ONE, record(n)).unwrap();
        let batch = queue.peek(ONE, None, Limit { records: 10, bytes: 10_000 }).unwrap().unwrap();
        queue.ack(ONE, batch.records[0].position);
    }
    queue.close().unwrap();
    assert_eq!((metrics.queue_blocks_sealed.get(), metrics.queue_state_writes.get()), (0, 0));
    let names = std::fs::read_dir(dir.path().join("queue")).unwrap();
    let epochs = names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().starts_with("epoch-"));
    assert_eq!(epochs.count(), 0);
}

#[test]
fn a_backlog_outlives_restart_and_crash_under_its_own_identity() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&[("one", Durability::Window)], 1 << 20, dir.path());
    let open = || Queue::open(settings.clone(), Metrics::new().0);
    let queue = open().unwrap();
    for n in 0..5_000 {
        queue.push(ONE, record(n)).unwrap();
    }
    assert!(matches!(open(), Err(OpenError::Locked { .. })), "one agent per directory");
    queue.close().unwrap();
    let queue = open().unwrap();
    for n in 5_000..6_000 {
        queue.push(ONE, record(n)).unwrap();
    }
    queue.flush().unwrap();
    assert_eq!(queue.status().streams[0].records, 6_000);
    queue.abandon().unwrap();
    let queue = open().unwrap();
    assert_eq!((queue.status().run, queue.push(ONE, record(6_000)).is_ok()), (3, true));
    let got = drain(&queue, ONE);
    assert_eq!(got.iter().map(number).collect::<Vec<_>>(), (0..=6_000).collect::<Vec<_>>());
    assert_eq!((got[4_999].position, got[5_000].position), (Position::new(1, 4_999), Position::new(2, 0)));
    queue.close().unwrap();
    let queue = open().unwrap();
    assert!(queue.peek(ONE, None, Limit { records: 1, bytes: 1 }).unwrap().is_none(), "delivered is delivered");
}
