//! Log lines on standard error, filtered by `FOREBAY_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What a service logs.
pub(super) const USUAL: &str = "info";
/// What a command logs whose output is its result.
pub(super) const QUIET: &str = "warn";
/// What the demo logs: its broker calls every client that goes an error.
#[cfg(feature = "demo")]
pub(super) const DEMO: &str = "warn,rumqttd=off";

/// Starts logging, once a process; `default` counts where `FOREBAY_LOG` is not set or not understood. The journal stamps lines itself, so they bear no time there; colours only on a terminal.
pub(super) fn start(default: &str) {
    let filter = match std::env::var("FOREBAY_LOG") {
        Ok(directives) => EnvFilter::try_new(&directives).unwrap_or_else(|error| {
            eprintln!("forebay: FOREBAY_LOG={directives:?} is not a log filter ({error}); using {default:?}");
            EnvFilter::new(default)
        }),
        Err(_) => EnvFilter::new(default),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let started = if in_journal { lines.without_time().try_init() } else { lines.try_init() };
    if let Err(error) = started {
        eprintln!("forebay: logging could not be started: {error}");
    }
}
