//! One unit of a bus: when it is due, whether it answers, and what its poll has read so far.

use std::time::Duration;

use tokio::time::Instant;

use super::plan::{Plan, Request};
use crate::config::{self, Register};
use crate::decode::registers;
use crate::reading::{FIELDS_MAX, Field, Name, Reading, Value};

/// Polls that fail in a row before a unit is down.
const FAILURES_MAX: u32 = 2;
/// First interval at which a silent unit is tried again.
const PROBE_FIRST: Duration = Duration::from_secs(1);
/// Longest such interval: what a dead unit costs the bus at most is one timeout a minute.
const PROBE_MAX: Duration = Duration::from_secs(60);

/// Whether a unit answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// It answered last time.
    Up,
    /// It failed, not often enough to be given up.
    Suspect(u32),
    /// It is silent; asked again after this interval.
    Down(Duration),
}

/// What a poll's end changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    WentDown,
    CameBack,
}

/// What came back for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Words(Vec<u16>),
    Bits(Vec<bool>),
}

#[derive(Debug)]
pub(super) struct Unit {
    pub config: config::Unit,
    pub plan: Plan,
    pub health: Health,
    pub due: Instant,
    /// On a serial line: an answer may still be on its way, so the next good one is not to be believed.
    pub quarantined: bool,
}

impl Unit {
    pub fn new(config: config::Unit, now: Instant) -> Self {
        let plan = Plan::new(&config.registers);
        Self { config, plan, health: Health::Up, due: now, quarantined: false }
    }

    /// A poll ended with answers: on to the next time that is not past already (late ones are skipped, not queued).
    pub fn succeeded(&mut self, now: Instant) -> Change {
        let change = if matches!(self.health, Health::Down(_)) { Change::CameBack } else { Change::None };
        self.health = Health::Up;
        self.due = following(self.due, self.config.every, now);
        change
    }

    /// A poll ended without: `now` is after the timeout.
    pub fn failed(&mut self, now: Instant) -> Change {
        let (health, wait, change) = match self.health {
            Health::Up => (Health::Suspect(1), self.config.every.max(PROBE_FIRST), Change::None),
            Health::Suspect(failures) if failures + 1 < FAILURES_MAX => {
                (Health::Suspect(failures + 1), self.config.every.max(PROBE_FIRST), Change::None)
            }
            Health::Suspect(_) => (Health::Down(PROBE_FIRST), PROBE_FIRST.max(self.config.every), Change::WentDown),
            Health::Down(probe) => {
                let probe = (probe * 2).min(PROBE_MAX);
                // A unit asked every five minutes is not asked more often for being silent.
                (Health::Down(probe), probe.max(self.config.every), Change::None)
            }
        };
        self.health = health;
        self.due = now + wait;
        change
    }

    /// The unit is known to be unreachable (its gateway says so): down at once.
    pub fn unreachable(&mut self, now: Instant) -> Change {
        if self.health == Health::Up {
            self.health = Health::Suspect(FAILURES_MAX);
        }
        self.failed(now)
    }
}

/// The first of `due + n × every` after `now`, n at least 1.
fn following(due: Instant, every: Duration, now: Instant) -> Instant {
    let next = due + every;
    if next > now {
        return next;
    }
    let every_ns = every.as_nanos().max(1);
    let missed = (now - next).as_nanos() / every_ns + 1;
    let forward_ns = u64::try_from(missed.saturating_mul(every_ns)).unwrap_or(u64::MAX);
    next + Duration::from_nanos(forward_ns)
}

/// The values of one poll.
#[derive(Debug)]
pub(super) struct Poll {
    values: Vec<Option<Value>>,
    /// `CLOCK_BOOTTIME` of the first answer.
    first_answer_boot_ns: Option<u64>,
}

impl Poll {
    pub fn new(registers: usize) -> Self {
        Self { values: vec![None; registers], first_answer_boot_ns: None }
    }

    /// Takes the answer to `request`, whose length was checked.
    pub fn take(&mut self, registers: &[Register], request: &Request, answer: &Answer, boot_ns: u64) {
        self.first_answer_boot_ns.get_or_insert(boot_ns);
        for &member in &request.members {
            let register = &registers[member];
            let at = usize::from(register.address - request.address);
            self.values[member] = match answer {
                Answer::Words(words) => words.get(at..).and_then(|words| registers::number(register, words)),
                Answer::Bits(bits) => bits.get(at).map(|bit| Value::Bool(*bit)),
            };
        }
    }

    /// One reading a stream, fields in configured order; registers that were not read are absent.
    pub fn readings(self, source: &Name, unit: &config::Unit) -> Vec<Reading> {
        let Some(boot_ns) = self.first_answer_boot_ns else { return Vec::new() };
        let mut readings: Vec<Reading> = Vec::new();
        for (register, value) in unit.registers.iter().zip(self.values) {
            let Some(value) = value else { continue };
            let field = Field { name: register.name.clone(), value };
            let fits = |reading: &&mut Reading| reading.stream == register.stream && reading.fields.len() < FIELDS_MAX;
            match readings.iter_mut().find(fits) {
                Some(reading) => reading.fields.push(field),
                None => readings.push(Reading {
                    source: source.clone(),
                    device: unit.device.clone(),
                    stream: register.stream.clone(),
                    boot_ns,
                    measured_us: None,
                    from_mqtt: false,
                    fields: vec![field],
                }),
            }
        }
        readings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(every: Duration) -> Unit {
        let config = config::Unit {
            id: 1,
            device: "boiler".into(),
            every,
            timeout: Duration::from_millis(100),
            pause: Duration::ZERO,
            registers: Vec::new(),
        };
        Unit::new(config, Instant::now())
    }

    #[test]
    fn late_polls_are_skipped_and_the_rhythm_is_kept() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(following(start, second, start), start + second);
        assert_eq!(following(start, second, start + second * 7 / 2), start + second * 4);
        assert_eq!(following(start, second, start + second * 3), start + second * 4);
    }

    #[test]
    fn a_silent_unit_is_asked_less_and_less_often_and_forgiven_at_once() {
        let mut unit = unit(Duration::from_millis(100));
        let mut now = unit.due;
        assert_eq!(unit.failed(now), Change::None);
        assert_eq!(unit.failed(now), Change::WentDown);
        let mut waits = Vec::new();
        for _ in 0..8 {
            now = unit.due;
            assert_eq!(unit.failed(now), Change::None);
            waits.push((unit.due - now).as_secs());
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(unit.succeeded(now), Change::CameBack);
        assert_eq!(unit.health, Health::Up);
        assert_eq!(unit.unreachable(now), Change::WentDown);
    }
}
