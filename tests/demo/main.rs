//! `forebay demo`, the built command: everything made arrives, through an outage, and the screen stays readable; where it
//! says to look there is something to see.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use forebay::config::{self, Broker, Config};
use rustix::process::{Pid, Signal, kill_process};

/// Widest line of progress on a terminal that nobody has resized.
const COLUMNS: usize = 100;

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("demo").args(arguments).env_remove("FOREBAY_LOG");
    command
}

#[test]
fn everything_made_is_delivered_through_an_outage() {
    let output = demo(&["--seconds", "6", "--outage", "2"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}\n{log}");

    let all = numbers(&text, "all readings");
    assert!(all[0] > 0, "{text}");
    assert_eq!(all[0], all[1], "{text}");
    let of_sources: Vec<_> =
        ["position", "air", "plant"].map(|source| numbers(&text, &format!("source {source}"))).into();
    assert_eq!(of_sources.iter().map(|made| made[0]).sum::<u64>(), all[0], "{text}");
    assert!(of_sources.iter().all(|numbers| numbers[0] > 0 && numbers[0] == numbers[1]), "{text}");
    for nothing in ["lost", "out of order within a device", "frames of devices not read", "not records of this agent"] {
        assert_eq!(numbers(&text, nothing), [0], "{text}");
    }
    assert_eq!(numbers(&text, "published on local MQTT"), [all[0]], "{text}");
    assert!(numbers(&text, "queued at the worst moment")[0] > 0, "the outage was felt: {text}");

    let progress: Vec<_> = text.lines().filter(|line| line.contains(" uplink ") && line.contains(" queued ")).collect();
    assert!(progress.len() >= 6, "{text}");
    assert!(progress.iter().all(|line| line.chars().count() <= COLUMNS), "{text}");
    assert!(!log.contains("rumqttd") && !log.contains(" INFO "), "{log}");

    let config = printed_configuration(&text);
    let names: Vec<_> = config.sources.iter().map(|source| &*source.name).collect();
    assert_eq!(names, ["position", "air", "plant"]);
    let Broker::Tcp { port, .. } = config.mqtt.unwrap().broker else { panic!("the broker is on TCP") };
    let subscribe = format!("    mosquitto_sub -h 127.0.0.1 -p {port} -v -t 'forebay/#'");
    let consume = format!("    kcat -b {} -C -t telemetry -f '%k %s\\n'", config.kafka.unwrap().brokers[0]);
    assert!([subscribe, consume].iter().all(|line| text.lines().any(|printed| printed == line)), "{text}");
    assert!(status_address(&text).is_some(), "{text}");
}

/// The configuration that was shown, as `forebay run` reads it.
fn printed_configuration(text: &str) -> Config {
    let after = text.split_once("as `forebay run` would read it:\n\n").unwrap_or_else(|| panic!("{text}")).1;
    let lines: Vec<_> = after.lines().map_while(|line| line.strip_prefix("    ")).collect();
    let parsed = config::parse(&lines.join("\n"), Path::new("demo.toml"));
    parsed.unwrap_or_else(|errors| panic!("{errors}\n{text}")).config
}

/// Where the last line on metrics says that they are.
fn status_address(text: &str) -> Option<&str> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("    curl -s http://"));
    line.and_then(|rest| rest.split_once("/metrics ")).map(|(address, _)| address)
}

/// The numbers of the account's row of this name.
fn numbers(text: &str, row: &str) -> Vec<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(row));
    let line = line.unwrap_or_else(|| panic!("no row {row:?} in:\n{text}"));
    line.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn with_keep_running_it_goes_on_after_the_account_until_a_signal_and_ends_with_0() {
    let arguments = ["--seconds", "4", "--outage", "1", "--keep-running"];
    let children = [Signal::INT, Signal::TERM].map(|signal| {
        let child = demo(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        (signal, Running(child))
    });
    for (signal, mut child) in children {
        let mut output = BufReader::new(child.0.stdout.take().unwrap());
        let mut text = String::new();
        while !text.lines().any(|line| line.contains(" going on ")) {
            assert!(output.read_line(&mut text).unwrap() > 0, "it ended by itself:\n{text}");
        }
        assert_eq!(numbers(&text, "lost"), [0], "{text}");
        let account = text.find("Nothing lost, nothing out of order.").unwrap_or_else(|| panic!("{text}"));
        let metrics = get(status_address(&text[account..]).unwrap());
        assert!(metrics.contains("forebay_source_up{source=\"plant\"} 1"), "{metrics}");
        kill_process(Pid::from_child(&child.0), signal).unwrap();
        output.read_to_string(&mut text).unwrap();
        assert_eq!(child.0.wait().unwrap().code(), Some(0), "{signal:?}: {text}");
    }
}

fn get(address: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_run_that_the_embedded_kafka_could_not_keep_and_an_outage_without_room_are_refused_with_2() {
    let refused = |arguments: &[&str]| {
        let output = demo(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(output.stdout.is_empty(), "nothing was started");
        error
    };
    let error = refused(&["--seconds", "481"]);
    assert!(error.contains("481 is not in 4..=480"), "{error}");
    let error = refused(&["--seconds", "6", "--outage", "5"]);
    assert!(error.contains("--outage 5 is too long for --seconds 6: allowed are 1 to 4"), "{error}");
}
