//! The queue as it stands, for the status page and the gauges.

use std::time::Duration;

use super::engine::Inner;
use super::tail::StreamState;
use super::{QueueStatus, StreamStatus};
use crate::metrics::{ByStream, Metrics};
use crate::reading::Position;

pub(super) fn status(inner: &Inner) -> QueueStatus {
    let now_ns = inner.now_ns();
    let shared = inner.lock();
    let fronts = shared.streams.iter().filter_map(|stream| stream.tail.front());
    let oldest_ns = fronts.map(|entry| entry.pushed_ns).min();
    let status = QueueStatus {
        queue: inner.lineage.queue,
        run: inner.run,
        recovered: shared.recovered,
        streams: shared.streams.iter().map(|stream| of_stream(stream, now_ns)).collect(),
        disk_bytes: shared.disk_bytes,
        quota_bytes: shared.quota_bytes,
        window: inner.policy.window(&shared.outage, now_ns),
        undurable_age_max: Duration::from_nanos(shared.undurable_age_max_ns),
        undurable_age: Duration::from_nanos(oldest_ns.map_or(0, |pushed_ns| now_ns.saturating_sub(pushed_ns))),
    };
    drop(shared);
    show(&inner.metrics, &status);
    status
}

fn of_stream(stream: &StreamState, now_ns: u64) -> StreamStatus {
    let in_tail = stream.tail.front().map(|entry| entry.record.stamp.boot_ns);
    let oldest_boot_ns = if stream.disk.records > 0 { stream.disk.oldest_boot_ns } else { in_tail };
    let cursor = stream.lanes.cursor();
    StreamStatus {
        name: std::sync::Arc::clone(&stream.name),
        records: stream.disk.records + stream.tail.len() as u64,
        bytes: stream.disk.bytes + stream.tail_bytes as u64,
        oldest_age: oldest_boot_ns.map(|boot_ns| Duration::from_nanos(now_ns.saturating_sub(boot_ns))),
        durable: stream.disk.last,
        lanes: stream.lanes.pairs().len(),
        newer_records: stream.newer_records(),
        acknowledged: (cursor > Position::ZERO).then(|| Position::from_packed(cursor.packed() - 1)),
    }
}

fn show(metrics: &Metrics, status: &QueueStatus) {
    let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    for stream in &status.streams {
        let label = ByStream { stream: stream.name.to_string() };
        metrics.queue_records.get_or_create(&label).set(gauge(stream.records));
        metrics.queue_bytes.get_or_create(&label).set(gauge(stream.bytes));
        metrics.queue_oldest_age_seconds.get_or_create(&label).set(stream.oldest_age.unwrap_or_default().as_secs_f64());
        let packed = |position: Option<Position>| gauge(position.unwrap_or_default().packed());
        metrics.queue_durable_position.get_or_create(&label).set(packed(stream.durable));
        metrics.queue_newer_records.get_or_create(&label).set(gauge(stream.newer_records));
        metrics.queue_lanes.get_or_create(&label).set(gauge(stream.lanes as u64));
        metrics.queue_acknowledged_position.get_or_create(&label).set(packed(stream.acknowledged));
    }
    metrics.queue_disk_bytes.set(gauge(status.disk_bytes));
    metrics.queue_quota_bytes.set(gauge(status.quota_bytes));
}

impl super::Queue {
    /// The durability window of every day; in an outage [`QueueStatus::window`] may be longer.
    pub fn window(&self) -> std::time::Duration {
        self.inner().settings.queue.window
    }
}

impl std::fmt::Debug for super::Queue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Queue").field("dir", &self.inner().settings.dir).finish_non_exhaustive()
    }
}
