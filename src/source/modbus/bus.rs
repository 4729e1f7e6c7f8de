//! The task of one bus: asks the units in the order they are due, one request at a time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::plan::{Plan, Refused};
use super::session::{AskError, Heard, Session};
use super::unit::{Answer, Change, Health, Poll, Unit};
use crate::backoff::Backoff;
use crate::clock;
use crate::config::{self, ModbusConnect};
use crate::metrics::Metrics;
use crate::reading::{Envelope, Name};

/// First delay before a lost connection is opened again.
const REOPEN_FIRST: Duration = Duration::from_millis(500);
/// Longest such delay.
const REOPEN_MAX: Duration = Duration::from_secs(30);
/// How long before a unit that says it is busy (exceptions 05 and 06) is asked again, at the earliest.
const BUSY_WAIT: Duration = Duration::from_millis(500);

/// How a poll ended.
enum Outcome {
    /// The unit answered, with values or with exceptions of its own.
    Answered,
    /// It said that it is busy.
    Busy,
    /// Its gateway says that it cannot be reached.
    Unreachable,
    /// No answer, or no sensible one.
    Silent,
    /// The hub is gone; so are we.
    Closed,
}

pub(super) struct Bus {
    name: Name,
    connect: ModbusConnect,
    late_answer_max: Duration,
    /// Silence between frames that the line itself asks for.
    silence: Duration,
    units: Vec<Unit>,
    session: Option<Session>,
    /// When the last session ended by itself or did not open: the next waits for the backoff from then on.
    lost: Option<Instant>,
    up: Option<bool>,
    backoff: Backoff,
    hub: mpsc::Sender<Envelope>,
    metrics: Arc<Metrics>,
}

impl Bus {
    pub fn new(
        name: Name,
        config: config::Modbus,
        late_answer_max: Duration,
        hub: mpsc::Sender<Envelope>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let silence = match &config.connect {
            ModbusConnect::Tcp { .. } => Duration::ZERO,
            ModbusConnect::Rtu { line, .. } => frame_silence(line.baud),
        };
        let now = Instant::now();
        let units = config.units.into_iter().map(|unit| Unit::new(unit, now)).collect();
        let backoff = Backoff::new(REOPEN_FIRST, REOPEN_MAX);
        Self {
            name,
            connect: config.connect,
            late_answer_max,
            silence,
            units,
            session: None,
            lost: None,
            up: None,
            backoff,
            hub,
            metrics,
        }
    }

    /// Ends only when the hub is gone; may be dropped at any await.
    pub async fn poll_forever(mut self) {
        self.metrics.source_is_up(&self.name, false);
        loop {
            let Some(index) = (0..self.units.len()).min_by_key(|&index| self.units[index].due) else {
                return std::future::pending().await;
            };
            sleep_until(self.units[index].due).await;
            // Not before the unit is due: many servers close a connection that is idle for longer than its interval.
            let mut session = match self.session.take() {
                Some(session) => session,
                None => self.open().await,
            };
            let (outcome, in_step) = self.poll(&mut session, index).await;
            if in_step {
                self.session = Some(session);
            }
            match outcome {
                Outcome::Closed => return,
                outcome => self.settle(index, &outcome),
            }
        }
    }

    /// Opens the connection, as often as it takes.
    async fn open(&mut self) -> Session {
        loop {
            if let Some(since) = self.lost {
                sleep_until(since + self.backoff.next()).await;
            }
            match self.open_in_step().await {
                Ok(session) => {
                    self.set_up(true, None);
                    return session;
                }
                Err(error) => {
                    self.lost = Some(Instant::now());
                    self.metrics.source_error(&self.name, "open");
                    self.set_up(false, Some(&error));
                }
            }
        }
    }

    /// Opens the connection; a serial line is listened to first until no answer to what was asked before, perhaps by a
    /// process that ended, can still come.
    async fn open_in_step(&mut self) -> io::Result<Session> {
        let mut session = Session::open(&self.connect, self.late_answer_max).await?;
        session.listen_out().await?;
        Ok(session)
    }

    /// Says so once when the connection comes or goes.
    fn set_up(&mut self, up: bool, error: Option<&io::Error>) {
        if self.up.replace(up) == Some(up) {
            return;
        }
        self.metrics.source_is_up(&self.name, up);
        match error {
            Some(error) => tracing::warn!(source = %self.name, connect = ?self.connect, %error, "bus not reachable"),
            None => tracing::info!(source = %self.name, connect = ?self.connect, "bus connected"),
        }
    }

    /// Asks unit `index` for all its registers and hands on what came. Also says whether the session is in step, that
    /// is, whether it can be asked again.
    async fn poll(&mut self, session: &mut Session, index: usize) -> (Outcome, bool) {
        let mut poll = Poll::new(self.units[index].config.registers.len());
        let mut at = 0;
        let mut ended = (Outcome::Answered, true);
        while at < self.units[index].plan.requests.len() {
            let asked = self.ask_again_where_closed(session, index, at).await;
            let pause = self.units[index].config.pause.max(self.silence);
            match asked {
                Ok(answer) => {
                    let unit = &self.units[index];
                    poll.take(&unit.config.registers, &unit.plan.requests[at], &answer, clock::boot_ns());
                    at += 1;
                }
                Err(AskError::Exception(code)) => match self.refused(index, at, code) {
                    Some(outcome) => {
                        ended.0 = outcome;
                        sleep(pause).await;
                        break;
                    }
                    None if !matches!(code, 0x01..=0x03) => at += 1,
                    None => {}
                },
                Err(error) => {
                    ended = (Outcome::Silent, self.recover_step(session, index, &error).await);
                    break;
                }
            }
            sleep(pause).await;
        }
        for reading in poll.readings(&self.name, &self.units[index].config) {
            if self.hub.send(reading.into()).await.is_err() {
                return (Outcome::Closed, false);
            }
        }
        ended
    }

