//! The queue on disk: lock, state and run at once; sweep and recovery of the blocks on the store thread, so that
//! records are taken while a damaged epoch is still being rescued.

use std::sync::Arc;

use super::boots;
use super::cipher::Keyring;
use super::error::OpenError;
use super::key_check;
use super::recovery::{self, Blocks, Lost};
use super::state::{self, State, StateStore};
use super::store_thread::{Backend, OpenStore, OpenedStore};
use super::tail::StreamControl;
use super::{Queue, Settings, Start};
use crate::clock::{Clock, boot_id, boot_ns};
use crate::metrics::Metrics;
use crate::reading::{Lineage, Name, Position};

pub(super) fn open(settings: Settings, metrics: Arc<Metrics>) -> Result<Queue, OpenError> {
    let keys = Keyring::new(&settings.queue.keys);
    key_check::look(&settings.dir, &keys)?;
    let mut begun = recovery::begin(&settings.dir, settings.queue.quota_bytes, Arc::clone(&metrics))?;
    key_check::settle(&settings.dir, &keys)?;
    begun.keys = keys;
    let known = begun.state_value.boots.len();
    let newest = begun.state_value.boots.last().cloned();
    let boot_index = begun.state_value.boot_index(boot_id());
    let known_us = begun.state_value.boots.last().and_then(|boot| boot.offset_us);
    let began_us = Clock::new().began_us().filter(|began_us| boots::is_news_on_disk(known_us, *began_us));
    begun.state_value.boot_began(began_us);
    if (known, newest.as_ref()) != (begun.state_value.boots.len(), begun.state_value.boots.last()) {
        // Blocks name their boot by this index: it must not be given to another boot after a crash.
        let saved = begun.state.save(&mut begun.state_value).map_err(std::io::Error::other);
        saved.map_err(|error| OpenError::io("write state", &settings.dir, error))?;
    }
    let lineage = Lineage { gateway: Arc::clone(&settings.gateway), queue: begun.state_value.queue(), boot_index };
    let run = begun.state_value.run;
    let boots = begun.state_value.boots.iter().filter_map(|boot| Some((boot.index, boot.offset_us?))).collect();
    let streams = begun.state_value.streams.iter().map(control_of).collect();
    let quota_bytes = begun.state_value.quota_bytes;
    let (state, state_value, blocks) = begun.split();
    let open = opener(blocks, quota_bytes);
    let mut control = Control { store: state, state: state_value };
    let backend = Backend { open, save: Box::new(move |streams, began_us| control.save(streams, began_us)) };
    let clock = Arc::new(boot_ns);
    Queue::start(settings, metrics, Start { lineage, run, boots, streams, backend, clock })
}

/// Recovers until that succeeds once; a later call only opens the blocks anew.
fn opener(blocks: Blocks, quota_bytes: u64) -> OpenStore {
    let mut recovered = false;
    Box::new(move || {
        let (store, lost) = if recovered { (blocks.open()?, Vec::new()) } else { blocks.recover()? };
        recovered = true;
        let lost = lost.iter().map(records_lost).collect();
        Ok(OpenedStore { store: Box::new(store), quota_bytes, lost })
    })
}

/// How many records a missing range held: exact inside one run, else those of the later run.
fn records_lost(range: &Lost) -> (Name, u64) {
    let first = range.after.filter(|after| after.run() == range.through.run()).map_or(0, |after| after.seq() + 1);
    (Arc::clone(&range.stream), (range.through.seq() + 1).saturating_sub(first))
}

fn control_of(stream: &state::StreamState) -> StreamControl {
    let position = Position::from_packed;
    let skipped = stream.skipped.iter().map(|(at, records)| (position(*at), *records)).collect();
    let in_doubt = stream.in_doubt.map(|(first, last)| (position(first), position(last)));
    StreamControl { stream: Arc::clone(&stream.name), lanes: stream.lanes(), skipped, in_doubt }
}

/// The control state, which the store thread saves whether or not the blocks could be recovered.
struct Control {
    store: StateStore,
    state: State,
}

impl Control {
    /// Writes the state with these streams and the beginning of this boot; streams that are not configured any more keep
    /// what they had.
    fn save(&mut self, streams: &[StreamControl], began_us: Option<i64>) -> anyhow::Result<()> {
        self.state.boot_began(began_us);
        for stream in streams {
            let name = &stream.stream;
            let lanes = stream.lanes.pairs().iter().map(|(next, end)| (next.packed(), end.packed())).collect();
            let skipped = stream.skipped.iter().map(|(at, records)| (at.packed(), *records)).collect();
            let in_doubt = stream.in_doubt.map(|(first, last)| (first.packed(), last.packed()));
            if let Some(known) = self.state.streams.iter_mut().find(|known| known.name == *name) {
                (known.lanes, known.skipped, known.in_doubt) = (lanes, skipped, in_doubt);
            } else {
                let new = state::StreamState { name: Arc::clone(name), lanes, skipped, in_doubt };
                self.state.streams.push(new);
            }
        }
        self.store.save(&mut self.state)
    }
}

#[cfg(test)]
mod tests;
