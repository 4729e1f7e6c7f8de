//! Opens a serial port by path or USB identity, and opens it again when it went away, under whatever name it returns.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio_serial::{ClearBuffer, SerialPort, SerialPortBuilderExt, SerialStream};

use crate::backoff::Backoff;
use crate::config::{Line, Parity, Port};
use crate::source::{Outlet, Stopped};

/// First and longest delay between tries to open a port.
const REOPEN_DELAY_MIN: Duration = Duration::from_millis(500);
const REOPEN_DELAY_MAX: Duration = Duration::from_secs(30);

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// No adapter of this identity is plugged in.
    #[error("no serial port has the USB identity {0}")]
    NoAdapter(String),
    /// sysfs could not be read.
    #[error("cannot list serial ports in {path}: {error}")]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel refused.
    #[error("cannot open {path} at {settings}: {error}{hint}")]
    Open {
        /// The port.
        path: PathBuf,
        /// Its line settings.
        settings: String,
        /// What usually helps.
        hint: &'static str,
        /// Why.
        error: tokio_serial::Error,
    },
    /// The driver took the settings and kept others, as a pseudo terminal does with parity.
    #[error("cannot open {path} at {settings}: the port cannot do this parity, data bits or stop bits")]
    Settings {
        /// The port.
        path: PathBuf,
        /// The line settings asked for.
        settings: String,
    },
}

/// `9600 8N1`
pub(crate) fn settings(line: &Line) -> String {
    let parity = match line.parity {
        Parity::None => 'N',
        Parity::Even => 'E',
        Parity::Odd => 'O',
    };
    format!("{} {}{parity}{}", line.baud, line.data_bits, line.stop_bits)
}

/// Opens `port` for this process alone, in raw mode, with what was in its buffers thrown away.
///
/// # Errors
/// Says which port, with which settings, and why.
pub(crate) fn open(port: &Port, line: &Line) -> Result<SerialStream, OpenError> {
    let path = find(port, Path::new("/sys/class/tty"))?;
    let refused = |error: tokio_serial::Error| OpenError::Open {
        path: path.clone(),
        settings: settings(line),
        hint: match error.kind {
            tokio_serial::ErrorKind::Io(io::ErrorKind::PermissionDenied) => " (is the user in the group dialout?)",
            tokio_serial::ErrorKind::Io(io::ErrorKind::InvalidInput) | tokio_serial::ErrorKind::InvalidInput => {
                " (the port may not support these settings)"
            }
            _ => "",
        },
        error,
    };
    let data_bits = match line.data_bits {
        5 => tokio_serial::DataBits::Five,
        6 => tokio_serial::DataBits::Six,
        7 => tokio_serial::DataBits::Seven,
        _ => tokio_serial::DataBits::Eight,
    };
    let parity = match line.parity {
        Parity::None => tokio_serial::Parity::None,
        Parity::Even => tokio_serial::Parity::Even,
        Parity::Odd => tokio_serial::Parity::Odd,
    };
    let stop_bits = if line.stop_bits == 2 { tokio_serial::StopBits::Two } else { tokio_serial::StopBits::One };
    let stream = tokio_serial::new(path.to_string_lossy(), line.baud)
        .data_bits(data_bits)
        .parity(parity)
        .stop_bits(stop_bits)
        .flow_control(tokio_serial::FlowControl::None)
        .open_native_async()
        .map_err(refused)?;
    // A driver clears the bits it cannot do without an error (tcsetattr(3)); only reading them back tells.
    let kept = (stream.data_bits().ok(), stream.parity().ok(), stream.stop_bits().ok());
    if kept != (Some(data_bits), Some(parity), Some(stop_bits)) {
        return Err(OpenError::Settings { path: path.clone(), settings: settings(line) });
    }
    stream.clear(ClearBuffer::Input).map_err(refused)?;
    Ok(stream)
}

/// The device file of `port`; USB identities are looked up in `tty_class` (`/sys/class/tty`), lowest name first.
fn find(port: &Port, tty_class: &Path) -> Result<PathBuf, OpenError> {
    let (vendor, product, serial) = match port {
        Port::Path(path) => return Ok(path.clone()),
        Port::Usb { vendor, product, serial } => (*vendor, *product, serial.as_deref()),
    };
    let list = |error| OpenError::List { path: tty_class.to_owned(), error };
    let mut names: Vec<_> = std::fs::read_dir(tty_class)
        .map_err(list)?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| is_adapter(&tty_class.join(name), vendor, product, serial))
        .collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    match names.first() {
        Some(name) => Ok(Path::new("/dev").join(name)),
        None => Err(OpenError::NoAdapter(identity(port))),
    }
}

