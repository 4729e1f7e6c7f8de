//! Random histories of a stream against a model of Kafka: faults of every step, crashes at every point, transactions that
//! Kafka gives up, cursors that it forgets. What decides is the product's own [`Session`], [`Found`], [`resume`] and
//! [`Cursor`]; what the thread and the queue do around them is written down here once more, in a few lines.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use uuid::Uuid;

use super::cursor::{Cursor, Found, Range, resume};
use super::session::{Event, Loss, Outcome, Patience, Session, Sight, Step};
use crate::kafka::Committed;
use crate::queue::Lives;
use crate::queue::lane::Lanes;
use crate::reading::Position;
use crate::uplink::lane::Backoff;

const PATIENCE: Patience = Patience {
    backoff: Backoff { first_ns: 1, max_ns: 1 },
    rebuild: Backoff { first_ns: 2, max_ns: 2 },
    fenced_ns: 1,
    transaction_ns: 5,
};

/// How a step of the client ends, and whether Kafka did it.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    AgainUndone,
    AgainDone,
    AbortUndone,
    AbortDone,
    LostUndone,
    LostDone,
    Denied,
}

#[derive(Debug, Clone)]
enum Action {
    Push(u64),
    Cut,
    Note,
    Append,
    Save,
    Step(Fault),
    /// Time in which nothing happens: a step that was not at its end before it may have lasted too long after it.
    Pass(u64),
    Crash,
    /// Kafka gives up an open transaction, and with it the client.
    GiveUp,
    /// Kafka forgets the cursor.
    Forget,
}

fn action() -> impl Strategy<Value = Action> {
    let fault = prop_oneof![
        12 => Just(Fault::None),
        1 => Just(Fault::AgainUndone),
        1 => Just(Fault::AgainDone),
        1 => Just(Fault::AbortUndone),
        1 => Just(Fault::AbortDone),
        1 => Just(Fault::LostUndone),
        1 => Just(Fault::LostDone),
        1 => Just(Fault::Denied),
    ];
    prop_oneof![
        6 => (1..5_u64).prop_map(Action::Push),
        3 => Just(Action::Cut),
        3 => Just(Action::Note),
        3 => Just(Action::Append),
        2 => Just(Action::Save),
        40 => fault.prop_map(Action::Step),
        2 => (1..20_u64).prop_map(Action::Pass),
        2 => Just(Action::Crash),
        1 => Just(Action::GiveUp),
        1 => Just(Action::Forget),
    ]
}

/// A transaction in Kafka.
#[derive(Debug, Clone, Default)]
struct Transaction {
    records: Vec<(Position, bool)>,
    offset: Option<Committed>,
}

#[derive(Debug, Default)]
struct Kafka {
    log: Vec<(Position, bool)>,
    cursor: Option<Committed>,
    /// Of the client that has the transactional id.
    epoch: u32,
    open: Option<Transaction>,
}

/// What survives a crash of the agent.
#[derive(Debug)]
struct Disk {
    blocks: BTreeSet<Position>,
    lanes: Lanes,
    in_doubt: Option<Range>,
    run: u32,
    lives: Vec<u64>,
}

/// What does not.
struct Agent {
    session: Session,
    lanes: Lanes,
    in_doubt: Option<Range>,
    tail: VecDeque<Position>,
    next_seq: u64,
    /// Cut and not yet appended, and whether what it may leave in doubt is noted.
    cut: Option<(Vec<Position>, bool)>,
    epoch: Option<u32>,
    /// The commit that Kafka has done and the client does not know of.
    commit_done: bool,
    is_alive: bool,
    claimed: bool,
    doubtful: Option<Range>,
    range: Option<Range>,
    sent: Vec<(Position, bool)>,
    /// More is added before the transaction is complete.
    filling: bool,
}

struct World {
    kafka: Kafka,
    disk: Disk,
    agent: Agent,
    now_ns: u64,
    given: Vec<Position>,
    ever_durable: BTreeSet<Position>,
    forgotten: bool,
}

fn queue() -> Uuid {
    Uuid::from_u128(7)
}

impl Agent {
    fn start(disk: &mut Disk) -> Self {
        disk.run += 1;
        Self {
            session: Session::new(PATIENCE),
            lanes: disk.lanes.clone(),
            in_doubt: disk.in_doubt,
            tail: VecDeque::new(),
            next_seq: 0,
            cut: None,
            epoch: None,
            commit_done: false,
            is_alive: false,
            claimed: false,
            doubtful: None,
            range: None,
            sent: Vec::new(),
            filling: false,
        }
    }

