//! `forebay queue`: a look into the queue, beside a running agent or in a copy of its directory on another machine.
//!
//! Nothing here writes to the queue or takes its lock; see [`crate::queue::inspect`].

mod list;
mod progress;
mod records;
mod status;
mod verify;
mod walk;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{EXIT_CONFIGURATION, EXIT_FAILURE};
use crate::queue::inspect::{InspectError, Inspection};

/// Exit code of damaged blocks: `EX_DATAERR` of sysexits(3).
const EXIT_DAMAGED: u8 = 65;
/// Exit code of a directory without a queue: `EX_NOINPUT`.
const EXIT_NO_QUEUE: u8 = 66;
/// Exit code of a queue in another layout: `EX_PROTOCOL`.
const EXIT_VERSION: u8 = 76;
/// Exit code of a directory this user may not read: `EX_NOPERM`.
const EXIT_PERMISSION: u8 = 77;

const EXAMPLES: &str = "\
Only what is durable is seen: records the agent has in memory are in no file, and the durable cursor may be up to
1 MiB or 5 s behind what was delivered.

Examples:
  forebay queue status                                    of /etc/forebay/forebay.toml, beside the agent
  forebay queue --dir /mnt/card/var/lib/forebay verify    a card in another machine
  forebay queue peek --stream telemetry --limit 3
  forebay queue export --from-time 2026-11-22T10:00:00Z --include-delivered --output readings.jsonl

Exit codes:
  0    ended as asked
  1    failed; the last line on standard error says why
  2    the command line is wrong
  65   blocks are damaged or missing; what is whole was shown
  66   there is no queue in the directory
  76   the queue is of another version
  77   this user may not read it
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
}

/// What every command looks at, and how it prints.
struct Look {
    inspection: Inspection,
    tags: BTreeMap<String, String>,
    json: bool,
}

/// Runs the command.
pub(super) fn run(arguments: &QueueArguments) -> anyhow::Result<ExitCode> {
    let (dir, tags) = match &arguments.dir {
        Some(dir) => (dir.clone(), BTreeMap::new()),
        None => {
            let default = PathBuf::from("/etc/forebay/forebay.toml");
            match crate::config::load(arguments.config.as_ref().unwrap_or(&default)) {
                Ok(loaded) => (loaded.config.gateway.state_dir, loaded.config.gateway.tags),
                Err(errors) => {
                    eprintln!("{errors}");
                    return Ok(ExitCode::from(EXIT_CONFIGURATION));
                }
            }
        }
    };
    let outcome = Inspection::open(&dir).map_err(anyhow::Error::from).and_then(|inspection| {
        let look = Look { inspection, tags, json: arguments.json };
        let mut out = io::BufWriter::new(io::stdout().lock());
        let damaged = match &arguments.command {
            Command::Status => status::run(&look, &mut out),
            Command::List(arguments) => list::run(&look, arguments, &mut out),
            Command::Peek(arguments) => records::peek(&look, arguments, &mut out),
            Command::Verify => verify::run(&look, &mut out),
            Command::Export(arguments) => records::export(&look, arguments, &mut out),
        }?;
        out.flush()?;
        Ok(damaged)
    });
    match outcome {
        Ok(Damaged(false)) => Ok(ExitCode::SUCCESS),
        Ok(Damaged(true)) => Ok(ExitCode::from(EXIT_DAMAGED)),
        // Whoever reads our output has seen enough (`| head`).
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("forebay: {error:#}");
            Ok(ExitCode::from(exit_code(&error)))
        }
    }
}

/// Whether a command met blocks it could not read.
struct Damaged(bool);

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<InspectError>() {
        Some(InspectError::NotAQueue { .. }) => EXIT_NO_QUEUE,
        Some(InspectError::Version { .. }) => EXIT_VERSION,
        Some(InspectError::Permission { .. }) => EXIT_PERMISSION,
        Some(InspectError::Io { .. }) | None => EXIT_FAILURE,
    }
}
