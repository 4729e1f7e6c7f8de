//! Read-only inspection of a queue's directory, beside a running agent or on a copy, by raw scan.
//!
//! sled is never opened here: it would want the agent's lock, and cuts its log at the first bad byte. What a look finds
//! is the durable part; records that the agent has in memory only are not in any file.
//!
//! While it looks, the agent may write, rewrite and delete epochs. An epoch that vanishes was delivered, dropped or
//! rewritten into its next generation; the latter is looked at in its place.

mod epoch;
mod index;
mod verify;

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::epoch::{BlockAt, EpochView, Newer};
pub use self::index::{EpochFiles, Seen};
pub use self::verify::{Finding, Verdict, Verifier};
use super::cipher::{KeyId, Keyring};
use super::lane::Lanes;
use super::lock::FORMAT;
use super::state::{self, State, StreamState};
use crate::reading::Position;

/// More than this is not read of the `format` file.
const FORMAT_BYTES_MAX: u64 = 256;
/// The state's database is replaced by a new one while we look; once is likely, three times in a row is not.
const STATE_TRIES: u32 = 3;

/// Why a queue cannot be looked at: each variant is something an operator can act on.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The directory is missing, or holds no queue.
    #[error("{path} is not a queue: {reason}")]
    NotAQueue {
        /// The directory given.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// Written in another layout.
    #[error("state directory {path} has format {found:?}, this forebay reads {FORMAT:?}")]
    Version {
        /// The directory.
        path: PathBuf,
        /// What its `format` file says.
        found: String,
    },
    /// This user may not read it.
    #[error("no permission to read {path}: run as the agent's user or as root")]
    Permission {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file system failed.
    #[error("{path} cannot be read")]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl InspectError {
    fn io(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            std::io::ErrorKind::PermissionDenied => Self::Permission { path, source },
            _ => Self::Io { path, source },
        }
    }
}

/// A queue's directory, opened for looking.
#[derive(Debug)]
pub struct Inspection {
    dir: PathBuf,
    queue_dir: PathBuf,
    state: Option<State>,
    keys: Arc<Keyring>,
}

