//! Kafka, Mosquitto and Modbus units of others, each for one scenario; gone when dropped.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::process::{output, script, tool, wait_for};

const START_MAX: Duration = Duration::from_secs(20);

/// One Kafka node.
pub struct Kafka {
    dir: PathBuf,
    settings: Vec<&'static str>,
    pub bootstrap: String,
}

impl Kafka {
    /// Starts a node with the topics `telemetry` and `alarms`, and with broker settings `NAME=VALUE`.
    pub fn start(dir: &Path, settings: &[&'static str]) -> Self {
        let dir = dir.join("kafka");
        let mut node = Self { dir, settings: settings.to_vec(), bootstrap: String::new() };
        node.up();
        for topic in ["telemetry", "alarms"] {
            node.create_topic(topic);
        }
        node
    }

    /// Creates a topic: three partitions for `telemetry`, one for others.
    pub fn create_topic(&self, topic: &str) {
        let partitions = if topic == "telemetry" { "3" } else { "1" };
        output(script("kafka").arg("topic").arg(&self.dir).args([topic, partitions]));
    }

    /// Deletes a topic with all that is in it.
    pub fn delete_topic(&self, topic: &str) {
        output(script("kafka").arg("delete").arg(&self.dir).arg(topic));
    }

    /// Starts it again, with what it held, where it was.
    pub fn up(&mut self) {
        let mut up = script("kafka");
        // Tests that are killed leave no node behind.
        up.arg("up").arg(&self.dir).arg("0").args(&self.settings);
        up.env("FOREBAY_TEST_PID", std::process::id().to_string());
        self.bootstrap = output(&mut up).trim().to_owned();
    }

    /// A clean shutdown.
    pub fn stop(&self) {
        output(script("kafka").arg("stop").arg(&self.dir));
    }

    /// SIGKILL.
    pub fn kill(&self) {
        output(script("kafka").arg("kill").arg(&self.dir));
    }

    /// SIGSTOP: it takes connections and does not answer.
    pub fn pause(&self) {
        output(script("kafka").arg("pause").arg(&self.dir));
    }

    /// SIGCONT.
    pub fn resume(&self) {
        output(script("kafka").arg("resume").arg(&self.dir));
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = script("kafka").arg("kill").arg(&self.dir).output();
    }
}

/// A Mosquitto broker that keeps its sessions over a restart.
pub struct Mosquitto {
    child: Child,
    config: PathBuf,
    pub port: u16,
}

impl Mosquitto {
    pub fn start(dir: &Path) -> Self {
        let dir = dir.join("mosquitto");
        std::fs::create_dir(&dir).unwrap();
        let config = dir.join("mosquitto.conf");
        let port = free_port();
        // `user`: started by root it would change to a user that cannot write here. Default limits of 1000 messages a
        // session would make the broker, not the agent, lose messages.
        let settings = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location {}/\n\
             max_queued_messages 0\nlog_dest file {}/log\n",
            dir.display(),
            dir.display()
        );
        std::fs::write(&config, settings).unwrap();
        let child = spawn_mosquitto(&config, port);
        Self { child, config, port }
    }

    /// SIGTERM.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after a stop.
    pub fn up(&mut self) {
        self.child = spawn_mosquitto(&self.config, self.port);
    }

    /// Publishes lines at QoS 1; comes back when the broker has taken them all.
    pub fn publish(&self, topic: &str, lines: impl Iterator<Item = String>) {
        let mut command = self.client("mosquitto_pub");
        command.args(["-q", "1", "-l", "-t", topic]).stdin(Stdio::piped());
        let mut publisher = command.spawn().unwrap();
        let mut stdin = publisher.stdin.take().unwrap();
        for line in lines {
            writeln!(stdin, "{line}").unwrap();
        }
        drop(stdin);
        assert!(publisher.wait().unwrap().success(), "mosquitto_pub failed");
    }

    /// A subscriber whose output goes to `file`, one line a message: the topic, a blank, the payload.
    pub fn subscribe(&self, filter: &str, file: &Path) -> Subscriber {
        let out = std::fs::File::create(file).unwrap();
        let mut command = self.client("mosquitto_sub");
        command.args(["-v", "-q", "1", "-t", filter]).stdout(out);
        Subscriber { child: command.spawn().unwrap(), file: file.to_owned() }
    }

    fn client(&self, name: &str) -> Command {
        let mut command = tool(name, "mosquitto-clients");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn_mosquitto(config: &Path, port: u16) -> Child {
    let mut command = tool("mosquitto", "mosquitto");
    let mut child = command.arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("mosquitto", START_MAX, || {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "mosquitto ended at its start: {ended:?}");
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
    });
    child
}

/// mosquitto_sub at work.
pub struct Subscriber {
    child: Child,
    file: PathBuf,
}

impl Subscriber {
    /// Messages seen so far.
    pub fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(&self.file).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Modbus units 1 and 2 served by pymodbus.
pub struct ModbusUnits {
    child: Child,
    // They live as long as this is open.
    _stdin: ChildStdin,
    pub address: String,
}

impl ModbusUnits {
    /// On TCP, on a free port of the loopback interface.
    pub fn tcp() -> Self {
        Self::start("tcp", "0")
    }

    /// On a serial line.
    pub fn rtu(tty: &Path) -> Self {
        Self::start("rtu", &tty.display().to_string())
    }

    fn start(kind: &str, place: &str) -> Self {
        let mut command = script("pymodbus-slave");
        // pymodbus dumps its traffic when a client leaves in the middle; that is of interest only if it does not start.
        let mut complaints = tempfile::tempfile().unwrap();
        command.args([kind, place]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(complaints.try_clone().unwrap()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let Some(address) = ready.trim().strip_prefix("ready ") else {
            let mut text = String::new();
            complaints.rewind().unwrap();
            complaints.read_to_string(&mut text).unwrap();
            panic!("pymodbus-slave did not start (it needs python3-venv and a package index): {text}");
        };
        Self { child, _stdin: stdin, address: address.to_owned() }
    }
}

impl Drop for ModbusUnits {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago, for servers that cannot choose one themselves.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
