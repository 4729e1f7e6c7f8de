//! A closed epoch as it is read: its frames where they lie in the log, found by raw scan, without sled.
//!
//! sled writes when it opens a database: the log grows by up to a whole segment and stays so. Of an epoch of 256 KiB
//! that made 1 MiB, which no quota knew of, and flash was worn by reading. A frame carries its own length and CRC, so
//! that nothing of sled is needed to read it; memory is an index of at most 512 places.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::Context as _;

use super::writer::get_block;
use super::{EpochStore, Got};
use crate::queue::block::{FrameError, outline};
use crate::queue::scan::{self, Found, PastBadSectors};
use crate::queue::summary::Entry;
use crate::reading::Name;

/// Closed epochs kept open for reading.
const READERS_MAX: usize = 2;
/// Most places that are kept: an epoch's blocks, and what a group that failed half way may have left twice.
const PLACES_MAX: usize = 4 * super::EPOCH_BLOCKS_MAX as usize;

/// Where a whole frame is.
struct Place {
    stream: Name,
    first: u64,
    offset: u64,
    bytes: usize,
}

/// The frames of one epoch.
pub(super) struct Reader {
    /// `None`: it is gone, and with it all frames.
    log: Option<File>,
    places: Vec<Place>,
    /// Frames of a newer version that do not say whose they are.
    pub(super) nameless: usize,
    /// Blocks only a newer agent can open are among the places.
    pub(super) holds_newer: bool,
    /// Pieces that the device cannot read.
    pub(super) unreadable: u64,
}

impl Reader {
    /// Scans the log below `epoch_dir`; frames that are not whole are not found.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub(super) fn open(epoch_dir: &Path) -> anyhow::Result<Self> {
        let log = match File::open(epoch_dir.join("db")) {
            Ok(log) => log,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { log: None, places: Vec::new(), nameless: 0, holds_newer: false, unreadable: 0 });
            }
            Err(error) => return Err(error).context("open log"),
        };
        let end = log.metadata().context("open log")?.len();
        let (mut places, mut nameless, mut holds_newer) = (Vec::new(), 0, false);
        let mut past = PastBadSectors::new(|buffer: &mut [u8], at| log.read_at(buffer, at), end);
        scan::scan_file(&mut past, |offset, found| match found {
            Found::Newer { header: None, .. } => nameless += 1,
            Found::Block { header, bytes } | Found::Newer { header: Some(header), bytes, .. } => {
                holds_newer |= header.newer.is_some();
                if places.len() < PLACES_MAX {
                    let (first, bytes) = (header.first.packed(), bytes.len());
                    places.push(Place { stream: header.stream, first, offset, bytes });
                }
            }
        })
        .context("raw scan")?;
        let unreadable = past.unreadable;
        Ok(Self { log: Some(log), places, nameless, holds_newer, unreadable })
    }

    fn place(&self, entry: &Entry) -> Option<&Place> {
        self.places.iter().find(|place| {
            place.first == entry.first && place.bytes == entry.bytes as usize && place.stream == entry.stream
        })
    }

    /// Whether the entry's frame was whole when the epoch was scanned.
    pub(super) fn holds(&self, entry: &Entry) -> bool {
        self.place(entry).is_some()
    }

    /// The entry's frame; the caller parses it, which checks its CRC again.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(super) fn get(&self, entry: &Entry) -> anyhow::Result<Option<Vec<u8>>> {
        let (Some(log), Some(place)) = (&self.log, self.place(entry)) else { return Ok(None) };
        let mut bytes = vec![0; place.bytes];
        log.read_exact_at(&mut bytes, place.offset).context("read frame")?;
        Ok(Some(bytes))
    }
}

impl EpochStore {
    /// Has the epoch compared with its raw bytes, before its index is used: a rescue changes the keys, and takes an
    /// epoch away of which nothing is left.
    pub(super) fn check(&mut self, number: u64) -> anyhow::Result<()> {
        if self.epochs.get(&number).is_none_or(|epoch| epoch.checked) {
            return Ok(());
        }
        match self.reader(number).map(drop) {
            Err(_) if !self.epochs.contains_key(&number) => Ok(()),
            result => result,
        }
    }

    pub(super) fn get(&mut self, number: u64, entry: &Entry) -> anyhow::Result<Got> {
        let value = match &mut self.writer {
            Some(writer) if writer.number == number => get_block(&mut writer.database, entry.key)?,
            _ => {
                let reader = self.reader(number)?;
                let (value, nameless) = (reader.get(entry)?, reader.nameless);
                if value.is_none() && nameless > 0 {
                    // A newer frame does not say to this agent which entry it is.
                    self.mark_newer(number)?;
                    return Ok(Got::Newer);
                }
                value
            }
        };
        match value.as_deref().map(outline::parse_any) {
            Some(Ok(block)) if block.header.first.packed() == entry.first && block.header.stream == entry.stream => {
                Ok(Got::Block(block))
            }
            Some(Err(FrameError::Newer { .. })) => {
                self.mark_newer(number)?;
                Ok(Got::Newer)
            }
            _ => Ok(Got::Damaged),
        }
    }

    fn reader(&mut self, number: u64) -> anyhow::Result<&Reader> {
        if let Some(at) = self.readers.iter().position(|(of, _)| *of == number) {
            let reader = self.readers.remove(at);
            self.readers.push(reader);
        } else {
            while self.readers.len() >= READERS_MAX {
                self.readers.remove(0);
            }
            let reader = match self.open_checked(number) {
                // A rescue writes, which it cannot on a full disk.
                Err(_) if self.epochs.contains_key(&number) && self.is_disk_full() => {
                    self.ballast.give_up();
                    self.open_checked(number)?
                }
                result => result?,
            };
            if let Some(epoch) = self.epochs.get_mut(&number) {
                epoch.holds_newer = reader.holds_newer;
            }
            self.readers.push((number, reader));
        }
        let (_, reader) = self.readers.last().ok_or_else(|| anyhow::anyhow!("no reader"))?;
        Ok(reader)
    }
}
