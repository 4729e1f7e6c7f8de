//! Log lines on standard error, filtered by `FOREBAY_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged where `FOREBAY_LOG` is not set or not understood.
const DEFAULT_FILTER: &str = "info";

/// Starts logging, once a process. The journal stamps lines itself, so they bear no time there; colours only on a terminal.
pub(super) fn start() {
    let filter = match std::env::var("FOREBAY_LOG") {
        Ok(directives) => EnvFilter::try_new(&directives).unwrap_or_else(|error| {
            eprintln!("forebay: FOREBAY_LOG={directives:?} is not a log filter ({error}); using {DEFAULT_FILTER:?}");
            EnvFilter::new(DEFAULT_FILTER)
        }),
        Err(_) => EnvFilter::new(DEFAULT_FILTER),
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
