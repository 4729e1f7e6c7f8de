//! Simulated serial devices, each on the far end of a pseudo-terminal that the agent opens like any other port.

use std::f64::consts::TAU;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_serial::{SerialPort as _, SerialStream};
use tokio_util::sync::CancellationToken;

/// A device at work.
#[derive(Debug)]
pub struct Device {
    /// The port to open.
    pub path: PathBuf,
    /// Epochs or frames written whole so far.
    pub emitted: Arc<AtomicU64>,
    /// Ends after the stop token is cancelled.
    pub task: JoinHandle<()>,
}

/// Starts a GNSS receiver that drives a loop and writes one epoch (RMC, GGA, GSA) every `every`. Epoch n bears the time
/// `start` + n × `every`, so that a missing one
/// shows. It is silent while `talking` holds false.
///
/// # Errors
/// No pseudo-terminal is free.
pub fn gnss(
    start: Timestamp,
    every: Duration,
    talking: watch::Receiver<bool>,
    stop: CancellationToken,
) -> io::Result<Device> {
    spawn(every, talking, stop, move |sequence| {
        let elapsed = every.saturating_mul(u32::try_from(sequence).unwrap_or(u32::MAX));
        let time = start.checked_add(elapsed).unwrap_or(start);
        epoch(time, sequence).into_bytes()
    })
}

/// Starts a PMS5003 particulate sensor that writes one frame every `every`; the count of particles above 0.3 µm is the
/// frame's number modulo 65536.
///
/// # Errors
/// No pseudo-terminal is free.
pub fn pms5003(every: Duration, talking: watch::Receiver<bool>, stop: CancellationToken) -> io::Result<Device> {
    spawn(every, talking, stop, |sequence| particulate_frame(sequence).to_vec())
}

/// A raw pseudo-terminal: the device's end, a handle that holds the agent's end open (without one the device's end
/// reports a hang-up) and its path.
///
/// # Errors
/// No pseudo-terminal is free.
pub fn pseudo_terminal() -> io::Result<(SerialStream, File, PathBuf)> {
    let (master, mut slave) = SerialStream::pair()?;
    slave.set_exclusive(false)?;
    let path = slave.name().map(PathBuf::from).ok_or_else(|| io::Error::other("the pseudo-terminal has no name"))?;
    // A plain file: unlike a serial port it holds no lock that would keep the agent out.
    let held = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&path)?;
    Ok((master, held, path))
}

