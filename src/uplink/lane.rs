//! One stream on its way out: when it may send, and what follows from a failure. Pure; time comes as an argument.
//!
//! After a failure nothing more is sent until everything in flight is reported; then sending starts again behind the
//! last record that is delivered without a gap. So order holds at the price of repeating what was delivered beyond.
//! That nothing is delivered beyond for the first time is the client's part: it stops when a batch is refused
//! ([`crate::kafka::Refusal`]); then one batch at a time is sent until what was refused stands alone.

use std::collections::VecDeque;

use crate::kafka::{Class, Failure};
use crate::reading::Position;

pub use super::backoff::Backoff;
use super::delivery::{Suspects, Through, Tracker};
use super::timestamp::Refused;
use super::window::Window;

/// More poison records than this...
pub const POISON_MAX: usize = 20;
/// ...among so many records of a stream are a configuration error: it is held.
pub const POISON_AMONG: u64 = 1_000;

/// Records that may be sent beyond the first that is not delivered, as so many windows: where one of a topic's
/// partitions takes nothing and others do, what those have waits for its acknowledgement, and memory for it is small.
const UNACKNOWLEDGED_WINDOWS: usize = 4;

/// What the drain has to tell after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Everything of a lane through here is delivered: acknowledge it.
    Acknowledged(Through),
    /// The stream waits, and why.
    Held(String),
    /// It delivers again.
    Released,
    /// Kafka will never take this record, the first that is not delivered, for this reason: set it aside, and say
    /// what came of it by [`Lane::was_set_aside`] or [`Lane::not_set_aside`].
    SetAside(Position, Failure),
    /// The client must be built anew.
    Rebuild(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Flowing,
    /// Sends nothing until all in flight is reported. `culprit`: the record is known without isolation.
    Draining {
        failure: Failure,
        culprit: Option<Position>,
    },
    Waiting {
        until_ns: u64,
    },
}

/// A stream's sending state.
#[derive(Debug)]
pub struct Lane {
    tracker: Tracker,
    mode: Mode,
    backoff: Backoff,
    attempt: u32,
    /// While something is being isolated or probed.
    window: Window,
    held: Option<String>,
    /// It waits for what is needed before any record is sent, not for what came of one.
    is_put_off: bool,
    /// A record that is sent with another timestamp than its own, and which of them were refused.
    retimed: Option<(Position, Refused)>,
    rewound: bool,
    /// Records delivered or set aside so far.
    settled: u64,
    /// Records delivered since last asked.
    delivered: u64,
    /// What `settled` was at each of the latest records set aside.
    poison: VecDeque<u64>,
}

