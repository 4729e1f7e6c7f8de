//! From the queue: which records a transaction begins with and goes on with, and when they are enough to begin.

use std::time::Duration;

use super::cursor::Range;
use super::limits::Allowance;
use super::thread::Exactly;
use crate::clock::boot_ns;
use crate::queue::{Limit, block};
use crate::reading::Position;

/// Most records read from the queue at once.
const PEEK_RECORDS: usize = 1_000;
/// Most bytes read from the queue at once.
const PEEK_BYTES: usize = 256 * 1024;
/// Longest wait for a block while a transaction is open.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest wait for records that come singly.
const GATHER_MAX: Duration = Duration::from_secs(1);

impl Exactly<'_> {
    /// Reads ahead for the outlet. Gives what a transaction may have that should begin with what there is now.
    pub(super) fn gather(&mut self, place: usize) -> Option<Allowance> {
        let now_ns = boot_ns();
        let allowed = self.allowance(place, now_ns)?;
        let outlet = &mut self.outlets[place];
        let room = outlet.lane.room(now_ns, allowed.records, allowed.bytes);
        if room == 0 {
            return None;
        }
        let most = Allowance { records: room, ..allowed };
        // Of a backlog no more than this: the rest is read while the first records are on their way. Where nothing can
        // be sent although it is read, as a schema is missing, no more than the client would hold.
        let enough = Allowance {
            records: most.records.min(outlet.ready.len() + PEEK_RECORDS).min(self.window.records_max),
            bytes: most.bytes.min(outlet.ready_bytes + PEEK_BYTES).min(self.window.bytes_max),
        };
        let mut is_full = outlet.has_ready(enough);
        while !is_full && !self.is_unopened(place) && self.read_on(place, None, enough) {
            is_full = self.outlets[place].has_ready(enough);
        }
        let outlet = &self.outlets[place];
        let gathered = now_ns >= outlet.ready_since_ns.saturating_add(self.gather_ns());
        (!outlet.ready.is_empty() && (is_full || gathered)).then_some(most)
    }

    /// How long records that come singly are gathered: short enough that they are acknowledged before they are sealed.
    pub(super) fn gather_ns(&self) -> u64 {
        let gather = self.settings.kafka.linger.max(self.queue.window() / 8).min(GATHER_MAX);
        u64::try_from(gather.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The transaction at `place`, which began then, is over. What streams of higher priority have now was gathered while it
    /// was open: it does not wait for one more. What came while their own was open is gathered as ever, so that streams of
    /// less priority have their turn.
    pub(super) fn let_in(&mut self, place: usize, began_ns: u64) {
        let priority = self.outlets[place].priority;
        for outlet in self.outlets.iter_mut().filter(|outlet| outlet.priority > priority) {
            if outlet.ready.is_empty() && self.queue.waits(outlet.index) {
                outlet.waits_since_ns = Some(began_ns);
            }
        }
    }

    /// Reads what follows in an open transaction that has this range, and was before `until`. Gives whether there is
    /// something.
    pub(super) fn read_behind(&mut self, place: usize, range: Range, until: Position) -> bool {
        let most = Allowance { records: PEEK_RECORDS, bytes: PEEK_BYTES };
        while self.outlets[place].ready.is_empty() {
            let ends = range.1.next() >= until || self.outlets[place].ready_is_whole || self.is_unopened(place);
            if ends || !self.read_on(place, Some(range), most) {
                return false;
            }
        }
        true
    }

    /// Reads once; `open`: what the open transaction has already. Gives whether anything was read.
    fn read_on(&mut self, place: usize, open: Option<Range>, most: Allowance) -> bool {
        let outlet = &mut self.outlets[place];
        let records = most.records.saturating_sub(outlet.ready.len());
        let bytes = most.bytes.saturating_sub(outlet.ready_bytes);
        let limit = Limit { records: records.min(PEEK_RECORDS), bytes: bytes.min(PEEK_BYTES) };
        let after = outlet.ready.back().map(|record| record.position).or(open.map(|(_, last)| last));
        // Kafka gives up a transaction that takes too long; before it begins there is time.
        let batch = match open {
            Some(_) => self.queue.peek_within(outlet.index, after, limit, OPEN_WAIT_MAX),
            None => self.queue.peek(outlet.index, after, limit),
        };
        let batch = match batch {
            Ok(Some(batch)) => batch,
            Ok(None) => {
                self.can_read(place);
                return false;
            }
            Err(error) => {
                self.cannot_read(place, &error);
                return false;
            }
        };
        self.can_read(place);
        let outlet = &mut self.outlets[place];
        let begun = open.map(|(first, _)| first).or(outlet.ready.front().map(|record| record.position));
        let Some(first) = begun.or(batch.records.first().map(|record| record.position)) else { return false };
        if outlet.ready.is_empty() {
            outlet.ready_since_ns = outlet.waits_since_ns.take().unwrap_or_else(boot_ns);
        }
        if begun.is_none() {
            outlet.lineage = Some(batch.lineage);
        } else if outlet.lineage.as_ref() != Some(&batch.lineage) {
            outlet.ready_is_whole = true;
            return true;
        }
        let end = self.queue.lanes(outlet.index).and_then(|lanes| {
            lanes.pairs().iter().find(|(next, end)| *next <= first && first < *end).map(|(_, end)| *end)
        });
        let end = end.unwrap_or(Position::END);
        for record in batch.records {
            if record.position.run() != first.run() || record.position >= end {
                outlet.ready_is_whole = true;
                break;
            }
            outlet.ready_bytes += block::record_bytes(&record);
            outlet.ready.push_back(record);
        }
        true
    }
}
