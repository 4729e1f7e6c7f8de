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
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    /// The page of all commands.
    const PAGE: &str = include_str!("../../docs/command-line.md");

    #[test]
    fn the_command_line_is_well_formed() {
        super::Arguments::command().debug_assert();
    }

    /// The long options of a command and of all below it.
    fn options(command: &clap::Command) -> BTreeSet<String> {
        let own = command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned);
        let below = command.get_subcommands().flat_map(options);
        own.chain(below).filter(|option| !matches!(option.as_str(), "help" | "version")).collect()
    }

    /// Every `--option` that a text names.
    fn named(text: &str) -> BTreeSet<String> {
        let rests = text.split("--").skip(1);
        let words = rests.map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap_or(""));
        words.filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).map(str::to_owned).collect()
    }

    #[test]
    fn the_page_of_the_command_line_names_every_command_and_option_and_no_other() {
        let mut arguments = super::Arguments::command();
        arguments.build();
        for command in arguments.get_subcommands().filter(|command| command.get_name() != "help") {
            let title = format!("\n## `forebay {}`\n", command.get_name());
            let (_, rest) = PAGE.split_once(&title).unwrap_or_else(|| panic!("no section{title}"));
            let section = rest.split("\n## ").next().unwrap_or(rest);
            assert_eq!(named(section), options(command), "{title}");
            for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
                assert!(section.contains(below.get_name()), "{title}{}", below.get_name());
            }
        }
    }

    #[test]
    fn options_are_found_in_a_text() {
        let found = named("| `-c`, `--config FILE` | --- and `--from-time TIME`, --|");
        assert_eq!(found, ["config", "from-time"].map(str::to_owned).into());
    }
}
