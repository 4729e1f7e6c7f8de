//! Asks a running agent. Blocking; for the command line.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{ANSWER_BYTES_MAX, Answer, Command, Info, Request, VERSION, socket_path};

/// Longest wait for an answer: longer than the agent waits for its store.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Why an agent could not be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: no agent runs on this directory, or its socket is out of reach.
    #[error("no agent answers at {path}: {source}")]
    Nobody {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// This user may not ask it.
    #[error("no permission for {path}: ask as the agent's user, its group or root")]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// The answer did not come, or makes no sense.
    #[error("the agent at {path} does not answer: {reason}")]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The agent did not do it.
    #[error("the agent refuses: {0}")]
    Refused(String),
}

/// An agent that answered once.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    /// Who it is.
    pub info: Info,
}

impl Client {
    /// Finds the agent that runs on a state directory.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn find(state_dir: &Path) -> Result<Self, ClientError> {
        let path = socket_path(state_dir);
        let info = ask(&path, Command::Info)?;
        Ok(Self { path, info })
    }

    /// Asks for one thing and waits for it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn ask<T: DeserializeOwned>(&self, command: Command) -> Result<T, ClientError> {
        ask(&self.path, command)
    }
}

fn ask<T: DeserializeOwned>(path: &Path, command: Command) -> Result<T, ClientError> {
    let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::PermissionDenied => ClientError::Permission { path: path.to_owned() },
        _ => ClientError::Nobody { path: path.to_owned(), source },
    })?;
    let no_answer = |reason: String| ClientError::NoAnswer { path: path.to_owned(), reason };
    let line = exchange(&stream, command).map_err(|error| no_answer(error.to_string()))?;
    let answer: Answer = serde_json::from_str(&line).map_err(|error| no_answer(error.to_string()))?;
    if !answer.ok {
        return Err(ClientError::Refused(answer.error.unwrap_or_else(|| "it does not say why".to_owned())));
    }
    serde_json::from_value(answer.result.unwrap_or_default()).map_err(|error| no_answer(error.to_string()))
}

fn exchange(mut stream: &UnixStream, command: Command) -> std::io::Result<String> {
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    let mut request = serde_json::to_vec(&Request { version: VERSION, command })?;
    request.push(b'\n');
    stream.write_all(&request)?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
    Ok(line)
}
