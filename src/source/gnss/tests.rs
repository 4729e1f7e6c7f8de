use std::io::Write;

use tokio::time::timeout;

use super::*;
use crate::config::Port;
use crate::decode::checksum;
use crate::reading::{Field, Value};
use crate::source::port::tests::{outlet, plug_in};

const PATIENCE: Duration = Duration::from_secs(20);

fn sentence(body: &str) -> String {
    format!("${body}*{:02X}\r\n", checksum::xor8(body.as_bytes()))
}

#[tokio::test]
async fn each_epoch_becomes_one_reading_with_the_receivers_time() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("receiver");
    let mut plugged = plug_in(&link);
    let (outlet, mut readings) = outlet();
    let config =
        Gnss { port: Port::Path(link), baud: None, device: "sensor".into(), no_fix_every: Duration::from_secs(10) };
    let task = tokio::spawn(run(config, outlet.clone()));
    let mut epochs = String::from("\u{1}garbage$GPGG");
    for second in 25..28 {
        epochs += &sentence(&format!("GNRMC,0927{second}.00,A,4717.11399,N,00833.91590,E,10.0,77.52,091226,,,A,V"));
        epochs += &sentence(&format!("GNGGA,0927{second}.00,4717.11399,N,00833.91590,E,1,12,0.62,499.6,M,48.0,M,,"));
    }
    let wait_open = async {
        while !crate::source::port::tests::is_up(&outlet) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait_open).await.unwrap();
    plugged.write_all(epochs.as_bytes()).unwrap();
    let mut times = Vec::new();
    for _ in 0..3 {
        let reading = timeout(PATIENCE, readings.recv()).await.unwrap().unwrap().reading;
        assert!(reading.fields.contains(&Field::new("altitude_m", Value::Float(499.6))));
        times.push(reading.measured_us.unwrap());
    }
    assert_eq!(times, [1_796_808_445_000_000, 1_796_808_446_000_000, 1_796_808_447_000_000]);
    outlet.stop.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap();
    assert!(readings.try_recv().is_err(), "nothing was given twice");
}

#[test]
fn a_speed_is_proved_by_checksums_kept_over_a_reopening_and_left_when_only_babble_comes() {
    let start = Instant::now();
    let mut speed = Speed::new(None);
    speed.listen_from(start);
    assert_eq!((speed.baud(), speed.judge(1, start + LISTEN / 2)), (9_600, Verdict::Stay));
    assert_eq!((speed.judge(1, start + LISTEN), speed.baud()), (Verdict::Change, 38_400));
    let proved = start + LISTEN * 2 - Duration::from_millis(1);
    assert_eq!((speed.judge(2, proved), speed.baud()), (Verdict::Proved, 38_400));
    speed.listen_from(proved);
    assert_eq!((speed.judge(2, proved), speed.baud()), (Verdict::Proved, 38_400));
    assert_eq!(speed.judge(2, proved + BABBLE_MAX * 2), Verdict::Stay, "a silent receiver keeps its speed");
    speed.heard_bytes = true;
    assert_eq!(speed.judge(2, proved + BABBLE_MAX * 3), Verdict::Change);
    let mut written = Speed::new(Some(4_800));
    assert_eq!((written.judge(0, start + LISTEN * 9), written.baud()), (Verdict::Stay, 4_800));
}

#[test]
fn a_receiver_without_a_fix_speaks_at_once_and_then_seldom() {
    let fix = |is_valid, seconds: u64| Fix {
        is_valid,
        measured_us: None,
        boot_ns: seconds * 1_000_000_000,
        fields: Vec::new(),
    };
    let mut no_fix = NoFix { every: Duration::from_secs(10), last_boot_ns: None };
    let passed: Vec<_> = (0..21).filter(|second| no_fix.lets_pass(&fix(false, *second))).collect();
    assert_eq!(passed, [0, 10, 20]);
    assert!(no_fix.lets_pass(&fix(true, 21)) && no_fix.lets_pass(&fix(false, 22)));
    let mut never = NoFix { every: Duration::ZERO, last_boot_ns: None };
    assert!(!never.lets_pass(&fix(false, 0)));
}
