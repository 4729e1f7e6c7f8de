//! The account as text for people and as JSON for programs.

use std::fmt::Write as _;

use serde_json::json;

use super::Plan;
use super::reading::{Outcome, UnreadableIn};
use crate::kafka::Start;
use crate::kafka::account::{DeviceAccount, Missing, Origin, StreamAccount, Unreadable};

/// Most holes of a stream that are listed one by one; the rest is summed up.
const HOLES_LISTED_MAX: usize = 100;

/// The account for people. Names come from outside, so what is no printable character is escaped.
pub(super) fn text(outcome: &Outcome) -> String {
    let mut out = String::new();
    let account = &outcome.account;
    for (origin, stream) in account.streams() {
        // Writing to a String does not fail.
        let _ = stream_text(&mut out, origin, stream, &account.missing_of(stream));
    }
    for (topic, partition, low) in &outcome.removed_by_kafka {
        let _ =
            writeln!(out, "topic {topic} partition {partition}: Kafka's retention removed what was below offset {low}");
    }
    if account.beyond() > 0 {
        let beyond = account.beyond();
        let _ = writeln!(
            out,
            "INCOMPLETE: the account is full, {beyond} records are not in it; read fewer topics or --from later"
        );
    }
    for UnreadableIn { topic, count, partition, offset, why } in &outcome.unreadable {
        let hint = if *why == Unreadable::WireFormat { "; say --encoding avro or protobuf" } else { "" };
        let _ = writeln!(
            out,
            "UNREADABLE: {count} messages of topic {topic} are not in the account; the first, partition {partition} \
             offset {offset}: {why}{hint}"
        );
    }
    let _ = writeln!(
        out,
        "in all: received {}, missing {}, out of order {}, repeated {}, unreadable {}",
        account.received(),
        account.missing(),
        account.out_of_order(),
        account.repeated(),
        account.unreadable()
    );
    out
}

fn stream_text(out: &mut String, origin: &Origin, stream: &StreamAccount, missing: &[Missing]) -> std::fmt::Result {
    let Origin { gateway, queue, stream: name } = origin;
    let (gateway, queue, name) = (gateway.escape_debug(), queue.escape_debug(), name.escape_debug());
    writeln!(out, "gateway {gateway}  queue {queue}  stream {name}")?;
    let total = stream.total();
    writeln!(out, "  {:<32} {:>10} {:>9} {:>12}  latest", "device", "received", "repeated", "out of order")?;
    let mut row = |name: &str, device: &DeviceAccount| {
        let DeviceAccount { received, repeated, out_of_order, latest_us, .. } = device;
        let latest = time(*latest_us).unwrap_or_else(|| "-".to_owned());
        writeln!(out, "  {name:<32} {received:>10} {repeated:>9} {out_of_order:>12}  {latest}")
    };
    for (device, account) in stream.devices() {
        row(&device.escape_debug().to_string(), account)?;
    }
    row("all devices", &total)?;
    let count: u64 = missing.iter().map(|hole| hole.unexplained).sum();
    writeln!(out, "  missing {count}, removed on purpose {}", stream.skipped())?;
    for hole in missing.iter().take(HOLES_LISTED_MAX) {
        let Missing { run, first, last, unexplained } = hole;
        writeln!(out, "    run {run} seq {first} to {last}: {unexplained} missing")?;
    }
    if missing.len() > HOLES_LISTED_MAX {
        writeln!(out, "    and {} more holes", missing.len() - HOLES_LISTED_MAX)?;
    }
    writeln!(out)
}

/// The account for programs.
pub(super) fn json(plan: &Plan, outcome: &Outcome) -> serde_json::Value {
    let account = &outcome.account;
    let from = match plan.start {
        Start::Beginning => "beginning".to_owned(),
        Start::Time(timestamp_ms) => time(Some(timestamp_ms.saturating_mul(1_000))).unwrap_or_default(),
    };
    let removed = outcome.removed_by_kafka.iter();
    let removed: Vec<_> = removed
        .map(|(topic, partition, low)| json!({"topic": topic, "partition": partition, "below_offset": low}))
        .collect();
    let unreadable = outcome.unreadable.iter();
    let unreadable: Vec<_> = unreadable
        .map(|UnreadableIn { topic, count, partition, offset, why }| {
            json!({"topic": topic, "count": count, "first_partition": partition, "first_offset": offset,
                "first_reason": why.to_string()})
        })
        .collect();
    let topics: Vec<_> = plan.topics.iter().map(|(topic, _)| topic).collect();
    let streams: Vec<_> =
        account.streams().map(|(origin, stream)| stream_json(origin, stream, &account.missing_of(stream))).collect();
    json!({
        "topics": topics,
        "from": from,
        "clean": outcome.is_clean(),
        "received": account.received(),
        "missing": account.missing(),
        "out_of_order": account.out_of_order(),
        "repeated": account.repeated(),
        "unreadable": account.unreadable(),
        "unreadable_by_topic": unreadable,
        "beyond_the_accounts_limit": account.beyond(),
        "bytes": outcome.bytes,
        "removed_by_kafka": removed,
        "streams": streams,
    })
}

fn stream_json(origin: &Origin, stream: &StreamAccount, missing: &[Missing]) -> serde_json::Value {
    let total = stream.total();
    let devices: Vec<_> = stream
        .devices()
        .map(|(name, device)| {
            json!({
                "device": name,
                "received": device.received,
                "repeated": device.repeated,
                "out_of_order": device.out_of_order,
                "latest": time(device.latest_us),
                "last_run": device.highest.map(|position| position.run()),
                "last_seq": device.highest.map(|position| position.seq()),
            })
        })
        .collect();
    let listed = missing.get(..HOLES_LISTED_MAX).unwrap_or(missing);
    json!({
        "gateway": origin.gateway,
        "queue": origin.queue,
        "stream": origin.stream,
        "received": total.received,
        "missing": missing.iter().map(|hole| hole.unexplained).sum::<u64>(),
        "missing_ranges": listed,
        "missing_ranges_not_listed": missing.len() - listed.len(),
        "skipped": stream.skipped(),
        "repeated": total.repeated,
        "out_of_order": total.out_of_order,
        "latest": time(total.latest_us),
        "devices": devices,
    })
}

fn time(wall_us: Option<i64>) -> Option<String> {
    let mut out = Vec::new();
    crate::reading::json::write_time(&mut out, wall_us?);
    String::from_utf8(out).ok()
}