impl Inspection {
    /// Checks that the state directory `dir` holds a queue of the known format, and reads its durable state.
    ///
    /// A directory without a `format` file is taken where its `queue` directory holds epochs or a state, so that a copy
    /// of `queue` alone can be read.
    ///
    /// # Errors
    /// When it holds no queue, one of another format, or cannot be read.
    pub fn open(dir: &Path) -> Result<Self, InspectError> {
        let not_a_queue = |reason| InspectError::NotAQueue { path: dir.to_owned(), reason };
        let metadata = std::fs::metadata(dir).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => not_a_queue("it does not exist"),
            _ => InspectError::io(dir, error),
        })?;
        if !metadata.is_dir() {
            return Err(not_a_queue("it is not a directory"));
        }
        let format = read_format(&dir.join("format"))?;
        if !matches!(format.as_str(), "" | FORMAT) {
            return Err(InspectError::Version { path: dir.to_owned(), found: format });
        }
        let queue_dir = dir.join("queue");
        let names = match index::names(&queue_dir) {
            Ok(names) => names,
            Err(InspectError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(not_a_queue(match index::names(dir)?.iter().any(|name| index::is_part_of_a_queue(name)) {
                    true => "it is the inner directory `queue`; give the state directory above it",
                    false => "it has no directory `queue`",
                }));
            }
            Err(error) => return Err(error),
        };
        if format.is_empty() && !names.iter().any(|name| index::is_part_of_a_queue(name)) {
            return Err(not_a_queue("it has no file `format`, and `queue` holds neither epochs nor a state"));
        }
        let mut inspection = Self { dir: dir.to_owned(), queue_dir, state: None, keys: Arc::default() };
        inspection.state = inspection.read_state()?;
        Ok(inspection)
    }

    /// With keys to open encrypted blocks. Without them everything but records can be looked at.
    pub fn with_keys(self, keys: Arc<Keyring>) -> Self {
        Self { keys, ..self }
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The durable state as it was when the look began; `None` where none is whole.
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// Reads the durable state as it is now.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn read_state(&self) -> Result<Option<State>, InspectError> {
        for _ in 0..STATE_TRIES {
            let newest = state::newest(&self.queue_dir).map_err(|error| match error {
                state::ReadError::Io(error) => InspectError::io(&self.queue_dir, error),
                newer => InspectError::io(&self.queue_dir, std::io::Error::other(newer)),
            })?;
            if newest.is_some() {
                return Ok(newest);
            }
        }
        Ok(None)
    }

    /// What of a stream is still to be delivered, by the state as it was when the look began. A stream that the state
    /// does not know has been delivered nothing of.
    ///
    /// The durable cursor may be up to 1 MiB or 5 s behind what the agent has delivered.
    pub fn lanes(&self, stream: &str) -> Lanes {
        let known = self.state.iter().flat_map(|state| &state.streams).find(|known| &*known.name == stream);
        known.map_or_else(|| Lanes::from_cursor(Position::ZERO), StreamState::lanes)
    }

    /// The process that holds the directory's lock, where this machine's kernel shows one: an agent that runs.
    ///
    /// By `/proc/locks` (proc_locks(5)), because taking the lock, even for a moment, could turn a starting agent away.
    pub fn agent_pid(&self) -> Option<u32> {
        let metadata = std::fs::metadata(self.dir.join("lock")).ok()?;
        let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
        let file = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [_, "FLOCK", _, _, pid, held, ..] = words.as_slice() else { return None };
            if *held == file { pid.parse().ok() } else { None }
        })
    }

    /// The id of the key that new blocks are encrypted with; `None`: they are not, as far as can be told.
    pub fn key(&self) -> Option<KeyId> {
        super::key_check::named(&self.dir)
    }

    /// Bytes of disk that the whole state directory takes.
    pub fn disk_bytes(&self) -> u64 {
        super::disk::used_bytes(&self.dir, &|_| false)
    }

    /// Damaged generations that the agent has set aside in `quarantine`.
    pub fn quarantined(&self) -> usize {
        index::names(&self.queue_dir.join("quarantine")).map_or(0, |names| names.len())
    }

    /// Directories that a start of the agent deletes: on their way out, and generations that are not in force.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn leftovers(&self) -> Result<usize, InspectError> {
        let names = index::names(&self.queue_dir)?;
        let dead = names
            .iter()
            .filter(|name| name.strip_prefix(super::disk::DEAD_PREFIX).is_some_and(index::is_part_of_a_queue));
        let generations = names.iter().filter(|name| super::epoch::parse_name(name).is_some()).count();
        Ok(dead.count() + generations.saturating_sub(self.epochs()?.len()))
    }

    /// The epochs, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn epochs(&self) -> Result<Vec<EpochFiles>, InspectError> {
        index::epochs(&self.queue_dir)
    }

    /// Looks at one epoch: all its blocks by position, their headers only. `None`: it has vanished meanwhile.
    ///
    /// `on_bytes` is told how many bytes have been read, as they are.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn look(&self, files: &EpochFiles, on_bytes: &mut dyn FnMut(u64)) -> Result<Option<EpochView>, InspectError> {
        if let Some(view) = epoch::look(files, &self.keys, on_bytes)? {
            return Ok(Some(view));
        }
        // The agent renames a generation away only once the next one is whole.
        match self.epochs()?.into_iter().find(|now| now.number == files.number) {
            Some(now) => epoch::look(&now, &self.keys, on_bytes),
            None => Ok(None),
        }
    }
}

/// The text of the `format` file; empty where there is none.
fn read_format(path: &Path) -> Result<String, InspectError> {
    let mut bytes = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => {
            file.take(FORMAT_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| InspectError::io(path, error))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(InspectError::io(path, error)),
    }
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests;
