//! The agent's tasks as things that can be started, replaced and stopped on their own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::metrics::{BySource, Metrics};
use crate::mqtt::Publisher;
use crate::queue::Queue;
use crate::reading::{Envelope, Name};
use crate::source;
use crate::uplink::{Uplink, UplinkStatus};

/// Longest wait for sources to let go of their ports, all together.
const SOURCE_STOP_MAX: Duration = Duration::from_secs(2);

/// The sources, one task each.
pub(super) struct SourceTasks {
    to_hub: mpsc::Sender<Envelope>,
    queue: Queue,
    metrics: Arc<Metrics>,
    running: HashMap<Name, RunningSource>,
    names: watch::Sender<Vec<Name>>,
}

struct RunningSource {
    config: config::Source,
    /// What an MQTT source was started with beside its own section.
    mqtt: Option<config::Mqtt>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl SourceTasks {
    pub(super) fn new(to_hub: mpsc::Sender<Envelope>, queue: Queue, metrics: Arc<Metrics>) -> Self {
        Self { to_hub, queue, metrics, running: HashMap::new(), names: watch::Sender::new(Vec::new()) }
    }

    pub(super) fn names(&self) -> watch::Receiver<Vec<Name>> {
        self.names.subscribe()
    }

    /// Makes what runs equal to what is configured: stops what is gone or changed, starts what is new or changed, leaves
    /// the rest alone. Returns how many were stopped and started.
    pub(super) async fn apply(&mut self, config: &Config, mqtt: Option<&config::Mqtt>) -> (usize, usize) {
        let wanted: HashMap<&Name, &config::Source> =
            config.sources.iter().map(|source| (&source.name, source)).collect();
        let stale: Vec<Name> = self
            .running
            .iter()
            .filter(|(name, running)| wanted.get(name).is_none_or(|source| !running.serves(source, mqtt)))
            .map(|(name, _)| name.clone())
            .collect();
        let stopped = stale.len();
        self.stop_these(stale).await;
        let mut started = 0;
        for source in &config.sources {
            if !self.running.contains_key(&source.name) {
                self.start(source, config, mqtt);
                started += 1;
            }
        }
        self.names.send_replace(config.sources.iter().map(|source| source.name.clone()).collect());
        (stopped, started)
    }

    fn start(&mut self, source: &config::Source, config: &Config, mqtt: Option<&config::Mqtt>) {
        let stop = CancellationToken::new();
        let context = source::Context {
            hub: self.to_hub.clone(),
            metrics: Arc::clone(&self.metrics),
            stop: stop.clone(),
            queue: self.queue.clone(),
            mqtt: mqtt.cloned(),
            gateway: config.gateway.id.clone(),
        };
        // Shown from the beginning, not from the first reading.
        let label = BySource { source: source.name.to_string() };
        drop(self.metrics.readings_in.get_or_create(&label));
        drop(self.metrics.source_up.get_or_create(&label));
        let task = source::spawn(source.clone(), context);
        let running = RunningSource { config: source.clone(), mqtt: mqtt.cloned(), stop, task };
        self.running.insert(source.name.clone(), running);
    }

    /// Stops all.
    pub(super) async fn stop(&mut self) {
        let all = self.running.keys().cloned().collect();
        self.stop_these(all).await;
    }

    async fn stop_these(&mut self, names: Vec<Name>) {
        let stopping: Vec<_> = names.into_iter().filter_map(|name| Some((self.running.remove(&name)?, name))).collect();
        for (running, _) in &stopping {
            running.stop.cancel();
        }
        // One deadline for all: several that hang must not use up the time of what is stopped after them.
        let deadline = tokio::time::Instant::now() + SOURCE_STOP_MAX;
        for (mut running, name) in stopping {
            if tokio::time::timeout_at(deadline, &mut running.task).await.is_err() {
                tracing::warn!(source = %name, "source did not let go of its port in time");
                running.task.abort();
            }
            self.metrics.source_is_up(&name, false);
        }
    }
}

impl RunningSource {
    fn serves(&self, source: &config::Source, mqtt: Option<&config::Mqtt>) -> bool {
        let uses_mqtt = matches!(source.kind, config::SourceKind::Mqtt(_));
        self.config == *source && (!uses_mqtt || self.mqtt.as_ref() == mqtt)
    }
}

/// The publisher's task and, where configured, the embedded broker.
pub(super) struct MqttTask {
    configured: Option<config::Mqtt>,
    resolved: Option<config::Mqtt>,
    publisher: watch::Sender<Option<Publisher>>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    /// Port asked for and port got: rumqttd cannot be stopped, so a reload uses the one that runs.
    #[cfg(feature = "demo")]
    embedded: Option<(u16, u16)>,
}

impl MqttTask {
    pub(super) async fn start(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let mut task = Self {
            configured: None,
            resolved: None,
            publisher: watch::Sender::new(None),
            running: None,
            #[cfg(feature = "demo")]
            embedded: None,
        };
        let resolved = task.resolve(config.mqtt.as_ref()).await?;
        task.launch(config, resolved, metrics);
        Ok(task)
    }

