//! Durability on demand: what was pushed before is on disk when the store thread says so.

use std::time::Instant;

use super::engine::{Inner, Phase};
use super::{PeekError, Queue, STORE_WAIT_MAX};

impl Queue {
    /// Seals and fsyncs everything pushed before; blocks.
    ///
    /// # Errors
    /// When the store fails or does not answer. The records stay in memory and are tried again.
    pub fn flush(&self) -> Result<(), PeekError> {
        let inner = self.inner();
        let mut shared = inner.lock();
        shared.flush_wanted += 1;
        let ticket = shared.flush_wanted;
        inner.store_wake.notify_one();
        let deadline = Instant::now() + STORE_WAIT_MAX;
        while shared.flush_done < ticket {
            if matches!(shared.phase, Phase::Stopped(_) | Phase::Abandoned) {
                return Err(PeekError::Closed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(PeekError::Stalled { waited_s: STORE_WAIT_MAX.as_secs() });
            }
            shared = Inner::wait(&inner.progress, shared, Some(left));
        }
        match &shared.flush_error {
            Some((failed, reason)) if *failed >= ticket => Err(PeekError::Store { reason: reason.clone() }),
            _ => Ok(()),
        }
    }

    /// Asks for an early group commit (MQTT sources whose acknowledgements are withheld). Does not wait.
    pub fn request_flush(&self) {
        let inner = self.inner();
        let mut shared = inner.lock();
        // One that is not begun yet covers this one.
        if shared.flush_wanted == shared.flush_done {
            shared.flush_wanted += 1;
            inner.store_wake.notify_one();
        }
    }
}
