//! What the transactional client does next, and what follows from each answer. Pure; time comes as an argument.
//!
//! A client begins by looking whether a copy of this queue delivers already, before it fences anybody. Then it takes
//! the transactional id over, which ends what a former life left open, and reads the cursors: from here on they are the
//! truth. A transaction whose commit did not end well is never judged by its error: the client is destroyed, the next
//! one reads the cursor.

use super::super::backoff::{Attempts, Backoff};

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time, ns; there is no client.
    Wait(u64),
    /// Read all cursors without waiting for open transactions.
    Look,
    /// Make the client, where there is none, and take the transactional id over.
    Initialise,
    /// Read all cursors, now that no transaction is open.
    Read,
    /// Begin a transaction where there is something to send.
    Begin,
    /// Wait for the reports of the open transaction's records.
    Deliver,
    /// Put the cursor into the open transaction.
    Offset,
    /// Commit it.
    Commit,
    /// Abort it.
    Abort,
}

/// How a step ended that the client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Done,
    /// Not yet: the same again.
    Again,
    /// The transaction has to be aborted.
    Abort,
    /// The client can no longer be used, for this reason.
    Gone(Loss),
}

/// Why a client can no longer be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It is broken, or its connection is.
    Broken,
    /// It was fenced.
    Fenced,
    /// Kafka refuses the transactional id to it.
    Denied,
}

impl Step {
    /// What the client does then, in words.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Wait(_) => "waiting",
            Self::Look | Self::Read => "reading the cursors",
            Self::Initialise => "taking the transactional id over",
            Self::Begin => "beginning a transaction",
            Self::Deliver => "delivering",
            Self::Offset => "putting the cursor into the transaction",
            Self::Commit => "committing",
            Self::Abort => "aborting",
        }
    }
}

/// What reading the cursors gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// They are this queue's, or there are none.
    Own,
    /// A copy of this queue has written one.
    Copy,
    /// Kafka did not answer or refused.
    Nothing,
}

/// What the driver has to do beside the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The open transaction is in Kafka.
    Committed,
    /// The open transaction is not in Kafka.
    Aborted,
    /// Destroy the client. What became of an open transaction is not known until the cursors are read again.
    Lost,
    /// As [`Event::Lost`]; another agent has the transactional id.
    Fenced,
    /// As [`Event::Lost`]; the right to the transactional id is missing.
    Denied,
}

/// How patient a session is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Between tries to reach Kafka.
    pub backoff: Backoff,
    /// Before a new client takes the place of one that was lost.
    pub rebuild: Backoff,
    /// Before another look after another agent was found.
    pub fenced_ns: u64,
    /// Kafka gives a transaction up after this time.
    pub transaction_ns: u64,
}

/// A step is three requests at most, one after another: for the cursor to both coordinators and for who the second is,
/// for an abort what is in flight, the end of the transaction and the new epoch. None of them waits longer than a
/// transaction.
const REQUESTS: u64 = 3;
/// A new client connects twice first, each time for up to 15 s, to a broker that knows the coordinator and to that.
const FIRST_STEP_NS_MIN: u64 = 60_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Looking,
    Initialising,
    Reading,
    Ready,
    Delivering,
    Offsetting,
    Committing,
    Aborting,
}

/// A client's life and its transaction.
#[derive(Debug)]
pub struct Session {
    patience: Patience,
    stage: Stage,
    wait_until_ns: u64,
    /// Tries to reach Kafka since the last answer.
    attempt: u32,
    /// When the open transaction began.
    opened_ns: Option<u64>,
    /// Clients lost since records were last committed.
    losses: Attempts,
    /// The last transaction that failed did so because nothing was reported.
    timed_out: bool,
    another: bool,
    /// Times in a row that Kafka refused the transactional id.
    denied: u32,
    /// The client has said since then that the step is not yet at its end.
    again_since_ns: Option<u64>,
}

impl Session {
    /// Nothing was done yet.
    pub fn new(patience: Patience) -> Self {
        Self {
            patience,
            stage: Stage::Looking,
            wait_until_ns: 0,
            attempt: 0,
            opened_ns: None,
            losses: Attempts::new(patience.rebuild),
            timed_out: false,
            another: false,
            denied: 0,
            again_since_ns: None,
        }
    }

