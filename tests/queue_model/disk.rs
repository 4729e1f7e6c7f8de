//! What only the real store can show.

use forebay::config::{Durability, WhenFull};
use forebay::metrics::{ByStreamAndReason, Metrics};
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

/// A queue's settings with the smallest quota, streams `one` and `two`, the second of a higher priority.
fn small(dir: &std::path::Path) -> forebay::queue::Settings {
    let mut settings = settings(&[("one", Durability::Window), ("two", Durability::Window)], 1 << 20, dir);
    settings.queue.quota_bytes = Some(QUOTA_BYTES);
    settings.streams[1].priority = 1;
    settings
}

const QUOTA_BYTES: u64 = 16 << 20;

/// Pushes records of about a kilobyte, 300 to a flush, every hundredth to the second stream.
fn fill(queue: &Queue, flushes: u64, pushed: &mut [u64; 2]) {
    for _ in 0..flushes {
        for n in 0..300 {
            let stream = usize::from(n % 100 == 0);
            let mut large = record(pushed[stream]);
            large.stamp.boot_ns = pushed[stream] * 1_000_000_000;
            // Does not compress.
            let noise =
                (0..120_u64).map(|k| (pushed[stream] + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(k as u32));
            let text: String = noise.map(|word| format!("{word:08x}")).collect();
            large
                .fields
                .push(forebay::reading::Field::new("text", forebay::reading::Value::Text(text[..1_000].to_owned())));
            queue.push(StreamIndex(stream), large).unwrap();
            pushed[stream] += 1;
        }
        queue.flush().unwrap();
        let status = queue.status();
        assert!(status.disk_bytes <= QUOTA_BYTES, "{} bytes on disk", status.disk_bytes);
    }
}

#[test]
fn at_the_quota_the_lower_priority_goes_and_the_higher_stays_in_rewritten_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let (metrics, _) = Metrics::new();
    let queue = Queue::open(small(dir.path()), metrics.clone()).unwrap();
    let mut pushed = [0_u64; 2];
    fill(&queue, 70, &mut pushed);
    let gone = |stream: &str| {
        let label = ByStreamAndReason { stream: stream.to_owned(), reason: "quota" };
        metrics.records_dropped.get_or_create(&label).get()
    };
    assert!(gone("one") > 3_000 && gone("two") == 0, "{} and {} dropped", gone("one"), gone("two"));
    let status = queue.status();
    assert!(status.streams[0].records > 5_000, "{} held", status.streams[0].records);
    queue.abandon().unwrap();
    let (metrics, _) = Metrics::new();
    let queue = Queue::open(small(dir.path()), metrics.clone()).unwrap();
    for (stream, name) in [(0, "one"), (1, "two")] {
        let got = drain(&queue, StreamIndex(stream));
        let skipped: u64 = got.iter().map(|record| record.skipped).sum();
        assert_eq!(got.len() as u64 + skipped, pushed[stream], "of {name}");
        let label = forebay::metrics::ByStream { stream: name.to_owned() };
        assert_eq!(metrics.records_lost.get_or_create(&label).get(), 0);
    }
    queue.close().unwrap();
}

#[test]
fn at_the_quota_what_is_thinned_keeps_its_oldest_record_and_tells_of_all_that_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = small(dir.path());
    settings.streams[0].retention.when_full = WhenFull::Thin;
    let mut pushed = [0_u64; 2];
    for _ in 0..3 {
        let (metrics, _) = Metrics::new();
        let queue = Queue::open(settings.clone(), metrics.clone()).unwrap();
        fill(&queue, 22, &mut pushed);
        let label = ByStreamAndReason { stream: "one".to_owned(), reason: "quota" };
        assert_eq!(metrics.records_dropped.get_or_create(&label).get(), 0);
        // A crash, whatever of the thinning is under way.
        queue.abandon().unwrap();
    }
    let (metrics, _) = Metrics::new();
    let queue = Queue::open(settings, metrics.clone()).unwrap();
    for (stream, pushed) in pushed.into_iter().enumerate() {
        let got = drain(&queue, StreamIndex(stream));
        let skipped: u64 = got.iter().map(|record| record.skipped).sum();
        assert_eq!((got.len() as u64 + skipped, number(&got[0])), (pushed, 0));
        assert_eq!(skipped, got.iter().map(|record| record.thinned).sum::<u64>());
        assert_eq!(skipped > 3_000, stream == 0, "{skipped} of stream {stream} thinned");
    }
    let label = forebay::metrics::ByStream { stream: "one".to_owned() };
    assert_eq!(metrics.records_lost.get_or_create(&label).get(), 0);
    queue.close().unwrap();
}

#[test]
fn what_rejects_is_kept_whole_while_others_come_and_go_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = small(dir.path());
    settings.streams[1].retention.when_full = WhenFull::RejectNewest;
    let queue = Queue::open(settings, Metrics::new().0).unwrap();
    let mut pushed = [0_u64; 2];
    for _ in 0..8 {
        fill(&queue, 10, &mut pushed);
        drain(&queue, ONE);
    }
    assert_eq!(queue.status().streams[0].records, 0);
    let got = drain(&queue, StreamIndex(1));
    assert_eq!(got.iter().map(number).collect::<Vec<_>>(), (0..pushed[1]).collect::<Vec<_>>());
    queue.close().unwrap();
}
