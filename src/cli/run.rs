//! `forebay run`: a configuration without a mistake, then the agent.

use std::path::Path;
use std::process::ExitCode;

use super::EXIT_CONFIGURATION;
use crate::queue::OpenError;

/// Runs the agent; with a bad configuration prints every mistake and starts nothing.
pub(super) fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let loaded = match crate::config::load(path) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::from(EXIT_CONFIGURATION));
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!(place = %warning.place, key = %warning.key, "{}", warning.message);
    }
    match crate::agent::run(path, loaded.config) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if matches!(error.downcast_ref(), Some(OpenError::WrongKey { .. })) => {
            // The same configuration would be wrong again.
            eprintln!("forebay: {error:#}");
            Ok(ExitCode::from(EXIT_CONFIGURATION))
        }
        Err(error) => Err(error),
    }
}
