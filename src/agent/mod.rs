//! Wires the tasks, reloads them, and shuts them down in order.
//!
//! Start: queue (its run is bumped before anything can be pushed), MQTT, uplink, hub, sources, status. Stop, inside
//! [`STOP_SECONDS_MAX`]: sources, hub (its inbox runs empty), a flush, uplink and MQTT, queue. So nothing that was accepted
//! is lost, whichever side is away. [`run`] adds what a service needs around it: signals and systemd.

mod clock;
mod reload;
mod service;
mod tasks;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Config;
use crate::control;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::status;

pub use reload::Reloaded;
use tasks::{MqttTask, SourceTasks, UplinkThread};

/// Longest clean stop. The unit's `TimeoutStopSec` is longer.
pub const STOP_SECONDS_MAX: u64 = 10;

/// Longest wait for the hub, whose inbox of at most [`crate::hub::INBOX_READINGS_MAX`] runs empty in milliseconds.
const HUB_STOP_MAX: Duration = Duration::from_millis(500);

/// A running agent.
pub struct Agent {
    config: Config,
    queue: Queue,
    metrics: Arc<Metrics>,
    sources: SourceTasks,
    hub: JoinHandle<()>,
    clock: JoinHandle<()>,
    uplink: UplinkThread,
    mqtt: MqttTask,
    status: Option<StatusTask>,
    control: Option<control::Server>,
}

struct StatusTask {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Agent {
    /// Starts everything the configuration names.
    ///
    /// # Errors
    /// When the queue cannot be opened (another agent holds it, no permission, another version), the status address is
    /// taken, or the Kafka client refuses its settings. Ports, brokers and units that are away are not errors: their
    /// tasks wait for them.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let started = Instant::now();
        let (metrics, registry) = Metrics::new();
        let status_listener = listen(config.status.as_ref()).await?;
        let queue = open_queue(&config, &metrics).await?;
        queue.hold_for_clock(config.clock.hold);

        let mqtt = MqttTask::start(&config, &metrics).await?;
        let uplink = UplinkThread::new();
        uplink.replace(&config, &queue, &metrics)?;
        let streams = config.streams.iter().map(|stream| stream.name.clone());
        let clock = Arc::new(Clock::new());
        let hub = Hub::new(queue.clone(), streams, mqtt.publisher(), Arc::clone(&clock), Arc::clone(&metrics));
        let clock = clock::spawn(clock, queue.clone(), Arc::clone(&metrics));
        let (to_hub, inbox) = tokio::sync::mpsc::channel(crate::hub::INBOX_READINGS_MAX);
        let hub = tokio::spawn(hub.run(inbox));
        let mut sources = SourceTasks::new(to_hub, queue.clone(), Arc::clone(&metrics));
        sources.apply(&config, mqtt.config()).await;

        let status = status_listener.map(|(listener, address)| {
            let view = status::View {
                gateway: config.gateway.id.clone(),
                metrics: Arc::clone(&metrics),
                registry,
                queue: queue.clone(),
                topics: config.streams.iter().map(|stream| stream.topic.clone()).collect(),
                uplink: Box::new(uplink.reporter()),
                sources: sources.names(),
                started,
            };
            let stop = CancellationToken::new();
            let task = status::spawn(listener, Arc::new(view), stop.clone());
            StatusTask { address, stop, task }
        });
        let control = listen_for_control(&queue);
        tracing::info!(
            gateway = %config.gateway.id,
            sources = config.sources.len(),
            streams = config.streams.len(),
            kafka = config.kafka.is_some(),
            mqtt = config.mqtt.is_some(),
            status = ?status.as_ref().map(|status| status.address),
            "agent started"
        );
        Ok(Self { config, queue, metrics, sources, hub, clock, uplink, mqtt, status, control })
    }

