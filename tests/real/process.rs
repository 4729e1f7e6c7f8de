//! Foreign programs: found or asked for, run, waited for.

use std::process::Command;
use std::time::{Duration, Instant};

/// How often a waiting test looks again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The program, which Debian's `package` installs.
pub fn tool(name: &str, package: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    // Debian keeps daemons out of a user's path.
    let place = path.split(':').chain(["/usr/sbin", "/usr/local/sbin"]).map(|place| format!("{place}/{name}"));
    let found = place.into_iter().find(|file| std::path::Path::new(file).is_file());
    Command::new(found.unwrap_or_else(|| panic!("{name} is missing: apt-get install {package}")))
}

/// A script of `tests/real/environment`.
pub fn script(name: &str) -> Command {
    tool("python3", "python3-venv");
    Command::new(format!("{}/tests/real/environment/{name}", env!("CARGO_MANIFEST_DIR")))
}

/// Runs it to its end, which must be a good one; gives what it printed.
pub fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?} ended with {}: {printed}{complaints}", done.status);
    printed
}

/// Looks until the probe finds something; fails when `limit` is over.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited {} s in vain for: {what}", limit.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
}
