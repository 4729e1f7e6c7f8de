//! Mosquitto restarted, Modbus units of others, noise on a line, signals; Kafka is the witness throughout.

#[path = "encodings.rs"]
mod encodings;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::agent::{Agent, run_to_end};
use crate::line::{Receiver, Relay};
use crate::process::{output, tool, wait_for};
use crate::scene::{MQTT_SOURCE, Plant, Scene, gnss_source, modbus_source, wait_until_up};
use crate::servers::{ModbusUnits, Mosquitto};

const PATIENCE: Duration = Duration::from_secs(30);

/// A fleet of made-up vehicles that say 400 readings a second.
const FLEET: &str = "[[source]]\nname = \"fleet\"\ntype = \"simulated\"\ndevices = 20\nevery = \"50ms\"\n";

fn counted(from: u64, to: u64) -> impl Iterator<Item = String> {
    (from..to).map(|count| format!("{{\"count\":{count}}}"))
}

/// The different numbers in the field `count`.
fn counts(records: impl Iterator<Item = impl std::borrow::Borrow<Value>>) -> BTreeSet<u64> {
    records.map(|record| record.borrow()["count"].as_u64().unwrap()).collect()
}

fn wait_for_readings(agent: &Agent, source: &str, least: u64) {
    wait_for(&format!("{least} readings of {source}"), PATIENCE, || (agent.source(source).1 >= least).then_some(()));
}

#[test]
fn mosquitto_restarted() {
    let mut scene = Scene::new("others::mosquitto_restarted");
    let mut plant = Plant::start(scene.dir());
    scene.configure(&plant.sources(10), Some(&plant.mosquitto));
    let agent = scene.agent();
    plant.wait_until_up(&agent);
    plant.mosquitto.publish("sensors/pump/data", counted(0, 300));
    plant.mosquitto.stop();
    wait_for("the agent to notice", PATIENCE, || (agent.status()["mqtt"]["up"] == false).then_some(()));
    // What does not need the local broker goes on meanwhile.
    let (epochs, polls) = (agent.source("position").1, agent.source("plc").1);
    wait_for_readings(&agent, "position", epochs + 20);
    wait_for_readings(&agent, "plc", polls + 20);
    scene.wait_until_delivered(&agent);

    plant.mosquitto.up();
    let heard = plant.mosquitto.subscribe("forebay/#", &scene.dir().join("heard"));
    wait_for("the agent to come back", PATIENCE, || (agent.status()["mqtt"]["up"] == true).then_some(()));
    wait_until_up(&agent, &["yard"]);
    plant.mosquitto.publish("sensors/pump/data", counted(300, 600));
    wait_for("publications after the restart", PATIENCE, || (heard.lines().len() > 50).then_some(()));
    // Readings of the source are no measure: messages may come twice.
    wait_for("the last message", PATIENCE, || scene.has_message(599).then_some(()));
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    let ledger = scene.settle();
    assert_eq!(counts(ledger.of_source("yard")), (0..600).collect(), "messages that the broker took are missing");
}

/// What a unit of `pymodbus-slave` must read as.
fn expected(unit: u64) -> Value {
    let offset = if unit == 2 { 1000 } else { 0 };
    serde_json::json!({
        "temperature_c": f64::from(715 + offset) / 10.0,
        "offset": -100,
        "mains_v": 71.5,
        "mains_swapped_v": 71.5,
        "energy": -123_456,
        "count": 2_147_483_649_u64,
        "beyond_a_hole": 7 + offset,
        "input_7": 70 + offset,
        "pump_on": true,
        "valve_open": false,
        "alarm": true,
        "fault": false,
    })
}

/// Reads some of the registers with mbpoll: `[address]: value` a line.
fn mbpoll(connection: &[&str], place: &str, what: &[&str]) -> BTreeMap<u32, String> {
    let mut command = tool("mbpoll", "mbpoll");
    let text = output(command.args(connection).args(["-0", "-1", "-q"]).args(what).arg(place));
    let register = |line: &str| {
        let (address, value) = line.strip_prefix('[')?.split_once("]:")?;
        Some((address.trim().parse().ok()?, value.trim().to_owned()))
    };
    text.lines().filter_map(register).collect()
}

/// What mbpoll says of unit 2 must be what we expect of it.
fn cross_check(connection: &[&str], place: &str) {
    let holding = mbpoll(connection, place, &["-a", "2", "-t", "4", "-r", "100", "-c", "2"]);
    assert!(holding[&100].starts_with("1715"), "{holding:?}");
    assert!(holding[&101].contains("-100"), "{holding:?}");
    let real = mbpoll(connection, place, &["-a", "2", "-t", "4:float", "-B", "-r", "102", "-c", "1"]);
    assert_eq!(real[&102].parse(), Ok(71.5), "{real:?}");
    let long = mbpoll(connection, place, &["-a", "2", "-t", "4:int", "-B", "-r", "106", "-c", "1"]);
    assert_eq!(long[&106], "-123456");
    let coils = mbpoll(connection, place, &["-a", "2", "-t", "0", "-r", "3", "-c", "2"]);
    assert_eq!((coils[&3].as_str(), coils[&4].as_str()), ("1", "0"));
}

