//! Modbus buses against real sockets and pseudo-terminals: dead units, late answers, refusals, nonsense.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used)] // helpers of tests, which the lint does not take for tests

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use forebay::config::{Line, Modbus, ModbusConnect, Number, Parity, Port, Register, Table, Unit, WordOrder};
use forebay::demo::devices::pseudo_terminal;
use forebay::demo::modbus::{Plant, Tables};
use forebay::metrics::{BySource, BySourceAndKind, Metrics};
use forebay::reading::{Envelope, Name, Reading, Value};
use forebay::source::modbus;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_serial::SerialStream;
use tokio_util::sync::CancellationToken;

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_secs(10);

fn register(table: Table, address: u16, number: Number) -> Register {
    let name = format!("{table:?}_{address}").to_lowercase().into();
    Register { name, table, address, number, order: WordOrder::Abcd, scale: 1.0, stream: "telemetry".into() }
}

fn words(addresses: impl IntoIterator<Item = u16>) -> Vec<Register> {
    addresses.into_iter().map(|address| register(Table::Holding, address, Number::U16)).collect()
}

fn unit(id: u8, registers: Vec<Register>) -> Unit {
    Unit {
        id,
        device: format!("unit-{id}").into(),
        every: Duration::from_millis(20),
        timeout: Duration::from_millis(150),
        pause: Duration::ZERO,
        registers,
    }
}

/// Register n holds n.
fn counting() -> Tables {
    Tables { holding: (0..1000).collect(), ..Tables::default() }
}

struct Running {
    readings: mpsc::Receiver<Envelope>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(connect: ModbusConnect, units: Vec<Unit>) -> Self {
        let (hub, readings) = mpsc::channel(16);
        let (metrics, _) = Metrics::new();
        let stop = CancellationToken::new();
        let late = Duration::from_millis(400);
        let config = Modbus { connect, units };
        let task = tokio::spawn(modbus::run("plc".into(), config, late, hub, Arc::clone(&metrics), stop.clone()));
        Self { readings, metrics, stop, task }
    }

    async fn next(&mut self) -> Reading {
        match timeout(PATIENCE, self.readings.recv()).await {
            Ok(envelope) => envelope.unwrap().reading,
            Err(_) => {
                let kinds = ["open", "lost", "timeout", "frame", "exception"].map(|kind| (kind, self.errors(kind)));
                panic!("no reading in time; errors so far: {kinds:?}")
            }
        }
    }

    fn errors(&self, kind: &'static str) -> u64 {
        self.metrics.source_errors.get_or_create(&BySourceAndKind { source: "plc".into(), kind }).get()
    }

    async fn until_errors(&self, kind: &'static str, count: u64) {
        let wait = async {
            while self.errors(kind) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{count} errors of kind {kind} in time"));
    }

    fn is_up(&self) -> bool {
        self.metrics.source_up.get_or_create(&BySource { source: "plc".into() }).get() == 1
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("ends when stopped").unwrap();
    }
}

async fn listen() -> (TcpListener, ModbusConnect) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, ModbusConnect::Tcp { host: "127.0.0.1".into(), port })
}

async fn tcp(plant: &Plant) -> ModbusConnect {
    let (listener, connect) = listen().await;
    tokio::spawn(plant.clone().serve_tcp(listener, CancellationToken::new()));
    connect
}

fn pty() -> (SerialStream, File, ModbusConnect) {
    let (master, held, path) = pseudo_terminal().unwrap();
    let line = Line { baud: 115_200, data_bits: 8, parity: Parity::None, stop_bits: 1 };
    let port = Port::Path(path);
    (master, held, ModbusConnect::Rtu { port, line })
}

fn integers(reading: &Reading) -> BTreeMap<&str, i64> {
    let of = |value: &Value| match value {
        Value::Integer(number) => *number,
        other => panic!("{other:?} is no integer"),
    };
    reading.fields.iter().map(|field| (&*field.name, of(&field.value))).collect()
}

