//! A disk that becomes read-only under a queue that works: memory first, one report, nothing durable lost; and on by
//! itself where it becomes writable again.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, ensure};
use forebay::metrics::Metrics;
use forebay::queue::Queue;

use super::disk::{LoopDisk, ReadOnly};
use super::full::{count, dropped, failed_flushes, push, settings, until_safe};

/// The state directory comes under a read-only mount, as by an administrator's hand, and out of it again. What is open
/// can still be written, so that the queue fails at its next epoch.
pub fn for_what_is_opened(disk: &LoopDisk) -> anyhow::Result<()> {
    let said = reports();
    let (metrics, _) = Metrics::new();
    let queue = Queue::open(settings(&disk.mount_point), Arc::clone(&metrics))?;
    let mut pushed = 0;
    for _ in 0..40 {
        push(&queue, 100, &mut pushed)?;
        queue.flush()?;
    }
    let read_only = ReadOnly::over(&disk.mount_point.join("state"))?;
    let failures = failed_flushes(&queue, &mut pushed)?;
    ensure!(reports() == said + 1, "{} reports of {failures} failed flushes", reports() - said);
    drop(read_only);
    let last = push(&queue, 1, &mut pushed)?;
    let took = until_safe(&queue, last)?;
    let (records, skipped) = count(&queue)?;
    ensure!((records, skipped) == (pushed, 0), "{records} records and {skipped} skipped are not {pushed}");
    ensure!(dropped(&metrics) == 0, "{} dropped", dropped(&metrics));
    println!(
        "read-only directory: {failures} flushes failed, reported once, on after {} ms, {records} of {pushed} records there",
        took.as_millis()
    );
    queue.close()?;
    Ok(())
}

/// The file system finds an error and makes itself read-only, for open files too; it stays so until it is repaired and
/// mounted anew, for which the agent has to end. What was durable is read meanwhile and there afterwards.
pub fn for_all(disk: &LoopDisk) -> anyhow::Result<()> {
    let said = reports();
    let queue = Queue::open(settings(&disk.mount_point), Metrics::new().0)?;
    let mut pushed = 0;
    for _ in 0..40 {
        push(&queue, 100, &mut pushed)?;
        queue.flush()?;
    }
    let durable = pushed;
    disk.break_down()?;
    let failures = failed_flushes(&queue, &mut pushed)?;
    ensure!(pushed == durable + 20 * u64::from(failures), "a flush on a read-only file system went through");
    ensure!(reports() == said + 1, "{} reports of {failures} failed flushes", reports() - said);
    ensure!(queue.close().is_err(), "the queue says that it wrote what it could not");
    drop(queue);
    disk.repair()?;
    let queue = Queue::open(settings(&disk.mount_point), Metrics::new().0)?;
    let (records, skipped) = count(&queue).context("read after the repair")?;
    ensure!((records, skipped) == (durable, 0), "{records} records and {skipped} skipped are not {durable}");
    println!(
        "read-only file system: {failures} flushes failed, reported once, {records} of {durable} durable records there after the repair"
    );
    queue.close()?;
    Ok(())
}

/// What the agent has logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How often the agent has reported so far that it cannot store.
pub fn reports() -> usize {
    static LOG: OnceLock<Log> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Log::default();
        let to = log.clone();
        // Only one may be set; without it the counts below fail.
        let _ = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).try_init();
        log
    });
    let bytes = log.0.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&bytes).matches("block store failed").count()
}