#[test]
fn modbus_pymodbus_tcp_and_rtu() {
    let mut scene = Scene::new("others::modbus_pymodbus_tcp_and_rtu");
    let (units, relay) = (ModbusUnits::tcp(), Relay::start());
    let _bus_units = ModbusUnits::rtu(&relay.far);
    let near = relay.near.display().to_string();
    let (_, port) = units.address.split_once(':').unwrap();
    cross_check(&["-m", "tcp", "-p", port], "127.0.0.1");
    cross_check(&["-m", "rtu", "-b", "19200", "-P", "none"], &near);

    let sources = [
        modbus_source("plc", &format!("tcp://{}", units.address), "telemetry"),
        modbus_source("bus", &format!("rtu://{near}?baud=19200&parity=none"), "alarms"),
    ];
    scene.configure(&sources.concat(), None);
    let agent = scene.agent();
    wait_for_readings(&agent, "plc", 60);
    wait_for_readings(&agent, "bus", 30);
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    let ledger = scene.settle();
    for (source, unit) in [("plc", 1), ("plc", 2), ("bus", 1), ("bus", 2)] {
        let device = format!("{source}-{unit}");
        let records: Vec<_> = ledger.of_source(source).filter(|record| record["device"] == device.as_str()).collect();
        assert!(records.len() >= 10, "{device}: {} records", records.len());
        // The first polls may learn where a unit refuses; the last ones must be whole.
        for (name, value) in expected(unit).as_object().unwrap() {
            assert_eq!(&records[records.len() - 1][name], value, "{device} {name}");
            assert!(records.iter().all(|record| [value, &Value::Null].contains(&&record[name])), "{device} {name}");
        }
    }
}

/// Every message that the broker took from a device reaches Kafka although the agent is killed twice, once while Kafka
/// is away: so it acknowledged none that was in its memory only.
#[test]
fn mqtt_source_acks_only_durable() {
    let mut scene = Scene::new("others::mqtt_source_acks_only_durable");
    let mosquitto = Mosquitto::start(scene.dir());
    scene.configure(MQTT_SOURCE, Some(&mosquitto));
    let agent = scene.agent();
    wait_until_up(&agent, &["yard"]);
    mosquitto.publish("sensors/pump/data", counted(0, 500));
    wait_for_readings(&agent, "yard", 100);
    scene.kill(agent);

    scene.kafka.stop();
    mosquitto.publish("sensors/pump/data", counted(500, 1000));
    let agent = scene.agent();
    wait_for_readings(&agent, "yard", 300);
    mosquitto.publish("sensors/pump/data", counted(1000, 1500));
    scene.kill(agent);

    scene.kafka.up();
    let agent = scene.agent();
    // Larger than any packet that is taken whole: it must not stand in the way of what comes behind it.
    mosquitto.publish("sensors/pump/data", std::iter::once(format!("{{\"text\":\"{}\"}}", "x".repeat(3 << 20))));
    mosquitto.publish("sensors/pump/data", counted(1500, 1600));
    wait_for("the last message", PATIENCE, || scene.has_message(1599).then_some(()));
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    assert!(agent.metric("forebay_source_errors_total{source=\"yard\",kind=\"too_large\"}") >= 1.0);
    agent.terminate();
    scene.drain_rest();
    let ledger = scene.settle();
    let arrived = counts(ledger.of_source("yard"));
    let lost: Vec<_> = (0..1600).filter(|count| !arrived.contains(count)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let twice = ledger.of_source("yard").count() - arrived.len();
    println!("  1600 messages that the broker took from the device: none lost, {twice} twice, as QoS 1 allows");
}

#[test]
fn garbage_on_the_tty() {
    let mut scene = Scene::new("others::garbage_on_the_tty");
    let receiver = Receiver::start();
    scene.configure(&gnss_source(&receiver), None);
    let agent = scene.agent();
    wait_until_up(&agent, &["position"]);
    receiver.talk(true);
    wait_for_readings(&agent, "position", 10);
    let before_kib = agent.resident_kib();
    receiver.garble(100);
    wait_for("the end of the noise", PATIENCE, || receiver.is_clean().then_some(()));
    let (epochs, readings) = (receiver.epochs(), agent.source("position").1);
    wait_for_readings(&agent, "position", readings + 30);
    let after = (receiver.epochs() - epochs) as i64;
    assert!(after < 60, "{after} epochs were needed for 30 readings after the noise");
    let grown_kib = agent.resident_kib().saturating_sub(before_kib);
    assert!(grown_kib < 8 * 1024, "{grown_kib} KiB more after 100 bursts of noise");
    receiver.talk(false);
    let errors = agent.metric("forebay_source_errors_total");
    assert!(errors > 0.0, "noise must be counted");
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    let ledger = scene.settle();
    let mut seen = Vec::new();
    for record in ledger.of_source("position") {
        let tenths = record["altitude_m"].as_f64().unwrap_or_else(|| panic!("noise became a reading: {record}")) * 10.0;
        assert!((tenths - tenths.round()).abs() < 1e-6, "noise became a reading: {record}");
        seen.push(tenths.round() as u64);
    }
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "an epoch twice or out of order: {seen:?}");
    assert!(seen.iter().all(|number| *number < receiver.epochs()), "an epoch that was never sent: {seen:?}");
    println!(
        "  {} epochs sent, {} read; {errors} errors counted; {grown_kib} KiB grown",
        receiver.epochs(),
        seen.len()
    );
}