    /// What is to be done now.
    pub fn step(&self, now_ns: u64) -> Step {
        if now_ns < self.wait_until_ns {
            return Step::Wait(self.wait_until_ns);
        }
        match self.stage {
            Stage::Looking => Step::Look,
            Stage::Initialising => Step::Initialise,
            Stage::Reading => Step::Read,
            Stage::Ready => Step::Begin,
            Stage::Delivering => Step::Deliver,
            Stage::Offsetting => Step::Offset,
            Stage::Committing => Step::Commit,
            Stage::Aborting => Step::Abort,
        }
    }

    /// How long initialise, offset, commit or abort may go on, whichever it is now.
    pub fn longest_ns(&self) -> u64 {
        let longest_ns = self.patience.transaction_ns.saturating_mul(REQUESTS);
        if self.stage == Stage::Initialising { longest_ns.max(FIRST_STEP_NS_MIN) } else { longest_ns }
    }

    /// Whether nothing of any stream can be sent until somebody mends something: another agent delivers, or the
    /// right to the transactional id is missing.
    pub fn is_held(&self) -> bool {
        self.another || self.denied > 0
    }

    /// Whether a transaction is open.
    pub fn is_open(&self) -> bool {
        self.opened_ns.is_some()
    }

    /// Whether the transaction that was aborted last failed because nothing was reported in time.
    pub fn has_timed_out(&self) -> bool {
        self.timed_out
    }

    /// The cursors were read, or not.
    pub fn read(&mut self, sight: Sight, now_ns: u64, chance: f64) -> Option<Event> {
        match (sight, self.stage) {
            (Sight::Own, Stage::Looking) => self.reached(Stage::Initialising),
            (Sight::Own, Stage::Reading) => {
                (self.another, self.denied) = (false, 0);
                self.reached(Stage::Ready);
            }
            (Sight::Own, _) => {}
            (Sight::Copy, _) => return Some(self.fenced(now_ns, chance)),
            (Sight::Nothing, _) => {
                let delay_ns = self.patience.backoff.delay_ns(self.attempt, chance);
                self.wait_until_ns = now_ns.saturating_add(delay_ns);
                self.attempt = self.attempt.saturating_add(1);
            }
        }
        None
    }

    /// A transaction was begun and all its records were handed over.
    pub fn begun(&mut self, now_ns: u64) {
        self.opened_ns = Some(now_ns);
        self.timed_out = false;
        self.enter(Stage::Delivering);
    }

    /// Every record of the open transaction is reported as delivered, and its doubt is durable where it has to be.
    pub fn delivered(&mut self) {
        self.enter(Stage::Offsetting);
    }

    /// The open transaction cannot be completed. `times_out`: as nothing was reported in time.
    pub fn failed(&mut self, times_out: bool) {
        self.timed_out = times_out;
        self.enter(Stage::Aborting);
    }

    /// How the step that [`Session::step`] gave has ended: initialise, offset, commit or abort. One that does not end
    /// costs the client: the library has states that it never leaves, and where it does go on, as Kafka is away, nothing
    /// is gained by it, as the next client waits as well and the cursor tells what became of a commit.
    pub fn ended(&mut self, outcome: Outcome, now_ns: u64, chance: f64) -> Option<Event> {
        match (outcome, self.stage) {
            (Outcome::Again, _) => {
                let since_ns = *self.again_since_ns.get_or_insert(now_ns);
                let is_over = now_ns.saturating_sub(since_ns) >= self.longest_ns();
                is_over.then(|| self.lost(now_ns, chance))
            }
            (Outcome::Gone(loss), _) => Some(self.lost_client(loss, now_ns, chance)),
            (Outcome::Done, Stage::Initialising) => {
                self.reached(Stage::Reading);
                None
            }
            (Outcome::Done, Stage::Offsetting) => {
                self.enter(Stage::Committing);
                None
            }
            (Outcome::Done, Stage::Committing) => Some(self.closed(Event::Committed)),
            (Outcome::Done, Stage::Aborting) => Some(self.closed(Event::Aborted)),
            // Nothing of it was committed.
            (Outcome::Abort, Stage::Offsetting) => {
                self.failed(false);
                None
            }
            // A commit that was sent may have arrived, whatever the client says of it.
            _ => Some(self.lost(now_ns, chance)),
        }
    }

