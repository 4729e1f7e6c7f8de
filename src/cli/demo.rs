//! `forebay demo`: the main job on embedded parts.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use crate::demo::Options;

/// Arguments of `forebay demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// How long readings are made, in seconds (the start and the reading back come on top)
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(4..=600))]
    pub seconds: u64,
    /// How long Kafka is away in the middle of it, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub outage: u64,
    /// Go on after the account until interrupted, to look in from outside
    #[arg(long)]
    pub keep_running: bool,
}

/// Runs the demonstration; exit code 1 where anything was lost or came out of order.
///
/// # Errors
/// A part could not be started, or the agent failed.
pub fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    let options = Options {
        run: Duration::from_secs(arguments.seconds),
        outage: Duration::from_secs(arguments.outage.min(arguments.seconds.saturating_sub(2))),
        keep_running: arguments.keep_running,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let clean = runtime.block_on(crate::demo::run(options));
    // The embedded broker has threads that only end with the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(if clean? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