#[test]
fn second_agent_on_the_directory() {
    let mut scene = Scene::new("others::second_agent_on_the_directory");
    let config = scene.configure(FLEET, None);
    let first = scene.agent();
    let (ended, log) = run_to_end(&config, PATIENCE);
    assert!(!ended.success(), "a second agent must refuse");
    let last = log.lines().last().unwrap();
    assert!(last.contains(&scene.dir().join("state").display().to_string()), "which directory? {last}");
    println!("  the second agent said: {last}");
    // The first one does not notice.
    wait_for_readings(&first, "fleet", 500);
    scene.wait_until_delivered(&first);
    scene.demand_all(&first);
    first.terminate();
    scene.drain_rest();
    scene.settle();
}

#[test]
fn sighup_reload() {
    let mut scene = Scene::new("others::sighup_reload");
    let receiver = Receiver::start();
    scene.configure(&gnss_source(&receiver), None);
    let agent = scene.agent();
    wait_until_up(&agent, &["position"]);
    receiver.talk(true);
    wait_for_readings(&agent, "position", 5);

    let bad = scene.configure("[[source]]\nname = \"position\"\ntype = \"gnss\"\nprot = \"/dev/null\"\n", None);
    agent.reload();
    wait_for("the refusal", PATIENCE, || agent.log_text().contains("reload refused").then_some(()));
    let log = agent.log_text();
    assert!(log.contains("prot"), "the log must name the key that is wrong");
    assert!(log.contains(&bad.display().to_string()), "and the file");
    let readings = agent.source("position").1;
    wait_for_readings(&agent, "position", readings + 5);

    scene.configure(&[gnss_source(&receiver), FLEET.to_owned()].concat(), None);
    agent.reload();
    wait_for_readings(&agent, "fleet", 100);
    let readings = agent.source("position").1;
    wait_for_readings(&agent, "position", readings + 5);
    receiver.talk(false);
    let epochs = receiver.epochs();
    wait_for_readings(&agent, "position", epochs);
    scene.wait_until_delivered(&agent);
    scene.demand_all(&agent);
    agent.terminate();
    scene.drain_rest();
    let ledger = scene.settle();
    assert_eq!(ledger.lives.len(), 1, "a reload is no restart: {:?}", ledger.lives.keys());
    let read = ledger.of_source("position").count() as u64;
    assert_eq!(read, epochs, "a source that did not change must not miss an epoch");
}

#[test]
fn sigterm_is_clean() {
    let mut scene = Scene::new("others::sigterm_is_clean");
    let plant = Plant::start(scene.dir());
    scene.configure(&plant.sources(20), Some(&plant.mosquitto));
    for is_kafka_up in [true, false] {
        let agent = scene.agent();
        plant.wait_until_up(&agent);
        wait_for_readings(&agent, "fleet", 1000);
        if !is_kafka_up {
            scene.kafka.stop();
            wait_for_readings(&agent, "fleet", 2000);
        }
        scene.demand_all(&agent);
        let (took, log) = agent.terminate();
        assert!(log.contains("clean=true"), "the agent says nothing of a clean stop");
        println!(
            "  stopped {:.2} s after SIGTERM, Kafka {}",
            took.as_secs_f64(),
            if is_kafka_up { "up" } else { "away" }
        );
    }
    scene.kafka.up();
    plant.receiver.talk(false);
    scene.drain_rest();
    let ledger = scene.settle();
    // Nothing that was accepted is lost: each made-up vehicle counts its readings, from 0 in every run.
    check_sequences(&ledger.records);
}

fn check_sequences(records: &[Value]) {
    let mut next = BTreeMap::<(u64, &str), u64>::new();
    for record in records.iter().filter(|record| record["source"] == "fleet") {
        let of = (record["run"].as_u64().unwrap(), record["device"].as_str().unwrap());
        let expected = next.entry(of).or_default();
        assert_eq!(record["sequence"].as_u64(), Some(*expected), "{of:?}");
        *expected += 1;
    }
    assert_eq!(next.len(), 40, "20 vehicles in two runs");
}
