use std::os::unix::fs::symlink;
use std::sync::Arc;

use serialport::TTYPort;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::metrics::{BySource, BySourceAndKind, Metrics};
use crate::reading::Envelope;

/// The sensor's end of a pseudo terminal, plugged in at a stable path.
pub(crate) fn plug_in(link: &Path) -> TTYPort {
    let (sensor, gateway) = TTYPort::pair().unwrap();
    let _ = std::fs::remove_file(link);
    symlink(gateway.name().unwrap(), link).unwrap();
    sensor
}

/// An outlet whose readings the test receives.
pub(crate) fn outlet() -> (Outlet, mpsc::Receiver<Envelope>) {
    let (hub, readings) = mpsc::channel(16);
    let (metrics, _) = Metrics::new();
    let stop = CancellationToken::new();
    let (source, stream, device) = ("port".into(), "telemetry".into(), "sensor".into());
    (Outlet { source, stream, device, hub, metrics: Arc::clone(&metrics), stop }, readings)
}

pub(crate) fn errors(outlet: &Outlet, kind: &'static str) -> u64 {
    let labels = BySourceAndKind { source: "port".to_owned(), kind };
    outlet.metrics.source_errors.get_or_create(&labels).get()
}

pub(crate) fn is_up(outlet: &Outlet) -> bool {
    outlet.metrics.source_up.get_or_create(&BySource { source: "port".to_owned() }).get() == 1
}

#[test]
fn a_usb_adapter_is_found_by_what_it_is_not_by_its_name() {
    let sys = tempfile::tempdir().unwrap();
    for (name, vendor, product, serial) in
        [("ttyUSB10", "0403", "6001", "B"), ("ttyUSB2", "0403", "6001", "A"), ("ttyACM0", "1546", "01a8", "")]
    {
        let usb = sys.path().join("devices").join(name);
        std::fs::create_dir_all(usb.join("interface/tty")).unwrap();
        for (file, text) in [("idVendor", vendor), ("idProduct", product), ("serial", serial)] {
            std::fs::write(usb.join(file), format!("{text}\n")).unwrap();
        }
        std::fs::create_dir_all(sys.path().join("class").join(name)).unwrap();
        symlink(usb.join("interface"), sys.path().join("class").join(name).join("device")).unwrap();
    }
    let find = |vendor, product, serial: Option<&str>| {
        find(&Port::Usb { vendor, product, serial: serial.map(str::to_owned) }, &sys.path().join("class"))
    };
    assert_eq!(find(0x1546, 0x01A8, None).unwrap(), Path::new("/dev/ttyACM0"));
    assert_eq!(find(0x0403, 0x6001, None).unwrap(), Path::new("/dev/ttyUSB2"));
    assert_eq!(find(0x0403, 0x6001, Some("B")).unwrap(), Path::new("/dev/ttyUSB10"));
    let error = find(0x0403, 0x6002, None).unwrap_err();
    assert_eq!(error.to_string(), "no serial port has the USB identity usb:0403:6002");
}

#[tokio::test]
async fn a_missing_port_is_named_with_its_settings() {
    let line = Line { baud: 9600, data_bits: 7, parity: Parity::Even, stop_bits: 2 };
    let error = open(&Port::Path("/nowhere/ttyS9".into()), &line).unwrap_err();
    assert_eq!(error.to_string(), "cannot open /nowhere/ttyS9 at 9600 7E2: No such file or directory");
}

#[tokio::test]
async fn a_port_in_use_is_refused_to_a_second_reader() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("port");
    let _sensor = plug_in(&link);
    let line = Line { baud: 9600, data_bits: 8, parity: Parity::None, stop_bits: 1 };
    let first = open(&Port::Path(link.clone()), &line).unwrap();
    let error = open(&Port::Path(link.clone()), &line).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot open {} at 9600 8N1: ", link.display())), "{error}");
    drop(first);
    assert!(open(&Port::Path(link), &line).is_ok());
}

#[tokio::test]
async fn a_port_that_cannot_do_the_parity_is_refused_and_left_free() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("port");
    let _sensor = plug_in(&link);
    let line = |parity| Line { baud: 9600, data_bits: 8, parity, stop_bits: 1 };
    let error = open(&Port::Path(link.clone()), &line(Parity::Even)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot open {} at 9600 8E1: ", link.display())), "{error}");
    assert!(open(&Port::Path(link), &line(Parity::None)).is_ok());
}
