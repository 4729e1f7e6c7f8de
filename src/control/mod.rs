//! The control socket: how `forebay queue` asks a running agent, which alone may change its queue.
//!
//! A Unix socket `<state-dir>/control.sock`, mode 0660: who may open it may change the queue. One request a connection:
//! one JSON object on one line, answered by one line. Every request names the version of the protocol; what it asks is one
//! bounded step ([`crate::queue::admin`]), so that nobody waits long, the agent least of all.
//!
//! ```text
//! {"version":1,"command":"purge","stream":"telemetry","through":"17:48213"}
//! {"version":1,"ok":true,"result":{"epoch":12,"epochs_left":0,"records":512,"blocks":0,"held":0,"lost":0}}
//! {"version":1,"ok":false,"error":"..."}
//! ```

mod client;
mod server;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use client::{Client, ClientError};
pub use server::Server;

/// Version of the protocol.
pub const VERSION: u32 = 1;
/// Longest request in bytes; 256 positions and 16 streams fit.
pub const REQUEST_BYTES_MAX: u64 = 16 * 1024;
/// Longest answer in bytes.
pub const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Where the socket of a state directory is.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// What can be asked for. Positions are `RUN:SEQ`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Who answers: [`Info`].
    Info,
    /// The last position that a stream has given, in memory or on disk: [`Newest`].
    Newest {
        /// The stream.
        stream: String,
    },
    /// One step of removing a stream's oldest records: [`crate::queue::admin::Step`], as all that follow.
    Purge {
        /// The stream.
        stream: String,
        /// The last position that may go.
        through: String,
    },
    /// One step of giving back the disk of what was removed.
    Scrub {
        /// The stream.
        stream: String,
        /// The epoch of the step before.
        after: Option<u64>,
    },
    /// One step of encrypting everything under the agent's current key.
    Rekey {
        /// The epoch of the step before.
        after: Option<u64>,
    },
    /// The same for the dead-letter file, whole.
    RekeyDeadLetters,
    /// One step of comparing epochs with their raw bytes.
    Check {
        /// The epoch of the step before.
        after: Option<u64>,
    },
    /// Another try for records that were set aside: [`crate::queue::Requeued`].
    Requeue {
        /// Of these streams; none: of all.
        #[serde(default)]
        streams: Vec<String>,
        /// At these positions; none: all.
        #[serde(default)]
        positions: Vec<String>,
    },
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`]
    pub version: u32,
    /// What is asked for.
    #[serde(flatten)]
    pub command: Command,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`]
    pub version: u32,
    /// It was done.
    pub ok: bool,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Process id.
    pub pid: u32,
    /// Version of the agent.
    pub agent: String,
    /// The id of the key that it encrypts with.
    pub key: Option<String>,
}

/// Answer to [`Command::Newest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    /// The position.
    pub position: String,
}
