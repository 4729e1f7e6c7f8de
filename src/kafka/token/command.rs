//! Runs a command for what it prints, within bounds: no shell, no input, 10 s, 16 KiB.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

use super::TOKEN_BYTES_MAX;

/// Longest run.
const RUN_MAX: Duration = Duration::from_secs(10);
/// How often a process that has closed its output is looked at until it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Runs it and gives what it printed. What it writes to standard error goes to the agent's.
///
/// # Errors
/// In words: it cannot be started, took too long, printed too much or what is no text, or ended with a failure.
pub(super) fn run(words: &[String]) -> Result<String, String> {
    run_within(words, RUN_MAX)
}

fn run_within(words: &[String], limit: Duration) -> Result<String, String> {
    let end = Instant::now() + limit;
    let [program, arguments @ ..] = words else { return Err("is empty".to_owned()) };
    let mut command = Command::new(program);
    // A group of its own, so that what it starts ends with it.
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("{program}: cannot be started: {error}"))?;
    let outcome = printed(&mut child, end).and_then(|text| ended(&mut child, end).map(|()| text));
    if outcome.is_err() {
        give_up(&mut child);
    }
    outcome.map_err(|why| match why {
        Trouble::TooLong => format!("{program}: took longer than {} s and was stopped", limit.as_secs_f32()),
        Trouble::Other(why) => format!("{program}: {why}"),
    })
}

enum Trouble {
    TooLong,
    Other(String),
}

fn printed(child: &mut Child, end: Instant) -> Result<String, Trouble> {
    let Some(mut stdout) = child.stdout.take() else { return Err(Trouble::Other("has no output".to_owned())) };
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        wait_readable(&stdout, end)?;
        match stdout.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Trouble::Other(error.to_string())),
        }
        if bytes.len() > TOKEN_BYTES_MAX {
            return Err(Trouble::Other(format!("printed more than {TOKEN_BYTES_MAX} bytes")));
        }
    }
    String::from_utf8(bytes).map_err(|_| Trouble::Other("printed what is not UTF-8".to_owned()))
}

fn wait_readable(stdout: &ChildStdout, end: Instant) -> Result<(), Trouble> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Trouble::TooLong);
        }
        let timeout = Timespec::try_from(left).map_err(|error| Trouble::Other(error.to_string()))?;
        let fd = stdout.as_fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(Trouble::Other(error.to_string())),
        }
    }
}

/// Waits for its end, which must be a good one.
fn ended(child: &mut Child, end: Instant) -> Result<(), Trouble> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(Trouble::Other(format!("ended with {status}"))),
            Ok(None) if Instant::now() >= end => return Err(Trouble::TooLong),
            Ok(None) => std::thread::sleep(LOOK_EVERY),
            Err(error) => return Err(Trouble::Other(error.to_string())),
        }
    }
}

/// Kills it with all that it started; leaves no zombie.
fn give_up(child: &mut Child) {
    if let Some(Ok(Some(_))) = Some(child.try_wait()) {
        return;
    }
    // Not reaped yet, so the number is still its own.
    let killed = kill_process_group(Pid::from_child(child), Signal::KILL);
    if killed.is_err() {
        // Without a group of its own at least the process itself.
        let _ = child.kill();
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_words(words: &[&str], limit: Duration) -> Result<String, String> {
        run_within(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), limit)
    }

    #[test]
    fn what_it_prints_comes_back_and_no_shell_reads_its_arguments() {
        assert_eq!(run_words(&["printf", "%s", "a$(id);b"], RUN_MAX), Ok("a$(id);b".to_owned()));
    }

    #[test]
    fn what_goes_wrong_is_said() {
        let refused = |words: &[&str], word: &str| {
            let why = run_words(words, RUN_MAX).unwrap_err();
            assert!(why.contains(word), "{why}");
        };
        refused(&["/nowhere/token"], "/nowhere/token: cannot be started");
        refused(&["false"], "ended with exit status: 1");
        refused(&["sh", "-c", "echo token; exit 3"], "ended with exit status: 3");
        refused(&["head", "-c", "16385", "/dev/zero"], "more than 16384 bytes");
        refused(&["printf", "\\377"], "not UTF-8");
        refused(&[], "is empty");
    }

    #[test]
    fn it_may_print_forever_or_never_end() {
        let why = run_words(&["yes"], RUN_MAX).unwrap_err();
        assert!(why.contains("more than 16384"), "{why}");
        for script in ["sleep 1000 & sleep 1000", "exec >&-; sleep 1000"] {
            let began = Instant::now();
            let why = run_words(&["sh", "-c", script], Duration::from_millis(50)).unwrap_err();
            assert!(why.contains("took longer than 0.05 s"), "{why}");
            assert!(began.elapsed() < RUN_MAX, "it was waited for");
        }
    }
}
