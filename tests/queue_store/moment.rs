//! When to hit: the moments of the queue's work that leave something half done, seen from outside by what happens in
//! its directory.

use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// Longest wait for a moment, on a machine that has other things to do.
const COMES_MAX: Duration = Duration::from_secs(300);

/// What the queue is about when it is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Groups are appended and made durable.
    Append,
    /// An epoch is closed and the next one begins.
    EpochChange,
    /// What survives of an epoch is put into its next generation.
    Rewrite,
    /// An epoch is deleted, as all of it is delivered or dropped.
    Removal,
    /// Lock, state and run of a start.
    Start,
    /// A start brings back the epoch that the hit before has left open.
    Recovery,
}

pub const MOMENTS: [Moment; 6] =
    [Moment::Append, Moment::EpochChange, Moment::Rewrite, Moment::Removal, Moment::Start, Moment::Recovery];

impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Append => "append and seal",
            Self::EpochChange => "epoch change",
            Self::Rewrite => "rewrite",
            Self::Removal => "removal",
            Self::Start => "start",
            Self::Recovery => "recovery",
        })
    }
}

/// Something that happened in the queue's directory.
struct Event {
    name: String,
    created: bool,
    renamed: bool,
}

impl Event {
    /// Generation of the epoch of this name.
    fn generation(&self) -> Option<u32> {
        self.name.strip_prefix("epoch-")?.split_once('.')?.1.parse().ok()
    }

    fn begins(&self, moment: Moment) -> bool {
        match moment {
            Moment::Append => false,
            Moment::EpochChange => self.created && self.generation() == Some(0),
            Moment::Rewrite | Moment::Recovery => self.created && self.generation().is_some_and(|n| n > 0),
            Moment::Removal => self.renamed && self.name.starts_with("dead-epoch-"),
            Moment::Start => true,
        }
    }
}

/// Watches one queue directory.
pub struct Watch(OwnedFd);

impl Watch {
    /// Watches from now on.
    pub fn begin(queue_dir: &Path) -> anyhow::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC)?;
        inotify::add_watch(&events, queue_dir, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        Ok(Self(events))
    }

    /// Waits for the `nth` time that the moment begins; `false` when it does not come in time or the writer has ended.
    pub fn wait(&self, moment: Moment, nth: u32, ended: &mut dyn FnMut() -> bool) -> anyhow::Result<bool> {
        let deadline = Instant::now() + COMES_MAX;
        let mut seen = 0;
        let mut space = [MaybeUninit::<u8>::uninit(); 4096];
        while Instant::now() < deadline && !ended() {
            let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
            if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).context("wait for events")? == 0 {
                continue;
            }
            let mut events = inotify::Reader::new(&self.0, &mut space);
            loop {
                let event = events.next().context("read events")?;
                let name = event.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let created = event.events().contains(ReadFlags::CREATE);
                let renamed = event.events().contains(ReadFlags::MOVED_TO);
                seen += u32::from(Event { name, created, renamed }.begins(moment));
                if seen >= nth {
                    return Ok(true);
                }
                if events.is_buffer_empty() {
                    break;
                }
            }
        }
        Ok(false)
    }
}

/// What a hit left half done, as the next start will find it.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Epochs of which two generations are there.
    pub half_rewritten: u32,
    /// Directories on their way out.
    pub half_removed: u32,
    /// Epochs that were not closed.
    pub open_epochs: u32,
}

impl Leftovers {
    pub fn of(queue_dir: &Path) -> anyhow::Result<Self> {
        let mut found = Self::default();
        let mut numbers = std::collections::HashMap::<String, u32>::new();
        for entry in std::fs::read_dir(queue_dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            found.half_removed += u32::from(name.starts_with("dead-"));
            if let Some((number, _)) = name.split_once('.').filter(|_| name.starts_with("epoch-")) {
                *numbers.entry(number.to_owned()).or_default() += 1;
                found.open_epochs += u32::from(!entry.path().join("summary").exists());
            }
        }
        found.half_rewritten = numbers.values().filter(|generations| **generations > 1).count() as u32;
        Ok(found)
    }

    pub fn add(&mut self, other: &Self) {
        self.half_rewritten += u32::from(other.half_rewritten > 0);
        self.half_removed += u32::from(other.half_removed > 0);
        self.open_epochs += u32::from(other.open_epochs > 0);
    }
}
