//! Wires the tasks; reload; shutdown in order. stub

use std::path::Path;

/// Runs the agent until it is told to stop.
///
/// # Errors
/// Always, until the agent is wired.
pub fn run(_path: &Path, _config: crate::config::Config) -> anyhow::Result<()> {
    anyhow::bail!("the agent is not wired in this build")
}