    fn ack(&mut self, through: Position) {
        self.lanes.ack(through);
        self.tail.retain(|position| *position > through);
    }
}

impl World {
    fn new() -> Self {
        let lanes = Lanes::from_cursor(Position::ZERO);
        let mut disk = Disk { blocks: BTreeSet::new(), lanes, in_doubt: None, run: 0, lives: Vec::new() };
        let agent = Agent::start(&mut disk);
        Self {
            kafka: Kafka::default(),
            disk,
            agent,
            now_ns: 0,
            given: Vec::new(),
            ever_durable: BTreeSet::new(),
            forgotten: false,
        }
    }

    fn save(&mut self) {
        (self.disk.lanes, self.disk.in_doubt) = (self.agent.lanes.clone(), self.agent.in_doubt);
    }

    fn act(&mut self, action: &Action) {
        self.now_ns += 1;
        match action {
            Action::Push(count) => {
                for _ in 0..*count {
                    let position = Position::new(self.disk.run, self.agent.next_seq);
                    self.agent.next_seq += 1;
                    self.agent.tail.push_back(position);
                    self.given.push(position);
                }
            }
            Action::Cut if self.agent.cut.is_none() && !self.agent.tail.is_empty() => {
                self.agent.cut = Some((self.agent.tail.iter().copied().collect(), false));
            }
            Action::Note => self.note(),
            Action::Append => self.append(),
            Action::Save => self.save(),
            Action::Step(fault) => self.step(*fault),
            Action::Pass(ns) => self.now_ns += ns,
            Action::Crash => {
                self.agent = Agent::start(&mut self.disk);
            }
            Action::GiveUp => {
                if self.kafka.open.take().is_some() {
                    self.kafka.epoch += 1;
                }
            }
            Action::Forget => {
                self.forgotten = true;
                self.kafka.cursor = None;
            }
            Action::Cut => {}
        }
    }

    /// The seal's rule: a record of an open transaction, or one delivered since the cut, is not written before word of it.
    fn note(&mut self) {
        let Some((positions, noted)) = &mut self.agent.cut else { return };
        *noted = true;
        let (first, last) = (positions[0], *positions.last().unwrap());
        let open = self.agent.in_doubt.filter(|_| self.agent.in_doubt != self.disk.in_doubt);
        let delivered = first < self.agent.lanes.cursor() && self.disk.lanes.cursor() < self.agent.lanes.cursor();
        if delivered || open.is_some_and(|(begin, end)| begin <= last && first <= end) {
            self.save();
        }
    }

    fn append(&mut self) {
        let Some((positions, _)) = self.agent.cut.take_if(|(_, noted)| *noted) else { return };
        self.agent.tail.retain(|position| !positions.contains(position));
        self.ever_durable.extend(&positions);
        self.disk.blocks.extend(positions);
    }

    fn step(&mut self, fault: Fault) {
        let event = match self.agent.session.step(self.now_ns) {
            Step::Wait(until_ns) => {
                self.now_ns = until_ns;
                None
            }
            Step::Look => self.read(fault, false),
            Step::Read => self.read(fault, true),
            Step::Initialise => {
                if !self.agent.is_alive {
                    self.agent.is_alive = true;
                    self.disk.lives.push(self.disk.lives.len() as u64 + 1);
                }
                self.ask(fault, |world| {
                    world.kafka.open = None;
                    world.kafka.epoch += 1;
                    world.agent.epoch = Some(world.kafka.epoch);
                    true
                })
            }
            Step::Begin => {
                self.begin();
                None
            }
            Step::Deliver => {
                self.deliver(fault);
                None
            }
            Step::Offset => {
                let cursor = self.cursor();
                self.ask(fault, move |world| world.in_transaction(|open| open.offset = Some(cursor)))
            }
            Step::Commit => self.ask(fault, Self::commit),
            Step::Abort => self.ask(fault, |world| {
                let own = world.agent.epoch == Some(world.kafka.epoch);
                if own {
                    world.kafka.open = None;
                }
                own
            }),
        };
        match event {
            Some(Event::Committed) => self.committed(),
            Some(Event::Aborted) => {
                if self.agent.range.take().is_some() {
                    self.agent.in_doubt = self.agent.doubtful;
                }
                self.agent.commit_done = false;
            }
            Some(Event::Lost | Event::Fenced | Event::Denied) => {
                (self.agent.epoch, self.agent.range) = (None, None);
                (self.agent.claimed, self.agent.commit_done) = (false, false);
            }
            None => {}
        }
    }

