//! Answers on the control socket, inside the agent. A few connections at a time, one command at a time.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Answer, Command, Info, Newest, REQUEST_BYTES_MAX, Request, VERSION, socket_path};
use crate::queue::admin::Task;
use crate::queue::{LetterChoice, Queue};
use crate::reading::Position;

/// Most connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4;
/// Longest wait for a request, and for its answer to be taken.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);
/// Who may ask: the agent's user and group.
const MODE: u32 = 0o660;

/// The running server.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens beside the queue, whose lock says that a socket found there is a leftover.
    ///
    /// # Errors
    /// When the socket cannot be made: another kind of file has its name, or the path is longer than a socket's may be.
    pub fn start(queue: Queue) -> anyhow::Result<Self> {
        let path = socket_path(queue.dir());
        let listener = bind(&path).with_context(|| format!("control socket {}", path.display()))?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(accept(listener, queue, stop.clone()));
        Ok(Self { path, stop, task })
    }

    /// Stops answering; a command that has begun comes to its end on its own thread.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
        // Where it is gone already, so much the better.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => anyhow::bail!("is no socket; move it away"),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    Ok(listener)
}

async fn accept(listener: UnixListener, queue: Queue, stop: CancellationToken) {
    let one_at_a_time = Arc::new(Mutex::new(()));
    let mut connections = JoinSet::new();
    loop {
        let room = connections.len() < CONNECTIONS_MAX;
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, queue.clone(), Arc::clone(&one_at_a_time)));
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket");
                    // Out of descriptors, most likely: they come back, and meanwhile this must not spin.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

async fn serve(mut stream: UnixStream, queue: Queue, one_at_a_time: Arc<Mutex<()>>) {
    let (reader, mut writer) = stream.split();
    let mut line = Vec::new();
    let mut limited = BufReader::new(reader.take(REQUEST_BYTES_MAX + 1));
    match tokio::time::timeout(EXCHANGE_MAX, limited.read_until(b'\n', &mut line)).await {
        Ok(Ok(count)) if count > 0 => {}
        _ => return,
    }
    let answer = match parse(&line) {
        Ok(command) => {
            let _turn = one_at_a_time.lock().await;
            let done = tokio::task::spawn_blocking(move || run(&queue, command)).await;
            done.unwrap_or_else(|error| Err(anyhow::anyhow!("the command ended badly: {error}")))
        }
        Err(error) => Err(error),
    };
    let answer = match answer {
        Ok(result) => Answer { version: VERSION, ok: true, result: Some(result), error: None },
        Err(error) => Answer { version: VERSION, ok: false, result: None, error: Some(format!("{error:#}")) },
    };
    let mut bytes = serde_json::to_vec(&answer).unwrap_or_default();
    bytes.push(b'\n');
    // Whoever asked may be gone.
    let _ = tokio::time::timeout(EXCHANGE_MAX, writer.write_all(&bytes)).await;
}

fn parse(line: &[u8]) -> anyhow::Result<Command> {
    let bytes = line.len();
    anyhow::ensure!(bytes as u64 <= REQUEST_BYTES_MAX, "request is longer than {REQUEST_BYTES_MAX} bytes");
    let value: serde_json::Value = serde_json::from_slice(line).context("request is not JSON")?;
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    anyhow::ensure!(
        version == Some(u64::from(VERSION)),
        "request has version {}, this agent speaks version {VERSION}",
        version.map_or_else(|| "none".to_owned(), |version| version.to_string())
    );
    let request: Request = serde_json::from_value(value).context("request is not known")?;
    Ok(request.command)
}

/// Does a command; blocks.
fn run(queue: &Queue, command: Command) -> anyhow::Result<serde_json::Value> {
    let step = |task| Ok(serde_json::to_value(queue.administer(task)?)?);
    match command {
        Command::Info => {
            let key = queue.key_id().map(|key| key.to_string());
            let agent = env!("CARGO_PKG_VERSION").to_owned();
            Ok(serde_json::to_value(Info { pid: std::process::id(), agent, key })?)
        }
        Command::Newest { stream } => {
            let position = queue.newest(&stream)?.to_string();
            Ok(serde_json::to_value(Newest { position })?)
        }
        Command::Purge { stream, through } => {
            // A stream that does not exist is a mistake, not nothing to do.
            queue.newest(&stream)?;
            step(Task::Purge { stream: stream.into(), through: position(&through)? })
        }
        Command::Scrub { stream, after } => step(Task::Scrub { stream: stream.into(), after }),
        Command::Rekey { after } => step(Task::Rekey { after }),
        Command::RekeyDeadLetters => step(Task::RekeyDeadLetters),
        Command::Check { after } => step(Task::Check { after }),
        Command::Requeue { streams, positions } => {
            let positions = positions.iter().map(|text| position(text)).collect::<anyhow::Result<_>>()?;
            Ok(serde_json::to_value(queue.requeue(&LetterChoice { streams, positions })?)?)
        }
    }
}

fn position(text: &str) -> anyhow::Result<Position> {
    text.parse().map_err(|error| anyhow::anyhow!("{text:?}: {error}"))
}
