//! The queue's durable state: its identity, run, boots, and per stream what is delivered and what was skipped.
//!
//! A few hundred bytes, written whole each time with a generation and a CRC into a small sled database of its own, which
//! is replaced after a thousand writes. It is read by raw scan of all such databases, the highest good generation wins,
//! so no damage to sled's own structures can take it.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::disk;
use super::epoch::database::Database;
use super::error::OpenError;
use super::lane::Lanes;
use crate::reading::{Name, Position};

const MAGIC: [u8; 8] = *b"\xF1rbyStat";
const VERSION: u16 = 1;
/// Magic, version, body length, generation, CRC: the same in every version.
const HEADER_BYTES: usize = 8 + 2 + 2 + 8 + 4;
const CRC_AT: usize = HEADER_BYTES - 4;
/// Largest encoded state: below a quarter of its database's segment, so that sled makes no blob file of it.
pub const STATE_BYTES_MAX: usize = 14 * 1024;
const SEGMENT_BYTES: usize = 64 * 1024;
const _: () = assert!(STATE_BYTES_MAX + 1024 < SEGMENT_BYTES / 4);
/// Writes after which a fresh database takes over.
const WRITES_MAX: u32 = 1_000;
/// A state database is far smaller than this; more is not read.
const DATABASE_BYTES_MAX: u64 = 64 << 20;
/// Boots remembered.
pub const BOOTS_MAX: usize = 64;
const DIR_PREFIX: &str = "state-";

/// One boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// What blocks call it.
    pub index: u32,
    /// The kernel's id of it.
    pub id: [u8; 16],
    /// When it began by the wall clock, microseconds since 1970 UTC, once that could be trusted.
    pub offset_us: Option<i64>,
}

/// What is durable of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// Its name.
    pub name: Name,
    /// Lanes `[next, end)`, packed positions, ascending and disjoint.
    pub lanes: Vec<(u64, u64)>,
    /// Pending marks: at this packed position, so many records were removed on purpose.
    pub skipped: Vec<(u64, u64)>,
    /// The transaction whose outcome is unknown: first and last packed position.
    pub in_doubt: Option<(u64, u64)>,
}

impl StreamState {
    /// What is still to be delivered; where the state makes no sense, one lane from the lowest cursor on: sending again
    /// is the safe side.
    pub fn lanes(&self) -> Lanes {
        let position = Position::from_packed;
        let pairs: Vec<_> = self.lanes.iter().map(|(next, end)| (position(*next), position(*end))).collect();
        Lanes::from_pairs(&pairs).unwrap_or_else(|error| {
            let cursor = pairs.first().map_or(Position::ZERO, |(next, _)| *next);
            tracing::warn!(stream = %self.name, %error, %cursor, "lanes in the state make no sense, one is used");
            Lanes::from_cursor(cursor)
        })
    }
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Counts writes. It stands in the header, where an agent of any version finds it.
    #[serde(skip)]
    pub generation: u64,
    queue: [u8; 16],
    machine: [u8; 32],
    /// This life of the agent.
    pub run: u32,
    /// Quota in force; chosen at the first start where none is configured.
    pub quota_bytes: u64,
    /// Boots, oldest first; at most [`BOOTS_MAX`].
    pub boots: Vec<Boot>,
    /// Streams.
    pub streams: Vec<StreamState>,
}

impl State {
    fn new(machine: [u8; 32]) -> Self {
        Self {
            generation: 0,
            queue: *Uuid::new_v4().as_bytes(),
            machine,
            run: 0,
            quota_bytes: 0,
            boots: Vec::new(),
            streams: Vec::new(),
        }
    }

    /// The queue's uuid.
    pub fn queue(&self) -> Uuid {
        Uuid::from_bytes(self.queue)
    }

    /// Each stream's lanes.
    pub fn lanes(&self) -> Vec<(Name, Lanes)> {
        self.streams.iter().map(|stream| (stream.name.clone(), stream.lanes())).collect()
    }

    /// The index of the boot `id`, entered if it is not the last known.
    pub fn boot_index(&mut self, id: Uuid) -> u32 {
        if let Some(last) = self.boots.last().filter(|boot| boot.id == *id.as_bytes()) {
            return last.index;
        }
        let index = self.boots.last().map_or(0, |boot| boot.index.wrapping_add(1));
        self.boots.push(Boot { index, id: *id.as_bytes(), offset_us: None });
        let surplus = self.boots.len().saturating_sub(BOOTS_MAX);
        self.boots.drain(..surplus);
        index
    }

