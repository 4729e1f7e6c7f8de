//! `forebay demo`: arguments of the demonstration.

use std::process::ExitCode;

use clap::Args;

/// Arguments of `forebay demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// How long the demonstration runs, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub seconds: u64,
    /// How long Kafka is away in the middle of it, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub outage: u64,
    /// Keep running until SIGINT instead of ending
    #[arg(long)]
    pub keep_running: bool,
}

/// Runs the demonstration.
///
/// # Errors
/// Always, in this build: the demonstration is not part of it yet.
pub fn run(_arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the demonstration is not part of this build")
}