#[tokio::test]
async fn all_tables_and_types_arrive_in_configured_order_one_reading_a_stream() {
    let connect = tcp(&Plant::boiler()).await;
    let mut alarm = register(Table::Discrete, 0, Number::Bit);
    alarm.stream = "alarms".into();
    let mut temperature = register(Table::Holding, 100, Number::I16);
    temperature.scale = 0.1;
    let registers = vec![
        register(Table::Coil, 3, Number::Bit),
        alarm,
        register(Table::Holding, 102, Number::F32),
        temperature,
        register(Table::Input, 7, Number::U16),
    ];
    let mut bus = Running::start(connect, vec![unit(1, registers)]);
    let (first, second) = (bus.next().await, bus.next().await);
    let shape = |reading: &Reading| {
        reading.fields.iter().map(|field| (field.name.to_string(), field.value.clone())).collect::<Vec<_>>()
    };
    assert_eq!((&*first.stream, &*first.device, &*first.source), ("telemetry", "unit-1", "plc"));
    let expected = [
        ("coil_3", Value::Bool(true)),
        ("holding_102", Value::Float(230.3)),
        ("holding_100", Value::Float(71.5)),
        ("input_7", Value::Integer(0)),
    ];
    assert_eq!(shape(&first), expected.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!(&*second.stream, "alarms");
    assert_eq!(shape(&second), [("discrete_0".to_owned(), Value::Bool(false))]);
    assert_eq!(first.boot_ns, second.boot_ns);
    bus.end().await;
}

#[tokio::test]
async fn one_dead_unit_among_three_does_not_stop_the_others() {
    for is_gateway in [false, true] {
        let connect = tcp(&Plant::new([1, 3], is_gateway, counting())).await;
        let units = [1, 2, 3].map(|id| unit(id, words([10]))).to_vec();
        let mut bus = Running::start(connect, units);
        let mut seen = BTreeMap::<Name, u32>::new();
        for _ in 0..80 {
            *seen.entry(bus.next().await.device).or_default() += 1;
        }
        assert_eq!(seen.keys().map(|name| &**name).collect::<Vec<_>>(), ["unit-1", "unit-3"]);
        assert!(seen.values().all(|&count| count >= 30), "{seen:?}");
        // 80 readings take about 0.8 s: the dead unit was asked at most at once and a second later.
        let failures = bus.errors(if is_gateway { "exception" } else { "timeout" });
        assert!((1..=4).contains(&failures), "{failures} failures");
        bus.end().await;
    }
}

#[tokio::test]
async fn a_refused_block_is_taken_apart_and_only_the_register_at_fault_is_missing() {
    let mut tables = counting();
    // 12 is a hole nobody may read, 20 is configured by mistake.
    tables.forbidden = BTreeSet::from([12, 20]);
    let plant = Plant::new([1], false, tables);
    let connect = tcp(&plant).await;
    let mut bus = Running::start(connect, vec![unit(1, words([10, 11, 14, 20, 21, 22]))]);
    let expected = [10, 11, 14, 21, 22].map(|n| (format!("holding_{n}"), n));
    let refusals = {
        let reading = bus.next().await;
        assert_eq!(integers(&reading), expected.iter().map(|(name, n)| (&**name, *n)).collect());
        bus.errors("exception")
    };
    assert!(refusals >= 3, "{refusals}");
    for _ in 0..5 {
        assert_eq!(integers(&bus.next().await).len(), 5);
    }
    assert_eq!(bus.errors("exception"), refusals, "what was refused is remembered");
    bus.end().await;
}

#[tokio::test]
async fn rtu_reads_units_on_a_serial_line() {
    let (master, _held, connect) = pty();
    let plant = Plant::new([1, 2], false, counting());
    tokio::spawn(plant.clone().serve_rtu(master, CancellationToken::new()));
    let mut bus = Running::start(connect, vec![unit(1, words([7, 9])), unit(2, words([500]))]);
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        let reading = bus.next().await;
        for (name, value) in integers(&reading) {
            assert_eq!(name, format!("holding_{value}"));
            seen.insert(value);
        }
    }
    assert_eq!(seen, BTreeSet::from([7, 9, 500]));
    assert!(bus.is_up());
    bus.end().await;
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut frame = bytes.to_vec();
    frame.extend(crc::Crc::<u16>::new(&crc::CRC_16_MODBUS).checksum(bytes).to_le_bytes());
    frame
}