    /// Does what the client asks, unless the fault is in the way. `request` gives false where the client is fenced.
    fn ask(&mut self, fault: Fault, request: impl FnOnce(&mut Self) -> bool) -> Option<Event> {
        let done = matches!(fault, Fault::None | Fault::AgainDone | Fault::AbortDone | Fault::LostDone);
        let outcome = match fault {
            _ if done && !request(self) => Outcome::Gone(Loss::Fenced),
            Fault::None => Outcome::Done,
            Fault::AgainDone | Fault::AgainUndone => Outcome::Again,
            Fault::AbortDone | Fault::AbortUndone => Outcome::Abort,
            Fault::LostDone | Fault::LostUndone => Outcome::Gone(Loss::Broken),
            Fault::Denied => Outcome::Gone(Loss::Denied),
        };
        self.agent.session.ended(outcome, self.now_ns, 0.5)
    }

    /// Changes the client's transaction in Kafka. Gives false where it is fenced.
    fn in_transaction(&mut self, change: impl FnOnce(&mut Transaction)) -> bool {
        if self.agent.epoch != Some(self.kafka.epoch) {
            return false;
        }
        change(self.kafka.open.get_or_insert_default());
        true
    }

    fn commit(&mut self) -> bool {
        if self.agent.commit_done {
            return true;
        }
        if self.agent.epoch != Some(self.kafka.epoch) {
            return false;
        }
        let open = self.kafka.open.take().unwrap_or_default();
        self.kafka.log.extend(open.records);
        self.kafka.cursor = open.offset.or(self.kafka.cursor.take());
        self.agent.commit_done = true;
        true
    }

    fn read(&mut self, fault: Fault, stable: bool) -> Option<Event> {
        let lives = Lives::of(self.disk.lives.clone());
        let sight = if !matches!(fault, Fault::None) {
            Sight::Nothing
        } else {
            match Found::of(self.kafka.cursor.as_ref(), queue(), &lives) {
                Found::Copy => Sight::Copy,
                found if stable => {
                    self.resume(if let Found::Own(cursor) = &found { Some(cursor) } else { None });
                    Sight::Own
                }
                _ => Sight::Own,
            }
        };
        assert_ne!(sight, Sight::Copy, "its own cursor is taken for a copy's");
        self.agent.session.read(sight, self.now_ns, 0.5)
    }

    fn resume(&mut self, cursor: Option<&Cursor>) {
        let resumed = resume(&self.agent.lanes, self.agent.in_doubt, cursor);
        self.agent.lanes = resumed.lanes;
        let cursor = self.agent.lanes.cursor();
        self.agent.tail.retain(|position| *position >= cursor);
        (self.agent.in_doubt, self.agent.doubtful) = (resumed.doubtful, resumed.doubtful);
    }

    fn cursor(&self) -> Committed {
        let mut lanes = self.agent.lanes.clone();
        if let Some((_, last)) = self.agent.range {
            lanes.ack(last);
        }
        let doubtful = self.agent.doubtful.filter(|(first, last)| lanes.first_open(*first) <= *last);
        let life = self.disk.lives.len() as u64;
        Cursor { queue: queue(), life, lanes, doubtful, skipped: 0 }.encode()
    }

    fn begin(&mut self) {
        if !self.agent.claimed {
            (self.agent.range, self.agent.sent) = (None, Vec::new());
            self.agent.session.begun(self.now_ns);
            return;
        }
        self.agent.sent.clear();
        if self.hand_over(None) {
            self.agent.filling = true;
            self.agent.session.begun(self.now_ns);
        }
    }

    /// Up to three records more for the transaction with this range. Gives whether there are any.
    fn hand_over(&mut self, range: Option<Range>) -> bool {
        let agent = &mut self.agent;
        let open: BTreeSet<Position> = self.disk.blocks.iter().chain(&agent.tail).copied().collect();
        let is_next = |position: &Position| range.is_none_or(|(_, last)| *position > last);
        let mut open = open.into_iter().filter(|at| !agent.lanes.is_done(*at) && is_next(at)).peekable();
        let Some(first) = range.map(|(first, _)| first).or(open.peek().copied()) else { return false };
        let records: Vec<_> = open.take_while(|position| position.run() == first.run()).take(3).collect();
        let Some(last) = records.last().copied() else { return false };
        let is_doubtful = |position: &Position| agent.doubtful.is_some_and(|(a, b)| a <= *position && *position <= b);
        agent.sent.extend(records.iter().map(|position| (*position, is_doubtful(position))));
        let (doubt_first, doubt_last) = agent.doubtful.unwrap_or((first, last));
        agent.in_doubt = Some((first.min(doubt_first), last.max(doubt_last)));
        agent.range = Some((first, last));
        true
    }