impl Lane {
    /// A lane that has sent nothing.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            tracker: Tracker::default(),
            mode: Mode::Flowing,
            backoff,
            attempt: 0,
            window: Window::default(),
            held: None,
            is_put_off: false,
            retimed: None,
            rewound: false,
            settled: 0,
            delivered: 0,
            poison: VecDeque::new(),
        }
    }

    /// Messages in flight and their bytes.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.tracker.pending(), self.tracker.pending_bytes())
    }

    /// Why it waits for somebody, if it does.
    pub fn held(&self) -> Option<&str> {
        self.held.as_deref()
    }

    /// Which timestamps of this record the broker refused.
    pub fn refused_time(&self, position: Position) -> Refused {
        self.retimed.filter(|(of, _)| *of == position).map_or(Refused::Nothing, |(_, refused)| refused)
    }

    /// How many records it may send now.
    pub fn room(&mut self, now_ns: u64, in_flight_records_max: usize, in_flight_bytes_max: usize) -> usize {
        match self.mode {
            Mode::Draining { .. } => return 0,
            Mode::Waiting { until_ns } if now_ns < until_ns => return 0,
            Mode::Waiting { .. } => self.mode = Mode::Flowing,
            Mode::Flowing => {}
        }
        if self.tracker.is_partial() {
            return 1;
        }
        let in_flight @ (records, bytes) = self.in_flight();
        match self.window.room(in_flight, in_flight_bytes_max) {
            Some(room) => in_flight_records_max.min(room),
            None if records > 0 && bytes >= in_flight_bytes_max => 0,
            None => {
                let beyond = in_flight_records_max.saturating_mul(UNACKNOWLEDGED_WINDOWS);
                let beyond = beyond.saturating_sub(self.tracker.unacknowledged());
                in_flight_records_max.saturating_sub(records).min(beyond)
            }
        }
    }

    /// What was sent in one go is all of a window: the next one waits until all of it is reported.
    pub fn turn_ended(&mut self) {
        self.window.close();
    }

    /// When it may send again, while it waits.
    pub fn wakes_at_ns(&self) -> Option<u64> {
        match self.mode {
            Mode::Waiting { until_ns } => Some(until_ns),
            _ => None,
        }
    }

    /// Whether it went back to the cursor since last asked: what was read ahead is stale then.
    pub fn take_rewound(&mut self) -> bool {
        std::mem::take(&mut self.rewound)
    }

    /// Records acknowledged since last asked: each once, whatever number of messages it is.
    pub fn take_delivered(&mut self) -> u64 {
        std::mem::take(&mut self.delivered)
    }

    /// The serial that the next message will be reported under.
    pub fn next_serial(&self) -> u64 {
        self.tracker.next_serial()
    }

    /// The client took a message of a record of the queue's lane that is read from `lane` on, `last` of the record or
    /// not; gives the serial of its report.
    pub fn took(&mut self, lane: Position, position: Position, bytes: usize, last: bool) -> u64 {
        if last {
            self.window.took();
        }
        self.tracker.sent(lane, position, bytes, last)
    }

    /// Whether messages of a record are still to be handed over: nothing else goes before them.
    pub fn is_partial(&self) -> bool {
        self.tracker.is_partial()
    }

    /// Whether records of the queue's lane that is read from here on are sent and not acknowledged.
    pub fn has_of(&self, lane: Position) -> bool {
        self.tracker.has_of(lane)
    }

    /// Whether nothing is sent that is not acknowledged.
    pub fn is_idle(&self) -> bool {
        self.tracker.unacknowledged() == 0
    }

    /// The client refused a record at once; it is not in flight.
    pub fn refused(&mut self, position: Position, failure: Failure, now_ns: u64, chance: f64) -> Vec<Event> {
        let mut events = Vec::new();
        self.fail(failure, Some(position), &mut events);
        self.settle(now_ns, chance, &mut events);
        events
    }

    /// A record was reported.
    pub fn reported(&mut self, serial: u64, failure: Option<Failure>, now_ns: u64, chance: f64) -> Vec<Event> {
        let mut events = Vec::new();
        let open = self.tracker.unacknowledged();
        if failure.as_ref().is_some_and(|failure| failure.class == Class::Poison) {
            self.tracker.refused(serial);
        }
        let delivered = self.tracker.reported(serial, failure.is_none());
        if !delivered.is_empty() {
            let records = (open - self.tracker.unacknowledged()) as u64;
            self.settled += records;
            self.delivered += records;
            events.extend(delivered.into_iter().map(Event::Acknowledged));
            self.attempt = 0;
            if self.held.take().is_some() {
                events.push(Event::Released);
            }
        }
        if let Some(failure) = failure {
            self.fail(failure, None, &mut events);
        }
        self.settle(now_ns, chance, &mut events);
        events
    }

    /// The record of [`Event::SetAside`] is in the dead-letter topic or file.
    pub fn was_set_aside(&mut self) -> Option<Event> {
        self.settled += 1;
        self.poison.push_back(self.settled);
        self.attempt = 0;
        self.held.take().map(|_| Event::Released)
    }

    /// It could not be set aside: the stream waits.
    pub fn not_set_aside(&mut self, reason: String, now_ns: u64, chance: f64) -> Vec<Event> {
        let mut events = Vec::new();
        self.hold(reason, now_ns, chance, &mut events);
        events
    }

    /// Nothing of it can be sent, for a reason of this class: it waits, held where somebody must mend something.
    pub fn put_off(&mut self, failure: Failure, now_ns: u64, chance: f64) -> Vec<Event> {
        let mut events = Vec::new();
        if failure.class == Class::Held {
            self.hold(failure.text, now_ns, chance, &mut events);
        } else {
            self.wait(now_ns, chance);
        }
        self.is_put_off = true;
        events
    }

    /// What put it off is over. A stream that waits because of its records goes on when one is delivered.
    pub fn goes_on(&mut self) -> Option<Event> {
        if !std::mem::take(&mut self.is_put_off) {
            return None;
        }
        self.attempt = 0;
        self.held.take().map(|_| Event::Released)
    }

    /// The client was destroyed: nothing in flight will be reported any more. What is known of a failure stays known.
    pub fn client_lost(&mut self, now_ns: u64, chance: f64) -> Vec<Event> {
        let mut events = Vec::new();
        self.conclude(now_ns, chance, &mut events);
        events
    }

    /// While a record that Kafka refuses is told from others: the first that it may be. Its lane goes before others, or
    /// their records would take its place in each window.
    pub fn suspect(&self) -> Option<Position> {
        self.window.suspect()
    }

    /// Whether one record must be told from others, or a held stream is probed: then windows are sent one by one.
    pub fn is_careful(&self) -> bool {
        self.window.is_set()
    }

    fn rewind(&mut self) {
        self.tracker.rewind();
        self.window.rewind();
        self.rewound = true;
    }

    fn fail(&mut self, failure: Failure, culprit: Option<Position>, events: &mut Vec<Event>) {
        if failure.class == Class::Fatal {
            events.push(Event::Rebuild(failure.text.clone()));
        }
        // The others are mostly consequences: a client that stops fails all that is behind the cause.
        match &mut self.mode {
            Mode::Draining { failure: first, .. } if rank(first.class) >= rank(failure.class) => {}
            mode => *mode = Mode::Draining { failure, culprit },
        }
    }

    /// Once nothing is in flight: the end of a failure, or of an isolation window.
    fn settle(&mut self, now_ns: u64, chance: f64, events: &mut Vec<Event>) {
        if self.tracker.pending() > 0 {
            return;
        }
        if matches!(self.mode, Mode::Draining { .. }) {
            self.conclude(now_ns, chance, events);
        } else if !self.tracker.is_partial() {
            self.window.widen();
        }
    }

    /// Goes back to the first record that is not delivered, and draws the conclusions of a failure.
    fn conclude(&mut self, now_ns: u64, chance: f64, events: &mut Vec<Event>) {
        let (open, first) = (self.tracker.unacknowledged(), self.tracker.first());
        let suspects = self.tracker.suspects();
        let Mode::Draining { failure, culprit } = &self.mode else { return self.rewind() };
        let (failure, culprit) = (failure.clone(), *culprit);
        // Where only some of its messages were refused, the culprit is among the suspects itself.
        let before = culprit.map_or(0, |culprit| self.tracker.unacknowledged_before(culprit));
        self.rewind();
        self.mode = Mode::Flowing;
        match failure.class {
            // What is before the culprit comes first; then the culprit meets the same refusal again.
            Class::Poison if before > 0 => {}
            Class::Poison if culprit.is_none() && open > 1 => {
                let unknown = first.filter(|_| suspects.is_empty());
                let unknown = unknown.map(|first| Suspects { first, innocent: 0, count: open });
                self.window.search(suspects.into_iter().chain(unknown).collect());
            }
            Class::Poison => {
                if let Some(suspect) = culprit.or(first) {
                    self.isolated(suspect, failure, now_ns, chance, events);
                }
            }
            Class::Held => self.hold(failure.text, now_ns, chance, events),
            Class::Retried => {
                // What fails again and again must not stop the client for the other streams each time.
                if self.attempt > 0 {
                    self.window.set(1);
                }
                self.wait(now_ns, chance);
            }
            // The new client has a pause of its own.
            Class::Fatal => {}
        }
    }

    fn isolated(&mut self, suspect: Position, failure: Failure, now_ns: u64, chance: f64, events: &mut Vec<Event>) {
        self.window.set(1);
        if failure.timestamp_refused {
            // A clock that is ahead, or a long outage, is no fault of the record: again, with another time.
            let next = match self.refused_time(suspect) {
                Refused::Nothing => Refused::Own,
                Refused::Own => Refused::Replacement,
                Refused::Replacement => {
                    let reason = format!("record {suspect}: {}, also with the present time", failure.text);
                    return self.hold(reason, now_ns, chance, events);
                }
            };
            self.retimed = Some((suspect, next));
            return;
        }
        while self.poison.front().is_some_and(|at| at + POISON_AMONG <= self.settled + 1) {
            self.poison.pop_front();
        }
        if self.poison.len() >= POISON_MAX {
            let reason = format!(
                "more than {POISON_MAX} of the last {POISON_AMONG} records are refused, now {suspect}: {}",
                failure.text
            );
            return self.hold(reason, now_ns, chance, events);
        }
        events.push(Event::SetAside(suspect, failure));
    }

    fn hold(&mut self, reason: String, now_ns: u64, chance: f64, events: &mut Vec<Event>) {
        // Probe with a single record when the wait is over.
        self.window.set(1);
        self.is_put_off = false;
        if self.held.as_ref() != Some(&reason) {
            events.push(Event::Held(reason.clone()));
            self.held = Some(reason);
        }
        self.wait(now_ns, chance);
    }

    fn wait(&mut self, now_ns: u64, chance: f64) {
        self.mode = Mode::Waiting { until_ns: now_ns.saturating_add(self.backoff.delay_ns(self.attempt, chance)) };
        self.attempt = self.attempt.saturating_add(1);
    }
}

/// Which of two failures is the cause.
fn rank(class: Class) -> u8 {
    match class {
        Class::Poison => 3,
        Class::Held => 2,
        Class::Fatal => 1,
        Class::Retried => 0,
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