    /// The client says at any time that it can no longer be used.
    pub fn lost_client(&mut self, loss: Loss, now_ns: u64, chance: f64) -> Event {
        match loss {
            Loss::Broken => self.lost(now_ns, chance),
            Loss::Fenced => self.fenced_or_late(now_ns, chance),
            Loss::Denied => self.denied(now_ns, chance),
        }
    }

    /// Records were committed: the client is of use.
    pub fn proven(&mut self) {
        self.losses.succeeded();
    }

    /// The client is to be changed for no fault of its own.
    pub fn renewed(&mut self) {
        if self.stage == Stage::Ready {
            self.enter(Stage::Looking);
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.again_since_ns = None;
    }

    fn reached(&mut self, stage: Stage) {
        self.enter(stage);
        self.attempt = 0;
    }

    fn closed(&mut self, event: Event) -> Event {
        self.enter(Stage::Ready);
        self.opened_ns = None;
        event
    }

    /// The next client waits longer each time, and each agent of a fleet as long as chance has it: what takes their
    /// clients away takes them all at once.
    fn lost(&mut self, now_ns: u64, chance: f64) -> Event {
        let wait_ns = self.losses.next_ns(chance);
        self.restart(now_ns.saturating_add(wait_ns));
        Event::Lost
    }

    /// Kafka fences a client as well when it gives up a transaction that took too long.
    fn fenced_or_late(&mut self, now_ns: u64, chance: f64) -> Event {
        let late = self.opened_ns.is_some_and(|at| now_ns.saturating_sub(at) >= self.patience.transaction_ns);
        if late { self.lost(now_ns, chance) } else { self.fenced(now_ns, chance) }
    }

    /// Another agent has the transactional id: it is not taken back at once, so that two do not fight for it.
    fn fenced(&mut self, now_ns: u64, chance: f64) -> Event {
        let wait = self.patience.fenced_ns as f64 * (0.8 + 0.4 * chance.clamp(0.0, 1.0));
        self.restart(now_ns.saturating_add(wait as u64));
        self.another = true;
        Event::Fenced
    }

    /// Somebody must give the right first: asked after growing pauses, with a new client, as this one takes no answer
    /// any more.
    fn denied(&mut self, now_ns: u64, chance: f64) -> Event {
        let least_ns = self.patience.rebuild.delay_ns(0, chance);
        let wait_ns = self.patience.backoff.delay_ns(self.denied, chance).max(least_ns);
        self.denied = self.denied.saturating_add(1);
        self.restart(now_ns.saturating_add(wait_ns));
        Event::Denied
    }

    fn restart(&mut self, wait_until_ns: u64) {
        self.enter(Stage::Looking);
        self.wait_until_ns = wait_until_ns;
        self.opened_ns = None;
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const PATIENCE: Patience = Patience {
        backoff: Backoff { first_ns: SECOND, max_ns: 60 * SECOND },
        rebuild: Backoff { first_ns: 5 * SECOND, max_ns: 60 * SECOND },
        fenced_ns: 600 * SECOND,
        transaction_ns: 30 * SECOND,
    };

    /// A session with a client that is ready.
    fn ready() -> Session {
        let mut session = Session::new(PATIENCE);
        assert_eq!(session.step(0), Step::Look);
        assert_eq!(session.read(Sight::Own, 0, 0.5), None);
        assert_eq!(session.step(0), Step::Initialise);
        assert_eq!(session.ended(Outcome::Done, 0, 0.5), None);
        assert_eq!(session.step(0), Step::Read);
        assert_eq!(session.read(Sight::Own, 0, 0.5), None);
        assert_eq!(session.step(0), Step::Begin);
        session
    }

    fn committing() -> Session {
        let mut session = ready();
        session.begun(0);
        session.delivered();
        assert_eq!(session.step(0), Step::Offset);
        assert_eq!(session.ended(Outcome::Done, 0, 0.5), None);
        assert_eq!(session.step(0), Step::Commit);
        session
    }

    #[test]
    fn a_transaction_from_begin_to_commit() {
        let mut session = committing();
        assert_eq!(session.ended(Outcome::Again, 1, 0.5), None);
        assert_eq!(session.step(1), Step::Commit, "it goes on where it was");
        assert_eq!(session.ended(Outcome::Done, 2, 0.5), Some(Event::Committed));
        assert_eq!((session.step(2), session.is_open()), (Step::Begin, false));
    }

    #[test]
    fn a_commit_that_did_not_end_well_is_judged_by_the_cursor_alone() {
        for outcome in [Outcome::Abort, Outcome::Gone(Loss::Broken)] {
            let mut session = committing();
            assert_eq!(session.ended(outcome, 0, 1.0), Some(Event::Lost), "{outcome:?}");
            assert_eq!(session.step(0), Step::Wait(5 * SECOND));
            assert_eq!(session.step(5 * SECOND), Step::Look);
        }
    }

    /// A session in this stage, with a client.
    fn at(stage: Stage) -> Session {
        let mut session = if stage == Stage::Committing { committing() } else { ready() };
        match stage {
            Stage::Initialising => {
                session.renewed();
                assert_eq!(session.read(Sight::Own, 0, 0.5), None);
            }
            Stage::Offsetting => {
                session.begun(0);
                session.delivered();
            }
            Stage::Aborting => {
                session.begun(0);
                session.failed(true);
            }
            _ => {}
        }
        assert_eq!(session.stage, stage);
        session
    }

    #[test]
    fn a_step_that_does_not_end_costs_the_client() {
        let stages = [Stage::Initialising, Stage::Offsetting, Stage::Committing, Stage::Aborting];
        for (stage, transaction, longest) in
            stages.iter().flat_map(|stage| [(stage, 30, 90), (stage, 5, if *stage == stages[0] { 60 } else { 15 })])
        {
            let mut session = at(*stage);
            session.patience.transaction_ns = transaction * SECOND;
            let began_ns = 7 * SECOND;
            for at_ns in [began_ns, began_ns + SECOND, began_ns + longest * SECOND - 1] {
                assert_eq!(session.ended(Outcome::Again, at_ns, 1.0), None, "{stage:?} of {transaction} s");
                assert_eq!(session.stage, *stage, "it goes on where it was");
            }
            let end_ns = began_ns + longest * SECOND;
            assert_eq!(session.ended(Outcome::Again, end_ns, 1.0), Some(Event::Lost), "{stage:?} of {transaction} s");
            assert_eq!((session.step(end_ns), session.is_open()), (Step::Wait(end_ns + 5 * SECOND), false));
            assert_eq!(session.step(end_ns + 5 * SECOND), Step::Look);
        }
    }

    #[test]
    fn each_step_has_its_own_time() {
        let mut session = ready();
        let mut now_ns = 0;
        for transaction in 0..10 {
            session.begun(now_ns);
            session.delivered();
            for step in [Step::Offset, Step::Commit] {
                assert_eq!(session.step(now_ns), step);
                assert_eq!(session.ended(Outcome::Again, now_ns, 0.5), None);
                now_ns += 89 * SECOND;
                assert_eq!(session.ended(Outcome::Again, now_ns, 0.5), None, "{step:?} of transaction {transaction}");
                session.ended(Outcome::Done, now_ns, 0.5);
            }
        }
        assert_eq!(session.step(now_ns), Step::Begin);
    }

    /// An outage of an hour costs one client: the next is not made before Kafka has shown the cursors.
    #[test]
    fn while_kafka_is_away_no_further_client_is_made() {
        let mut session = committing();
        let (mut now_ns, mut lost, mut asked) = (0, 0, 0);
        while now_ns < 3_600 * SECOND {
            match session.step(now_ns) {
                Step::Wait(until_ns) => now_ns = until_ns,
                Step::Look => {
                    now_ns += SECOND;
                    asked += 1;
                    assert_eq!(session.read(Sight::Nothing, now_ns, 1.0), None);
                }
                _ => {
                    now_ns += SECOND / 2;
                    lost += u32::from(session.ended(Outcome::Again, now_ns, 1.0).is_some());
                }
            }
        }
        assert!(lost == 1 && asked > 50, "{lost} clients, asked {asked} times");
    }

    #[test]
    fn what_was_not_committed_is_aborted_and_the_client_kept() {
        let mut session = ready();
        session.begun(0);
        session.delivered();
        assert_eq!(session.ended(Outcome::Abort, 0, 0.5), None);
        assert_eq!(session.step(0), Step::Abort);
        assert_eq!(session.ended(Outcome::Done, 0, 0.5), Some(Event::Aborted));
        assert_eq!(session.step(0), Step::Begin);
    }

    #[test]
    fn a_fenced_agent_waits_and_looks_before_it_takes_the_id_back() {
        let mut session = ready();
        session.begun(0);
        assert_eq!(session.lost_client(Loss::Fenced, SECOND, 0.5), Event::Fenced);
        let back_ns = 601 * SECOND;
        assert_eq!((session.step(SECOND), session.is_held()), (Step::Wait(back_ns), true));
        assert_eq!(session.step(back_ns), Step::Look);
        assert_eq!(session.read(Sight::Copy, back_ns, 0.0), Some(Event::Fenced));
        assert_eq!(session.step(back_ns), Step::Wait(back_ns + 480 * SECOND));
        assert_eq!(session.read(Sight::Own, back_ns * 2, 0.5), None);
        assert_eq!(session.ended(Outcome::Done, back_ns * 2, 0.5), None);
        assert!(session.is_held(), "not before the cursors are read");
        assert_eq!(session.read(Sight::Own, back_ns * 2, 0.5), None);
        assert!(!session.is_held());
    }

    #[test]
    fn a_transaction_that_kafka_gave_up_is_no_other_agent() {
        let mut session = committing();
        assert_eq!(session.ended(Outcome::Gone(Loss::Fenced), 30 * SECOND, 0.5), Some(Event::Lost));
        assert!(!session.is_held());
        assert_eq!(committing().ended(Outcome::Gone(Loss::Fenced), 29 * SECOND, 0.5), Some(Event::Fenced));
    }

    #[test]
    fn a_missing_right_is_asked_for_after_growing_pauses_until_it_is_there() {
        let mut session = ready();
        session.begun(0);
        assert_eq!(session.lost_client(Loss::Denied, 0, 1.0), Event::Denied);
        let mut now_ns = 0;
        for wait in [5, 5, 5, 8, 16, 32, 60, 60] {
            assert_eq!((session.step(now_ns), session.is_held()), (Step::Wait(now_ns + wait * SECOND), true));
            now_ns += wait * SECOND;
            assert_eq!(session.read(Sight::Own, now_ns, 1.0), None);
            assert_eq!(session.ended(Outcome::Gone(Loss::Denied), now_ns, 1.0), Some(Event::Denied));
        }
        now_ns += 60 * SECOND;
        session.read(Sight::Own, now_ns, 1.0);
        session.ended(Outcome::Done, now_ns, 1.0);
        assert!(session.is_held(), "not before the cursors are read");
        session.read(Sight::Own, now_ns, 1.0);
        assert_eq!((session.step(now_ns), session.is_held()), (Step::Begin, false));
    }

    #[test]
    fn transactions_that_time_out_do_not_cost_the_client() {
        let mut session = ready();
        for times_out in [true, true, true, true, false] {
            session.begun(0);
            session.failed(times_out);
            assert_eq!(session.ended(Outcome::Done, 0, 0.5), Some(Event::Aborted));
            assert_eq!((session.has_timed_out(), session.step(0)), (times_out, Step::Begin));
        }
    }

    #[test]
    fn the_next_client_waits_longer_each_time_until_records_are_committed() {
        let mut session = Session::new(PATIENCE);
        let mut lost = |chance: f64, proven: bool| {
            if proven {
                session.proven();
            }
            assert_eq!(session.lost_client(Loss::Broken, 0, chance), Event::Lost);
            match session.step(0) {
                Step::Wait(until_ns) => until_ns / 1_000_000,
                step => panic!("{step:?}"),
            }
        };
        assert_eq!([(); 6].map(|()| lost(1.0, false)), [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]);
        assert_eq!([lost(1.0, true), lost(0.0, true), lost(0.5, true)], [5_000, 2_500, 3_750]);
        assert_eq!(lost(0.5, false), 7_500);
    }

    #[test]
    fn kafka_is_asked_again_after_growing_pauses() {
        let mut session = Session::new(PATIENCE);
        session.read(Sight::Nothing, 0, 1.0);
        assert_eq!(session.step(0), Step::Wait(SECOND));
        session.read(Sight::Nothing, SECOND, 1.0);
        assert_eq!(session.step(SECOND), Step::Wait(3 * SECOND));
    }
}
