//! The control state: what of every stream is delivered, marked and in doubt, made durable.

use super::{Driver, error_text};
use crate::queue::seal::Cut;
use crate::queue::store::StoreError;
use crate::queue::store_thread::fence::failed;
use crate::queue::tail::{StreamControl, StreamState};

impl Driver {
    /// Makes lanes, marks and doubts durable; deletes nothing.
    pub(super) fn save_control(&mut self) -> Result<Vec<StreamControl>, StoreError> {
        let (ticket, began_us, controls): (u64, Option<i64>, Vec<StreamControl>) = {
            let mut shared = self.inner.lock();
            shared.streams.iter_mut().for_each(|stream| stream.note_saving(true));
            let streams = shared.streams.iter().map(StreamState::control);
            let controls = streams.chain(shared.unconfigured.iter().cloned()).collect();
            (shared.saves.wanted, shared.boot_times.boots.present_us(), controls)
        };
        let dir = self.dir();
        let saved = self.fenced(|driver| {
            (driver.backend.save)(&controls, began_us).map_err(|error| failed("save of the cursors", error, dir))
        });
        if let Err(error) = saved {
            // It may be on disk all the same: until the next is saved, nothing is known of what is durable.
            self.inner.lock().saves.failed(ticket, error_text(&error));
            self.inner.progress.notify_all();
            self.failed(&error);
            return Err(error);
        }
        self.inner.metrics.queue_state_writes.inc();
        let mut shared = self.inner.lock();
        for (stream, control) in shared.streams.iter_mut().zip(&controls) {
            stream.saved(control);
            stream.note_saving(false);
        }
        shared.saves.done(ticket);
        shared.boot_times.saved(began_us);
        (shared.progress_bytes, shared.progress_since_ns) = (0, None);
        let now_ns = self.inner.now_ns();
        shared.note_progress(0, now_ns);
        drop(shared);
        self.inner.progress.notify_all();
        Ok(controls)
    }

    /// A record of an open transaction is about to be on disk, where a crash leaves it: that the transaction's outcome
    /// may be unknown has to be durable before.
    pub(super) fn note_doubts(&mut self, cuts: &[Cut]) -> Result<(), StoreError> {
        let due = {
            let shared = self.inner.lock();
            cuts.iter().any(|cut| {
                let first = cut.records.first().map_or(cut.last, |record| record.position);
                shared.streams[cut.stream].doubt_is_due(first, cut.last)
            })
        };
        if due { self.save_control().map(drop) } else { Ok(()) }
    }
}
