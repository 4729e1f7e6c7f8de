//! Which epochs a queue's directory holds, and which generation of each is in force; which records were seen before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::InspectError;
use crate::queue::block::Header;
use crate::queue::epoch::parse_name;
use crate::queue::summary;
use crate::reading::{Name, Position};

/// Streams told apart in one look; a queue has at most 16 at a time.
const STREAMS_MAX: usize = 1024;

/// One epoch's directory, as it was when the directory was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochFiles {
    /// Its number.
    pub number: u64,
    /// The generation in force.
    pub generation: u32,
    /// Bytes of its `db`.
    pub bytes: u64,
    /// Its directory.
    pub(super) dir: PathBuf,
}

/// The names in a directory; a name that is not UTF-8 is nobody's of ours.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, InspectError> {
    let failed = |error| InspectError::io(dir, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Whether only a queue's inner directory holds something of this name.
pub(super) fn is_part_of_a_queue(name: &str) -> bool {
    parse_name(name).is_some() || name.strip_prefix("state-").is_some_and(|number| number.parse::<u64>().is_ok())
}

/// The epochs, oldest first, each in the generation that a start of the agent would keep: the highest with a summary,
/// else the lowest, because a generation that is being written has its summary last.
pub(super) fn epochs(queue_dir: &Path) -> Result<Vec<EpochFiles>, InspectError> {
    let mut generations = BTreeMap::<u64, Vec<(u32, PathBuf)>>::new();
    for name in names(queue_dir)? {
        if let Some((number, generation)) = parse_name(&name)
            && queue_dir.join(&name).is_dir()
        {
            generations.entry(number).or_default().push((generation, queue_dir.join(name)));
        }
    }
    let mut epochs = Vec::with_capacity(generations.len());
    for (number, mut found) in generations {
        found.sort_unstable();
        let complete = found.iter().rposition(|(_, dir)| summary::read(dir).is_some()).unwrap_or(0);
        let (generation, dir) = found.swap_remove(complete);
        let bytes = std::fs::metadata(dir.join("db")).map_or(0, |metadata| metadata.len());
        epochs.push(EpochFiles { number, generation, bytes, dir });
    }
    Ok(epochs)
}

/// How far each stream has been seen, so that a record that is on disk twice (after an append that failed half-way)
/// counts once. Blocks of a stream ascend over the epochs.
#[derive(Debug, Default)]
pub struct Seen {
    through: Vec<(Uuid, Name, Position)>,
}

impl Seen {
    /// Enters a block; gives its first position that was not seen before, `None` where all of it was.
    ///
    /// # Errors
    /// When there are more streams than a queue can have.
    pub fn enter(&mut self, header: &Header) -> anyhow::Result<Option<Position>> {
        let known =
            self.through.iter_mut().find(|(queue, name, _)| *queue == header.lineage.queue && *name == header.stream);
        let Some((_, _, through)) = known else {
            let streams = self.through.len();
            anyhow::ensure!(streams < STREAMS_MAX, "more than {streams} streams in one queue, limit is {STREAMS_MAX}");
            self.through.push((header.lineage.queue, header.stream.clone(), header.last));
            return Ok(Some(header.first));
        };
        let first_new = header.first.max(through.next());
        *through = header.last.max(*through);
        Ok((first_new <= header.last).then_some(first_new))
    }
}
