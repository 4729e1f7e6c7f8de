//! One agent per state directory: flock(2) on `<dir>/lock`, which the kernel releases however the holder ends, and the
//! `format` file that says which layout the directory has.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::disk;
use super::error::OpenError;

/// What the `format` file holds.
pub(crate) const FORMAT: &str = "forebay-queue 1";
/// More than this is not read of small text files.
const TEXT_BYTES_MAX: u64 = 256;

/// Held as long as the queue is open: until the last clone is gone.
#[derive(Debug, Clone)]
pub(crate) struct Lock {
    _file: Arc<File>,
}

impl Lock {
    /// Takes the lock, creating the directory where it is missing.
    pub(crate) fn take(dir: &Path) -> Result<Self, OpenError> {
        create_durably(dir).map_err(|error| OpenError::io("create", dir, error))?;
        let path = dir.join("lock");
        let failed = |what| move |path: &Path, error: std::io::Error| OpenError::io(what, path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| failed("open")(&path, error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = read_text(&mut file).unwrap_or_default();
                let pid = if pid.is_empty() { "?".to_owned() } else { pid };
                return Err(OpenError::Locked { path, pid });
            }
            Err(error) => return Err(failed("lock")(&path, error.into())),
        }
        let pid = format!("{}\n", std::process::id());
        // Over the old text first: on a full disk a file that was emptied may not get its block back.
        let written = file.rewind().and_then(|()| file.write_all(pid.as_bytes()));
        let written = written.and_then(|()| file.set_len(pid.len() as u64));
        written.map_err(|error| failed("write")(&path, error))?;
        check_format(dir)?;
        Ok(Self { _file: Arc::new(file) })
    }
}

/// Makes the directory with those above it, and their names durable.
fn create_durably(dir: &Path) -> std::io::Result<()> {
    let missing: Vec<&Path> = dir.ancestors().take_while(|above| !above.exists()).collect();
    std::fs::create_dir_all(dir)?;
    for made in missing {
        // A relative path's first part lies in the working directory.
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        disk::sync_dir(parent.unwrap_or(Path::new(".")))?;
        if parent.is_none() {
            break;
        }
    }
    Ok(())
}

fn check_format(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join("format");
    match File::open(&path) {
        Ok(mut file) => {
            let found = read_text(&mut file).map_err(|error| OpenError::io("read", &path, error))?;
            if found == FORMAT {
                return Ok(());
            }
            // An empty file is what a power cut leaves of the very first start.
            if !found.is_empty() {
                return Err(OpenError::Version { path: dir.to_owned(), found, known: FORMAT });
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(OpenError::io("open", &path, error)),
    }
    disk::write_atomically(&path, format!("{FORMAT}\n").as_bytes())
        .map_err(|error| OpenError::io("write", &path, error))
}

fn read_text(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.take(TEXT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_learns_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Lock::take(dir.path()).unwrap();
    }

    #[test]
    fn a_directory_of_another_layout_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("format"), "forebay-queue 2\n").unwrap();
        let error = Lock::take(dir.path()).unwrap_err();
        assert!(matches!(&error, OpenError::Version { found, .. } if found == "forebay-queue 2"), "{error}");
    }
}
