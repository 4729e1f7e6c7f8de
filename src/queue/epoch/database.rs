//! One sled database behind a fence: every call is caught if it panics, and flush means fsync.
//!
//! sled's own `flush` ends in `sync_file_range`, which neither writes the file's size nor empties the device's cache,
//! so [`Database::sync`] also calls fsync(2) on an own handle of the log. A handle that failed once is dead: sled keeps
//! its error for ever, and may hang.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use crate::queue::disk;

/// Tries to open while a handle dropped a moment ago still lets go of its file lock on sled's threads.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Of sled's page cache; measured to make no difference to memory or speed here.
const CACHE_BYTES: u64 = 1 << 20;

/// An open database.
pub(crate) struct Database {
    sled: Option<sled::Db>,
    log: File,
    dir: PathBuf,
    failed: bool,
}

impl Database {
    /// Opens or creates the database of `dir`.
    pub(crate) fn open(dir: &Path, segment_bytes: usize) -> anyhow::Result<Self> {
        if dir.exists() {
            disk::remove_half_snapshots(dir).context("remove half-written snapshots")?;
        }
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .segment_size(segment_bytes)
            .flush_every_ms(None)
            .use_compression(false);
        for _ in 0..LOCK_TRIES {
            match fence(|| config.open()) {
                Ok(sled) => {
                    let log = File::open(dir.join("db")).context("open log")?;
                    return Ok(Self { sled: Some(sled), log, dir: dir.to_owned(), failed: false });
                }
                Err(error) if format!("{error:#}").contains("could not acquire lock") => {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(error) => return Err(error.context("open database")),
            }
        }
        bail!("database is still locked after {} ms", LOCK_TRIES * LOCK_PAUSE.subsec_millis())
    }

    /// Inserts; not durable before [`Self::sync`].
    pub(crate) fn insert(&mut self, tree: &[u8], key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        self.call(|sled| sled.open_tree(tree)?.insert(key, value).map(drop)).context("insert")
    }

    /// Looks up.
    pub(crate) fn get(&mut self, tree: &[u8], key: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
        self.call(|sled| Ok(sled.open_tree(tree)?.get(key)?.map(|value| value.to_vec()))).context("get")
    }

    /// Makes all inserts durable.
    pub(crate) fn sync(&mut self) -> anyhow::Result<()> {
        self.call(|sled| sled.flush().map(drop)).context("flush")?;
        self.log.sync_all().inspect_err(|_| self.failed = true).context("fsync log")
    }

    /// [`Self::sync`] for a new database: its configuration and its name become durable as well, which sled leaves out.
    pub(crate) fn sync_new(&mut self) -> anyhow::Result<()> {
        self.sync()?;
        File::open(self.dir.join("conf")).and_then(|file| file.sync_all()).context("fsync conf")?;
        disk::sync_dir(&self.dir).context("fsync database directory")?;
        disk::sync_dir(self.dir.parent().unwrap_or(Path::new("/"))).context("fsync parent directory")
    }

    fn call<T>(&mut self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> anyhow::Result<T> {
        let Some(sled) = self.sled.as_ref().filter(|_| !self.failed) else {
            bail!("database handle failed before");
        };
        fence(|| call(sled)).inspect_err(|_| self.failed = true)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sled = self.sled.take();
        // sled's own drop panics when its last fsync fails; whatever was to be durable has been synced before.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(sled)));
    }
}

/// Runs a call into sled; a panic becomes an error.
fn fence<T>(call: impl FnOnce() -> sled::Result<T>) -> anyhow::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(anyhow::Error::from),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(anyhow!("sled panicked: {text}"))
        }
    }
}
