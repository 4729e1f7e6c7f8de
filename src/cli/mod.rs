//! The command line: one file a command, exit codes, logging.

mod check;
mod consume;
#[cfg(feature = "demo")]
pub mod demo;
mod logging;
mod queue;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Exit code of a bad configuration: `EX_CONFIG` of sysexits(3).
pub const EXIT_CONFIGURATION: u8 = 78;
/// Exit code of any other failure.
pub const EXIT_FAILURE: u8 = 1;

const EXAMPLES: &str = "\
Examples:
  forebay check --config /etc/forebay/forebay.toml    all mistakes at once, each with its place
  forebay check --online                              the same, then what would go wrong on the Kafka cluster
  forebay run --config /etc/forebay/forebay.toml      read, publish, queue, drain, until SIGTERM
  forebay consume --config /etc/forebay/forebay.toml  what arrived in Kafka, and what is missing
  forebay queue status --dir /var/lib/forebay         what waits for Kafka, also while the agent runs
  FOREBAY_LOG=forebay::uplink=debug forebay run -c forebay.toml

Exit codes:
  0   ended as asked
  1   failed; the last line on standard error says why
  2   the command line is wrong
  65, 66, 75, 76, 77   see `forebay queue --help`
  78  the configuration is wrong; standard error has every mistake

Environment:
  FOREBAY_LOG             which log lines: error, warn (default of consume and demo), info (default of run),
                          debug, trace, also by module
  CREDENTIALS_DIRECTORY   where password-credential looks (set by systemd)";

/// Edge gateway agent: GNSS, serial sensors, Modbus and local MQTT into Kafka, through any outage.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent until SIGTERM or SIGINT; SIGHUP reads the configuration again
    Run(ConfigFile),
    /// Check a configuration: every mistake at once, then what looks odd on this machine
    Check(check::CheckArguments),
    /// Read topics back and account for every record: missing, repeated, out of order
    Consume(consume::ConsumeArguments),
    /// Look into the queue and change it, beside a running agent or in a copy: status, list, peek, verify, export, purge,
    /// repair, rekey, dead-letters
    Queue(queue::QueueArguments),
    /// See it work without any hardware: embedded brokers, simulated devices, an outage
    #[cfg(feature = "demo")]
    Demo(demo::DemoArguments),
}

/// Which configuration.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration
    #[arg(short, long, value_name = "FILE", default_value = "/etc/forebay/forebay.toml")]
    config: PathBuf,
}

/// Parses the command line, runs the command, and gives its exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Run(file) => {
            logging::start(logging::USUAL);
            run::run(&file.config)
        }
        Command::Check(arguments) => {
            logging::start(logging::QUIET);
            check::run(&arguments)
        }
        Command::Consume(arguments) => {
            logging::start(logging::QUIET);
            consume::run(&arguments)
        }
        Command::Queue(arguments) => queue::run(&arguments),
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => {
            logging::start(logging::DEMO);
            demo::run(arguments)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("forebay: {error:#}");
        ExitCode::from(EXIT_FAILURE)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Arguments::command().debug_assert();
    }
}
