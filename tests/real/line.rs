//! Serial lines: pseudo-terminals with a receiver or a relay at the far end.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serialport::{SerialPort as _, TTYPort};

/// Longest wait in a read or write of the far end, so that its thread sees that it is to end.
const TIMEOUT: Duration = Duration::from_millis(50);

/// A pseudo-terminal: the far end and the path of the end that others open.
struct Line {
    far: TTYPort,
    path: PathBuf,
    // Without an open handle the far end reports a hang-up. A plain file holds no lock that keeps others out.
    _held: File,
}

impl Line {
    fn new() -> Self {
        let (mut far, mut near) = TTYPort::pair().unwrap();
        near.set_exclusive(false).unwrap();
        far.set_timeout(TIMEOUT).unwrap();
        let path = PathBuf::from(near.name().unwrap());
        let held = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&path).unwrap();
        Self { far, path, _held: held }
    }
}

/// A GNSS receiver that says RMC and GGA ten times a second. Epoch n is at an altitude of n / 10 m, so that each can
/// be told apart and a missing one shows.
pub struct Receiver {
    pub path: PathBuf,
    talking: Arc<AtomicBool>,
    garbled: Arc<AtomicU64>,
    epochs: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts it, silent.
    pub fn start() -> Self {
        let line = Line::new();
        let path = line.path.clone();
        let [talking, stop] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let [garbled, epochs] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let shared = (Arc::clone(&talking), Arc::clone(&garbled), Arc::clone(&epochs), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (talking, garbled, epochs, stop) = shared;
            talk(line, &talking, &garbled, &epochs, &stop);
        });
        Self { path, talking, garbled, epochs, stop, thread: Some(thread) }
    }

    /// Lets it talk, or silences it.
    pub fn talk(&self, on: bool) {
        self.talking.store(on, Ordering::SeqCst);
    }

    /// Puts noise before each of the next epochs.
    pub fn garble(&self, epochs: u64) {
        self.garbled.store(epochs, Ordering::SeqCst);
    }

    /// Whether all noise asked for was sent.
    pub fn is_clean(&self) -> bool {
        self.garbled.load(Ordering::SeqCst) == 0
    }

    /// Epochs sent whole.
    pub fn epochs(&self) -> u64 {
        self.epochs.load(Ordering::SeqCst)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn talk(mut line: Line, talking: &AtomicBool, garbled: &AtomicU64, epochs: &AtomicU64, stop: &AtomicBool) {
    let every = Duration::from_millis(100);
    let start = Timestamp::now();
    let mut due = Instant::now();
    for number in 0_u32.. {
        // The receiver's own beat; nobody waits for it.
        due += every;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::SeqCst) {
            return;
        }
        if !talking.load(Ordering::SeqCst) {
            continue;
        }
        if garbled.load(Ordering::SeqCst) > 0 {
            let _ = line.far.write_all(&noise(number));
            garbled.fetch_sub(1, Ordering::SeqCst);
        }
        let sent = u32::try_from(epochs.load(Ordering::SeqCst)).unwrap();
        // With nobody reading, the line fills up and the epoch is lost, as on a real one.
        if line.far.write_all(epoch(start + every * number, sent).as_bytes()).is_ok() {
            epochs.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// One navigation epoch (NMEA 0183, RMC and GGA).
fn epoch(time: Timestamp, number: u32) -> String {
    let zoned = time.to_zoned(TimeZone::UTC);
    let clock = zoned.strftime("%H%M%S").to_string();
    let clock = format!("{clock}.{:03}", zoned.millisecond());
    let date = zoned.strftime("%d%m%y");
    let minutes = f64::from(number % 6000) / 1000.0;
    let altitude_m = f64::from(number) / 10.0;
    let position = format!("47{minutes:08.5},N,008{minutes:08.5},E");
    let bodies = [
        format!("GNRMC,{clock},A,{position},10.00,045.0,{date},,,A"),
        format!("GNGGA,{clock},{position},1,09,0.92,{altitude_m:.1},M,47.6,M,,"),
    ];
    bodies.map(|body| format!("${body}*{:02X}\r\n", body.bytes().fold(0, |sum, byte| sum ^ byte))).concat()
}

/// Bytes that a bad contact makes: the whole range, a broken sentence, an endless line. It ends with a line end so that
/// the sentence that follows begins where it should.
fn noise(seed: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(u64::from(seed));
    let mut bytes: Vec<u8> = (0..200).map(|_| random.u8(..)).collect();
    bytes.extend_from_slice(b"\r\n$GNGGA,120000.000,4700.0,N,00800.0,E,1,09,0.92,431.7,M,47.6,M,,*00\r\n");
    bytes.extend_from_slice("$GNRMC,".repeat(40).as_bytes());
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Two lines joined: what is sent into one comes out of the other.
pub struct Relay {
    pub near: PathBuf,
    pub far: PathBuf,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    pub fn start() -> Self {
        let (near, far) = (Line::new(), Line::new());
        let (near_path, far_path) = (near.path.clone(), far.path.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let [to_far, to_near] = [far.far.try_clone_native().unwrap(), near.far.try_clone_native().unwrap()];
        let threads = [(near, to_far), (far, to_near)].map(|(from, to)| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || carry(from, to, &stop))
        });
        Self { near: near_path, far: far_path, stop, threads: threads.into() }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn carry(mut from: Line, mut to: TTYPort, stop: &AtomicBool) {
    let mut buffer = [0; 512];
    while !stop.load(Ordering::SeqCst) {
        match from.far.read(&mut buffer) {
            Ok(count) => {
                // A full line loses bytes, as a real one does.
                let _ = to.write_all(&buffer[..count]);
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            Err(error) => panic!("relay: {error}"),
        }
    }
}
