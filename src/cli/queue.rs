//! `forebay queue`: a look into the queue, beside a running agent or in a copy of its directory on another machine, and
//! the changes that an operator may want.
//!
//! Looking writes nothing and takes no lock; see [`crate::queue::inspect`]. Changing asks the running agent over its
//! control socket, or takes the lock where no agent runs; see [`crate::queue::admin`].

mod dead_letters;
mod list;
mod progress;
mod purge;
mod records;
mod rekey;
mod repair;
mod status;
mod target;
mod verify;
mod walk;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::{EXIT_CONFIGURATION, EXIT_FAILURE};
use crate::config::{Config, KeyBytes, QueueKeys};
use crate::control::ClientError;
use crate::queue::OpenError;
use crate::queue::cipher::{Keyring, missing_key};
use crate::queue::inspect::{InspectError, Inspection};

/// Exit code of damaged blocks: `EX_DATAERR` of sysexits(3).
const EXIT_DAMAGED: u8 = 65;
/// Exit code of a directory without a queue: `EX_NOINPUT`.
const EXIT_NO_QUEUE: u8 = 66;
/// Exit code of a queue that somebody holds who does not answer: `EX_TEMPFAIL`.
const EXIT_IN_USE: u8 = 75;
/// Exit code of a queue in another layout: `EX_PROTOCOL`.
const EXIT_VERSION: u8 = 76;
/// Exit code of a directory this user may not read, and of a key that is missing: `EX_NOPERM`.
const EXIT_PERMISSION: u8 = 77;

const EXAMPLES: &str = "\
Only what is durable is seen: records the agent has in memory are in no file,
and the durable cursor may be up to 1 MiB or 5 s behind what was delivered.

Examples:
  forebay queue status                                 beside the agent
  forebay queue --dir /mnt/var/lib/forebay verify      a card, elsewhere
  forebay queue peek --stream telemetry --limit 3
  forebay queue export --include-delivered --output readings.jsonl
  forebay queue export --from-time 2026-11-22T10:00:00Z
  forebay queue --dir /mnt/var/lib/forebay --key old.key export

purge, repair, rekey and dead-letters requeue change the queue: a running agent is
asked over its control socket, else the queue's lock is taken.

  forebay queue purge --stream telemetry --before 2026-11-01T00:00:00Z
  forebay queue repair --dry-run
  forebay queue rekey                                  after queue.key was changed
  forebay queue dead-letters list

Exit codes:
  0    ended as asked
  1    failed; the last line on standard error says why
  2    the command line is wrong
  65   blocks are damaged or missing; what is whole was shown
  66   there is no queue in the directory
  75   the queue is held by a process that does not answer
  76   the queue is of another version
  77   this user may not read it, or a key is missing (--key); what is open was shown
  78   the configuration (--config) is wrong";

/// Arguments of `forebay queue`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct QueueArguments {
    /// The state directory (the one that holds `format` and `queue/`); no configuration is read then
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// The configuration that names the state directory; its tags stand in exported records [default:
    /// /etc/forebay/forebay.toml]
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// A file with a key that opens encrypted blocks (may be repeated); those of the configuration are known
    #[arg(long, value_name = "FILE", global = true)]
    key: Vec<PathBuf>,
    /// JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What waits, per stream, and what the queue takes on disk
    Status,
    /// Every block: epoch, stream, positions, records, bytes, and whether it waits
    List(list::ListArguments),
    /// The first records that wait
    Peek(records::PeekArguments),
    /// Read every block and report what is damaged or missing (exit code 65)
    Verify,
    /// Records as JSON lines, in the shape Kafka gets them
    Export(records::ExportArguments),
    /// Remove what waits in a stream, from the oldest on; counted, and marked by `skipped`
    Purge(purge::PurgeArguments),
    /// Bring back the whole blocks of damaged epochs, and say what is lost (exit code 65)
    Repair(repair::RepairArguments),
    /// Encrypt everything with the current key, so that old keys are needed no more
    Rekey(rekey::RekeyArguments),
    /// Records in the dead-letter file: list, export, and queue them again; those in kafka.dead-letter-topic are Kafka's
    DeadLetters(dead_letters::DeadLettersArguments),
}

