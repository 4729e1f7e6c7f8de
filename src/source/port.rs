//! Opens a tty.

use crate::config;
use tokio_serial::SerialPortBuilderExt as _;

/// Why a port did not open.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The operating system refused.
    #[error("{path}: {error}")]
    Open {
        /// The port.
        path: String,
        /// Why.
        error: tokio_serial::Error,
    },
}

/// Opens a port by path.
pub(crate) fn open(port: &config::Port, line: &config::Line) -> Result<tokio_serial::SerialStream, PortError> {
    let config::Port::Path(path) = port else {
        return Err(PortError::Open {
            path: format!("{port:?}"),
            error: tokio_serial::Error::new(tokio_serial::ErrorKind::NoDevice, "not found"),
        });
    };
    let path = path.to_string_lossy().into_owned();
    tokio_serial::new(&path, line.baud).open_native_async().map_err(|error| PortError::Open { path, error })
}
