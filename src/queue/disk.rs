//! Disk space and durable small steps: how much is used and free, the ballast that makes a full disk survivable, and
//! the write-fsync-rename-fsync and rename-fsync-delete sequences every part of the queue uses.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Largest default quota.
const QUOTA_DEFAULT_BYTES_MAX: u64 = 2 << 30;
/// Smallest quota; less cannot hold ballast, two epochs and the state.
pub(crate) const QUOTA_BYTES_MIN: u64 = 16 << 20;

/// The quota of a first start with `free_bytes` free and none configured.
pub(crate) fn default_quota_bytes(free_bytes: u64) -> u64 {
    (free_bytes / 2).clamp(QUOTA_BYTES_MIN, QUOTA_DEFAULT_BYTES_MAX)
}

/// Size of an epoch under a quota.
pub(crate) fn epoch_bytes(quota_bytes: u64) -> u64 {
    (quota_bytes / 64).clamp(256 << 10, 4 << 20)
}

/// Size of the ballast under a quota: two epochs, and what sled writes when it opens one.
pub(crate) fn ballast_bytes(quota_bytes: u64) -> u64 {
    2 * epoch_bytes(quota_bytes) + (1 << 20)
}

/// Bytes the file system has left for us.
pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes a file or a directory with all below it takes, as the file system counts them (`st_blocks`); what vanishes
/// meanwhile counts nothing. Entries of `dir` itself for which `skip` says so are left out.
pub(crate) fn used_bytes(dir: &Path, skip: &dyn Fn(&str) -> bool) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(dir) else { return 0 };
    let mut used_bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !skip(&entry.file_name().to_string_lossy()) {
                used_bytes += self::used_bytes(&entry.path(), &|_| false);
            }
        }
    }
    used_bytes
}

/// fsync of a directory: makes renames and new names in it durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes a whole small file so that a power cut leaves the old or the new one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Prefix of directories on their way out.
pub(crate) const DEAD_PREFIX: &str = "dead-";

/// What is ever buried: databases of blocks and of the state.
const BURIED_PREFIXES: [&str; 2] = ["epoch-", "state-"];

/// Removes a directory so that a power cut never leaves half of it under its name: rename, fsync, delete.
pub(crate) fn bury(dir: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no directory to remove"));
    };
    let dead = parent.join(format!("{DEAD_PREFIX}{}", name.to_string_lossy()));
    if dead.exists() {
        fs::remove_dir_all(&dead)?;
    }
    fs::rename(dir, &dead)?;
    sync_dir(parent)?;
    fs::remove_dir_all(&dead)
}

/// Deletes what an earlier [`bury`] did not finish.
pub(crate) fn sweep_dead(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        // Nothing else that begins alike: the dead-letter file does.
        let name = entry.file_name();
        let buried = name
            .to_str()
            .and_then(|name| name.strip_prefix(DEAD_PREFIX))
            .is_some_and(|name| BURIED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
        if buried && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Removes sled's half-written snapshots, which keep it from opening its database.
/// Safe: sled renames a snapshot only when it is whole.
pub(crate) fn remove_half_snapshots(database_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(database_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes the ballast of `queue_dir` where less than its size is free: a start writes before the quota, and so the
/// ballast's right size, is known. Opening the epochs makes it again.
pub(crate) fn give_up_ballast_when_full(queue_dir: &Path, free_bytes: u64) {
    let path = queue_dir.join("ballast");
    if fs::metadata(&path).is_ok_and(|metadata| free_bytes < metadata.len()) {
        match fs::remove_file(&path) {
            Ok(()) => tracing::warn!(free_bytes, "disk is full, ballast given up to start"),
            Err(error) => tracing::warn!(error = %error, "disk is full, ballast cannot be given up"),
        }
    }
}

/// A preallocated file that is given up when the disk is full after all, because sled cannot even open a database on a
/// full disk.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    pub(crate) fn new(queue_dir: &Path, bytes: u64) -> Self {
        Self { path: queue_dir.join("ballast"), bytes }
    }

    /// Creates it where it is missing and the disk has room for it twice. A disk without room stays as it is.
    pub(crate) fn ensure(&self) -> io::Result<()> {
        if fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() == self.bytes) {
            return Ok(());
        }
        self.give_up();
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        if free_bytes(parent)? < 2 * self.bytes {
            return Ok(());
        }
        let file = File::create(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Ok(()) => file.sync_all(),
            Err(error) => {
                self.give_up();
                // A file system without fallocate: there is no ballast, the free-space reserve stands alone.
                if error == rustix::io::Errno::OPNOTSUPP { Ok(()) } else { Err(error.into()) }
            }
        }
    }

    /// Bytes that giving it up would free.
    pub(crate) fn held_bytes(&self) -> u64 {
        used_bytes(&self.path, &|_| false)
    }

    /// Deletes it, to free its space.
    pub(crate) fn give_up(&self) {
        // Missing is what is wanted; another failure shows as a disk that stays full.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_quota_within_their_limits() {
        assert_eq!(default_quota_bytes(0), 16 << 20);
        assert_eq!(default_quota_bytes(1 << 30), 512 << 20);
        assert_eq!(default_quota_bytes(u64::MAX), 2 << 30);
        assert_eq!(epoch_bytes(16 << 20), 256 << 10);
        assert_eq!(epoch_bytes(128 << 20), 2 << 20);
        assert_eq!(epoch_bytes(2 << 30), 4 << 20);
    }

    #[test]
    fn the_ballast_takes_space_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path(), 1 << 20);
        let before = used_bytes(dir.path(), &|_| false);
        ballast.ensure().unwrap();
        assert!(used_bytes(dir.path(), &|_| false) >= before + (1 << 20));
        ballast.give_up();
        assert!(used_bytes(dir.path(), &|_| false) < before + (1 << 20));
    }

    #[test]
    fn a_start_gives_the_ballast_up_only_on_a_full_disk() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path(), 1 << 20);
        ballast.ensure().unwrap();
        give_up_ballast_when_full(dir.path(), 1 << 20);
        assert!(dir.path().join("ballast").exists());
        give_up_ballast_when_full(dir.path(), (1 << 20) - 1);
        assert!(!dir.path().join("ballast").exists());
    }

    #[test]
    fn a_buried_directory_is_gone_and_leftovers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("epoch-1");
        fs::create_dir(&victim).unwrap();
        fs::create_dir(dir.path().join("dead-state-3")).unwrap();
        fs::create_dir(dir.path().join("dead-reckoning")).unwrap();
        fs::write(dir.path().join("dead-letter.jsonl"), "{}\n").unwrap();
        bury(&victim).unwrap();
        sweep_dead(dir.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["dead-letter.jsonl", "dead-reckoning"], "what is not ours stays");
    }
}
