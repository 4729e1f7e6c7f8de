//! The streams' cursors as Kafka keeps them, read and deleted without the product's code; and an agent that has nothing to
//! say, and commits them anew before Kafka forgets them.

use std::process::Command;
use std::time::Duration;

use forebay::uplink::Pace;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{BROKER, PATIENCE, fencing, scene};
use crate::process::{output, script, wait_for};
use crate::scene::Scene;

/// A transactional id that is known before there is a queue.
pub(super) const ID: &str = "gateway-1";
/// What a scenario configures for it.
pub(super) const WITH_AN_ID: &str =
    "delivery = \"exactly-once\"\ntransaction-timeout = \"10s\"\ntransactional-id = \"gateway-1\"";
pub(super) const STREAMS: [&str; 2] = ["telemetry", "alarms"];
/// A coordinator that was just stopped and goes on answers late.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Who asks for the committed offsets of the streams' groups.
pub(super) struct Cursors([(&'static str, BaseConsumer); 2]);

impl Cursors {
    pub(super) fn new(scene: &Scene) -> Self {
        Self(STREAMS.map(|stream| {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", &scene.kafka.bootstrap).set("group.id", group(stream));
            (stream, config.create().unwrap())
        }))
    }

    /// The streams whose group has an offset.
    pub(super) fn known(&self) -> Vec<&'static str> {
        let is_known = |(stream, asks): &&(&'static str, BaseConsumer)| {
            let mut asked = TopicPartitionList::new();
            asked.add_partition(stream, 0);
            let found = asks.committed_offsets(asked, ANSWER_MAX).unwrap_or_else(|error| panic!("{stream}: {error}"));
            matches!(found.elements()[0].offset(), Offset::Offset(_))
        };
        self.0.iter().filter(is_known).map(|(stream, _)| *stream).collect()
    }
}

fn group(stream: &str) -> String {
    format!("{ID}.{stream}")
}

fn admin(scene: &Scene, tool: &str) -> Command {
    let mut command = script("kafka");
    command.arg("admin").arg(scene.kafka.dir()).arg(tool);
    command
}

/// Deletes the groups of both streams, with their offsets.
pub(super) fn forget(scene: &Scene) {
    let mut delete = admin(scene, "consumer.group.ConsumerGroupCommand");
    delete.arg("--delete");
    for stream in STREAMS {
        delete.args(["--group", &group(stream)]);
    }
    let said = output(&mut delete);
    assert!(said.contains("was successful"), "the groups were not deleted: {said}");
}

/// Whether Kafka knows the transactional id.
pub(super) fn is_id_known(scene: &Scene) -> bool {
    let listed = output(admin(scene, "TransactionsCommand").arg("list"));
    assert!(listed.contains("TransactionalId"), "not a list of transactions: {listed}");
    listed.lines().any(|line| line.split_whitespace().next() == Some(ID))
}

/// Every day; here every second. That it does so is seen by what Kafka has forgotten meanwhile and has again.
#[test]
fn an_idle_agent_commits_its_cursors_anew() {
    let mut scene = scene("once::cursors::an_idle_agent_commits_its_cursors_anew", &BROKER);
    scene.kafka_lines = WITH_AN_ID;
    let pace = Pace { cursor_refresh: Duration::from_secs(1), ..Pace::default() };
    let (queue, uplink, metrics, stop) = fencing::start(&scene, pace);
    let cursors = Cursors::new(&scene);
    for round in ["first", "again"] {
        wait_for(&format!("the cursors, {round}"), PATIENCE, || (cursors.known() == STREAMS).then_some(()));
        forget(&scene);
    }
    wait_for("the cursors, a third time", PATIENCE, || (cursors.known() == STREAMS).then_some(()));
    assert_eq!(metrics.uplink_client_rebuilds.get(), 0, "they came with a client, not with time");
    stop.cancel();
    uplink.join();
    queue.close().unwrap();
}
