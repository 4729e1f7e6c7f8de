//! An MQTT client of its own that counts what the agent publishes, as any other client on the broker would see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::agent::Agent;
use crate::config::Mqtt;
use crate::mqtt::session::{self, Event, Options};

/// Topics of readings in the demo's configuration: `forebay/{gateway}/{device}`, the status topic apart.
const READINGS: &str = "forebay/+/+";

/// The counting client.
pub(super) struct Listener {
    seen: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Connects and subscribes; returns once the broker has confirmed the subscription.
    pub(super) async fn start(mqtt: &Mqtt) -> anyhow::Result<Self> {
        let options = Options {
            client_id: "forebay-demo-listener".into(),
            clean: true,
            will: None,
            packet_bytes_max: 256 << 10,
            through: None,
        };
        let (handle, mut driver) = session::open(mqtt, options);
        handle.subscribe(&[READINGS.to_owned()], 1)?;
        let seen = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&seen);
        let (subscribed, ready) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut subscribed = Some(subscribed);
            loop {
                match driver.next().await {
                    Ok(Event::Subscribed { .. }) => {
                        if let Some(subscribed) = subscribed.take() {
                            let _ = subscribed.send(());
                        }
                    }
                    Ok(Event::Message(message)) => {
                        if !message.topic().ends_with("/status") {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        if handle.acknowledge(&message).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(%error, "the demo's MQTT listener lost its broker");
                        return;
                    }
                }
            }
        });
        ready.await.context("the embedded MQTT broker did not take the demo's subscription")?;
        Ok(Self { seen, task })
    }

    /// Publications seen so far.
    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Publications seen once as many have come as the agent says the broker took, or after `wait`.
    pub(super) async fn published(&self, agent: &Agent, wait: Duration) -> u64 {
        let until = Instant::now() + wait;
        while Instant::now() < until && self.seen() < agent.metrics().mqtt_published.get() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.seen()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}
