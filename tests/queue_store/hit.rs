//! One hit: a writer is started, a moment of its work awaited, the process killed or the power cut, and the account taken.

use std::collections::HashMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::Context as _;

use super::account::Account;
use super::disk::LoopDisk;
use super::moment::{Leftovers, MOMENTS, Moment, Watch};

/// Longest random while between the beginning of a moment and the hit, in microseconds: what a rewrite takes.
const LATER_US_MAX: u64 = 4_000;
/// The first of an event of that many is hit, at random.
const NTH_MAX: u32 = 4;
/// A writer says something within this time.
const WORD_MAX: Duration = Duration::from_secs(60);

/// Where the queue is, and so how it is hit.
#[derive(Clone, Copy)]
pub enum Ground<'a> {
    /// The process is killed.
    Directory(&'a Path),
    /// The power is cut.
    Disk(&'a LoopDisk),
}

/// Many hits on one queue.
pub struct Storm<'a> {
    ground: Ground<'a>,
    random: fastrand::Rng,
    account: Account,
    hits: HashMap<Moment, u64>,
    leftovers: Leftovers,
    starts: u64,
    /// What writers log.
    log: PathBuf,
}

impl<'a> Storm<'a> {
    pub fn new(ground: Ground<'a>, log: PathBuf, seed: u64) -> Self {
        Self {
            ground,
            random: fastrand::Rng::with_seed(seed),
            account: Account::default(),
            hits: HashMap::new(),
            leftovers: Leftovers::default(),
            starts: 0,
            log,
        }
    }

    fn state_dir(&self) -> PathBuf {
        match self.ground {
            Ground::Directory(dir) => dir.join("state"),
            Ground::Disk(disk) => disk.mount_point.join("state"),
        }
    }

    /// Hit `number`; each moment has its turn.
    pub fn hit(&mut self, number: u64) -> anyhow::Result<()> {
        let moment = MOMENTS[(number % MOMENTS.len() as u64) as usize];
        let outcome = match moment {
            Moment::Recovery => self.hit_at(Moment::Append).and_then(|()| self.hit_at(moment)),
            _ => self.hit_at(moment),
        };
        let context = || format!("hit {number}, at {moment}");
        outcome.with_context(context)?;
        *self.hits.entry(moment).or_default() += 1;
        self.leftovers.add(&Leftovers::of(&self.state_dir().join("queue"))?);
        self.account.check(&self.state_dir()).with_context(context)
    }

    fn hit_at(&mut self, moment: Moment) -> anyhow::Result<()> {
        let dir = self.state_dir();
        std::fs::create_dir_all(dir.join("queue"))?;
        let watch = Watch::begin(&dir.join("queue"))?;
        let mut writer = Writer::start(&dir, &self.log, self.random.u64(..))?;
        self.starts += 1;
        match moment {
            Moment::Append => writer.wait_for_words(self.random.usize(3..40))?,
            _ => {
                let nth = if moment == Moment::Start { self.random.u32(1..=6) } else { self.random.u32(1..=NTH_MAX) };
                // A start brings back one epoch.
                let nth = if moment == Moment::Recovery { 1 } else { nth };
                if !watch.wait(moment, nth, &mut || writer.has_ended())? {
                    return Err(writer.give_up(&format!("{moment} does not come")));
                }
            }
        }
        std::thread::sleep(Duration::from_micros(self.random.u64(0..LATER_US_MAX)));
        let believed = writer.words_so_far();
        let (lines, believed) = match self.ground {
            Ground::Directory(_) => {
                let lines = writer.kill()?;
                // What a killed process had written to a pipe it has done.
                (lines, usize::MAX)
            }
            Ground::Disk(disk) => {
                disk.shut_down()?;
                (writer.kill()?, believed)
            }
        };
        if let Ground::Disk(disk) = self.ground {
            // The watch would keep the file system busy.
            drop(watch);
            disk.remount()?;
        }
        self.account.take(&lines, believed)
    }
}

impl fmt::Display for Storm<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hits: u64 = self.hits.values().sum();
        write!(out, "{hits} of {hits} survived, {} records durable; hit at", self.account.durable_records())?;
        for moment in MOMENTS {
            write!(out, " {moment} {},", self.hits.get(&moment).unwrap_or(&0))?;
        }
        let Leftovers { half_rewritten, half_removed, open_epochs } = self.leftovers;
        write!(
            out,
            " in {} lives; left behind: an open epoch {open_epochs} times, half a rewrite {half_rewritten}, \
             half a removal {half_removed}",
            self.starts
        )
    }
}

/// A writing process.
struct Writer {
    child: Child,
    said: Receiver<String>,
    lines: Vec<String>,
}

/// Most lines of a writer that nobody has looked at; then it waits.
const LINES_MAX: usize = 1 << 16;

impl Writer {
    fn start(dir: &Path, log: &Path, seed: u64) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("write")
            .arg(dir)
            .args(["--seed", &seed.to_string()])
            .stdout(Stdio::piped())
            .stderr(OpenOptions::new().create(true).append(true).open(log)?)
            .spawn()
            .context("start writer")?;
        let output = child.stdout.take().context("writer's output")?;
        let (say, said) = sync_channel(LINES_MAX);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if say.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, said, lines: Vec::new() })
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Lines read by now.
    fn words_so_far(&mut self) -> usize {
        self.lines.extend(self.said.try_iter());
        self.lines.len()
    }

    fn wait_for_words(&mut self, lines: usize) -> anyhow::Result<()> {
        while self.lines.len() < lines {
            match self.said.recv_timeout(WORD_MAX) {
                Ok(line) => self.lines.push(line),
                Err(_) => return Err(self.give_up("it says nothing more")),
            }
        }
        Ok(())
    }

    /// Kills it; gives all that it said.
    fn kill(mut self) -> anyhow::Result<Vec<String>> {
        self.child.kill()?;
        self.child.wait()?;
        self.lines.extend(self.said.iter());
        Ok(std::mem::take(&mut self.lines))
    }

    fn give_up(&mut self, why: &str) -> anyhow::Error {
        let _ = self.child.kill();
        let _ = self.child.wait();
        anyhow::anyhow!("writer: {why}; {} lines so far", self.words_so_far())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
