//! Log lines on standard error, filtered by `FOREBAY_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// What a service logs.
pub(super) const USUAL: &str = "info";
/// What a command logs whose output is its result.
pub(super) const QUIET: &str = "warn";
/// What the demo logs: its broker calls every client that goes an error.
#[cfg(feature = "demo")]
pub(super) const DEMO: &str = "warn,rumqttd=off";

/// Starts logging, once a process; `default` counts where `FOREBAY_LOG` is not set or not understood. The journal
/// stamps lines itself, so they bear no time there; colours only on a terminal.
pub(super) fn start(default: &str) {
    let filter = match std::env::var("FOREBAY_LOG") {
        Ok(directives) => directives.parse().unwrap_or_else(|error| {
            eprintln!("forebay: FOREBAY_LOG={directives:?} is not a log filter ({error}); using {default:?}");
            targets(default)
        }),
        Err(_) => targets(default),
    };
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    // One filter for all: with one of the layer's own a line can be lost while another thread logs by the crate `log`.
    let registry = tracing_subscriber::registry().with(filter);
    let started =
        if in_journal { registry.with(lines.without_time()).try_init() } else { registry.with(lines).try_init() };
    if let Err(error) = started {
        eprintln!("forebay: logging could not be started: {error}");
    }
}

/// One of the filters above.
fn targets(filter: &str) -> Targets {
    filter.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filters_are_understood() {
        for filter in [USUAL, QUIET, "warn,rumqttd=off", "forebay::uplink=debug"] {
            assert!(filter.parse::<Targets>().is_ok(), "{filter}");
        }
    }
}
