//! The store thread and the dead-letter file, which it alone writes.

use std::sync::Arc;

use super::Driver;
use crate::queue::dead_letter::DeadLetter;
use crate::queue::engine::DeadLetterRequest;
use crate::reading::Record;

impl Driver {
    pub(super) fn set_aside(&mut self, stream: usize, record: &Record, reason: &'static str) {
        let name = Arc::clone(&self.inner.lock().streams[stream].name);
        self.dead_letter.keep(&name, record, reason, &self.inner.metrics);
    }

    pub(super) fn dead_letter(&mut self, request: &DeadLetterRequest) {
        let name = Arc::clone(&self.inner.lock().streams[request.stream].name);
        let kept = self.dead_letter.keep_refused(&name, request, &self.inner.metrics);
        // The uplink may have given up waiting; it will ask again.
        let _ = request.reply.try_send(kept);
    }

    pub(in crate::queue) fn dead_letters(&self) -> &DeadLetter {
        &self.dead_letter
    }
}