    /// Where the status listener is, if it is on (the configuration may say port 0).
    pub fn status_address(&self) -> Option<std::net::SocketAddr> {
        self.status.as_ref().map(|status| status.address)
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The queue.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// How the uplink is.
    pub fn uplink_status(&self) -> Option<crate::uplink::UplinkStatus> {
        self.uplink.reporter()()
    }

    /// Where the local broker is: as configured, or the port the embedded one got.
    pub fn mqtt_broker(&self) -> Option<&crate::config::Broker> {
        self.mqtt.config().map(|mqtt| &mqtt.broker)
    }

    /// Stops the sources only; what they handed over goes on. (The demo's account needs a moment without new readings.)
    pub async fn stop_sources(&mut self) {
        self.sources.stop().await;
    }

    /// Stops everything in order.
    ///
    /// # Errors
    /// When what was accepted could not be made durable, or the stop took longer than [`STOP_SECONDS_MAX`].
    pub async fn stop(self) -> anyhow::Result<()> {
        let began = Instant::now();
        let limit = Duration::from_secs(STOP_SECONDS_MAX);
        let outcome = tokio::time::timeout(limit, self.stop_in_order()).await;
        match outcome {
            Ok(result) => {
                let took_ms = began.elapsed().as_millis() as u64;
                tracing::info!(took_ms, clean = result.is_ok(), "agent stopped");
                result
            }
            Err(_) => anyhow::bail!("stop took longer than {STOP_SECONDS_MAX} s"),
        }
    }

    async fn stop_in_order(mut self) -> anyhow::Result<()> {
        if let Some(control) = self.control.take() {
            control.stop().await;
        }
        self.sources.stop().await;
        drop(self.sources);
        end_hub(self.hub).await;
        self.clock.abort();
        let queue = self.queue.clone();
        let flushed = tokio::task::spawn_blocking(move || queue.flush()).await?;
        if let Err(error) = flushed {
            tracing::error!(error = %error, "flush before the stop failed");
        }
        // Neither waits for the other; together they leave time for a slow disk.
        tokio::join!(self.uplink.stop(), self.mqtt.stop());
        let queue = self.queue.clone();
        let closed = tokio::task::spawn_blocking(move || queue.close()).await?;
        if let Some(status) = self.status {
            status.stop.cancel();
            let _ = status.task.await;
        }
        closed.context("closing the queue")
    }
}

/// Waits until the hub has taken all that the sources handed over. It ends with its last sender; a source that hangs in a
/// driver still holds one, but has nothing more to say, and must not keep the queue from its flush.
async fn end_hub(mut hub: JoinHandle<()>) {
    match tokio::time::timeout(HUB_STOP_MAX, &mut hub).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(error = %error, "the hub ended badly"),
        Err(_) => {
            tracing::warn!("a source that did not end still holds the hub; stopping without it");
            hub.abort();
        }
    }
}

async fn listen(status: Option<&crate::config::Status>) -> anyhow::Result<Option<(TcpListener, std::net::SocketAddr)>> {
    let Some(status) = status else { return Ok(None) };
    let listener = TcpListener::bind(status.listen)
        .await
        .with_context(|| format!("status.listen: cannot listen on {}", status.listen))?;
    let address = listener.local_addr().context("status.listen")?;
    Ok(Some((listener, address)))
}

/// The control socket; without it the agent runs all the same.
fn listen_for_control(queue: &Queue) -> Option<control::Server> {
    match control::Server::start(queue.clone()) {
        Ok(server) => Some(server),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "`forebay queue` cannot ask this agent for changes");
            None
        }
    }
}

async fn open_queue(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Queue> {
    let settings = crate::queue::Settings {
        dir: config.gateway.state_dir.clone(),
        gateway: config.gateway.id.clone(),
        queue: config.queue.clone(),
        streams: config.streams.clone(),
    };
    let metrics = Arc::clone(metrics);
    let opened = tokio::task::spawn_blocking(move || Queue::open(settings, metrics)).await?;
    opened.with_context(|| format!("opening the queue in {}", config.gateway.state_dir.display()))
}

/// Runs the agent as a service until SIGTERM or SIGINT; SIGHUP reads `path` again.
///
/// # Errors
/// When it cannot start, when the store fails for good, or when the stop was not clean.
pub fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let outcome = runtime.block_on(service::serve(path, config));
    // A source stuck in a driver's open(2) must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}
