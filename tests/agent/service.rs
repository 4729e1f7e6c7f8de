//! The built binary as a service: signals, exit codes, and a bad file at reload.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::ground::{PATIENCE, local};

/// A running `forebay run`, its log line by line.
struct Service {
    child: Child,
    log: Receiver<String>,
}

impl Service {
    fn start(config: &Path) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_forebay")), config)
    }

    fn start_by(mut command: Command, config: &Path) -> Self {
        command.arg("run").arg("--config").arg(config).stderr(Stdio::piped()).env("NO_COLOR", "1");
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (to_test, log) = sync_channel(1024);
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| to_test.send(line)));
        Self { child, log }
    }

    fn until_logged(&self, what: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("never logged: {what}"));
            if line.contains(what) {
                return line;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < Duration::from_secs(12), "does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn metrics(address: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_bad_file_at_reload_is_refused_a_good_one_is_taken_and_sigterm_ends_it_cleanly() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forebay.toml");
    let sim = |name: &str| format!("[[source]]\nname = \"{name}\"\ntype = \"simulated\"\nevery = \"50ms\"\n");
    let text = local(&directory.path().join("state"), &sim("first"));
    std::fs::write(&path, &text).unwrap();
    let service = Service::start(&path);
    let line = service.until_logged("agent started");
    let at = line.find("127.0.0.1:").unwrap();
    let address: String = line[at..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();

    std::fs::write(&path, text.replace("every = \"50ms\"", "every = \"50 sec\"\nspeed = 1")).unwrap();
    service.signal(Signal::HUP);
    service.until_logged("reload refused");
    let seen = metrics(&address);
    assert!(seen.contains("forebay_reloads_total{kind=\"refused\"} 1"), "{seen}");
    assert!(seen.contains("forebay_source_up{source=\"first\"} 1"), "{seen}");

    std::fs::write(&path, format!("{text}{}", sim("second"))).unwrap();
    service.signal(Signal::HUP);
    let line = service.until_logged("reloaded");
    assert!(line.contains("0 sources stopped, 1 started"), "{line}");
    assert!(metrics(&address).contains("forebay_reloads_total{kind=\"applied\"} 1"));
    assert_eq!(service.end().code(), Some(0));
}

#[test]
fn systemd_is_told_when_it_is_ready_that_it_lives_and_when_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forebay.toml");
    std::fs::write(&path, local(&directory.path().join("state"), "")).unwrap();
    let notify = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut message = [0; 256];
        let bytes = systemd.recv(&mut message).expect("systemd is told something in time");
        String::from_utf8_lossy(&message[..bytes]).trim_end().to_owned()
    };
    // As systemd sets them: the watchdog is the agent's own by its process id, which the shell hands on.
    let mut command = Command::new("sh");
    command.args(["-c", "export WATCHDOG_PID=$$; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_forebay")]);
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "400000");
    let service = Service::start_by(command, &path);

    assert_eq!(told(), "READY=1");
    let began = Instant::now();
    assert_eq!([told(), told(), told()], ["WATCHDOG=1"; 3]);
    // Half of WATCHDOG_USEC apart; the agent's own pace would be 5 s.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(service.end().code(), Some(0));
    systemd.set_nonblocking(true).unwrap();
    let mut last = String::new();
    let mut message = [0; 256];
    while let Ok(bytes) = systemd.recv(&mut message) {
        last = String::from_utf8_lossy(&message[..bytes]).trim_end().to_owned();
    }
    assert_eq!(last, "STOPPING=1", "and then it says nothing more");
}

/// The error a `forebay run` that cannot start ends with.
fn refused(config: &Path, command: &mut Command) -> String {
    let output = command.arg("run").arg("--config").arg(config).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    error
}

#[test]
fn a_state_directory_of_another_version_is_named_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let path = directory.path().join("forebay.toml");
    std::fs::write(&path, local(&state, "")).unwrap();
    let service = Service::start(&path);
    service.until_logged("agent started");
    assert_eq!(service.end().code(), Some(0));
    let format = state.join("format");
    assert!(format.exists(), "the directory says its version");
    std::fs::write(&format, "forebay 99\n").unwrap();
    let error = refused(&path, &mut Command::new(env!("CARGO_BIN_EXE_forebay")));
    assert!(error.contains(&state.display().to_string()) && error.contains("forebay 99"), "{error}");
    assert_eq!(std::fs::read_to_string(&format).unwrap(), "forebay 99\n");
}

#[test]
fn a_state_directory_without_permission_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let set_mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    set_mode(&state, 0o555);
    set_mode(directory.path(), 0o755);
    let path = directory.path().join("forebay.toml");
    std::fs::write(&path, local(&state, "")).unwrap();
    set_mode(&path, 0o644);
    // Root may write anywhere, so there the agent is somebody else, who may not be able to reach the build directory.
    let mut command = if geteuid().is_root() {
        let binary = directory.path().join("forebay");
        std::fs::copy(env!("CARGO_BIN_EXE_forebay"), &binary).unwrap();
        set_mode(&binary, 0o755);
        let mut command = Command::new(binary);
        command.uid(65_534).gid(65_534);
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_forebay"))
    };
    let error = refused(&path, &mut command);
    assert!(error.contains("no permission for") && error.contains(&state.display().to_string()), "{error}");
}
