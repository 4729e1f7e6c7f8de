//! One open connection to a bus: a request, its answer, and the way back into step after an answer that did not come.
//!
//! RTU frames bear no transaction number. If a request is given up and the next one sent, a late answer to the first
//! fits the second, and so on for ever, without an error. So after anything but a clean answer the line is listened to
//! until the missing answer has come, or can no longer come. On TCP the connection is thrown away instead.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_modbus::client::{Client as _, rtu, tcp};
use tokio_modbus::slave::{Slave, SlaveContext as _};

use super::plan::Request;
use super::unit::Answer;
use crate::config::{ModbusConnect, Table};
use crate::source::port;

/// How long a TCP connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which what was heard is judged: USB adapters hand bytes over in lumps of up to 16 ms.
const SILENCE: Duration = Duration::from_millis(50);
/// How much longer than the latest answer a line may babble before the port is opened anew.
const BABBLE_MAX: Duration = Duration::from_secs(1);
/// Longest RTU frame (Modbus over Serial Line V1.02, section 2.5.1).
const FRAME_BYTES_MAX: usize = 256;

/// CRC-16/MODBUS (Modbus over Serial Line V1.02, section 6.2.2); over a frame with its own CRC it is zero.
const CRC: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// The unit said no, with this code.
    #[error("exception {0:#04x}")]
    Exception(u8),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Something came that is no answer to this request.
    #[error("{0}")]
    Frame(String),
    #[error("connection lost: {0}")]
    Lost(io::Error),
}

/// What was heard while waiting for the line to become quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// The missing answer: nothing more is on its way.
    Answer,
    /// No whole frame.
    Nothing,
}

/// A serial line, or what stands for one in tests.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A wire that outlives the tokio-modbus context built on it; counts what comes in. Only one of its holders reads at a
/// time, so the lock is never waited for.
#[derive(Clone)]
struct Shared {
    wire: Arc<Mutex<(Box<dyn Wire>, usize)>>,
}

impl Shared {
    fn received_bytes(&self) -> usize {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut held = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let before = buffer.filled().len();
        let polled = Pin::new(&mut held.0).poll_read(cx, buffer);
        held.1 = held.1.wrapping_add(buffer.filled().len() - before);
        polled
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire.lock().unwrap_or_else(PoisonError::into_inner).0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire.lock().unwrap_or_else(PoisonError::into_inner).0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire.lock().unwrap_or_else(PoisonError::into_inner).0).poll_shutdown(cx)
    }
}

pub(super) struct Session {
    client: tokio_modbus::client::Context,
    /// The serial line; `None` on TCP.
    line: Option<Shared>,
    late_answer_max: Duration,
    asked: Instant,
    /// A unit has answered since it was opened.
    has_answered: bool,
}