    /// What the hub publishes through.
    pub(super) fn publisher(&self) -> watch::Receiver<Option<Publisher>> {
        self.publisher.subscribe()
    }

    /// `[mqtt]` with the embedded broker's real address in it.
    pub(super) fn config(&self) -> Option<&config::Mqtt> {
        self.resolved.as_ref()
    }

    /// Restarts the publisher if `[mqtt]` changed; says whether it did.
    pub(super) async fn apply(&mut self, config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<bool> {
        if self.configured == config.mqtt {
            return Ok(false);
        }
        // What can fail comes first, so that a refused reload leaves the old publisher at work.
        let resolved = self.resolve(config.mqtt.as_ref()).await?;
        self.stop().await;
        self.launch(config, resolved, metrics);
        Ok(true)
    }

    fn launch(&mut self, config: &Config, resolved: Option<config::Mqtt>, metrics: &Arc<Metrics>) {
        self.configured = config.mqtt.clone();
        self.resolved = resolved;
        let Some(mqtt) = &self.resolved else { return };
        let stop = CancellationToken::new();
        let (publisher, task) = crate::mqtt::spawn(mqtt, &config.gateway.id, Arc::clone(metrics), stop.clone());
        self.publisher.send_replace(Some(publisher));
        self.running = Some((stop, task));
    }

    /// The section with a real address in it; starts the embedded broker where that is asked for.
    async fn resolve(&mut self, mqtt: Option<&config::Mqtt>) -> anyhow::Result<Option<config::Mqtt>> {
        let Some(mqtt) = mqtt else { return Ok(None) };
        let config::Broker::Embedded { port: wanted } = mqtt.broker else { return Ok(Some(mqtt.clone())) };
        let port = self.embedded_port(wanted).await.context("mqtt.broker")?;
        tracing::info!(port, "embedded MQTT broker listens on loopback");
        let broker = config::Broker::Tcp { host: "127.0.0.1".into(), port };
        Ok(Some(config::Mqtt { broker, ..mqtt.clone() }))
    }

    #[cfg(feature = "demo")]
    async fn embedded_port(&mut self, wanted: u16) -> anyhow::Result<u16> {
        if let Some((_, port)) = self.embedded.filter(|(asked, _)| *asked == wanted) {
            return Ok(port);
        }
        // It waits until the broker accepts connections.
        let port = tokio::task::spawn_blocking(move || crate::demo::broker::start(wanted)).await??;
        self.embedded = Some((wanted, port));
        Ok(port)
    }

    #[cfg(not(feature = "demo"))]
    async fn embedded_port(&mut self, _wanted: u16) -> anyhow::Result<u16> {
        anyhow::bail!("this build has no embedded broker")
    }

    /// Publishes "offline", disconnects, ends.
    pub(super) async fn stop(&mut self) {
        self.publisher.send_replace(None);
        if let Some((stop, task)) = self.running.take() {
            stop.cancel();
            if let Err(error) = task.await {
                tracing::error!(error = %error, "MQTT publisher ended badly");
            }
        }
    }
}

/// The uplink's thread, replaceable.
pub(super) struct UplinkThread {
    running: Arc<Mutex<Option<(Uplink, CancellationToken)>>>,
}

impl UplinkThread {
    pub(super) fn new() -> Self {
        Self { running: Arc::new(Mutex::new(None)) }
    }

    /// Starts an uplink on `config`; the former one has been stopped.
    pub(super) fn replace(&self, config: &Config, queue: &Queue, metrics: &Arc<Metrics>) -> anyhow::Result<()> {
        let Some(kafka) = &config.kafka else { return Ok(()) };
        let settings = crate::uplink::Settings {
            kafka: kafka.clone(),
            streams: config.streams.clone(),
            gateway: config.gateway.clone(),
        };
        let stop = CancellationToken::new();
        let uplink = Uplink::start(settings, queue.clone(), Arc::clone(metrics), stop.clone())?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((uplink, stop));
        Ok(())
    }

    /// Asks the uplink of the moment how it is.
    pub(super) fn reporter(&self) -> impl Fn() -> Option<UplinkStatus> + Send + Sync + use<> {
        let running = Arc::clone(&self.running);
        move || {
            let running = running.lock().unwrap_or_else(PoisonError::into_inner);
            running.as_ref().map(|(uplink, _)| uplink.status())
        }
    }

    /// Stops it: a bounded last flush, then its thread's end.
    pub(super) async fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((uplink, stop)) = running else { return };
        stop.cancel();
        if let Err(error) = tokio::task::spawn_blocking(move || uplink.join()).await {
            tracing::error!(error = %error, "uplink ended badly");
        }
    }
}
