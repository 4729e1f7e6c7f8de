//! What the store thread does once the blocks are there: it tells the streams what was found of them.

use super::Driver;
use crate::metrics::ByStream;
use crate::queue::lane::Lanes;
use crate::queue::tail::StreamControl;
use crate::reading::{Name, Position};

impl Driver {
    /// Takes over what recovery found on disk.
    pub(super) fn recovered(&mut self, quota_bytes: u64, lost: &[(Name, u64)]) {
        let Some(store) = self.store.as_deref() else { return };
        let (held, disk_bytes) = (store.held(), store.disk_bytes());
        for (stream, records) in lost {
            self.inner.metrics.records_lost.get_or_create(&ByStream { stream: stream.to_string() }).inc_by(*records);
        }
        let mut shared = self.inner.lock();
        (shared.quota_bytes, shared.disk_bytes) = (quota_bytes, disk_bytes);
        for held in held {
            shared.boot_times.ran(&held.ran);
            let Some(stream) = shared.streams.iter_mut().find(|stream| stream.name == held.stream) else {
                tracing::warn!(stream = %held.stream, records = held.records, "stream on disk is not configured");
                if !shared.unconfigured.iter().any(|control| control.stream == held.stream) {
                    let lanes = Lanes::from_cursor(Position::ZERO);
                    shared.unconfigured.push(StreamControl {
                        stream: held.stream,
                        lanes,
                        skipped: Vec::new(),
                        in_doubt: None,
                    });
                }
                continue;
            };
            stream.recovered(&held, self.inner.lineage.boot_index);
        }
        shared.recovered = true;
        drop(shared);
        self.inner.progress.notify_all();
    }
}