    /// The rest of the transaction; then, before the commit, what a crash leaves behind is noted; what is being written
    /// counts as that.
    fn fill(&mut self) {
        self.agent.filling = false;
        let Some(range @ (first, _)) = self.agent.range else { return };
        self.hand_over(Some(range));
        let agent = &self.agent;
        let being_written = agent.cut.as_ref().is_some_and(|(cut, _)| *cut.last().unwrap() >= first);
        if being_written || self.disk.blocks.last().is_some_and(|block| first <= *block) {
            self.save();
        }
    }

    fn deliver(&mut self, fault: Fault) {
        if self.agent.filling && matches!(fault, Fault::None) {
            self.fill();
        }
        let sent = self.agent.sent.clone();
        let arrives = !matches!(fault, Fault::AgainUndone | Fault::AbortUndone | Fault::LostUndone | Fault::Denied);
        let alive = !arrives || sent.is_empty() || self.in_transaction(|open| open.records = sent);
        match fault {
            _ if !alive => {
                let event = self.agent.session.lost_client(Loss::Fenced, self.now_ns, 0.5);
                assert!(matches!(event, Event::Lost | Event::Fenced));
                (self.agent.epoch, self.agent.range, self.agent.claimed) = (None, None, false);
            }
            Fault::None => self.agent.session.delivered(),
            Fault::AgainUndone | Fault::AgainDone => {}
            Fault::AbortUndone | Fault::AbortDone | Fault::LostUndone | Fault::LostDone | Fault::Denied => {
                self.agent.session.failed(false)
            }
        }
    }

    fn committed(&mut self) {
        let agent = &mut self.agent;
        (agent.claimed, agent.commit_done) = (true, false);
        if let Some((_, last)) = agent.range.take() {
            agent.ack(last);
        }
        agent.doubtful = agent.doubtful.filter(|(first, last)| agent.lanes.first_open(*first) <= *last);
        agent.in_doubt = agent.doubtful;
    }

    /// Lets everything that is left arrive.
    fn drain(&mut self) {
        for _ in 0..2_000 {
            self.step(Fault::None);
            let open = |position: &&Position| !self.agent.lanes.is_done(**position);
            let left = self.disk.blocks.iter().chain(&self.agent.tail).find(open);
            if left.is_none() && self.agent.session.step(self.now_ns) == Step::Begin && self.agent.claimed {
                return;
            }
        }
        panic!("it does not come to an end: {:?}", self.agent.session);
    }

    fn judge(&self) {
        let mut copies: BTreeMap<Position, Vec<bool>> = BTreeMap::new();
        for (position, marked) in &self.kafka.log {
            copies.entry(*position).or_default().push(*marked);
        }
        for position in self.ever_durable.iter().chain(&self.agent.tail) {
            assert!(copies.contains_key(position), "{position} was durable and is not in Kafka");
        }
        for (position, copies) in &copies {
            let unmarked = copies.iter().filter(|marked| !**marked).count();
            assert!(unmarked <= 1, "{position} is in Kafka {} times without a mark", copies.len());
            assert!(copies.len() == 1 || self.forgotten, "{position} is in Kafka twice, and nothing was forgotten");
            assert!(copies.iter().all(|marked| !*marked) || self.forgotten, "{position} is marked without a reason");
        }
        let unmarked: Vec<_> = self.kafka.log.iter().filter(|(_, marked)| !*marked).map(|(at, _)| *at).collect();
        assert!(unmarked.is_sorted(), "out of order: {unmarked:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn every_durable_record_arrives_once(actions in proptest::collection::vec(action(), 1..120)) {
        let mut world = World::new();
        for action in &actions {
            world.act(action);
        }
        world.drain();
        world.judge();
    }
}

/// Kafka forgets the cursor of a transaction in doubt, and again while that is sent anew, marked: what was not yet handed
/// over then must not lose its mark. Digits are records; steps go well, abort (`a`), or are lost, done (`L`) or not (`l`).
#[test]
fn what_is_sent_again_is_marked_however_often_it_fails() {
    let action = |letter: char| match letter {
        '.' => Action::Step(Fault::None),
        'a' => Action::Step(Fault::AbortUndone),
        'L' => Action::Step(Fault::LostDone),
        'l' => Action::Step(Fault::LostUndone),
        'F' => Action::Forget,
        count => Action::Push(count.to_digit(10).unwrap().into()),
    };
    let actions: Vec<Action> = "......2..a..a2....LF111111........a..a..aa....F.l".chars().map(action).collect();
    for length in 0..=actions.len() {
        let mut world = World::new();
        actions[..length].iter().for_each(|action| world.act(action));
        world.drain();
        world.judge();
    }
}