    /// The last boot began then, where that is known.
    pub fn boot_began(&mut self, began_us: Option<i64>) {
        if let (Some(last), Some(began_us)) = (self.boots.last_mut(), began_us) {
            last.offset_us = Some(began_us);
        }
    }
}

/// Writes the state. One thread uses it.
pub struct StateStore {
    queue_dir: PathBuf,
    next_number: u64,
    database: Option<(u64, Database)>,
    writes: u32,
}

impl StateStore {
    /// The newest state below `dir`, or a new one, and whether it continues: with the same machine and a known run.
    pub(crate) fn load(dir: &Path) -> Result<(Self, State, bool), OpenError> {
        Self::load_for(dir, machine_hash())
    }

    /// The newest state below `dir` as it is, whatever machine wrote it: for those who change it and start no run.
    pub(crate) fn as_found(dir: &Path) -> Result<(Self, Option<State>), OpenError> {
        let queue_dir = dir.join("queue");
        let failed = |error| OpenError::io("read state", &queue_dir, error);
        let next_number = numbers(&queue_dir).map_err(failed)?.iter().max().map_or(1, |last| last + 1);
        let newest = newest(&queue_dir).map_err(|error| error.of(&queue_dir))?;
        Ok((Self { queue_dir, next_number, database: None, writes: 0 }, newest))
    }

    fn load_for(dir: &Path, machine: [u8; 32]) -> Result<(Self, State, bool), OpenError> {
        let queue_dir = dir.join("queue");
        let failed = |error| OpenError::io("read state", &queue_dir, error);
        let numbers = numbers(&queue_dir).map_err(failed)?;
        let newest = newest(&queue_dir).map_err(|error| error.of(&queue_dir))?;
        let run_file = read_run(&queue_dir);
        let next_number = numbers.iter().max().map_or(1, |last| last + 1);
        let store = Self { queue_dir, next_number, database: None, writes: 0 };
        let mut state = match newest {
            Some(state) if state.machine == machine => {
                let mut state = state;
                // A boot that was never written to the state still used up its run.
                state.run = state.run.max(run_file.unwrap_or(0));
                return Ok((store, state, true));
            }
            Some(other) => {
                tracing::warn!("state belongs to another machine, the queue gets a new identity");
                // Its records still drain from where they stood, under the old identity.
                State { queue: *Uuid::new_v4().as_bytes(), machine, ..other }
            }
            None => State::new(machine),
        };
        state.run = state.run.max(run_file.unwrap_or(0));
        Ok((store, state, false))
    }

    /// Makes the next run durable, in the run file and then in the state: at least `floor`.
    pub(crate) fn begin_run(&mut self, state: &mut State, floor: u32) -> Result<(), OpenError> {
        let run = state.run.saturating_add(1).max(floor);
        if run > Position::RUN_MAX {
            return Err(OpenError::RunsUsedUp { run: state.run });
        }
        state.run = run;
        let path = self.queue_dir.join("run");
        disk::write_atomically(&path, &encode_run(run)).map_err(|error| OpenError::io("write", &path, error))?;
        self.save(state).map_err(|error| OpenError::Io {
            what: "write state",
            path: self.queue_dir.clone(),
            source: std::io::Error::other(error),
        })
    }

    /// Writes the whole state and makes it durable; counts its generation up.
    ///
    /// # Errors
    /// When it is larger than [`STATE_BYTES_MAX`] or the disk fails; the state before stays in force.
    pub fn save(&mut self, state: &mut State) -> anyhow::Result<()> {
        state.generation += 1;
        let bytes = encode(state)?;
        if self.writes >= WRITES_MAX {
            self.database = None;
        }
        let result = self.write(&bytes);
        if result.is_err() {
            // The handle may be dead; the next write begins a new database.
            self.database = None;
        }
        result
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let fresh = self.database.is_none();
        if fresh {
            let number = self.next_number;
            self.next_number += 1;
            let dir = self.queue_dir.join(format!("{DIR_PREFIX}{number}"));
            self.database = Some((number, Database::open(&dir, SEGMENT_BYTES)?));
            self.writes = 0;
        }
        let Some((number, database)) = &mut self.database else { anyhow::bail!("no state database") };
        database.insert(b"state", b"state", bytes)?;
        if !fresh {
            self.writes += 1;
            return database.sync();
        }
        database.sync_new()?;
        let current = *number;
        for old in numbers(&self.queue_dir)?.into_iter().filter(|old| *old != current) {
            disk::bury(&self.queue_dir.join(format!("{DIR_PREFIX}{old}")))?;
        }
        Ok(())
    }
}

