//! A simulated Modbus slave over TCP and RTU: the demo's plant, and what tests poll.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio_modbus::server::{Service, rtu, tcp};
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};
use tokio_serial::SerialStream;
use tokio_util::sync::CancellationToken;

/// The four tables of the plant, as long as they are written; addresses beyond answer exception 02.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Holding registers from address 0.
    pub holding: Vec<u16>,
    /// Input registers from address 0.
    pub input: Vec<u16>,
    /// Coils from address 0.
    pub coils: Vec<bool>,
    /// Discrete inputs from address 0.
    pub discrete: Vec<bool>,
    /// Addresses, in all tables, that may not be read: a request over one answers exception 02.
    pub forbidden: BTreeSet<u16>,
}

/// Units that share one set of tables. Cheap to clone; clones are the same plant.
#[derive(Debug, Clone, Default)]
pub struct Plant {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    units: BTreeSet<u8>,
    /// Over TCP: say "gateway target device failed to respond" (0B) for other units, instead of nothing.
    is_gateway: bool,
    tables: Mutex<Tables>,
    answered: AtomicU64,
}

impl Plant {
    /// A plant that answers as these units. To others it is silent, or answers exception 0B where `is_gateway`.
    pub fn new(units: impl IntoIterator<Item = u8>, is_gateway: bool, tables: Tables) -> Self {
        let shared = Shared {
            units: units.into_iter().collect(),
            is_gateway,
            tables: Mutex::new(tables),
            answered: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The demo's boiler, unit 1: holding 0–1 the number of requests answered so far (u32), 100 a temperature in
    /// tenths of a degree, 102–103 a mains voltage (f32, 230.3); coil 3 the pump, discrete input 0 the alarm.
    pub fn boiler() -> Self {
        let mut holding = vec![0; 104];
        holding[100] = 715;
        (holding[102], holding[103]) = (0x4366, 0x4CCD);
        let coils = vec![false, false, false, true];
        Self::new(
            [1],
            false,
            Tables { holding, input: vec![0; 8], coils, discrete: vec![false; 8], ..Tables::default() },
        )
    }

    /// The tables, to look at or to change. Hold it briefly: requests wait meanwhile.
    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.shared.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests answered with values so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Serves TCP connections until `stop` is cancelled.
    ///
    /// # Errors
    /// Those of accepting connections.
    pub async fn serve_tcp(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let on_connected = |stream, _| {
            let plant = self.clone();
            async move { Ok(Some((plant, stream))) }
        };
        let on_error = |error: io::Error| tracing::debug!(%error, "simulated plant: connection ended");
        tcp::Server::new(listener).serve_until(&on_connected, on_error, stop.cancelled_owned()).await.map(|_| ())
    }

    /// Serves RTU on an open line until `stop` is cancelled.
    ///
    /// # Errors
    /// Those of the line, and requests that cannot be decoded.
    pub async fn serve_rtu(self, line: SerialStream, stop: CancellationToken) -> io::Result<()> {
        rtu::Server::new(line).serve_until(self, stop.cancelled_owned()).await.map(|_| ())
    }

    fn answer(&self, asked: &SlaveRequest<'_>) -> Result<Option<Response>, ExceptionCode> {
        if !self.shared.units.contains(&asked.slave) {
            return if self.shared.is_gateway { Err(ExceptionCode::GatewayTargetDevice) } else { Ok(None) };
        }
        let mut tables = self.tables();
        let response = match asked.request {
            Request::ReadHoldingRegisters(address, count) => {
                Response::ReadHoldingRegisters(span(&tables.holding, &tables.forbidden, address, count)?)
            }
            Request::ReadInputRegisters(address, count) => {
                Response::ReadInputRegisters(span(&tables.input, &tables.forbidden, address, count)?)
            }
            Request::ReadCoils(address, count) => {
                Response::ReadCoils(span(&tables.coils, &tables.forbidden, address, count)?)
            }
            Request::ReadDiscreteInputs(address, count) => {
                Response::ReadDiscreteInputs(span(&tables.discrete, &tables.forbidden, address, count)?)
            }
            _ => return Err(ExceptionCode::IllegalFunction),
        };
        let answered = self.shared.answered.fetch_add(1, Ordering::Relaxed) + 1;
        if let [high, low, ..] = tables.holding.as_mut_slice() {
            (*high, *low) = ((answered >> 16) as u16, answered as u16);
        }
        Ok(Some(response))
    }
}

/// `count` values from `address`, or exception 02.
fn span<T: Copy>(table: &[T], forbidden: &BTreeSet<u16>, address: u16, count: u16) -> Result<Vec<T>, ExceptionCode> {
    let end = u32::from(address) + u32::from(count);
    let refused = forbidden.range(address..).next().is_some_and(|&first| u32::from(first) < end);
    let values = table.get(usize::from(address)..usize::from(address) + usize::from(count));
    match values {
        Some(values) if !refused => Ok(values.to_vec()),
        _ => Err(ExceptionCode::IllegalDataAddress),
    }
}

impl Service for Plant {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = std::future::Ready<Result<Option<Response>, ExceptionCode>>;

    fn call(&self, asked: Self::Request) -> Self::Future {
        std::future::ready(self.answer(&asked))
    }
}
