//! The demo: the main job on embedded parts, no server, no root, no network.
//!
//! An embedded MQTT broker (rumqttd), an embedded Kafka (librdkafka's mock cluster, which is what it says: it keeps no
//! transactions apart and does not recognise retried batches), a simulated receiver and particulate sensor on
//! pseudo-terminals, a simulated Modbus plant. Between them runs the very agent that `forebay run` runs. The uplink is
//! taken away and brought back, everything is read back from Kafka, and the account decides the exit code.

pub mod broker;
pub mod devices;
pub mod kafka;
pub mod modbus;

mod account;
mod listener;
mod progress;
mod scene;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::Agent;
use account::Verdict;
use progress::Progress;
use scene::Scene;

/// What the user asked of the demo.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long readings are made.
    pub run: Duration,
    /// How long of that the uplink is away, in the middle.
    pub outage: Duration,
    /// Go on after the account until interrupted.
    pub keep_running: bool,
}

/// Longest run, seconds: in one of about 540 the fullest partition would pass the 3 MiB below which the account is sure
/// that the mock cluster kept everything.
pub const RUN_SECONDS_MAX: u64 = 480;

/// Longest wait for the queue to run empty once the uplink is back and the devices are silent.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// Longest wait for the last publications to reach the demo's own listener.
const LISTEN_MAX: Duration = Duration::from_secs(5);
/// Long enough for anybody's patience.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Longest wait for the agent to open all ports.
const START_MAX: Duration = Duration::from_secs(10);

/// Runs the demo; true where nothing was lost and nothing came out of order.
///
/// # Errors
/// A part could not be started (no pseudo-terminal, no free port), or the agent failed.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let scene = Scene::build().await?;
    scene.introduce(&options);
    let mut agent = start_agent(&scene).await?;
    let mut progress = Progress::new();

    let before = options.run.saturating_sub(options.outage) / 2;
    progress.watch("before", &agent, &scene, before).await;
    scene.kafka.down()?;
    progress.watch("uplink away", &agent, &scene, options.outage).await;
    scene.kafka.up()?;
    let after = options.run.saturating_sub(options.outage).saturating_sub(before);
    progress.watch("after", &agent, &scene, after).await;

    scene.silence_devices(&agent).await;
    let written_by_devices = scene.written();
    agent.stop_sources().await;
    progress.until_drained(&agent, &scene, DRAIN_MAX).await;
    let published = scene.listener.published(&agent, LISTEN_MAX).await;
    let made = scene.made(&agent);
    let undurable_age_max = agent.queue().status().undurable_age_max;
    let queue_written_bytes = agent.metrics().queue_written_bytes.get();
    agent.stop().await.context("stopping the agent")?;

    println!("\nReading everything back from Kafka ...\n");
    let kafka = scene.kafka_config.clone();
    let found = tokio::task::spawn_blocking(move || account::read_back(&kafka)).await??;
    let verdict = Verdict {
        made,
        written_by_devices,
        published,
        queued_at_worst: progress.most_waiting(),
        undurable_age_max,
        queue_written_bytes,
        found,
    };
    print!("{verdict}");
    if options.keep_running {
        keep_running(&scene).await?;
    }
    Ok(verdict.is_clean())
}

/// The agent on the scene's configuration, all its ports open and the devices talking.
async fn start_agent(scene: &Scene) -> anyhow::Result<Agent> {
    let parsed = crate::config::parse(&scene.configuration, Path::new("demo.toml"));
    let config = parsed.map_err(|errors| anyhow::anyhow!("{errors}"))?.config;
    let agent = Agent::start(config).await.context("starting the agent")?;
    scene.say_where_to_look(&agent);
    scene.start_devices(&agent).await?;
    Ok(agent)
}

/// The same parts again, on the same queue, until the user has seen enough.
async fn keep_running(scene: &Scene) -> anyhow::Result<()> {
    println!("\nGoing on until interrupted (Ctrl-C).");
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let agent = start_agent(scene).await?;
    let mut progress = Progress::new();
    tokio::select! {
        () = progress.watch("going on", &agent, scene, FOREVER) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    agent.stop().await.context("stopping the agent")
}
