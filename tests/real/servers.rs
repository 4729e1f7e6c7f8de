//! Kafka, Mosquitto and Modbus units of others, each for one scenario; gone when dropped.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::process::{output, script, tool, wait_for};

const START_MAX: Duration = Duration::from_secs(60);

/// A Kafka cluster, of one node unless [`Kafka::cluster`] says otherwise.
pub struct Kafka {
    nodes: Vec<Node>,
    /// The addresses of all nodes, with commas.
    pub bootstrap: String,
}

/// One node: its directory, its port (0: it chooses one), its settings beside the usual ones.
struct Node {
    dir: PathBuf,
    port: u16,
    settings: Vec<String>,
}

impl Kafka {
    /// Starts a node with the topics `telemetry` and `alarms`.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// The same with broker settings `NAME=VALUE`.
    pub fn start_with(dir: &Path, settings: &[&str]) -> Self {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let kafka = Self::of(vec![Node { dir: dir.join("kafka"), port: 0, settings }]);
        for (topic, partitions) in [("telemetry", "3"), ("alarms", "1")] {
            kafka.topic(&[topic, partitions]);
        }
        kafka
    }

    /// Starts three nodes with the same topics, each partition on all of them, of which two must have a record.
    pub fn cluster(dir: &Path) -> Self {
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let voters: Vec<String> =
            ports.iter().enumerate().map(|(at, (_, port))| format!("{}@127.0.0.1:{port}", at + 1)).collect();
        let node = |(at, (port, controller_port)): (usize, &(u16, u16))| {
            let settings = [
                format!("node.id={}", at + 1),
                format!("controller.quorum.voters={}", voters.join(",")),
                format!("listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}"),
                format!("advertised.listeners=BROKER://127.0.0.1:{port}"),
                "offsets.topic.replication.factor=3".into(),
                "min.insync.replicas=2".into(),
            ];
            Node { dir: dir.join(format!("kafka-{}", at + 1)), port: *port, settings: settings.into() }
        };
        let kafka = Self::of(ports.iter().enumerate().map(node).collect());
        for (topic, partitions) in [("telemetry", "3"), ("alarms", "1")] {
            kafka.create_topic(topic, partitions);
        }
        kafka
    }

    /// A node with these settings (`NAME=VALUE`), not yet started.
    pub fn prepare(dir: &Path, settings: Vec<String>) -> Self {
        Self { nodes: vec![Node { dir: dir.join("kafka"), port: 0, settings }], bootstrap: String::new() }
    }

    /// Where the first node lives.
    pub fn dir(&self) -> &Path {
        &self.nodes[0].dir
    }

    /// Makes a topic on a single node: name, partitions, settings.
    pub fn topic(&self, arguments: &[&str]) {
        output(script("kafka").arg("topic").arg(self.dir()).args(arguments));
    }

    fn of(nodes: Vec<Node>) -> Self {
        let mut kafka = Self { nodes, bootstrap: String::new() };
        kafka.up();
        kafka
    }

    /// Starts all nodes again, with what they held, where they were.
    pub fn up(&mut self) {
        // At once: alone a node of several does not come up.
        let starts = self.nodes.iter().map(Node::start).collect::<Vec<_>>();
        self.bootstrap = starts.into_iter().map(Node::started).collect::<Vec<_>>().join(",");
    }

    /// A clean shutdown of all.
    pub fn stop(&self) {
        self.nodes.iter().for_each(|node| node.signal("stop"));
    }

    /// SIGKILL for all.
    pub fn kill(&self) {
        self.nodes.iter().for_each(|node| node.signal("kill"));
    }

    /// SIGSTOP: they take connections and do not answer.
    pub fn pause(&self) {
        self.nodes.iter().for_each(|node| node.signal("pause"));
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.nodes.iter().for_each(|node| node.signal("resume"));
    }

    /// Starts one node (from 1 on) again.
    pub fn up_node(&self, node: usize) {
        Node::started(self.nodes[node - 1].start());
    }

    /// The same on another port: the cluster tells its clients.
    pub fn move_node(&mut self, node: usize) {
        let moved = &mut self.nodes[node - 1];
        let (before, after) = (format!("BROKER://127.0.0.1:{}", moved.port), free_port());
        for setting in &mut moved.settings {
            *setting = setting.replace(&before, &format!("BROKER://127.0.0.1:{after}"));
        }
        moved.port = after;
        self.up_node(node);
    }

    /// A clean shutdown of one node.
    pub fn stop_node(&self, node: usize) {
        self.nodes[node - 1].signal("stop");
    }

    /// SIGKILL for one node.
    pub fn kill_node(&self, node: usize) {
        self.nodes[node - 1].signal("kill");
    }

    /// The node that leads the first partition of a topic.
    pub fn leader(&self, topic: &str) -> usize {
        let described = self.admin_topic(&["--describe", "--topic", topic]);
        let leader = described.split("Leader: ").nth(1).and_then(|rest| rest.split_whitespace().next());
        leader.and_then(|node| node.parse().ok()).unwrap_or_else(|| panic!("no leader: {described}"))
    }

    /// A topic on as many nodes as there are, at most three.
    pub fn create_topic(&self, topic: &str, partitions: &str) {
        self.create_topic_with(topic, partitions, &[]);
    }

    /// The same with settings of its own, as `--config`, `NAME=VALUE`.
    pub fn create_topic_with(&self, topic: &str, partitions: &str, settings: &[&str]) {
        let replicas = self.nodes.len().min(3).to_string();
        let create = ["--create", "--topic", topic, "--partitions", partitions, "--replication-factor", &replicas];
        self.admin_topic(&[&create, settings].concat());
    }

    /// Deletes a topic with all it holds.
    pub fn delete_topic(&self, topic: &str) {
        self.admin_topic(&["--delete", "--topic", topic]);
    }

    /// Gives a topic more partitions.
    pub fn add_partitions(&self, topic: &str, partitions: &str) {
        self.admin_topic(&["--alter", "--topic", topic, "--partitions", partitions]);
    }

    fn admin_topic(&self, arguments: &[&str]) -> String {
        output(script("kafka").arg("admin").arg(&self.nodes[0].dir).arg("TopicCommand").args(arguments))
    }
}

impl Node {
    fn start(&self) -> Child {
        let mut up = script("kafka");
        // Tests that are killed leave no node behind.
        up.env("FOREBAY_TEST_PID", std::process::id().to_string());
        up.arg("up").arg(&self.dir).arg(self.port.to_string()).args(&self.settings);
        up.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits until the node serves; gives its address.
    fn started(starting: Child) -> String {
        let done = starting.wait_with_output().unwrap();
        let complaints = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "kafka did not start: {complaints}");
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    fn signal(&self, how: &str) {
        output(script("kafka").arg(how).arg(&self.dir));
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        for node in &self.nodes {
            let _ = script("kafka").arg("kill").arg(&node.dir).output();
        }
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

/// A port that was free a moment ago, for servers that cannot choose one themselves: below those that outgoing
/// connections get, as a client that connects again and again could be given that of a server that is down.
pub fn free_port() -> u16 {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(15_000..32_000)).find(is_free).unwrap()
}