impl Session {
    /// Opens the connection.
    pub async fn open(connect: &ModbusConnect, late_answer_max: Duration) -> io::Result<Self> {
        match connect {
            ModbusConnect::Tcp { host, port } => {
                let stream =
                    timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), *port))).await.map_err(|_| {
                        io::Error::new(io::ErrorKind::TimedOut, format!("not open within {CONNECT_TIMEOUT:?}"))
                    })??;
                stream.set_nodelay(true)?;
                let client = tcp::attach(stream);
                Ok(Self { client, line: None, late_answer_max, asked: Instant::now(), has_answered: false })
            }
            ModbusConnect::Rtu { port, line } => {
                let stream = port::open(port, line).map_err(|error| io::Error::other(error.to_string()))?;
                Ok(Self::on_line(stream, late_answer_max))
            }
        }
    }

    /// Speaks RTU on an open line.
    pub fn on_line(wire: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, late_answer_max: Duration) -> Self {
        let line = Shared { wire: Arc::new(Mutex::new((Box::new(wire), 0))) };
        let client = rtu::attach(line.clone());
        Self { client, line: Some(line), late_answer_max, asked: Instant::now(), has_answered: false }
    }

    /// Whether answers bear nothing that ties them to their request.
    pub fn is_serial(&self) -> bool {
        self.line.is_some()
    }

    /// Whether a loss now may be no more than a server that closes connections that were idle or have had their answer.
    pub fn may_be_closed_in_good_order(&self) -> bool {
        self.has_answered && !self.is_serial()
    }

    /// Sends one request and waits for its answer, which is checked for unit, function and length. After any error but
    /// an exception the session is out of step: see [`Session::listen_out`].
    pub async fn ask(&mut self, unit: u8, request: &Request, answer_max: Duration) -> Result<Answer, AskError> {
        use tokio_modbus::Request as Ask;
        let (address, count) = (request.address, request.count);
        let call = match request.table {
            Table::Holding => Ask::ReadHoldingRegisters(address, count),
            Table::Input => Ask::ReadInputRegisters(address, count),
            Table::Coil => Ask::ReadCoils(address, count),
            Table::Discrete => Ask::ReadDiscreteInputs(address, count),
        };
        let received_before = self.line.as_ref().map_or(0, Shared::received_bytes);
        self.client.set_slave(Slave(unit));
        self.asked = Instant::now();
        match timeout_at(self.asked + answer_max, self.client.call(call)).await {
            Err(_) => {
                let bytes = self.line.as_ref().map_or(0, Shared::received_bytes).wrapping_sub(received_before);
                Err(if bytes == 0 {
                    AskError::Timeout(answer_max)
                } else {
                    AskError::Frame(format!("{bytes} bytes came within {answer_max:?}, and no whole frame"))
                })
            }
            Ok(Err(tokio_modbus::Error::Transport(error))) if error.kind() == io::ErrorKind::InvalidData => {
                Err(AskError::Frame(error.to_string()))
            }
            Ok(Err(tokio_modbus::Error::Transport(error))) => Err(AskError::Lost(error)),
            Ok(Err(tokio_modbus::Error::Protocol(error))) => Err(AskError::Frame(error.to_string())),
            Ok(Ok(Err(exception))) => {
                self.has_answered = true;
                Err(AskError::Exception(exception.into()))
            }
            Ok(Ok(Ok(response))) => {
                self.has_answered = true;
                fitting(response, request)
            }
        }
    }

    /// Serial only: reads and discards until the answer to the last request has come or can no longer come, then
    /// starts with a fresh frame decoder.
    pub async fn listen_out(&mut self) -> io::Result<Heard> {
        let Some(line) = &mut self.line else { return Ok(Heard::Nothing) };
        let latest = self.asked + self.late_answer_max;
        let mut heard: Vec<u8> = Vec::with_capacity(FRAME_BYTES_MAX);
        let mut buffer = [0; FRAME_BYTES_MAX];
        let result = loop {
            let is_answer = heard.len() >= 4 && CRC.checksum(&heard) == 0;
            let now = Instant::now();
            let until = if is_answer || now >= latest { now + SILENCE } else { latest.min(now + SILENCE) };
            match timeout_at(until, line.read(&mut buffer)).await {
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Ok(count)) => {
                    if now >= latest + BABBLE_MAX {
                        return Err(io::Error::other("the line does not fall silent"));
                    }
                    let room = FRAME_BYTES_MAX.saturating_sub(heard.len());
                    heard.extend_from_slice(&buffer[..count.min(room)]);
                }
                Ok(Err(error)) => return Err(error),
                Err(_) if is_answer => break Heard::Answer,
                Err(_) if Instant::now() >= latest => break Heard::Nothing,
                // Silence after something that was no frame: what follows begins a new one.
                Err(_) => heard.clear(),
            }
        };
        self.client = rtu::attach(line.clone());
        Ok(result)
    }
}

