//! A GNSS receiver on a serial port: one reading per navigation epoch, at whatever speed the receiver talks.

use std::time::Duration;

use tokio::time::Instant;
use tokio_serial::{SerialPort, SerialStream};

use crate::clock::boot_ns;
use crate::config::{Gnss, Line, Parity};
use crate::decode::fix::{Assembler, Fix};
use crate::decode::nmea::Scanner;
use crate::source::port::{self, Keeper, NoBytes};
use crate::source::{Outlet, Stopped};

/// Speeds to try, the most common first.
const BAUDS: [u32; 8] = [9_600, 38_400, 115_200, 4_800, 57_600, 230_400, 460_800, 19_200];

/// How long each speed is listened to: two epochs of a receiver that reports once a second.
const LISTEN: Duration = Duration::from_secs(2);

/// Good checksums that prove a speed.
const CHECKED_MIN: u64 = 2;

/// Bytes without one good checksum for so long: the receiver has changed its speed.
const BABBLE_MAX: Duration = Duration::from_secs(10);

/// Silence that ends an epoch; receivers pause less inside one, and at most 10 epochs a second leave more between.
const EPOCH_SILENCE: Duration = Duration::from_millis(200);

/// No receiver runs before the day this was written: 2026-11-01, in days since 1970-01-01. Dates ten years older come
/// from a week counter that ran over.
const DAY_FLOOR: i64 = 20_758;

const READ_BYTES: usize = 4096;

/// Reads the receiver until the agent stops.
pub(crate) async fn run(config: Gnss, outlet: Outlet) {
    let mut keeper = Keeper::new(&outlet, &config.port);
    let mut speed = Speed::new(config.baud);
    let mut no_fix = NoFix { every: config.no_fix_every, last_boot_ns: None };
    loop {
        let line = Line { baud: speed.baud(), data_bits: 8, parity: Parity::None, stop_bits: 1 };
        let Ok(stream) = keeper.open(&line).await else { break };
        let mut receiver = Receiver::new();
        match session(stream, &mut receiver, &mut speed, &mut no_fix, &mut keeper, &outlet).await {
            NoBytes::Lost(error) => keeper.lost(&error),
            NoBytes::Stopped | NoBytes::Silence => break,
        }
    }
    outlet.metrics.source_is_up(&outlet.source, false);
}

/// Reads one opening of the port to its end.
async fn session(
    mut stream: SerialStream,
    receiver: &mut Receiver,
    speed: &mut Speed,
    no_fix: &mut NoFix,
    keeper: &mut Keeper<'_>,
    outlet: &Outlet,
) -> NoBytes {
    let mut buffer = vec![0; READ_BYTES];
    speed.listen_from(Instant::now());
    loop {
        let mut fixes = Vec::new();
        match port::read(&mut stream, &mut buffer, EPOCH_SILENCE, outlet).await {
            Ok(bytes) => {
                keeper.works();
                receiver.push(&buffer[..bytes], boot_ns(), &mut |fix| fixes.push(fix));
                speed.heard_bytes = true;
            }
            Err(NoBytes::Silence) => receiver.silence(&mut |fix| fixes.push(fix)),
            Err(end) => return end,
        }
        for fix in fixes.into_iter().filter(|fix| no_fix.lets_pass(fix)) {
            if let Err(Stopped) = outlet.send(fix.boot_ns, fix.measured_us, fix.fields).await {
                return NoBytes::Stopped;
            }
        }
        let checked = receiver.scanner.checked();
        match speed.judge(checked, Instant::now()) {
            Verdict::Stay => {}
            Verdict::Proved => tracing::info!(source = %outlet.source, baud = speed.baud(), "receiver heard"),
            Verdict::Change => {
                if speed.has_tried_all() {
                    tracing::warn!(source = %outlet.source, "no receiver heard at any speed; listening on");
                }
                *receiver = Receiver::new();
                if let Err(error) = stream.set_baud_rate(speed.baud()) {
                    return NoBytes::Lost(error.into());
                }
            }
        }
        if speed.is_proved() {
            outlet.count(&receiver.scanner.trouble().take());
        }
    }
}

