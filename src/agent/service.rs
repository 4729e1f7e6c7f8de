//! The agent as a service: signals, and systemd's readiness, reload and watchdog protocol (sd_notify(3)).

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Agent;
use crate::config::{self, Config};
use crate::metrics::ByKind;

/// How often the store is looked at when systemd sets no watchdog.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Starts the agent and serves signals until told to stop.
pub(super) async fn serve(path: &Path, config: Config) -> anyhow::Result<()> {
    // Before anything that must be stopped in order is started.
    let mut signals = Signals::new()?;
    let mut agent = Agent::start(config).await?;
    notify(&[NotifyState::Ready]);
    let mut look = tokio::time::interval(look_every());
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Reload => reload(&mut agent, path).await,
                Asked::Stop(signal) => {
                    tracing::info!(signal, "stopping");
                    notify(&[NotifyState::Stopping]);
                    return agent.stop().await;
                }
            },
            _ = look.tick() => {
                if agent.queue().store_failed() {
                    // The store thread may hang inside the engine: only a new process gets rid of it.
                    anyhow::bail!("the queue's store has failed; a restart recovers what is on disk");
                }
                notify(&[NotifyState::Watchdog]);
            }
        }
    }
}

async fn reload(agent: &mut Agent, path: &Path) {
    tracing::info!(config = %path.display(), "reload asked for");
    let path_owned = path.to_owned();
    let loaded = tokio::task::spawn_blocking(move || config::load(&path_owned)).await;
    let outcome = match loaded {
        Ok(Ok(loaded)) => agent.reload(loaded.config).await,
        Ok(Err(errors)) => Err(anyhow::anyhow!("{errors}")),
        Err(error) => Err(error.into()),
    };
    // Counted before it is logged: who reads the line finds the count.
    let kind = if outcome.is_ok() { "applied" } else { "refused" };
    agent.metrics().reloads.get_or_create(&ByKind { kind }).inc();
    match outcome {
        Ok(reloaded) if reloaded.needs_restart.is_empty() => tracing::info!(%reloaded, "reloaded"),
        Ok(reloaded) => tracing::warn!(%reloaded, "reloaded in part"),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "reload refused: the agent keeps running as it was");
        }
    }
}

/// What a signal asks for.
enum Asked {
    Stop(&'static str),
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("installing a signal handler");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

/// Tells systemd, where it listens.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(error = %error, "systemd could not be told");
    }
}

/// Half the unit's `WatchdogSec`, or [`LOOK_EVERY`].
fn look_every() -> Duration {
    sd_notify::watchdog_enabled().map_or(LOOK_EVERY, |limit| (limit / 2).clamp(Duration::from_millis(100), LOOK_EVERY))
}
