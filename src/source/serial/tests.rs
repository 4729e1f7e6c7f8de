use std::io::Write;
use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::config::{Line, Parity, Port};
use crate::reading::Value;
use crate::source::port::tests::{errors, is_up, outlet, plug_in};

const PMS5003: [u8; 32] = [
    0x42, 0x4D, 0x00, 0x1C, 0x00, 0x05, 0x00, 0x08, 0x00, 0x09, 0x00, 0x05, 0x00, 0x08, 0x00, 0x09, 0x03, 0x84, 0x01,
    0x07, 0x00, 0x3D, 0x00, 0x09, 0x00, 0x02, 0x00, 0x00, 0x97, 0x00, 0x02, 0x45,
];
const LINE: Line = Line { baud: 9600, data_bits: 8, parity: Parity::None, stop_bits: 1 };
const PATIENCE: Duration = Duration::from_secs(20);

fn sensor(path: std::path::PathBuf, format: Format) -> Serial {
    Serial { port: Port::Path(path), line: LINE, device: "sensor".into(), format }
}

async fn until_up(outlet: &Outlet, up: bool) {
    let wait = async {
        while is_up(outlet) != up {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
}

#[tokio::test]
async fn frames_are_read_through_noise_and_unplugging() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("air");
    let mut plugged = plug_in(&link);
    let (outlet, mut readings) = outlet();
    let task = tokio::spawn(run(sensor(link.clone(), Format::Preset(Preset::Pms5003)), outlet.clone()));
    until_up(&outlet, true).await;
    plugged.write_all(&[&[1, 2, 3], &PMS5003[..]].concat()).unwrap();
    let reading = timeout(PATIENCE, readings.recv()).await.unwrap().unwrap().reading;
    assert_eq!((&*reading.source, &*reading.device, reading.fields.len()), ("port", "sensor", 12));
    assert_eq!(reading.fields[6].value, Value::Integer(900));
    assert!(reading.boot_ns <= boot_ns() && reading.boot_ns > 0);
    assert_eq!(errors(&outlet, "dropped_bytes"), 3);

    drop(plugged);
    until_up(&outlet, false).await;
    assert_eq!(errors(&outlet, "lost"), 1);
    let mut plugged = plug_in(&link);
    until_up(&outlet, true).await;
    plugged.write_all(&PMS5003).unwrap();
    assert_eq!(timeout(PATIENCE, readings.recv()).await.unwrap().unwrap().reading.fields.len(), 12);

    outlet.stop.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap();
    assert!(!is_up(&outlet));
}

#[tokio::test]
async fn lines_that_are_not_understood_are_counted_and_the_rest_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("scale");
    let mut plugged = plug_in(&link);
    let (outlet, mut readings) = outlet();
    let format = Format::KeyValue { separator: ';', assign: '=', line_bytes_max: 64 };
    let task = tokio::spawn(run(sensor(link, format), outlet.clone()));
    until_up(&outlet, true).await;
    // The first line may be taken for the rest of one.
    plugged.write_all(b"\r\nhello\r\nweight_g=12.5;stable=true\r\n").unwrap();
    let reading = timeout(PATIENCE, readings.recv()).await.unwrap().unwrap().reading;
    let expected = [Field::new("weight_g", Value::Float(12.5)), Field::new("stable", Value::Bool(true))];
    assert_eq!(reading.fields, expected);
    assert_eq!(errors(&outlet, "malformed"), 1);
    outlet.stop.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap();
}

#[test]
fn the_first_whole_line_bears_the_time_of_its_own_bytes() {
    let format = Format::KeyValue { separator: ';', assign: '=', line_bytes_max: 64 };
    let mut decoder = Decoder::new(&format);
    let mut readings = Vec::new();
    for (arrived, bytes) in [(10, &b"t=12"[..]), (20, b"5.3\nt=125.4"), (30, b"\nt=125.5\n")] {
        decoder.push(bytes, arrived, &mut |at, fields| readings.push((at, fields)));
    }
    let expected = [(20, 125.4), (30, 125.5)].map(|(at, t)| (at, vec![Field::new("t", Value::Float(t))]));
    assert_eq!(readings, expected);
}

#[test]
fn a_reading_bears_the_time_of_its_first_byte() {
    let format = Format::Preset(Preset::Pms5003);
    let mut decoder = Decoder::new(&format);
    let mut times = Vec::new();
    for (arrived, bytes) in [(10, &PMS5003[..5]), (20, &PMS5003[5..]), (30, &PMS5003[..]), (40, &PMS5003[..])] {
        decoder.push(bytes, arrived, &mut |at, _| times.push(at));
    }
    assert_eq!(times, [10, 30, 40]);
}
