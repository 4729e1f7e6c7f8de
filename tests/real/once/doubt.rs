//! The one exception of exactly once: the agent is killed with a transaction in doubt, and Kafka has forgotten the cursors
//! by its next start. What is in doubt comes again with a mark, whether or not it is in Kafka already; nothing else comes
//! twice, and nothing else has a mark.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use forebay::queue::inspect::Inspection;
use forebay::reading::Position;
use serde_json::Value;

use super::cursors::{self, Cursors, STREAMS, WITH_AN_ID};
use super::fencing::Rival;
use super::{BROKER, PATIENCE, fleet, let_run, reload, scene, simulated, wait_for_transactions};
use crate::agent::{Agent, StreamNow};
use crate::process::{output, tool, wait_for};
use crate::scene::Scene;

const SAYS: &str = "kafka has forgotten the cursor while a transaction was in doubt";

/// A stream's record: run and sequence number.
type Place = (u32, u64);

/// Records of one run, first and last sequence number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubt {
    run: u32,
    first: u64,
    last: u64,
}

/// What of the stream is in doubt by the state on disk, which a crash would leave.
pub(super) fn of(scene: &Scene, stream: &str) -> Option<Doubt> {
    let look = Inspection::open(&scene.dir().join("state")).ok()?;
    let known = look.state()?.streams.iter().find(|known| &*known.name == stream)?;
    let [first, last] = <[u64; 2]>::from(known.in_doubt?).map(Position::from_packed);
    // Between the last acknowledgement and the transaction's end it may be all delivered.
    let is_open = known.lanes().first_open(first) <= last;
    is_open.then_some(Doubt { run: first.run(), first: first.seq(), last: last.seq() })
}

/// How far a stream is on disk and acknowledged, by `/status`; what a life before has left is of another run.
pub(super) struct Told {
    stream: String,
    durable: Option<Place>,
    acknowledged: Option<Place>,
}

pub(super) fn told(agent: &Agent) -> Vec<Told> {
    let status = agent.status();
    let place = |at: &Value| Some((u32::try_from(at["run"].as_u64()?).unwrap(), at["seq"].as_u64()?));
    let told = |stream: &Value| Told {
        stream: stream["name"].as_str().unwrap().to_owned(),
        durable: place(&stream["durable"]),
        acknowledged: place(&stream["acknowledged"]),
    };
    status["streams"].as_array().unwrap().iter().map(told).collect()
}

/// Whether there was a transaction with records on disk, not known to be committed, when the agent told this.
pub(super) fn is_open(scene: &Scene, told: &[Told]) -> bool {
    told.iter().any(|told| {
        let first = of(scene, &told.stream).map(|doubt| (doubt.run, doubt.first));
        first > told.acknowledged && first <= told.durable
    })
}

/// Waits, while Kafka hangs, until the transaction that does so too has records on disk, and a crash would leave word of it.
pub(super) fn wait_until_open(scene: &Scene, agent: &Agent) {
    wait_for("a transaction in doubt", PATIENCE, || is_open(scene, &told(agent)).then_some(()));
}

/// The same for so long as a transaction takes to be sealed. One of a backlog leaves no word before its commit, and none
/// comes while Kafka hangs.
pub(super) fn look_for_open(scene: &Scene, agent: &Agent) {
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end && !is_open(scene, &told(agent)) {
        let_run(Duration::from_millis(20));
    }
}

/// A transaction is open at the kill; Kafka ends it later.
fn cut_off(scene: &mut Scene, agent: Agent) -> Vec<StreamNow> {
    scene.kafka.pause();
    wait_until_open(scene, &agent);
    let noted = scene.kill(agent);
    scene.kafka.resume();
    noted
}

/// The last transaction is committed at the kill, and the queue has not noted that yet: all that it has is on disk before
/// the transaction begins, so its doubt stands there for another 5 s.
fn cut_off_behind_a_commit(scene: &mut Scene, agent: Agent) -> Vec<StreamNow> {
    scene.kafka.pause();
    wait_for("records that wait", PATIENCE, || (agent.streams()[0].waiting > 200).then_some(()));
    reload(scene, &agent, "");
    let all = |reached: fn(&StreamNow) -> Option<u64>| {
        let is_whole = |stream: &StreamNow| reached(stream) == stream.pushed.checked_sub(1);
        agent.streams().iter().all(is_whole).then_some(())
    };
    wait_for("all of it on disk", PATIENCE, || all(StreamNow::safe));
    scene.kafka.resume();
    wait_for("the last commit", PATIENCE, || all(|stream| stream.acknowledged));
    scene.kill(agent)
}

/// What is known of a stream before a life that finds no cursor.
struct Before {
    stream: &'static str,
    /// What may come with a mark.
    doubt: BTreeSet<Place>,
    /// What of it must, as a crash has left it.
    durable: BTreeSet<Place>,
    /// What Kafka has of the stream.
    arrived: BTreeMap<Place, Vec<bool>>,
}

