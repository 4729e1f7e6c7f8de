//! Why a queue cannot be opened: each variant is something an operator can act on.

use std::path::{Path, PathBuf};

/// Errors of opening a queue.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another agent holds the state directory.
    #[error("state directory {path} is in use by process {pid}")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The holder's process id, as it wrote it; `?` where it did not.
        pid: String,
    },
    /// The agent may not read or write there.
    #[error("no permission for {path}: the agent's user must own the state directory")]
    Permission {
        /// What could not be touched.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The directory was written by an agent with another layout.
    #[error("state directory {path} has format {found:?}, this agent reads {known:?}")]
    Version {
        /// The directory.
        path: PathBuf,
        /// What its `format` file says.
        found: String,
        /// What this agent writes.
        known: &'static str,
    },
    /// The durable state was written by a newer agent; going on without it would send records again or lose them.
    #[error("newest state below {path} has version {found}, this agent reads version {known}: install a newer agent")]
    StateVersion {
        /// The directory of the queue.
        path: PathBuf,
        /// The state's version.
        found: u16,
        /// What this agent reads and writes.
        known: u16,
    },
    /// The queue is encrypted with a key that is not configured.
    #[error(
        "the queue is encrypted with key {needed} ({path}); queue.key is {}, and that key is not among queue.old-keys",
        given.map_or_else(|| "not configured".to_owned(), |given| format!("key {given}"))
    )]
    WrongKey {
        /// The record that says so.
        path: PathBuf,
        /// The id of the key it needs.
        needed: super::cipher::KeyId,
        /// The id of the key that is configured.
        given: Option<super::cipher::KeyId>,
    },
    /// The file system failed.
    #[error("{what} failed for {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store failed while it was recovered.
    #[error("queue cannot be recovered")]
    Store(#[from] super::store::StoreError),
    /// The run counter is used up (8 388 607 starts).
    #[error("run {run} is the last one a queue can have; start a new state directory")]
    RunsUsedUp {
        /// The last run.
        run: u32,
    },
}

impl OpenError {
    /// From an I/O error; permission is told apart.
    pub(crate) fn io(what: &'static str, path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            std::io::ErrorKind::PermissionDenied => Self::Permission { path, source },
            _ => Self::Io { what, path, source },
        }
    }
}
