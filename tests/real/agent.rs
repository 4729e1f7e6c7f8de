//! The built agent as a process: started, asked, killed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::wait_for;

/// Longest time until the agent says it has started, on a busy machine.
const START_MAX: Duration = Duration::from_secs(30);
/// The clean stop it promises.
const STOP_MAX: Duration = Duration::from_secs(10);

/// A running agent. Killed when dropped; its log is printed when the test fails.
pub struct Agent {
    child: Child,
    /// The agent, which is not the child where something is around it.
    process: Pid,
    status: SocketAddr,
    log: PathBuf,
}

/// A stream as `/status` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamNow {
    pub name: String,
    pub run: u32,
    /// Records pushed in this run.
    pub pushed: u64,
    /// Records not acknowledged.
    pub waiting: u64,
    /// Highest `seq` of this run that is on disk.
    pub durable: Option<u64>,
    /// Highest `seq` of this run up to which Kafka has acknowledged all.
    pub acknowledged: Option<u64>,
}

impl StreamNow {
    /// Highest `seq` of this run that may not get lost any more.
    pub fn safe(&self) -> Option<u64> {
        self.durable.max(self.acknowledged)
    }
}

impl Agent {
    /// Starts it and waits until it says that it has started. Its log goes to the file `log`.
    pub fn start(config: &Path, log: &Path) -> Self {
        Self::start_as(command(config), log)
    }

    /// The same by a command that starts it as its own child, forwards nothing, and ends as it ends.
    pub fn start_as(mut command: Command, log: &Path) -> Self {
        let file = File::create(log).unwrap();
        command.stdin(Stdio::null()).env_remove("NOTIFY_SOCKET");
        let child = command.stderr(file).spawn().unwrap();
        let process = Pid::from_child(&child);
        let status = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut starting = Self { child, process, status, log: log.to_owned() };
        starting.status = wait_for("the agent's start", START_MAX, || {
            let ended = starting.child.try_wait().unwrap();
            assert!(ended.is_none(), "the agent ended at its start: {ended:?}");
            status_address(&starting.log_text())
        });
        starting.process = only_child(starting.process).unwrap_or(starting.process);
        starting
    }

    /// What it logged.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The body of a page of the status listener.
    pub fn get(&self, path: &str) -> String {
        let mut connection = TcpStream::connect(self.status).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(connection, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// `/status`.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.get("/status")).unwrap()
    }

    /// The streams, in the configuration's order.
    pub fn streams(&self) -> Vec<StreamNow> {
        let status = self.status();
        let run = u32::try_from(status["queue"]["run"].as_u64().unwrap()).unwrap();
        let place =
            |at: &serde_json::Value| Some((u32::try_from(at["run"].as_u64()?).unwrap(), at["seq"].as_u64().unwrap()));
        let of_this_run = |at: &serde_json::Value| place(at).filter(|(at_run, _)| *at_run == run).map(|(_, seq)| seq);
        let streams = status["streams"].as_array().unwrap().iter();
        let stream = |found: &serde_json::Value| StreamNow {
            name: found["name"].as_str().unwrap().to_owned(),
            run,
            pushed: found["pushed"].as_u64().unwrap(),
            waiting: found["records"].as_u64().unwrap(),
            durable: of_this_run(&found["durable"]),
            acknowledged: of_this_run(&found["acknowledged"]),
        };
        streams.map(stream).collect()
    }

    /// Whether nothing waits, by the count and by the cursors: right after a start the count is an estimate.
    pub fn is_drained(&self) -> bool {
        let status = self.status();
        let place = |at: &serde_json::Value| Some((at["run"].as_u64()?, at["seq"].as_u64()?));
        status["streams"]
            .as_array()
            .unwrap()
            .iter()
            .all(|stream| stream["records"] == 0 && place(&stream["acknowledged"]) >= place(&stream["durable"]))
    }

    /// Waits until the store is open: before that a start shows no backlog. Its directory is measured when it is.
    pub fn wait_for_store(&self) {
        wait_for("the store", START_MAX, || self.status()["queue"]["disk_bytes"].as_u64().filter(|bytes| *bytes > 0));
    }

    /// A metric's value, summed over its labels; 0 where it was never counted.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics");
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let values = text.lines().filter(of_name).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
        values.fold(0.0, |sum, value| sum + value)
    }

    /// Whether the source's port or connection is open, and how many readings it made.
    pub fn source(&self, name: &str) -> (bool, u64) {
        let status = self.status();
        let found = status["sources"].as_array().unwrap().iter().find(|source| source["name"] == name).cloned();
        found.map_or((false, 0), |found| (found["up"] == true, found["readings"].as_u64().unwrap()))
    }

    /// Memory that belongs to the process, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.as_raw_nonzero())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Bytes that the process has caused to be written to storage (`write_bytes` of proc_pid_io(5)).
    pub fn written_bytes(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.process.as_raw_nonzero())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.unwrap().trim().parse().unwrap()
    }

    /// The most memory that belonged to the process at once, in KiB.
    pub fn resident_kib_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.as_raw_nonzero())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.process, signal).unwrap();
    }

    /// SIGHUP: read the configuration again.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGSTOP: it does nothing and keeps its connections.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        let ended = self.child.wait().unwrap();
        // unshare(1) stumbles over a child that was killed by this signal, and says so with 1.
        let is_expected = ended.signal() == Some(9) || self.process != Pid::from_child(&self.child) && !ended.success();
        assert!(is_expected, "the agent ended by itself before it was killed: {ended}");
    }

    /// SIGTERM: it must end well, in the time it promises. Gives the time it took and its log.
    pub fn terminate(mut self) -> (Duration, String) {
        let began = Instant::now();
        self.signal(Signal::TERM);
        // Half a second for the way in and out of a process on a busy machine.
        let limit = STOP_MAX + Duration::from_millis(500);
        let ended = wait_for("the agent's stop", limit, || self.child.try_wait().unwrap());
        assert!(ended.success(), "the agent did not stop cleanly: {ended}");
        (began.elapsed(), self.log_text())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log_text();
            let lines: Vec<_> = log.lines().collect();
            println!("--- the agent's last lines\n{}\n---", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Runs an agent that is expected to end by itself; gives its exit status and its log.
pub fn run_to_end(config: &Path, limit: Duration) -> (ExitStatus, String) {
    let mut child = command(config).stderr(Stdio::piped()).spawn().unwrap();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("the agent's end", limit, || child.try_wait().unwrap())
    }));
    // Whatever came of it, no agent is left behind.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    (ended.unwrap_or(output.status), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["run", "--config"]).arg(config).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET");
    command
}

/// The child of a process that has one.
fn only_child(parent: Pid) -> Option<Pid> {
    let parent = parent.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    Pid::from_raw(children.split_whitespace().next()?.parse().unwrap())
}

/// Where the log says that the status listener is.
fn status_address(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains("agent started"))?;
    line.split_once("status=Some(")?.1.split_once(')')?.0.parse().ok()
}
