//! Storms against the queue: kill -9, power cuts, and disks that are full, read-only or out of inodes, on real file
//! systems.
//!
//! `cargo test --test storm -- --kills 20 --cuts 25 --full`. The program runs itself again as the writer, waits for a
//! moment of its work (an epoch change, a rewrite, a start, ...), lets a random while pass, and hits. What the writer
//! has said to be durable must be there afterwards, done, or counted in `skipped`.
//! Power cuts need root: an ext4 file system on a loop device is shut down by `FS_IOC_SHUTDOWN` without its log being
//! flushed, which loses the page cache and the uncommitted journal. Without root: exit code 77, "skipped".
#![allow(missing_docs)]

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;

mod account;
mod disk;
mod full;
mod hit;
mod moment;
mod read_only;
mod store;
mod writer;

use disk::LoopDisk;
use hit::{Ground, Storm};

const SKIPPED: u8 = 77;
const QUOTA_BYTES: u64 = 64 << 20;
/// Of the writers' log, where a storm fails.
const LOG_LINES_SHOWN: usize = 60;
const STREAM: &str = "telemetry";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    let result = match arguments.first().map(String::as_str) {
        Some("write") => {
            writer::write_for_ever(Path::new(&arguments[1]), count("--seed").unwrap_or_default()).map(|()| false)
        }
        _ => storms(
            count("--kills").unwrap_or(10),
            count("--cuts"),
            arguments.iter().any(|argument| argument == "--full"),
            count("--seed").unwrap_or_else(|| fastrand::u64(..)),
        ),
    };
    match result {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(SKIPPED),
        Err(error) => {
            eprintln!("storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for; `true` where some of it was skipped.
fn storms(kills: u64, cuts: Option<u64>, full: bool, seed: u64) -> anyhow::Result<bool> {
    println!("seed {seed}");
    let dir = tempfile::tempdir()?;
    let done = storm(Ground::Directory(dir.path()), kills, seed).context("kill -9")?;
    println!("kill -9: {done}");
    if cuts.is_none() && !full {
        return Ok(false);
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(true);
    }
    if let Some(cuts) = cuts {
        let disk = LoopDisk::make(256)?;
        let done = storm(Ground::Disk(&disk), cuts, seed).context("power cut")?;
        println!("power cut: {done}");
    }
    if full {
        store::fill_disk()?;
        full::beside_a_queue(&LoopDisk::make(96)?.mount_point)?;
        full::on_a_disk_smaller_than_the_quota(&LoopDisk::make(32)?.mount_point)?;
        full::out_of_inodes(&LoopDisk::make_with(96, &["-N", "512"])?.mount_point)?;
        read_only::for_what_is_opened(&LoopDisk::make(96)?)?;
        read_only::for_all(&LoopDisk::make(96)?)?;
    }
    Ok(false)
}

/// So many hits, each moment in its turn.
fn storm(ground: Ground<'_>, hits: u64, seed: u64) -> anyhow::Result<Storm<'_>> {
    let log = tempfile::NamedTempFile::new()?;
    let mut storm = Storm::new(ground, log.path().to_owned(), seed);
    let mut told = Instant::now();
    for number in 0..hits {
        if let Err(error) = storm.hit(number) {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            let last: Vec<_> = text.lines().rev().take(LOG_LINES_SHOWN).collect();
            eprintln!("what the writers logged last:");
            last.iter().rev().for_each(|line| eprintln!("  {line}"));
            return Err(error);
        }
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            println!("{} of {hits}", number + 1);
        }
    }
    Ok(storm)
}
