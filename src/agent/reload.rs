//! Reload: the new configuration is whole and checked before anything is touched.
//!
//! Only what changed is restarted. Gateway, queue, streams and the status listener are what the rest stands on: their
//! changes wait for a restart of the agent, and the answer says so.

use std::fmt;

use anyhow::Context as _;

use super::Agent;
use crate::config::Config;

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reloaded {
    /// Sources stopped.
    pub sources_stopped: usize,
    /// Sources started.
    pub sources_started: usize,
    /// The publisher was restarted.
    pub mqtt: bool,
    /// The uplink was restarted.
    pub kafka: bool,
    /// Sections that changed and need a restart of the agent; they stay as they were.
    pub needs_restart: Vec<&'static str>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} sources stopped, {} started, mqtt {}, kafka {}",
            self.sources_stopped,
            self.sources_started,
            if self.mqtt { "restarted" } else { "unchanged" },
            if self.kafka { "restarted" } else { "unchanged" }
        )?;
        if !self.needs_restart.is_empty() {
            write!(out, "; a restart is needed for the changes in {}", self.needs_restart.join(", "))?;
        }
        Ok(())
    }
}

impl Agent {
    /// Makes the agent run on `new`, as far as that goes without a restart.
    ///
    /// # Errors
    /// When a source uses a stream that this run does not have, or the publisher or the uplink cannot be started anew.
    /// The agent then runs on as it was.
    pub async fn reload(&mut self, new: Config) -> anyhow::Result<Reloaded> {
        let mut done = Reloaded { needs_restart: self.fixed_changes(&new), ..Reloaded::default() };
        // What must not change is taken from the running configuration, so that the rest fits to it.
        let new = Config {
            gateway: self.config.gateway.clone(),
            queue: self.config.queue.clone(),
            streams: self.config.streams.clone(),
            status: self.config.status.clone(),
            ..new
        };
        let known = |stream: &crate::reading::Name| new.streams.iter().any(|known| known.name == *stream);
        if let Some(source) = new.sources.iter().find(|source| !source.streams().all(&known)) {
            anyhow::bail!(
                "source {:?} uses a stream that this run of the agent does not have: restart it",
                source.name
            );
        }
        self.queue.hold_for_clock(new.clock.hold);
        if self.config.kafka != new.kafka {
            self.replace_uplink(&new).await?;
            done.kafka = true;
        }
        match self.mqtt.apply(&new, &self.metrics).await {
            Ok(restarted) => done.mqtt = restarted,
            Err(error) if done.kafka => {
                self.uplink.stop().await;
                self.uplink.replace(&self.config, &self.queue, &self.metrics)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        (done.sources_stopped, done.sources_started) = self.sources.apply(&new, self.mqtt.config()).await;
        self.config = new;
        Ok(done)
    }

    /// Puts an uplink on `new` in the old one's place, or the old one back where the new cannot start.
    async fn replace_uplink(&self, new: &Config) -> anyhow::Result<()> {
        self.uplink.stop().await;
        if let Err(error) = self.uplink.replace(new, &self.queue, &self.metrics) {
            self.uplink.replace(&self.config, &self.queue, &self.metrics).context("the old uplink again")?;
            return Err(error);
        }
        Ok(())
    }

    fn fixed_changes(&self, new: &Config) -> Vec<&'static str> {
        let old = &self.config;
        [
            ("[gateway]", old.gateway != new.gateway),
            ("[queue]", old.queue != new.queue),
            ("[[stream]]", old.streams != new.streams),
            ("[status]", old.status != new.status),
        ]
        .into_iter()
        .filter_map(|(section, changed)| changed.then_some(section))
        .collect()
    }
}