/// Walks up from a tty's device to the USB device above it, which bears the ids (sysfs-bus-usb).
fn is_adapter(tty: &Path, vendor: u16, product: u16, serial: Option<&str>) -> bool {
    let Ok(device) = tty.join("device").canonicalize() else { return false };
    let read = |directory: &Path, file: &str| {
        std::fs::read_to_string(directory.join(file)).ok().map(|text| text.trim().to_owned())
    };
    let id = |directory: &Path, file: &str| u16::from_str_radix(&read(directory, file)?, 16).ok();
    let Some(usb) = device.ancestors().find(|directory| directory.join("idVendor").exists()) else { return false };
    id(usb, "idVendor") == Some(vendor)
        && id(usb, "idProduct") == Some(product)
        && serial.is_none_or(|serial| read(usb, "serial").as_deref() == Some(serial))
}

/// The port as it is written in the configuration.
pub(crate) fn identity(port: &Port) -> String {
    match port {
        Port::Path(path) => path.display().to_string(),
        Port::Usb { vendor, product, serial: None } => format!("usb:{vendor:04x}:{product:04x}"),
        Port::Usb { vendor, product, serial: Some(serial) } => format!("usb:{vendor:04x}:{product:04x}:{serial}"),
    }
}

/// Keeps a port open for a source: waits, opens, says when the state changes, and only then.
pub(crate) struct Keeper<'a> {
    outlet: &'a Outlet,
    port: &'a Port,
    backoff: Backoff,
    is_retry: bool,
    is_reported_down: bool,
}

impl<'a> Keeper<'a> {
    pub(crate) fn new(outlet: &'a Outlet, port: &'a Port) -> Self {
        outlet.metrics.source_is_up(&outlet.source, false);
        let backoff = Backoff::new(REOPEN_DELAY_MIN, REOPEN_DELAY_MAX);
        Self { outlet, port, backoff, is_retry: false, is_reported_down: false }
    }

    /// Tries until the port is open. Every try but the very first waits, so a port that opens and dies cannot spin.
    pub(crate) async fn open(&mut self, line: &Line) -> Result<SerialStream, Stopped> {
        loop {
            if self.is_retry {
                let delay = self.backoff.next();
                tokio::select! {
                    () = self.outlet.stop.cancelled() => return Err(Stopped),
                    () = tokio::time::sleep(delay) => {}
                }
            }
            self.is_retry = true;
            match open(self.port, line) {
                Ok(stream) => {
                    self.is_reported_down = false;
                    self.outlet.metrics.source_is_up(&self.outlet.source, true);
                    let name = stream.name().unwrap_or_else(|| identity(self.port));
                    tracing::info!(source = %self.outlet.source, port = %name, "port open");
                    return Ok(stream);
                }
                Err(error) => {
                    self.outlet.metrics.source_error(&self.outlet.source, "open");
                    self.report_down(&error);
                }
            }
        }
    }

    /// Bytes came in: the port works, so the next loss is answered without delay growing.
    pub(crate) fn works(&mut self) {
        self.backoff.reset();
    }

    /// The port is gone.
    pub(crate) fn lost(&mut self, error: &io::Error) {
        self.outlet.metrics.source_error(&self.outlet.source, "lost");
        self.report_down(error);
    }

    fn report_down(&mut self, error: &dyn fmt::Display) {
        self.outlet.metrics.source_is_up(&self.outlet.source, false);
        if !std::mem::replace(&mut self.is_reported_down, true) {
            tracing::warn!(source = %self.outlet.source, port = %identity(self.port), error = %error, "port not open");
        }
    }
}

/// Why a read gave no bytes.
pub(crate) enum NoBytes {
    /// The agent is stopping.
    Stopped,
    /// Nothing came for as long as was asked.
    Silence,
    /// The port is gone.
    Lost(io::Error),
}

/// Reads what is there, waiting at most `patience`.
pub(crate) async fn read(
    stream: &mut SerialStream,
    buffer: &mut [u8],
    patience: Duration,
    outlet: &Outlet,
) -> Result<usize, NoBytes> {
    tokio::select! {
        biased;
        () = outlet.stop.cancelled() => Err(NoBytes::Stopped),
        read = stream.read(buffer) => match read {
            Ok(0) => Err(NoBytes::Lost(io::Error::new(io::ErrorKind::UnexpectedEof, "port hung up"))),
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(NoBytes::Lost(error)),
        },
        () = tokio::time::sleep(patience) => Err(NoBytes::Silence),
    }
}

#[cfg(test)]
pub(crate) mod tests;
