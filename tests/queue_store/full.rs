//! A disk that others fill beside a queue that works: memory first, then the oldest records, and on by itself when there
//! is room.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use forebay::config::{self, Compression, Durability, Retention};
use forebay::metrics::{ByStreamAndReason, Metrics};
use forebay::queue::{Limit, NewRecord, Pushed, Queue, Settings, StreamIndex};
use forebay::reading::{Field, Position, Stamp, Trust, Value};

use super::STREAM;
use super::read_only::reports;

const ONE: StreamIndex = StreamIndex(0);
const TAIL_BYTES_MAX: usize = 512 * 1024;
/// By itself, after the last try that failed.
const RECOVERY_MAX: Duration = Duration::from_secs(10);

/// The disk below `mount_point` is filled twice: for what memory can bridge, and for more than that.
pub fn beside_a_queue(mount_point: &Path) -> anyhow::Result<()> {
    let (metrics, _) = Metrics::new();
    let queue = Queue::open(settings(mount_point), Arc::clone(&metrics))?;
    let mut pushed = 0;
    for _ in 0..40 {
        push(&queue, 100, &mut pushed)?;
        queue.flush()?;
    }
    for (records, bridged) in [(100, true), (5_000, false)] {
        let filler = fill(mount_point)?;
        // The oldest of it make room where the tail cannot hold it.
        let last = push(&queue, records, &mut pushed)?;
        ensure!(queue.flush().is_err(), "a flush on a full disk went through");
        let dropped = dropped(&metrics);
        ensure!((dropped == 0) == bridged, "{dropped} records dropped after {records} on the full disk");
        std::fs::remove_file(filler)?;
        let took = until_safe(&queue, last)?;
        println!("full disk: {records} records while it was full, {dropped} dropped, on after {} ms", took.as_millis());
    }
    let (records, skipped) = count(&queue)?;
    ensure!(records + skipped == pushed, "{records} records and {skipped} skipped are not {pushed}");
    ensure!(skipped < 5_000, "{skipped} skipped, more than came while it was full");
    ensure!(skipped == dropped(&metrics), "{skipped} skipped, {} dropped", dropped(&metrics));
    queue.close()?;
    Ok(())
}

/// The quota is more than there is: the oldest blocks make room as they would at the quota.
pub fn on_a_disk_smaller_than_the_quota(mount_point: &Path) -> anyhow::Result<()> {
    let queue = Queue::open(settings(mount_point), Metrics::new().0)?;
    let mut pushed = 0;
    for _ in 0..400 {
        push(&queue, 100, &mut pushed)?;
        queue.flush().context("flush where the disk is the limit")?;
    }
    let (records, skipped) = count(&queue)?;
    ensure!(records + skipped == pushed, "{records} records and {skipped} skipped are not {pushed}");
    ensure!(skipped > 0 && records > 10_000, "{records} records of {pushed} held");
    println!("small disk: the newest {records} of {pushed} records held");
    queue.close()?;
    Ok(())
}

/// Others have used up the inodes: bytes are free, and yet no epoch can begin.
pub fn out_of_inodes(mount_point: &Path) -> anyhow::Result<()> {
    let (metrics, _) = Metrics::new();
    let queue = Queue::open(settings(mount_point), Arc::clone(&metrics))?;
    let mut pushed = 0;
    for _ in 0..40 {
        push(&queue, 100, &mut pushed)?;
        queue.flush()?;
    }
    let crowd = mount_point.join("crowd");
    std::fs::create_dir(&crowd)?;
    let mut files = 0;
    while std::fs::File::create(crowd.join(files.to_string())).is_ok() {
        files += 1;
    }
    let said = reports();
    let failures = failed_flushes(&queue, &mut pushed)?;
    ensure!(reports() == said + 1, "{} reports of {failures} failed flushes", reports() - said);
    ensure!(dropped(&metrics) == 0, "{} dropped", dropped(&metrics));
    std::fs::remove_dir_all(crowd)?;
    let last = push(&queue, 1, &mut pushed)?;
    let took = until_safe(&queue, last)?;
    let (records, skipped) = count(&queue)?;
    ensure!((records, skipped) == (pushed, 0), "{records} records and {skipped} skipped are not {pushed}");
    println!(
        "no inodes: {files} files of others, {failures} flushes failed, reported once, on after {} ms, {records} of \
         {pushed} records there",
        took.as_millis()
    );
    queue.close()?;
    Ok(())
}

