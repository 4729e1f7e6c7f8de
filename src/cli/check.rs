//! `forebay check`: every mistake of a configuration at once, and what of it does not fit this machine now.

mod online;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{ConfigFile, EXIT_CONFIGURATION};
use crate::config::{Config, ModbusConnect, Port, Sasl, SourceKind, TokenOrigin};

const EXAMPLES: &str = "\
Examples:
  forebay check --config /etc/forebay/forebay.toml            the configuration, and this machine
  forebay check --config /etc/forebay/forebay.toml --online   the cluster too: rights, topics, certificates, clock

Exit codes:
  0   nothing is wrong (warnings are allowed, and what could not be looked at)
  1   --online found a problem, or could not look at all
  78  the configuration is wrong

--online connects as the agent does, beside an agent that may be running, and writes no record: it asks each topic to take
one in a way that Kafka must refuse, once it has judged the right to write. With exactly-once delivery it takes over a
transactional id that no agent uses, GATEWAY.forebay-check (ID.forebay-check with a transactional-id of your own), and asks
each stream's group to take an offset for a partition that is not there. It needs up to a minute where no broker answers.
What it needs the right for is in docs/kafka-acls.md. Kafka does not tell its time, so this machine's clock is judged by
the kernel's word, by the dates of certificates, the brokers' among them, and by whether the topics have records that lie
ahead of it.";

/// Arguments of `forebay check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Print the reference of every key (Markdown) and check nothing
    #[arg(long)]
    reference: bool,
    /// Connect to Kafka and say what would go wrong there
    #[arg(long, conflicts_with = "reference")]
    online: bool,
    /// Print what --online found as one JSON document
    #[arg(long, requires = "online")]
    json: bool,
}

/// Checks; mistakes go to standard error and end with 78, warnings do not change the exit code.
pub(super) fn run(arguments: &CheckArguments) -> anyhow::Result<ExitCode> {
    if arguments.reference {
        print!("{}", crate::config::reference());
        return Ok(ExitCode::SUCCESS);
    }
    match crate::config::load(&arguments.file.config) {
        Err(errors) => {
            eprintln!("{errors}");
            Ok(ExitCode::from(EXIT_CONFIGURATION))
        }
        Ok(loaded) => {
            let written = loaded.warnings.iter().map(ToString::to_string);
            let warnings: Vec<String> = written.chain(machine_warnings(&loaded.config)).collect();
            for warning in &warnings {
                eprintln!("warning: {warning}");
            }
            if !arguments.json {
                println!("{}", summary(&loaded.config, warnings.len()));
            }
            if arguments.online {
                return online::run(&loaded.config, arguments.json);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn summary(config: &Config, warnings: usize) -> String {
    let readings_go = match (&config.mqtt, &config.kafka) {
        (Some(_), Some(_)) => "to the local broker and to Kafka",
        (Some(_), None) => "to the local broker",
        (None, Some(_)) => "to Kafka",
        (None, None) => "into the queue only",
    };
    let (sources, streams) = (config.sources.len(), config.streams.len());
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let warned = match warnings {
        0 => String::new(),
        count => format!("; {count} warning{}", plural(count)),
    };
    format!(
        "ok: {sources} source{}, {streams} stream{}, readings of {} go {readings_go}{warned}",
        plural(sources),
        plural(streams),
        config.gateway.id
    )
}

/// What may be different where or when the agent runs: ports that are not there, files and directories out of reach.
fn machine_warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut opened: Vec<(PathBuf, &str)> = Vec::new();
    for source in &config.sources {
        let port = match &source.kind {
            SourceKind::Gnss(gnss) => &gnss.port,
            SourceKind::Serial(serial) => &serial.port,
            SourceKind::Modbus(modbus) => match &modbus.connect {
                ModbusConnect::Rtu { port, .. } => port,
                ModbusConnect::Tcp { .. } => continue,
            },
            SourceKind::Mqtt(_) | SourceKind::Simulated(_) => continue,
        };
        let Port::Path(path) = port else { continue };
        match path.canonicalize() {
            Err(error) => warnings.push(format!("source {:?}: port {}: {error}", source.name, path.display())),
            Ok(tty) => {
                if let Some((_, other)) = opened.iter().find(|(taken, _)| *taken == tty) {
                    let place = tty.display();
                    warnings.push(format!(
                        "sources {other:?} and {:?} both open {place}; one will find it busy",
                        source.name
                    ));
                }
                opened.push((tty, &source.name));
            }
        }
    }
    warnings.extend(state_dir_warning(&config.gateway.state_dir));
    let tls = config.kafka.as_ref().and_then(|kafka| kafka.tls.as_ref());
    for file in tls.into_iter().flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]).flatten() {
        if let Err(error) = std::fs::File::open(file) {
            warnings.push(format!("kafka.tls: {}: {error}", file.display()));
        }
    }
    if let Some(Sasl::Token { origin: TokenOrigin::File(file), .. }) =
        config.kafka.as_ref().and_then(|kafka| kafka.sasl.as_ref())
        && let Err(error) = std::fs::File::open(file)
    {
        warnings.push(format!("kafka.sasl.token-file: {}: {error}", file.display()));
    }
    warnings
}

/// Whether the state directory, or the nearest parent that exists and would have to take it, can be written.
fn state_dir_warning(state_dir: &Path) -> Option<String> {
    let nearest = state_dir.ancestors().find(|path| path.exists())?;
    let writable = rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    match writable {
        Ok(()) if nearest.is_dir() => None,
        Ok(()) => Some(format!("gateway.state-dir {}: {} is not a directory", state_dir.display(), nearest.display())),
        Err(error) => {
            Some(format!("gateway.state-dir {}: {} is not writable: {error}", state_dir.display(), nearest.display()))
        }
    }
}
