//! A producer that is no agent takes the transactional id over while the agent delivers: the agent is fenced by Kafka in
//! mid transaction, waits, and neither fights for the id nor loses or doubles a record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay::config;
use forebay::metrics::Metrics;
use forebay::queue::{self, NewRecord, Queue, StreamIndex};
use forebay::reading::{Field, Stamp, Trust, Value};
use forebay::uplink::{self, Pace, Uplink};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio_util::sync::CancellationToken;

use super::cursors::{ID, WITH_AN_ID};
use super::{BROKER, PATIENCE, finish, fleet, let_run, scene, transactions, wait_for_transactions};
use crate::process::wait_for;
use crate::scene::Scene;

const ELSEWHERE: &str = "elsewhere";

/// The other producer, with the transactional id of the agents here.
pub(super) struct Rival(BaseProducer);

impl Rival {
    pub(super) fn new(scene: &Scene) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &scene.kafka.bootstrap).set("transactional.id", ID);
        Self(config.create().unwrap())
    }

    /// Fences whoever has the id; what was left open by then has ended.
    pub(super) fn take_over(&self) {
        self.0.init_transactions(PATIENCE).unwrap();
    }

    /// A transaction of one record in a topic of its own.
    fn deliver(&self) -> Result<(), KafkaError> {
        self.0.begin_transaction()?;
        self.0.send(BaseRecord::<str, str>::to(ELSEWHERE).payload("{}")).map_err(|(error, _)| error)?;
        self.0.commit_transaction(PATIENCE)
    }

    #[track_caller]
    fn demand_fenced(&self) {
        let error = self.deliver().expect_err("the rival has the id still");
        let codes =
            [RDKafkaErrorCode::Fenced, RDKafkaErrorCode::ProducerFenced, RDKafkaErrorCode::InvalidProducerEpoch];
        assert!(error.rdkafka_error_code().is_some_and(|code| codes.contains(&code)), "{error}");
    }
}

fn scene_with_an_id(name: &'static str) -> Scene {
    let mut scene = scene(name, &BROKER);
    scene.kafka_lines = WITH_AN_ID;
    scene.kafka.topic(&[ELSEWHERE, "1"]);
    scene
}

#[test]
fn a_fenced_agent_says_so_and_does_not_fence_back() {
    let mut scene = scene_with_an_id("once::a_fenced_agent_says_so_and_does_not_fence_back");
    scene.configure(&fleet(25), None);
    let agent = scene.agent();
    wait_for_transactions(&agent, 5);
    let rival = Rival::new(&scene);
    rival.take_over();
    wait_for("the agent to notice", PATIENCE, || (agent.metric("forebay_uplink_fenced") == 1.0).then_some(()));
    let says = "another agent delivers as transactional id \"gateway-1\"";
    let status = agent.status();
    for stream in ["telemetry", "alarms"] {
        let held = status["uplink"]["held"].as_array().unwrap().iter().find(|held| held["stream"] == stream);
        assert!(held.is_some_and(|held| held["why"].as_str().unwrap().starts_with(says)), "{status:#}");
    }
    let log = agent.log_text();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("another agent delivers")), "{log}");

    // It keeps what it reads, and lets the other one work.
    let (committed, rebuilt) = (transactions(&agent, "committed"), "forebay_uplink_client_rebuilds_total");
    for _ in 0..20 {
        rival.deliver().unwrap();
        let_run(Duration::from_secs(1));
    }
    assert_eq!((transactions(&agent, "committed"), agent.metric(rebuilt)), (committed, 1.0), "it went on");
    assert!(agent.streams()[0].waiting > 5_000, "{:?}", agent.streams());

    // Its next life takes the id back: the cursor is its own, so it was no copy that delivered.
    scene.kill(agent);
    let agent = scene.agent();
    wait_for_transactions(&agent, 5);
    rival.demand_fenced();
    finish(scene, agent);
}

/// The same with a shorter wait than an agent's 10 minutes.
#[test]
fn a_fenced_agent_takes_the_id_back_after_its_wait() {
    const WAIT: Duration = Duration::from_secs(5);
    let mut scene = scene_with_an_id("once::a_fenced_agent_takes_the_id_back_after_its_wait");
    let (queue, uplink, metrics, stop) = start(&scene, Pace { fenced_wait: WAIT, ..Pace::default() });
    let mut pushed = 0;
    // Something is in flight at any moment.
    let mut push_until = |what: &str, is_true: &dyn Fn() -> bool| {
        wait_for(what, PATIENCE, || {
            for _ in 0..20 {
                push(&queue, pushed);
                pushed += 1;
            }
            is_true().then_some(())
        });
    };
    let acknowledged =
        || metrics.uplink_transactions.get_or_create(&forebay::metrics::ByKind { kind: "committed" }).get();
    push_until("transactions", &|| acknowledged() > 5);
    for round in 1..=3 {
        // A client that was fenced is of no more use.
        let rival = Rival::new(&scene);
        rival.take_over();
        push_until("the agent to notice", &|| metrics.uplink_fenced.get() == 1);
        let began = Instant::now();
        rival.deliver().unwrap();
        push_until("the agent to come back", &|| metrics.uplink_fenced.get() == 0);
        let waited = began.elapsed();
        assert!(waited >= WAIT.mul_f64(0.75), "it came back after {waited:?}");
        let before = acknowledged();
        push_until("transactions", &|| acknowledged() > before + 3);
        rival.demand_fenced();
        println!("  round {round}: fenced, back after {:.1} s", waited.as_secs_f64());
        assert!(uplink.status().held.is_empty());
    }
    wait_for("an empty queue", PATIENCE, || (queue.status().streams[0].records == 0).then_some(()));
    stop.cancel();
    uplink.join();
    queue.close().unwrap();
    let ledger = scene.settle();
    assert_eq!((ledger.kept(), ledger.repeated()), (pushed, 0));
}

/// A queue and its uplink in this process, as the scene configures them.
pub(super) fn start(scene: &Scene, pace: Pace) -> (Queue, Uplink, Arc<Metrics>, CancellationToken) {
    let loaded = config::load(&scene.configure("", None)).unwrap_or_else(|errors| panic!("{errors}")).config;
    let (metrics, _) = Metrics::new();
    let settings = queue::Settings {
        dir: loaded.gateway.state_dir.clone(),
        gateway: loaded.gateway.id.clone(),
        queue: loaded.queue.clone(),
        streams: loaded.streams.clone(),
    };
    let queue = Queue::open(settings, Arc::clone(&metrics)).unwrap();
    let kafka = loaded.kafka.unwrap();
    let settings = uplink::Settings { kafka, streams: loaded.streams, gateway: loaded.gateway };
    let stop = CancellationToken::new();
    let uplink = Uplink::start_paced(settings, pace, queue.clone(), Arc::clone(&metrics), stop.clone()).unwrap();
    (queue, uplink, metrics, stop)
}

fn push(queue: &Queue, number: u64) {
    let wall_us = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
    let record = NewRecord {
        stamp: Stamp { boot_ns: number, wall_us, trust: Trust::Ntp },
        source: "fleet".into(),
        device: format!("vehicle-{}", number % 5).into(),
        fields: vec![Field::new("number", Value::Unsigned(number))],
    };
    queue.push(StreamIndex(0), record).unwrap();
}