#[tokio::test]
async fn a_slave_that_answers_late_now_and_then_never_gives_a_wrong_value() {
    let (mut master, _held, connect) = pty();
    tokio::spawn(async move {
        let mut request = [0; 8];
        for count in 0_u32.. {
            if master.read_exact(&mut request).await.is_err() {
                return;
            }
            if count % 7 == 3 {
                tokio::time::sleep(Duration::from_millis(230)).await; // timeout 150 ms, late answers until 400 ms
            }
            let answer = framed(&[request[0], 3, 2, request[2], request[3]]);
            if master.write_all(&answer).await.is_err() {
                return;
            }
        }
    });
    // Far apart: each is a request of its own, all of the same length.
    let mut bus = Running::start(connect, vec![unit(1, words([100, 200, 300, 400]))]);
    for _ in 0..6 {
        for (name, value) in integers(&bus.next().await) {
            assert_eq!(name, format!("holding_{value}"));
        }
    }
    assert!(bus.errors("timeout") >= 1);
    bus.end().await;
}

#[tokio::test]
async fn an_answer_to_what_was_asked_before_the_line_was_opened_is_never_taken() {
    let (mut master, _held, connect) = pty();
    let mut bus = Running::start(connect, vec![unit(1, words([100]))]);
    let slave = tokio::spawn(async move {
        // To a former process, which asked the same unit for as many registers.
        let mut request = [0; 8];
        let mut former = true;
        loop {
            let asked = timeout(Duration::from_millis(50), master.read_exact(&mut request)).await;
            if std::mem::take(&mut former) {
                master.write_all(&framed(&[1, 3, 2, 0, 99])).await.unwrap();
            }
            if asked.is_ok() && master.write_all(&framed(&[1, 3, 2, request[2], request[3]])).await.is_err() {
                return;
            }
        }
    });
    for _ in 0..3 {
        assert_eq!(integers(&bus.next().await), BTreeMap::from([("holding_100", 100)]));
    }
    bus.end().await;
    slave.abort();
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_is_read_on_and_on() {
    let (listener, connect) = listen().await;
    tokio::spawn(async move {
        loop {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut request = [0; 12];
            if peer.read_exact(&mut request).await.is_ok() {
                let mut answer = request[..4].to_vec();
                answer.extend([0, 5, request[6], 3, 2, request[8], request[9]]);
                peer.write_all(&answer).await.unwrap();
            }
        }
    });
    // Far apart: two requests a poll.
    let mut bus = Running::start(connect, vec![unit(1, words([100, 400]))]);
    for _ in 0..5 {
        assert_eq!(integers(&bus.next().await), BTreeMap::from([("holding_100", 100), ("holding_400", 400)]));
    }
    assert_eq!(bus.errors("lost") + bus.errors("open"), 0);
    bus.end().await;
}

#[tokio::test]
async fn nonsense_is_counted_and_never_a_value() {
    let (listener, connect) = listen().await;
    tokio::spawn(async move {
        let answers: [&[u8]; 3] = [&[3, 4, 0, 1, 0, 2], &[4, 2, 0, 1], &[3, 1, 0]];
        for answer in answers.into_iter().cycle() {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut request = [0; 12];
            if peer.read_exact(&mut request).await.is_err() {
                continue;
            }
            let mut frame = request[..4].to_vec();
            frame.extend((answer.len() as u16 + 1).to_be_bytes());
            frame.push(request[6]);
            frame.extend_from_slice(answer);
            peer.write_all(&frame).await.unwrap();
            // Until the other side hangs up.
            let _ = peer.read(&mut request).await;
        }
    });
    let mut bus = Running::start(connect, vec![unit(1, words([100]))]);
    bus.until_errors("frame", 3).await;
    assert!(bus.readings.try_recv().is_err());
    bus.end().await;
}

#[tokio::test]
async fn a_bus_that_is_not_there_is_waited_for_and_found() {
    let (listener, connect) = listen().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut bus = Running::start(connect, vec![unit(1, words([10]))]);
    bus.until_errors("open", 1).await;
    assert!(!bus.is_up());
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(Plant::new([1], false, counting()).serve_tcp(listener, CancellationToken::new()));
    assert_eq!(integers(&bus.next().await), BTreeMap::from([("holding_10", 10)]));
    assert!(bus.is_up());
    bus.end().await;
}