/// Kafka ends what the agent has left open, and forgets the cursors.
fn forget(scene: &Scene, noted: &[StreamNow]) -> Vec<Before> {
    Rival::new(scene).take_over();
    cursors::forget(scene);
    assert!(Cursors::new(scene).known().is_empty(), "Kafka has cursors still");
    let before = noted.iter().zip(STREAMS).map(|(now, stream)| {
        assert_eq!(now.name, stream);
        let doubt: BTreeSet<Place> = of(scene, stream)
            .map(|doubt| (doubt.first..=doubt.last).map(|seq| (doubt.run, seq)).collect())
            .unwrap_or_default();
        let is_durable = |(run, seq): &Place| *run == now.run && Some(*seq) <= now.durable;
        let durable = doubt.iter().copied().filter(is_durable).collect();
        Before { stream, doubt, durable, arrived: in_kafka(scene, stream) }
    });
    before.collect()
}

/// Each record of the topic, with what of its copies has the mark, in their order.
fn in_kafka(scene: &Scene, topic: &str) -> BTreeMap<Place, Vec<bool>> {
    let mut kcat = tool("kcat", "kcat");
    kcat.args(["-b", &scene.kafka.bootstrap, "-C", "-t", topic, "-o", "beginning", "-e", "-q"]);
    kcat.args(["-X", "isolation.level=read_committed", "-f", "%h\t%s\n"]);
    let mut found: BTreeMap<Place, Vec<bool>> = BTreeMap::new();
    for line in output(&mut kcat).lines() {
        let (headers, value) = line.split_once('\t').unwrap();
        let record: Value = serde_json::from_str(value).unwrap();
        let place = (u32::try_from(record["run"].as_u64().unwrap()).unwrap(), record["seq"].as_u64().unwrap());
        let is_marked = headers.split(',').any(|header| header == "possible-duplicate=true");
        found.entry(place).or_default().push(is_marked);
    }
    found
}

/// Judges what a life that found no cursor has delivered. Gives how many records came with a mark, and how many of them
/// for the second time.
fn judge(scene: &Scene, agent: &Agent, before: &[Before]) -> (u64, u64) {
    let (mut marked, mut twice) = (0, 0);
    for Before { stream, doubt, durable, arrived } in before {
        let now = in_kafka(scene, stream);
        for (place, copies) in &now {
            let had = arrived.get(place).map_or(&[][..], Vec::as_slice);
            let came = &copies[had.len()..];
            let of_this_life = (came.len(), came.contains(&true));
            let fits = match (had.len(), doubt.contains(place), durable.contains(place)) {
                (1, true, true) => of_this_life == (1, true),
                (1, true, false) => came.is_empty() || of_this_life == (1, true),
                (0, true, _) => of_this_life == (1, true),
                (0, false, _) => of_this_life == (1, false),
                _ => came.is_empty(),
            };
            assert!(fits, "{stream} {place:?}: had {had:?}, then came {came:?}; in doubt: {}", doubt.contains(place));
            marked += u64::from(came.contains(&true));
            twice += u64::from(!had.is_empty() && !came.is_empty());
        }
        let missing: Vec<_> = durable.iter().filter(|place| !now.contains_key(place)).collect();
        assert!(missing.is_empty(), "{stream}: in doubt, on disk and lost: {missing:?}");
    }
    assert_eq!(agent.metric("forebay_uplink_possible_duplicates_total"), marked as f64, "marks, by the agent's count");
    assert_eq!(agent.log_text().contains(SAYS), marked > 0, "the event in the log");
    (marked, twice)
}

#[test]
fn what_is_in_doubt_comes_again_with_a_mark() {
    let mut scene = scene("once::doubt::what_is_in_doubt_comes_again_with_a_mark", &BROKER);
    scene.kafka_lines = WITH_AN_ID;
    scene.configure(&fleet(25), None);
    let agent = scene.agent();
    wait_for_transactions(&agent, 5);
    let noted = cut_off(&mut scene, agent);
    let before = forget(&scene, &noted);
    let agent = scene.agent();
    wait_for_transactions(&agent, 5);
    reload(&scene, &agent, "");
    scene.wait_until_delivered(&agent);
    let (marked, mut repeated) = judge(&scene, &agent, &before);
    println!("  killed in a transaction: {marked} records came with a mark, {repeated} of them for the second time");
    assert!(marked > 0, "nothing was in doubt");

    // One stream alone: a transaction of the other one would have all ends noted.
    reload(&scene, &agent, &simulated("fleet", 25, "telemetry"));
    wait_for_transactions(&agent, 5);
    let noted = cut_off_behind_a_commit(&mut scene, agent);
    let before = forget(&scene, &noted);
    let agent = scene.agent();
    agent.wait_for_store();
    wait_for("an empty queue", PATIENCE, || agent.is_drained().then_some(()));
    let (marked, twice) = judge(&scene, &agent, &before);
    println!("  killed behind a commit: {marked} records came with a mark, {twice} of them for the second time");
    assert!(twice > 0, "nothing was in doubt that Kafka had");
    repeated += twice;
    agent.terminate();

    // With nothing in doubt the queue's own cursor counts, and nothing is said.
    let before = forget(&scene, &[]);
    assert!(before.is_empty());
    scene.configure(&fleet(25), None);
    let agent = scene.agent();
    wait_for_transactions(&agent, 5);
    scene.wait_until_delivered(&agent);
    judge(&scene, &agent, &before);
    wait_for("cursors in Kafka", PATIENCE, || (Cursors::new(&scene).known() == STREAMS).then_some(()));
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    assert_eq!(scene.settle().repeated(), repeated, "records without a mark came twice");
}
