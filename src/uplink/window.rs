//! How many records a stream may send before all of them must be reported, while one is told from others or a held stream
//! is probed. Pure.

use std::collections::VecDeque;

use super::delivery::Suspects;
use crate::kafka::CAREFUL_BYTES_MAX;
use crate::reading::Position;

/// A window above this is no limit any more.
const NO_LIMIT_ABOVE: usize = 1_000;

/// The window of a stream; at first there is none.
#[derive(Debug, Default)]
pub struct Window {
    records_max: Option<usize>,
    /// Records sent in it.
    sent: usize,
    /// It takes no more: all of it went in one go.
    is_closed: bool,
    /// Where the record is that Kafka refuses: among the first of these, or where all of those were delivered among the
    /// next.
    suspects: VecDeque<Suspects>,
}

impl Window {
    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.records_max.is_some()
    }

    /// From now on, so many records at once.
    pub fn set(&mut self, records_max: usize) {
        self.records_max = Some(records_max);
        self.suspects.clear();
    }

    /// One of these was refused, or shares its batch with the one that was. Halves them, until it stands alone; the
    /// innocent ones before them go by themselves, so that they are not sent with it again.
    pub fn search(&mut self, suspects: VecDeque<Suspects>) {
        self.suspects = suspects;
        self.fit();
    }

    fn fit(&mut self) {
        if let Some(suspects) = self.suspects.front() {
            let half = (suspects.count / 2).max(1);
            self.records_max = Some(if suspects.innocent > 0 { suspects.innocent } else { half });
        }
    }

    /// The first record that may be the one that is looked for.
    pub fn suspect(&self) -> Option<Position> {
        self.suspects.front().map(|suspects| suspects.first)
    }

    /// How many more records it takes, where so many and so many bytes are in flight; `None`: there is no window.
    pub fn room(&self, (records, bytes): (usize, usize), bytes_max: usize) -> Option<usize> {
        let records_max = self.records_max?;
        let is_full = self.is_closed || records > 0 && bytes >= bytes_max.min(CAREFUL_BYTES_MAX);
        Some(if is_full { 0 } else { records_max.saturating_sub(self.sent) })
    }

    /// A record was sent.
    pub fn took(&mut self) {
        self.sent += 1;
    }

    /// What was sent in one go is all of it: the next one waits until all of it is reported.
    pub fn close(&mut self) {
        self.is_closed = self.is_set() && self.sent > 0;
    }

    /// What was sent will be sent again.
    pub fn rewind(&mut self) {
        (self.sent, self.is_closed) = (0, false);
    }

    /// What was sent is delivered whole: the next may be twice as large, until it is no limit any more.
    pub fn widen(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        self.is_closed = false;
        if sent == 0 {
            return;
        }
        match self.suspects.front_mut() {
            Some(suspects) if suspects.innocent > 0 => suspects.innocent = suspects.innocent.saturating_sub(sent),
            Some(suspects) if suspects.count > sent => suspects.count -= sent,
            _ => drop(self.suspects.pop_front()),
        }
        if !self.suspects.is_empty() {
            return self.fit();
        }
        self.records_max = self.records_max.map(|records| records * 2).filter(|next| *next <= NO_LIMIT_ABOVE);
    }
}