/// What every command looks at, and how it prints.
struct Look {
    inspection: Inspection,
    tags: BTreeMap<String, String>,
    json: bool,
    keys: Arc<Keyring>,
    config: Option<Config>,
}

/// Runs the command.
pub(super) fn run(arguments: &QueueArguments) -> anyhow::Result<ExitCode> {
    super::logging::start(super::logging::QUIET);
    let config = match &arguments.dir {
        Some(_) => None,
        None => {
            let default = PathBuf::from("/etc/forebay/forebay.toml");
            match crate::config::load(arguments.config.as_ref().unwrap_or(&default)) {
                Ok(loaded) => Some(loaded.config),
                Err(errors) => {
                    eprintln!("{errors}");
                    return Ok(ExitCode::from(EXIT_CONFIGURATION));
                }
            }
        }
    };
    let outcome = look(arguments, config).and_then(|look| {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let ended = match &arguments.command {
            Command::Status => status::run(&look, &mut out),
            Command::List(arguments) => list::run(&look, arguments, &mut out),
            Command::Peek(arguments) => records::peek(&look, arguments, &mut out),
            Command::Verify => verify::run(&look, &mut out),
            Command::Export(arguments) => records::export(&look, arguments, &mut out),
            Command::Purge(arguments) => purge::run(&look, arguments, &mut out),
            Command::Repair(arguments) => repair::run(&look, arguments, &mut out),
            Command::Rekey(arguments) => rekey::run(&look, arguments, &mut out),
            Command::DeadLetters(arguments) => dead_letters::run(&look, arguments, &mut out),
        }?;
        out.flush()?;
        Ok(ended)
    });
    match outcome {
        Ok(Ended::Well) => Ok(ExitCode::SUCCESS),
        Ok(Ended::Damaged) => Ok(ExitCode::from(EXIT_DAMAGED)),
        Ok(Ended::KeyMissing) => Ok(ExitCode::from(EXIT_PERMISSION)),
        // Whoever reads our output has seen enough (`| head`).
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("forebay: {error:#}");
            Ok(ExitCode::from(exit_code(&error)))
        }
    }
}

/// Opens the queue for a look, with all keys at hand.
fn look(arguments: &QueueArguments, config: Option<Config>) -> anyhow::Result<Look> {
    let (dir, tags, mut keys) = match &config {
        Some(config) => (&config.gateway.state_dir, config.gateway.tags.clone(), config.queue.keys.clone()),
        None => (arguments.dir.as_ref().context("no directory")?, BTreeMap::new(), QueueKeys::default()),
    };
    for path in &arguments.key {
        keys.old.push(read_key(path)?);
    }
    let keys = Keyring::new(&keys);
    let inspection = Inspection::open(dir)?.with_keys(Arc::clone(&keys));
    Ok(Look { inspection, tags, json: arguments.json, keys, config })
}

fn read_key(path: &Path) -> anyhow::Result<KeyBytes> {
    KeyBytes::read(path).map_err(|why| anyhow::anyhow!("key file {} cannot be used: {why}", path.display()))
}

/// How a command ended that did what it could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Well,
    /// It met blocks that are not whole.
    Damaged,
    /// It met something whose key is not at hand.
    KeyMissing,
}

impl Ended {
    fn damaged(damaged: bool) -> Self {
        if damaged { Self::Damaged } else { Self::Well }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<OpenError>() {
        Some(OpenError::Locked { .. }) => return EXIT_IN_USE,
        Some(OpenError::Permission { .. } | OpenError::WrongKey { .. }) => return EXIT_PERMISSION,
        Some(OpenError::Version { .. } | OpenError::StateVersion { .. }) => return EXIT_VERSION,
        _ => {}
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Permission { .. }) => return EXIT_PERMISSION,
        Some(ClientError::NoAnswer { .. }) => return EXIT_IN_USE,
        _ => {}
    }
    if missing_key(error).is_some() {
        return EXIT_PERMISSION;
    }
    match error.downcast_ref::<InspectError>() {
        Some(InspectError::NotAQueue { .. }) => EXIT_NO_QUEUE,
        Some(InspectError::Version { .. }) => EXIT_VERSION,
        Some(InspectError::Permission { .. }) => EXIT_PERMISSION,
        Some(InspectError::Io { .. }) | None => EXIT_FAILURE,
    }
}