/// Pushes and flushes until the store can take nothing; then some more, which stay in memory.
pub fn failed_flushes(queue: &Queue, pushed: &mut u64) -> anyhow::Result<u32> {
    let mut failures = 0;
    // An epoch that is open goes on; far fewer groups fill it.
    for _ in 0..200 {
        push(queue, 20, pushed)?;
        failures += u32::from(queue.flush().is_err());
        if failures == 5 {
            return Ok(failures);
        }
    }
    anyhow::bail!("{failures} flushes failed, the store goes on writing")
}

/// All records there are, and those that they say were removed.
pub fn count(queue: &Queue) -> anyhow::Result<(u64, u64)> {
    let (mut records, mut skipped, mut after) = (0, 0, None);
    while let Some(batch) = queue.peek(ONE, after, Limit { records: 500, bytes: 1 << 20 })? {
        records += batch.records.len() as u64;
        skipped += batch.records.iter().map(|record| record.skipped).sum::<u64>();
        after = batch.records.last().map(|record| record.position);
    }
    Ok((records, skipped))
}

pub fn settings(mount_point: &Path) -> Settings {
    Settings {
        dir: mount_point.join("state"),
        gateway: "storm".into(),
        queue: config::Queue {
            quota_bytes: Some(super::QUOTA_BYTES),
            window: Duration::from_millis(100),
            window_outage: Duration::from_millis(100),
            tail_bytes_max: TAIL_BYTES_MAX,
            compression: Compression::None,
            keys: forebay::config::QueueKeys::default(),
        },
        streams: vec![config::Stream {
            name: STREAM.into(),
            topic: STREAM.to_owned(),
            priority: 0,
            durability: Durability::Window,
            retention: Retention::default(),
            drain: None,
            rate: Default::default(),
        }],
    }
}

pub fn push(queue: &Queue, records: u64, pushed: &mut u64) -> anyhow::Result<Position> {
    let mut last = Position::ZERO;
    for _ in 0..records {
        let record = NewRecord {
            stamp: Stamp { boot_ns: *pushed, wall_us: 0, trust: Trust::Unknown },
            source: "source".into(),
            device: "device".into(),
            fields: vec![Field::new("text", Value::Text(format!("{pushed:0>1000}")))],
        };
        let Pushed::Queued(position) = queue.push(ONE, record)? else { anyhow::bail!("a record was set aside") };
        last = position;
        *pushed += 1;
    }
    Ok(last)
}

fn fill(mount_point: &Path) -> anyhow::Result<std::path::PathBuf> {
    let filler = mount_point.join("filler");
    let mut file = std::fs::File::create(&filler)?;
    while file.write_all(&[1; 65536]).is_ok() {}
    Ok(filler)
}

pub fn dropped(metrics: &Metrics) -> u64 {
    let of =
        |reason| metrics.records_dropped.get_or_create(&ByStreamAndReason { stream: STREAM.to_owned(), reason }).get();
    of("tail_full") + of("quota")
}

pub fn until_safe(queue: &Queue, last: Position) -> anyhow::Result<Duration> {
    let mut safe = queue.safe_through(ONE);
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let waited =
        async { tokio::time::timeout(RECOVERY_MAX, safe.wait_for(|safe| *safe >= Some(last))).await.map(drop) };
    runtime.block_on(waited).context("the queue does not go on by itself")?;
    Ok(began.elapsed())
}