fn encode(state: &State) -> anyhow::Result<Vec<u8>> {
    let body = postcard::to_stdvec(state)?;
    anyhow::ensure!(body.len() <= STATE_BYTES_MAX, "state has {} bytes, limit is {STATE_BYTES_MAX}", body.len());
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&u16::try_from(body.len())?.to_le_bytes());
    bytes.extend_from_slice(&state.generation.to_le_bytes());
    bytes.extend_from_slice(&checksum(&bytes, &body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// CRC32C of the header before it and of the body.
fn checksum(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}

/// A whole state of whatever version.
struct Whole {
    generation: u64,
    /// The state, or the version that this agent does not know.
    state: Result<State, u16>,
}

fn decode(bytes: &[u8]) -> Option<Whole> {
    if !bytes.starts_with(&MAGIC) {
        return None;
    }
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let (covered, crc) = header.split_at(CRC_AT);
    let body = rest.get(..usize::from(u16::from_le_bytes([header[10], header[11]])))?;
    if *crc != checksum(covered, body).to_le_bytes() {
        return None;
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    let generation = u64::from_le_bytes(*covered.last_chunk()?);
    if version != VERSION {
        return Some(Whole { generation, state: Err(version) });
    }
    let state = State { generation, ..postcard::from_bytes(body).ok()? };
    Some(Whole { generation, state: Ok(state) })
}

/// Why the newest state cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The newest whole state was written by an agent of another version; an older one must not take its place.
    #[error("newest state has version {found}, this agent reads version {VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
}

impl ReadError {
    fn of(self, queue_dir: &Path) -> OpenError {
        match self {
            Self::Io(error) => OpenError::io("read state", queue_dir, error),
            Self::Version { found } => OpenError::StateVersion { path: queue_dir.to_owned(), found, known: VERSION },
        }
    }
}

/// The state of the highest generation that is whole, by raw scan of every state database below `queue_dir`.
pub(crate) fn newest(queue_dir: &Path) -> Result<Option<State>, ReadError> {
    let mut newest: Option<Whole> = None;
    for number in numbers(queue_dir)? {
        let found = scan_database(&queue_dir.join(format!("{DIR_PREFIX}{number}")))?;
        newest = newest.into_iter().chain(found).max_by_key(|whole| whole.generation);
    }
    newest.map(|whole| whole.state.map_err(|found| ReadError::Version { found })).transpose()
}

fn scan_database(dir: &Path) -> std::io::Result<Option<Whole>> {
    let mut bytes = Vec::new();
    match File::open(dir.join("db")) {
        Ok(file) => file.take(DATABASE_BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == MAGIC[0]).map(|(at, _)| at);
    Ok(starts.filter_map(|at| decode(&bytes[at..])).max_by_key(|whole| whole.generation))
}

fn numbers(queue_dir: &Path) -> std::io::Result<Vec<u64>> {
    let number = |entry: std::fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix(DIR_PREFIX)?.parse().ok()?;
        // A foreign file is nobody's state.
        entry.path().is_dir().then_some(number)
    };
    let entries = std::fs::read_dir(queue_dir)?.collect::<std::io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter_map(number).collect())
}

fn encode_run(run: u32) -> Vec<u8> {
    let text = format!("run {run}");
    format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes())).into_bytes()
}

fn read_run(queue_dir: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(queue_dir.join("run")).ok()?.take(64).read_to_string(&mut text).ok()?;
    let run = text.strip_prefix("run ")?.split_once(' ')?.0.parse().ok()?;
    (text.as_bytes() == encode_run(run)).then_some(run)
}

/// Binds the queue to the machine without revealing the machine id (machine-id(5) asks for a keyed hash).
fn machine_hash() -> [u8; 32] {
    let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    Sha256::digest(format!("forebay queue {}", id.trim())).into()
}

#[cfg(test)]
mod tests;