    /// Asks for request `at`, on a new connection where the server closed the old one after answers: that is its right
    /// and no failure of the unit. As a new connection must answer first, this never goes round in circles.
    async fn ask_again_where_closed(
        &mut self,
        session: &mut Session,
        index: usize,
        at: usize,
    ) -> Result<Answer, AskError> {
        match self.ask(session, index, at).await {
            Err(AskError::Lost(_)) if session.may_be_closed_in_good_order() => {
                *session = Session::open(&self.connect, self.late_answer_max).await.map_err(AskError::Lost)?;
                self.ask(session, index, at).await
            }
            asked => asked,
        }
    }

    /// Asks for request `at`; the first good answer of a unit in quarantine is not believed but asked for again.
    async fn ask(&mut self, session: &mut Session, index: usize, at: usize) -> Result<Answer, AskError> {
        let unit = &mut self.units[index];
        let (id, answer_max) = (unit.config.id, unit.config.timeout);
        let request = &unit.plan.requests[at];
        let mut answer = session.ask(id, request, answer_max).await;
        if unit.quarantined && matches!(answer, Ok(_) | Err(AskError::Exception(_))) {
            session.listen_out().await.map_err(AskError::Lost)?;
            unit.quarantined = false;
            sleep(self.silence).await;
            answer = session.ask(id, request, answer_max).await;
        }
        if answer.is_ok() {
            self.lost = None;
            self.backoff.reset();
        }
        answer
    }

    /// The unit answered request `at` with an exception (Modbus Application Protocol V1.1b3, section 7). `Some` ends
    /// the poll; otherwise the plan has changed, or the request is passed over this time (04, 08 and unknown codes).
    fn refused(&mut self, index: usize, at: usize, code: u8) -> Option<Outcome> {
        self.metrics.source_error(&self.name, "exception");
        let unit = &mut self.units[index];
        let left_out = match code {
            0x01 => unit.plan.leave_out(at),
            0x02 | 0x03 => match unit.plan.refuse(&unit.config.registers, at) {
                Refused::TakenApart => Vec::new(),
                Refused::LeftOut(members) => members,
            },
            0x05 | 0x06 => return Some(Outcome::Busy),
            0x0A | 0x0B => return Some(Outcome::Unreachable),
            _ => Vec::new(),
        };
        for member in left_out {
            let register = &unit.config.registers[member];
            tracing::error!(
                source = %self.name, device = %unit.config.device, unit = unit.config.id, register = %register.name,
                table = ?register.table, address = register.address, exception = code,
                "unit does not have this register; it is left out"
            );
        }
        None
    }

    /// Counts what went wrong and brings the session back into step; `false` where it must be opened anew.
    async fn recover_step(&mut self, session: &mut Session, index: usize, error: &AskError) -> bool {
        let kind = match error {
            AskError::Timeout(_) => "timeout",
            AskError::Lost(_) => "lost",
            AskError::Frame(_) | AskError::Exception(_) => "frame",
        };
        self.metrics.source_error(&self.name, kind);
        let unit = &mut self.units[index];
        if unit.health == Health::Up {
            tracing::warn!(source = %self.name, device = %unit.config.device, unit = unit.config.id, %error, "poll failed");
        }
        if matches!(error, AskError::Lost(_)) {
            self.lost = Some(Instant::now());
            return false;
        }
        if !session.is_serial() {
            return false;
        }
        match session.listen_out().await {
            Ok(heard) => {
                unit.quarantined = heard == Heard::Nothing;
                true
            }
            Err(error) => {
                self.lost = Some(Instant::now());
                tracing::warn!(source = %self.name, %error, "line lost");
                false
            }
        }
    }

    /// Sets when the unit is asked next and says so when it went away or came back.
    fn settle(&mut self, index: usize, outcome: &Outcome) {
        let now = Instant::now();
        let unit = &mut self.units[index];
        let change = match outcome {
            Outcome::Answered => unit.succeeded(now),
            Outcome::Busy => {
                let change = unit.succeeded(now);
                unit.due = unit.due.max(now + BUSY_WAIT);
                change
            }
            Outcome::Unreachable => unit.unreachable(now),
            Outcome::Silent | Outcome::Closed => unit.failed(now),
        };
        let (device, id) = (&unit.config.device, unit.config.id);
        match change {
            Change::None => {}
            Change::WentDown => tracing::warn!(source = %self.name, %device, unit = id, "unit is down"),
            Change::CameBack => {
                tracing::info!(source = %self.name, %device, unit = id, "unit is back");
                // It may be another one now: what the former refused is asked for again.
                unit.plan = Plan::new(&unit.config.registers);
            }
        }
    }
}

/// The silence that separates RTU frames, t3.5: 3.5 characters of 11 bits, at least 1.75 ms (Modbus over Serial Line
/// V1.02, section 2.5.1.1).
fn frame_silence(baud: u32) -> Duration {
    Duration::from_secs_f64(38.5 / f64::from(baud.max(1))).max(Duration::from_micros(1750))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_silence_between_frames_follows_the_line_speed() {
        assert_eq!(frame_silence(9600).as_micros(), 4010);
        assert_eq!(frame_silence(115_200), Duration::from_micros(1750));
    }
}