/// Bytes of one opening of the port into fixes.
struct Receiver {
    scanner: Scanner,
    assembler: Assembler,
    began_boot_ns: u64,
}

impl Receiver {
    fn new() -> Self {
        Self { scanner: Scanner::new(), assembler: Assembler::new(DAY_FLOOR), began_boot_ns: 0 }
    }

    fn push(&mut self, bytes: &[u8], arrived_boot_ns: u64, emit: &mut impl FnMut(Fix)) {
        let is_between = self.scanner.is_between_sentences();
        let mut began = if is_between { arrived_boot_ns } else { self.began_boot_ns };
        self.scanner.push(bytes, &mut |sentence| {
            // What follows the first sentence of these bytes began with these bytes.
            self.assembler.push(sentence, std::mem::replace(&mut began, arrived_boot_ns), emit);
        });
        self.began_boot_ns = began;
    }

    fn silence(&mut self, emit: &mut impl FnMut(Fix)) {
        let began = self.began_boot_ns;
        self.scanner.silence(&mut |sentence| self.assembler.push(sentence, began, emit));
        self.assembler.silence(emit);
    }
}

/// What to do about the line's speed.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    Proved,
    Change,
}

/// The line's speed: written, proved, or being looked for. Remembers the last good one across reopenings.
struct Speed {
    written: Option<u32>,
    index: usize,
    tried: usize,
    checked_before: u64,
    since: Instant,
    is_proved: bool,
    heard_bytes: bool,
}

impl Speed {
    fn new(written: Option<u32>) -> Self {
        let is_proved = written.is_some();
        let since = Instant::now();
        Self { written, index: 0, tried: 0, checked_before: 0, since, is_proved, heard_bytes: false }
    }

    fn baud(&self) -> u32 {
        self.written.unwrap_or(BAUDS[self.index % BAUDS.len()])
    }

    fn is_proved(&self) -> bool {
        self.is_proved
    }

    /// Whether the search has just been once around.
    fn has_tried_all(&self) -> bool {
        self.tried == BAUDS.len()
    }

    /// The port was opened (again): the speed that was good before is tried first.
    fn listen_from(&mut self, now: Instant) {
        self.is_proved = self.written.is_some();
        self.start(now);
    }

    fn start(&mut self, now: Instant) {
        self.since = now;
        self.checked_before = 0;
        self.heard_bytes = false;
    }

    /// Judges by the good checksums since the port was opened or the speed changed.
    fn judge(&mut self, checked: u64, now: Instant) -> Verdict {
        if self.written.is_some() {
            return Verdict::Stay;
        }
        if self.is_proved {
            if checked > self.checked_before || !self.heard_bytes {
                self.start(now);
                self.checked_before = checked;
            } else if now.duration_since(self.since) >= BABBLE_MAX {
                self.is_proved = false;
                return self.change(now);
            }
            return Verdict::Stay;
        }
        if checked >= CHECKED_MIN {
            self.is_proved = true;
            self.tried = 0;
            self.start(now);
            self.checked_before = checked;
            return Verdict::Proved;
        }
        if now.duration_since(self.since) >= LISTEN { self.change(now) } else { Verdict::Stay }
    }

    fn change(&mut self, now: Instant) -> Verdict {
        self.index = (self.index + 1) % BAUDS.len();
        self.tried = self.tried.saturating_add(1);
        self.start(now);
        Verdict::Change
    }
}

/// Thins what a receiver without a fix says: once when the fix is lost, then at the configured interval.
struct NoFix {
    every: Duration,
    last_boot_ns: Option<u64>,
}

impl NoFix {
    fn lets_pass(&mut self, fix: &Fix) -> bool {
        if fix.is_valid {
            self.last_boot_ns = None;
            return true;
        }
        let is_due =
            self.last_boot_ns.is_none_or(|last| Duration::from_nanos(fix.boot_ns.saturating_sub(last)) >= self.every);
        if self.every.is_zero() || !is_due {
            return false;
        }
        self.last_boot_ns = Some(fix.boot_ns);
        true
    }
}

#[cfg(test)]
mod tests;
