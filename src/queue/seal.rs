//! When to seal and what goes into a group. Pure: the store thread drives it.

use std::sync::Arc;
use std::time::Duration;

use super::block::SealContext;
use super::filling::{Blocks, Fill, Filling};
use super::tail::StreamState;
use crate::reading::{Position, Record};

/// When records have to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Half the durability window: the other half is for the write itself.
    pub(super) seal_after: Duration,
    /// The same once the uplink has been down for a while.
    pub(super) seal_after_outage: Duration,
    /// Bytes of tail beyond which it is written whatever its age.
    pub(super) tail_bytes: usize,
    /// Most bytes of one group, so that the rest of the tail stays free for pushes while the store is busy.
    pub(super) group_bytes: usize,
}

impl Policy {
    pub(super) fn new(window: Duration, window_outage: Duration, tail_bytes_max: usize) -> Self {
        Self {
            seal_after: window / 2,
            seal_after_outage: window_outage / 2,
            tail_bytes: tail_bytes_max / 2,
            group_bytes: tail_bytes_max / 2,
        }
    }

    /// What has to be sealed now, or when to look again.
    pub(super) fn due(&self, streams: &[StreamState], tail_bytes: usize, now_ns: u64) -> Due {
        let fronts = || streams.iter().filter_map(|stream| Some((stream.every_record, stream.tail.front()?)));
        let Some(oldest) = fronts().map(|(_, entry)| entry.pushed_ns).min() else { return Due::Never };
        let at = oldest.saturating_add(u64::try_from(self.seal_after.as_nanos()).unwrap_or(u64::MAX));
        if at <= now_ns || tail_bytes >= self.tail_bytes {
            return Due::All;
        }
        if fronts().any(|(every_record, _)| every_record) {
            return Due::EveryRecord;
        }
        Due::At(at)
    }
}

/// What [`Policy::due`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing is in memory.
    Never,
    /// Not before this time, ns.
    At(u64),
    /// Only the streams whose records are made durable one by one: the others may still be acknowledged in time.
    EveryRecord,
    /// All streams, in one group.
    All,
}

/// What is to be written of one stream.
#[derive(Debug)]
pub(super) struct Cut {
    /// Index of the stream.
    pub(super) stream: usize,
    /// The context of its first block.
    pub(super) context: SealContext,
    /// The records.
    pub(super) records: Vec<Arc<Record>>,
    /// The last of them.
    pub(super) last: Position,
}

/// Takes the next group: of each stream the records from the first unacknowledged on, together at most
/// `group_bytes` (at least one record). They stay in the tail and are marked as being written.
pub(super) fn cut(
    streams: &mut [StreamState],
    due: Due,
    policy: &Policy,
    context: impl Fn(&StreamState) -> SealContext,
) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let mut bytes = 0;
    for (index, stream) in streams.iter_mut().enumerate() {
        if due == Due::EveryRecord && !stream.every_record {
            continue;
        }
        let mut records = Vec::new();
        for entry in &stream.tail {
            if bytes > 0 && bytes + entry.bytes > policy.group_bytes {
                break;
            }
            bytes += entry.bytes;
            records.push(Arc::clone(&entry.record));
        }
        let Some(last) = records.last().map(|record| record.position) else { continue };
        let context = context(stream);
        stream.sealing_through = Some(last);
        stream.tried_through = Some(last);
        cuts.push(Cut { stream: index, context, records, last });
    }
    cuts
}

/// Makes blocks of a cut, as full as the stream's earlier ones let expect; notes how these came out.
pub(super) fn blocks(cut: &Cut, fill: &mut Fill) -> Blocks {
    let mut filling = Filling::new(cut.context.clone(), *fill);
    for record in &cut.records {
        filling.add(Record::clone(record));
    }
    let (made, learned) = filling.finish();
    *fill = learned;
    made
}
