//! What follows from a queue that cannot be read, for the stream concerned alone.

use std::sync::PoisonError;

use super::thread::Exactly;
use crate::clock::boot_ns;
use crate::queue::PeekError;

impl Exactly<'_> {
    /// Whether the stream's next block could not be opened a moment ago.
    pub(super) fn is_unopened(&self, place: usize) -> bool {
        self.outlets[place].unopened_until_ns.is_some_and(|until_ns| boot_ns() < until_ns)
    }

    /// Says so once. Nothing is passed over: what cannot be opened waits for its key, for a newer version, for the clock,
    /// or to be purged.
    pub(super) fn cannot_read(&mut self, place: usize, error: &PeekError) {
        let outlet = &mut self.outlets[place];
        if let Some(wait) = error.look_again_after() {
            let again_ns = boot_ns().saturating_add(wait.as_nanos() as u64);
            if outlet.unopened_until_ns.replace(again_ns).is_none() {
                let name = outlet.name.clone();
                self.health().hold(&name, error.to_string());
            }
        } else if !std::mem::replace(&mut outlet.peek_failed, true) {
            tracing::warn!(stream = outlet.name, error = %error, "queue cannot be read");
        }
    }

    /// The stream's next records could be read, or there are none.
    pub(super) fn can_read(&mut self, place: usize) {
        let outlet = &mut self.outlets[place];
        outlet.peek_failed = false;
        if outlet.unopened_until_ns.take().is_some() {
            let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
            health.release_unless(&outlet.name, outlet.lane.held().or_else(|| outlet.writer.held()));
        }
    }
}