fn spawn(
    every: Duration,
    mut talking: watch::Receiver<bool>,
    stop: CancellationToken,
    frame: impl Fn(u64) -> Vec<u8> + Send + 'static,
) -> io::Result<Device> {
    let (mut master, held, path) = pseudo_terminal()?;
    let emitted = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&emitted);
    let write = async move {
        let _held = held;
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for sequence in 0_u64.. {
            ticks.tick().await;
            if talking.wait_for(|talking| *talking).await.is_err() {
                return;
            }
            if let Err(error) = master.write_all(&frame(sequence)).await {
                tracing::warn!(%error, "simulated device lost its line");
                return;
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let task = tokio::spawn(async move {
        let _ = stop.run_until_cancelled(write).await;
    });
    Ok(Device { path, emitted, task })
}

/// Epochs of one round of the loop.
const LOOP_EPOCHS: u64 = 600;

/// The three sentences of one epoch (NMEA 0183, section 6.3).
fn epoch(time: Timestamp, sequence: u64) -> String {
    let angle = TAU * (sequence % LOOP_EPOCHS) as f64 / LOOP_EPOCHS as f64;
    let (latitude_deg, longitude_deg) = (47.0 + 0.0135 * angle.sin(), 8.0 + 0.0198 * angle.cos());
    let course_deg = (360.0 - angle.to_degrees()) % 360.0;
    let zoned = time.to_zoned(TimeZone::UTC);
    let clock = format!(
        "{:02}{:02}{:02}.{:03}",
        zoned.hour(),
        zoned.minute(),
        zoned.second(),
        zoned.subsec_nanosecond() / 1_000_000
    );
    let date = format!("{:02}{:02}{:02}", zoned.day(), zoned.month(), zoned.year().rem_euclid(100));
    let (latitude, longitude) = (degrees_minutes(latitude_deg, 2), degrees_minutes(longitude_deg, 3));
    let rmc = format!("GNRMC,{clock},A,{latitude},N,{longitude},E,30.53,{course_deg:.2},{date},,,A");
    let gga = format!("GNGGA,{clock},{latitude},N,{longitude},E,1,09,0.92,431.7,M,47.6,M,,");
    let gsa = "GNGSA,A,3,02,05,07,13,15,20,24,29,30,,,,1.64,0.92,1.36";
    [rmc.as_str(), gga.as_str(), gsa].map(sentence).concat()
}

/// `ddmm.mmmmm` or `dddmm.mmmmm`.
fn degrees_minutes(degrees: f64, digits: usize) -> String {
    // Rounded once, so that minutes never print as 60.00000.
    let units = (degrees.abs() * 60.0 * 1e5).round() as u64;
    let (whole, minutes) = (units / 6_000_000, units % 6_000_000);
    format!("{whole:0digits$}{:02}.{:05}", minutes / 100_000, minutes % 100_000)
}

/// Adds `$`, the checksum (exclusive or of all between `$` and `*`) and the line end.
fn sentence(body: &str) -> String {
    let checksum = body.bytes().fold(0, |sum, byte| sum ^ byte);
    format!("${body}*{checksum:02X}\r\n")
}

/// One frame of 32 bytes (PMS5003 data manual V2.3, appendix I): `BM`, length 28, 13 words, sum of all bytes before.
fn particulate_frame(sequence: u64) -> [u8; 32] {
    let swing = (sequence % 20) as u16;
    let words = [
        28,
        5 + swing,
        8 + swing,
        10 + swing,
        5 + swing,
        8 + swing,
        10 + swing,
        (sequence % 65_536) as u16,
        400 + swing,
        80 + swing,
        10,
        4,
        2,
        0x9700,
    ];
    let mut frame = [0; 32];
    frame[..2].copy_from_slice(b"BM");
    for (place, word) in frame[2..30].chunks_exact_mut(2).zip(words) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    let sum = frame[..30].iter().map(|&byte| u16::from(byte)).sum::<u16>();
    frame[30..].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[test]
    fn an_epoch_parses_with_an_independent_parser() {
        let time: Timestamp = "2026-11-22T12:00:07.250Z".parse().unwrap();
        let mut parser = nmea::Nmea::default();
        for line in epoch(time, 7).lines() {
            parser.parse(line).unwrap();
        }
        assert_eq!(parser.fix_time.unwrap().to_string(), "12:00:07.250");
        assert_eq!(parser.fix_date.unwrap().to_string(), "2026-11-22");
        assert!((parser.latitude.unwrap() - 47.00099).abs() < 1e-3);
        assert!((parser.longitude.unwrap() - 8.0198).abs() < 1e-3);
    }

    #[test]
    fn minutes_never_print_as_sixty() {
        assert_eq!(degrees_minutes(47.999_999_999_9, 2), "4800.00000");
        assert_eq!(degrees_minutes(8.5, 3), "00830.00000");
    }

    #[tokio::test]
    async fn a_sensor_writes_whole_frames_to_whoever_opens_its_port() {
        let stop = CancellationToken::new();
        let device = pms5003(Duration::from_millis(2), watch::Sender::new(true).subscribe(), stop.clone()).unwrap();
        let path = device.path.to_string_lossy().into_owned();
        let mut port = SerialStream::open(&tokio_serial::new(path, 9600)).unwrap();
        for sequence in 0..5_u16 {
            let mut frame = [0; 32];
            port.read_exact(&mut frame).await.unwrap();
            assert_eq!(&frame[..4], &[0x42, 0x4D, 0, 28]);
            assert_eq!(u16::from_be_bytes([frame[16], frame[17]]), sequence);
            let sum: u16 = frame[..30].iter().map(|&byte| u16::from(byte)).sum();
            assert_eq!(sum.to_be_bytes(), frame[30..]);
        }
        stop.cancel();
        device.task.await.unwrap();
        assert!(device.emitted.load(Ordering::Relaxed) >= 5);
    }
}
