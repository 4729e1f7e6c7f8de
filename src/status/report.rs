//! What is known, as Prometheus text and as JSON.

use prometheus_client::encoding::text::encode;
use serde_json::{Value, json};

use super::View;
use crate::metrics::{BySource, ByStream};
use crate::queue::{QueueStatus, StreamStatus};

/// Content type of [`metrics`] (OpenMetrics text, which Prometheus reads).
pub(super) const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The Prometheus exposition.
pub(super) fn metrics(view: &View) -> String {
    // Looking at the queue sets its gauges; the largest age is the status's own.
    let status = view.queue.status();
    view.metrics.queue_undurable_age_seconds_max.set(status.undurable_age_max.as_secs_f64());
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = encode(&mut text, &view.registry);
    text
}

/// The whole state as JSON.
pub(super) fn status(view: &View) -> String {
    let queue = view.queue.status();
    let report = json!({
        "gateway": &*view.gateway,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": view.started.elapsed().as_secs(),
        "clock_set": view.metrics.clock_set.get() == 1,
        "sources": sources(view),
        "queue": {
            "id": queue.queue.to_string(),
            "run": queue.run,
            "disk_bytes": queue.disk_bytes,
            "quota_bytes": queue.quota_bytes,
            "undurable_age_seconds": queue.undurable_age.as_secs_f64(),
            "undurable_age_seconds_max": queue.undurable_age_max.as_secs_f64(),
            "written_bytes": view.metrics.queue_written_bytes.get(),
            "store": store(view, &queue),
        },
        "streams": streams(view, &queue),
        "uplink": uplink(view),
        "mqtt": {
            "up": view.metrics.mqtt_up.get() == 1,
            "published": view.metrics.mqtt_published.get(),
            "waiting": view.metrics.mqtt_outbox_records.get(),
        },
    });
    format!("{report:#}\n")
}

/// While it recovers, what earlier runs left is not counted yet.
fn store(view: &View, queue: &QueueStatus) -> &'static str {
    match (view.queue.store_failed(), queue.recovered) {
        (true, _) => "failed",
        (false, false) => "recovering",
        (false, true) => "ok",
    }
}

fn sources(view: &View) -> Value {
    // The families know their sources only by label, so the exposition's own list of `source_up` is not reachable:
    // the view keeps the names.
    let names = view.sources.borrow().clone();
    names
        .iter()
        .map(|name| {
            let label = BySource { source: name.to_string() };
            json!({
                "name": &**name,
                "up": view.metrics.source_up.get_or_create(&label).get() == 1,
                "readings": view.metrics.readings_in.get_or_create(&label).get(),
            })
        })
        .collect()
}

fn streams(view: &View, queue: &QueueStatus) -> Value {
    let with_topics = queue.streams.iter().zip(view.topics.iter().map(String::as_str).chain(std::iter::repeat("")));
    with_topics.map(|(stream, topic)| stream_report(view, stream, topic)).collect()
}

fn stream_report(view: &View, stream: &StreamStatus, topic: &str) -> Value {
    let label = ByStream { stream: stream.name.to_string() };
    let place = |at: Option<crate::reading::Position>| at.map(|at| json!({ "run": at.run(), "seq": at.seq() }));
    json!({
        "name": &*stream.name,
        "topic": topic,
        "records": stream.records,
        "bytes": stream.bytes,
        "oldest_age_seconds": stream.oldest_age.map(|age| age.as_secs_f64()),
        "durable": place(stream.durable),
        "acknowledged": place(stream.acknowledged),
        "lanes": stream.lanes,
        "newer_records": stream.newer_records,
        "pushed": view.metrics.records_pushed.get_or_create(&label).get(),
        "thinned": view.metrics.records_thinned.get_or_create(&label).get(),
        "delivered": view.metrics.uplink_records_delivered.get_or_create(&label).get(),
    })
}

fn uplink(view: &View) -> Value {
    let Some(status) = (view.uplink)() else { return json!({ "state": "not configured" }) };
    let since = crate::clock::boot_ns().saturating_sub(status.since_boot_ns);
    json!({
        "state": status.state,
        "for_seconds": since / 1_000_000_000,
        "last_error": status.last_error,
        "wire_bytes": view.metrics.uplink_wire_bytes.get(),
        "budget": {
            "day_bytes": view.metrics.uplink_budget_day_bytes.get(),
            "month_bytes": view.metrics.uplink_budget_month_bytes.get(),
            "exhausted": view.metrics.uplink_budget_exhausted.get() == 1,
        },
        "held": status.held.iter().map(|(stream, why)| json!({ "stream": stream, "why": why })).collect::<Vec<_>>(),
    })
}
