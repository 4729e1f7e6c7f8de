//! What is wrong with a queue's files: the findings of `forebay queue verify`.

use super::{EpochView, Inspection};
use crate::queue::cipher::missing_key;
use crate::queue::lane::Lanes;
use crate::queue::recovery::{Chain, Lost};
use crate::queue::summary::Entry;
use crate::reading::{Name, Position};

/// Findings kept one by one; more are only counted.
const FINDINGS_MAX: usize = 1_000;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A block that was durable is not whole any more.
    Damaged {
        /// Its epoch.
        epoch: u64,
        /// Its stream.
        stream: Name,
        /// First position.
        first: Position,
        /// Last position.
        last: Position,
        /// Records in it.
        records: u32,
        /// Everything of it had been delivered or removed.
        done: bool,
        /// What is wrong with it.
        reason: String,
    },
    /// Blocks of an epoch that are not whole and that nothing names.
    Broken {
        /// The epoch.
        epoch: u64,
        /// How many.
        blocks: u64,
    },
    /// A block was there, by the one that followed it, and is not; nothing says that it was delivered or removed.
    Missing(Lost),
    /// More bytes than an epoch can have; the rest was not looked at.
    Oversize {
        /// The epoch.
        epoch: u64,
    },
}

/// Collects findings, epoch by epoch in ascending order.
pub struct Verifier<'a> {
    inspection: &'a Inspection,
    chain: Chain<'a>,
    findings: Vec<Finding>,
    more: u64,
    closed: u64,
}

/// What a verification came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// What is wrong, in the order of the epochs.
    pub findings: Vec<Finding>,
    /// Findings beyond the limit of those kept.
    pub more: u64,
    /// Blocks whose checksum holds and whose records could not be looked at, for want of their key.
    pub closed: u64,
}

impl<'a> Verifier<'a> {
    /// Begins with each stream's lanes as they were when the look began ([`crate::queue::state::State::lanes`]).
    pub fn new(inspection: &'a Inspection, lanes: &'a [(Name, Lanes)]) -> Self {
        Self { inspection, chain: Chain::new(lanes, None), findings: Vec::new(), more: 0, closed: 0 }
    }

    /// Checks an epoch: decodes every block, compares with the summary, follows the chain.
    pub fn check(&mut self, view: &mut EpochView) {
        if view.oversize {
            self.find(Finding::Oversize { epoch: view.number });
        }
        let missing = std::mem::take(&mut view.missing);
        for entry in &missing {
            self.damaged(view.number, entry, "is not whole in the file".to_owned());
        }
        // A block that the summary names and that is damaged was also counted where it begins, if its magic survived.
        let unnamed = (view.broken.len() as u64).saturating_sub(missing.len() as u64);
        if unnamed > 0 {
            self.find(Finding::Broken { epoch: view.number, blocks: unnamed });
        }
        let mut entries = missing;
        for block in &view.blocks {
            let entry = Entry::new(0, &block.header, block.bytes);
            if let Err(error) = view.read(block) {
                if missing_key(&error).is_some() {
                    self.closed += 1;
                } else {
                    self.damaged(view.number, &entry, format!("{:#}", error.root_cause()));
                }
            }
            entries.push(entry);
        }
        // What waits for a newer agent is not missing.
        let newer = view.newer.iter().filter_map(|newer| Some(Entry::new(0, newer.header.as_ref()?, newer.bytes)));
        entries.extend(newer);
        entries.sort_by_key(|entry| entry.first);
        for entry in &entries {
            self.chain.follow(entry);
        }
    }

    /// Ends with each stream's lanes as they are now: what was delivered or dropped while we looked is not missing.
    pub fn finish(mut self, lanes_now: &[(Name, Lanes)]) -> Verdict {
        let done =
            |lost: &Lost| lanes_now.iter().any(|(name, lanes)| *name == lost.stream && lanes.is_done(lost.through));
        let lost: Vec<Lost> = self.chain.lost.drain(..).filter(|lost| !done(lost)).collect();
        for lost in lost {
            self.find(Finding::Missing(lost));
        }
        Verdict { findings: self.findings, more: self.more, closed: self.closed }
    }

    fn damaged(&mut self, epoch: u64, entry: &Entry, reason: String) {
        let lanes = self.inspection.lanes(&entry.stream);
        let (first, last) = (entry.first(), entry.last());
        let done = lanes.first_open(first) > last;
        let stream = entry.stream.clone();
        self.find(Finding::Damaged { epoch, stream, first, last, records: entry.count, done, reason });
    }

    fn find(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}
