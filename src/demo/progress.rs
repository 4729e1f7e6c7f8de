//! One line a second while the demo runs: what waits, how fast, how the uplink is; 100 columns at most.

use std::time::{Duration, Instant};

use super::scene::Scene;
use crate::agent::Agent;

/// How often a line is printed.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Remembers what the next line is compared with.
pub(super) struct Progress {
    began: Instant,
    most_waiting: u64,
    last: Sample,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    pushed: u64,
    delivered: u64,
}

impl Progress {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { began: now, most_waiting: 0, last: Sample { at: now, pushed: 0, delivered: 0 } }
    }

    /// The most records that waited in the queue whenever somebody looked.
    pub(super) fn most_waiting(&self) -> u64 {
        self.most_waiting
    }

    /// Prints lines for `time`.
    pub(super) async fn watch(&mut self, stage: &str, agent: &Agent, scene: &Scene, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            tokio::time::sleep(LINE_EVERY.min(end.saturating_duration_since(Instant::now()))).await;
            self.line(stage, agent, scene);
        }
    }

    /// Prints lines until nothing waits, at most for `limit`.
    pub(super) async fn until_drained(&mut self, agent: &Agent, scene: &Scene, limit: Duration) {
        let end = Instant::now() + limit;
        while self.line("draining", agent, scene) > 0 && Instant::now() < end {
            tokio::time::sleep(LINE_EVERY).await;
        }
    }

    /// Prints a line; returns how many records wait.
    fn line(&mut self, stage: &str, agent: &Agent, scene: &Scene) -> u64 {
        let status = agent.queue().status();
        let waiting: u64 = status.streams.iter().map(|stream| stream.records).sum();
        self.most_waiting = self.most_waiting.max(waiting);
        let label = crate::metrics::ByStream { stream: super::scene::TOPIC.to_owned() };
        let now = Sample {
            at: Instant::now(),
            pushed: agent.metrics().records_pushed.get_or_create(&label).get(),
            delivered: agent.metrics().uplink_records_delivered.get_or_create(&label).get(),
        };
        let elapsed = now.at.duration_since(self.last.at).as_secs_f64().max(1e-3);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed;
        println!(
            "{:>4.0} s  {stage:<11} uplink {:<10} queued {waiting:>5} in {:>3.0}/s Kafka {:>4.0}/s MQTT {:>5} disk {:>4} KiB",
            now.at.duration_since(self.began).as_secs_f64(),
            agent.uplink_status().map_or("none", |uplink| uplink.state),
            rate(now.pushed, self.last.pushed),
            rate(now.delivered, self.last.delivered),
            scene.listener.seen(),
            status.disk_bytes / 1024,
        );
        self.last = now;
        waiting
    }
}
