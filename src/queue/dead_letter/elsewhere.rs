//! A record that was set aside elsewhere than in the dead-letter file: the queue goes on behind it.

use crate::queue::engine::Inner;
use crate::queue::{Queue, StreamIndex};
use crate::reading::Position;

impl Queue {
    /// The record at the stream's cursor, which said that `skipped` were left out before it, is set aside durably where
    /// somebody else keeps it: goes on behind it, and the next record's `skipped` counts it. A position that is done
    /// already changes nothing. No I/O.
    pub fn pass_over(&self, stream: StreamIndex, position: Position, skipped: u64) {
        pass_over(self.inner(), stream, position, skipped);
    }
}

/// See [`Queue::pass_over`].
pub(super) fn pass_over(inner: &Inner, stream: StreamIndex, position: Position, skipped: u64) {
    let now_ns = inner.now_ns();
    let mut shared = inner.lock();
    let Some(queue) = shared.streams.get_mut(stream.0) else { return };
    let bytes_before = queue.disk.bytes;
    let retired = queue.set_aside(position, skipped);
    let block_bytes = bytes_before - queue.disk.bytes;
    shared.tail_bytes -= retired.tail_bytes;
    shared.note_progress(block_bytes, now_ns);
    drop(shared);
    inner.store_wake.notify_one();
}
