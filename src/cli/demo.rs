//! `forebay demo`: the main job on embedded parts.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _};

use crate::demo::{Options, RUN_SECONDS_MAX};

/// Shortest run.
const SECONDS_MIN: u64 = 4;
/// What of a run Kafka is there at least, before and after the outage together.
const SECONDS_UP_MIN: u64 = 2;
/// How long Kafka is away where the run is long enough for that.
const OUTAGE_SECONDS: u64 = 10;

/// Arguments of `forebay demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// How long readings are made, 4 to 480 seconds (the start and the reading back come on top). The embedded Kafka keeps
    /// no more than 8 minutes of them for the account
    #[arg(
        long, value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(SECONDS_MIN..=RUN_SECONDS_MAX),
    )]
    pub seconds: u64,
    /// How long Kafka is away in the middle of it, at most --seconds less 2 [default: 10, or that where it is less]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=RUN_SECONDS_MAX))]
    pub outage: Option<u64>,
    /// Go on after the account until SIGINT (Ctrl-C) or SIGTERM, to look in from outside
    #[arg(long)]
    pub keep_running: bool,
}

impl DemoArguments {
    /// How long Kafka is away, in seconds.
    ///
    /// # Errors
    /// Longer than the run leaves room for.
    fn outage(&self) -> Result<u64, String> {
        let outage_max = self.seconds.saturating_sub(SECONDS_UP_MIN);
        match self.outage {
            Some(outage) if outage > outage_max => Err(format!(
                "--outage {outage} is too long for --seconds {}: allowed are 1 to {outage_max}",
                self.seconds
            )),
            Some(outage) => Ok(outage),
            None => Ok(OUTAGE_SECONDS.min(outage_max)),
        }
    }
}

/// Runs the demonstration; exit code 1 where anything was lost or came out of order.
///
/// # Errors
/// A part could not be started, or the agent failed.
pub fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    let outage = arguments.outage().unwrap_or_else(|message| {
        // Ends the process with 2, as every other mistake on the command line does.
        super::Arguments::command().error(ErrorKind::ValueValidation, message).exit()
    });
    let options = Options {
        run: Duration::from_secs(arguments.seconds),
        outage: Duration::from_secs(outage),
        keep_running: arguments.keep_running,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let clean = runtime.block_on(crate::demo::run(options));
    // The embedded broker has threads that only end with the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(if clean? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outage(seconds: u64, outage: Option<u64>) -> Result<u64, String> {
        DemoArguments { seconds, outage, keep_running: false }.outage()
    }

    #[test]
    fn an_outage_longer_than_the_run_allows_is_refused_and_the_default_fits() {
        assert_eq!((outage(30, None), outage(6, None), outage(4, None)), (Ok(10), Ok(4), Ok(2)));
        assert_eq!((outage(6, Some(4)), outage(480, Some(478))), (Ok(4), Ok(478)));
        let refused = outage(6, Some(5)).unwrap_err();
        assert_eq!(refused, "--outage 5 is too long for --seconds 6: allowed are 1 to 4");
    }
}