/// The answer, if it has the table and the length asked for. Bits come in whole bytes.
fn fitting(response: tokio_modbus::Response, request: &Request) -> Result<Answer, AskError> {
    use tokio_modbus::Response as Said;
    let count = usize::from(request.count);
    let (answer, got, wanted) = match (response, request.table) {
        (Said::ReadHoldingRegisters(words), Table::Holding) | (Said::ReadInputRegisters(words), Table::Input) => {
            let got = words.len();
            (Answer::Words(words), got, count)
        }
        (Said::ReadCoils(bits), Table::Coil) | (Said::ReadDiscreteInputs(bits), Table::Discrete) => {
            let got = bits.len();
            (Answer::Bits(bits), got, count.div_ceil(8) * 8)
        }
        (other, table) => return Err(AskError::Frame(format!("{other:?} is no answer for {table:?}"))),
    };
    if got == wanted { Ok(answer) } else { Err(AskError::Frame(format!("{got} values instead of {wanted}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt as _, DuplexStream};

    fn request(address: u16, count: u16) -> Request {
        Request { table: Table::Holding, address, count, members: Vec::new() }
    }

    fn framed(bytes: &[u8]) -> Vec<u8> {
        let mut frame = bytes.to_vec();
        frame.extend_from_slice(&CRC.checksum(bytes).to_le_bytes());
        frame
    }

    /// A slave whose register n holds n and that answers the first request after `late`.
    async fn late_slave(mut wire: DuplexStream, late: Duration) {
        let mut frame = [0; 8];
        let mut first = true;
        while wire.read_exact(&mut frame).await.is_ok() {
            if std::mem::take(&mut first) {
                tokio::time::sleep(late).await;
            }
            if wire.write_all(&framed(&[frame[0], 3, 2, frame[2], frame[3]])).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn a_late_answer_is_never_taken_for_the_next_requests() {
        let (ours, theirs) = tokio::io::duplex(512);
        tokio::spawn(late_slave(theirs, Duration::from_millis(120)));
        let mut session = Session::on_line(ours, Duration::from_secs(2));
        let timeout = Duration::from_millis(100);
        assert!(matches!(session.ask(1, &request(100, 1), timeout).await, Err(AskError::Timeout(_))));
        assert_eq!(session.listen_out().await.unwrap(), Heard::Answer);
        for address in [200, 300, 400] {
            assert_eq!(session.ask(1, &request(address, 1), timeout).await.unwrap(), Answer::Words(vec![address]));
        }
    }

    #[tokio::test]
    async fn noise_does_not_end_the_wait_for_a_late_answer() {
        let (ours, mut theirs) = tokio::io::duplex(512);
        let mut session = Session::on_line(ours, Duration::from_secs(2));
        let timeout = Duration::from_millis(100);
        let slave = tokio::spawn(async move {
            let mut frame = [0; 8];
            theirs.read_exact(&mut frame).await.unwrap();
            tokio::time::sleep(Duration::from_millis(150)).await;
            theirs.write_all(&[0x00, 0xFF, 0x17]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(700)).await;
            theirs.write_all(&framed(&[1, 3, 2, 0, 100])).await.unwrap();
            theirs
        });
        assert!(matches!(session.ask(1, &request(100, 1), timeout).await, Err(AskError::Timeout(_))));
        assert_eq!(session.listen_out().await.unwrap(), Heard::Answer);
        drop(slave.await.unwrap());
    }

    #[tokio::test]
    async fn answers_that_do_not_fit_their_request_are_errors() {
        let answers: [&[u8]; 6] = [
            &framed(&[1, 3, 4, 0, 1, 0, 2]), // two registers, one was asked for
            &framed(&[1, 4, 2, 0, 1]),       // another function
            &framed(&[9, 3, 2, 0, 1]),       // another unit
            &framed(&[1, 3, 1, 0]),          // half a register
            &[1, 3, 2, 0, 1, 0, 0],          // wrong CRC
            &[0xFF; 64],                     // nothing at all
        ];
        for answer in answers {
            let (ours, mut theirs) = tokio::io::duplex(512);
            theirs.write_all(answer).await.unwrap();
            let mut session = Session::on_line(ours, Duration::from_millis(300));
            let got = session.ask(1, &request(1, 1), Duration::from_millis(100)).await;
            assert!(matches!(got, Err(AskError::Frame(_))), "{answer:x?}: {got:?}");
        }
    }
}
