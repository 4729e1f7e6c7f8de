//! The account of what arrived in Kafka: nothing lost, what came twice, what came out of order.
//!
//! Pure: fed with the values of records in the order in which a consumer read them. `seq` counts per stream, so what
//! is missing is found per (gateway, queue, stream, run); order is kept per device, so it is judged per device.

use std::collections::BTreeMap;

use crate::reading::Position;

/// Where records came from: what has one sequence of positions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
pub struct Origin {
    /// The gateway's id.
    pub gateway: String,
    /// The first 8 hex digits of the queue's uuid.
    pub queue: String,
    /// The stream.
    pub stream: String,
}

/// What [`Account::add`] made of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// Seen for the first time.
    New,
    /// Its identity was seen before.
    Repeated,
    /// Not a record of this agent.
    Unreadable,
}

/// Positions that never arrived and that no `skipped` explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// The run.
    pub run: u32,
    /// First `seq` of the hole.
    pub first: u64,
    /// Last `seq` of the hole.
    pub last: u64,
    /// How many of the hole's records are not explained.
    pub unexplained: u64,
}

/// What is known of one device's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceAccount {
    /// Records, each identity once.
    pub received: u64,
    /// Further copies.
    pub repeated: u64,
    /// First copies that came after a later record of the device.
    pub out_of_order: u64,
    /// The highest position.
    pub highest: Option<Position>,
}

/// What is known of one origin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamAccount {
    runs: BTreeMap<u32, Run>,
    devices: BTreeMap<String, DeviceAccount>,
}

/// The account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    streams: BTreeMap<Origin, StreamAccount>,
    unreadable: u64,
}

/// Received `seq`s of a run as disjoint ranges (first → last), and what its records said of skipped ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Run {
    ranges: BTreeMap<u64, u64>,
    skipped: BTreeMap<u64, u64>,
}

#[derive(serde::Deserialize)]
struct Head {
    #[serde(flatten)]
    origin: Origin,
    device: String,
    run: u32,
    seq: u64,
    #[serde(default)]
    skipped: u64,
}

impl Account {
    /// Takes a record's value, as JSON, into account.
    pub fn add(&mut self, value: &[u8]) -> Added {
        let Ok(head) = serde_json::from_slice::<Head>(value) else {
            self.unreadable += 1;
            return Added::Unreadable;
        };
        let stream = self.streams.entry(head.origin).or_default();
        let run = stream.runs.entry(head.run).or_default();
        let new = run.insert(head.seq);
        if head.skipped > 0 {
            // Of several copies the later may know of more: what was set aside after the first was sent.
            let most = run.skipped.entry(head.seq).or_default();
            *most = head.skipped.max(*most);
        }
        let device = stream.devices.entry(head.device).or_default();
        if !new {
            device.repeated += 1;
            return Added::Repeated;
        }
        let position = Position::new(head.run, head.seq);
        device.received += 1;
        if device.highest.is_some_and(|highest| position < highest) {
            device.out_of_order += 1;
        }
        device.highest = device.highest.max(Some(position));
        Added::New
    }

    /// What is known, by origin.
    pub fn streams(&self) -> impl Iterator<Item = (&Origin, &StreamAccount)> {
        self.streams.iter()
    }

    /// Values that were no records of this agent.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Records of all origins, each identity once.
    pub fn received(&self) -> u64 {
        self.streams.values().map(|stream| stream.total().received).sum()
    }

    /// Further copies over all origins.
    pub fn repeated(&self) -> u64 {
        self.streams.values().map(|stream| stream.total().repeated).sum()
    }

    /// First copies that came late, over all origins.
    pub fn out_of_order(&self) -> u64 {
        self.streams.values().map(|stream| stream.total().out_of_order).sum()
    }

    /// Records missing without explanation, over all origins.
    pub fn missing(&self) -> u64 {
        self.streams.values().flat_map(StreamAccount::missing).map(|hole| hole.unexplained).sum()
    }
}

impl StreamAccount {
    /// Its devices, by name.
    pub fn devices(&self) -> impl Iterator<Item = (&str, &DeviceAccount)> {
        self.devices.iter().map(|(name, device)| (name.as_str(), device))
    }

    /// All devices together.
    pub fn total(&self) -> DeviceAccount {
        self.devices.values().fold(DeviceAccount::default(), |sum, device| DeviceAccount {
            received: sum.received + device.received,
            repeated: sum.repeated + device.repeated,
            out_of_order: sum.out_of_order + device.out_of_order,
            highest: sum.highest.max(device.highest),
        })
    }

    /// How many records the stream itself declared as removed on purpose.
    pub fn skipped(&self) -> u64 {
        self.runs.values().flat_map(|run| run.skipped.values()).sum()
    }

    /// Holes that nothing explains, ascending. `seq` starts at 0 in every run, so a missing start is a hole too; the
    /// end of a run is open.
    pub fn missing(&self) -> Vec<Missing> {
        self.runs.iter().flat_map(|(number, run)| run.missing(*number)).collect()
    }
}

impl Run {
    /// Whether `seq` is new.
    fn insert(&mut self, seq: u64) -> bool {
        let before = self.ranges.range(..=seq).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= seq) {
            return false;
        }
        let first = before.filter(|(_, last)| last + 1 == seq).map_or(seq, |(first, _)| first);
        let last = seq.checked_add(1).and_then(|next| self.ranges.remove(&next)).unwrap_or(seq);
        self.ranges.insert(first, last);
        true
    }

    fn missing(&self, run: u32) -> Vec<Missing> {
        let mut holes = Vec::new();
        let mut expected = 0;
        for (first, last) in &self.ranges {
            if *first > expected {
                let size = first - expected;
                let unexplained = size.saturating_sub(self.skipped.get(first).copied().unwrap_or(0));
                if unexplained > 0 {
                    holes.push(Missing { run, first: expected, last: first - 1, unexplained });
                }
            }
            expected = last.saturating_add(1);
        }
        holes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(device: &str, run: u32, seq: u64, skipped: u64) -> Vec<u8> {
        serde_json::json!({"gateway": "g", "stream": "telemetry", "device": device, "queue": "5f0c9a1e", "run": run,
            "seq": seq, "skipped": skipped, "x": 1.5})
        .to_string()
        .into_bytes()
    }

    fn account(records: &[(&str, u32, u64, u64)]) -> Account {
        let mut account = Account::default();
        for (device, run, seq, skipped) in records {
            account.add(&value(device, *run, *seq, *skipped));
        }
        account
    }

    #[test]
    fn sequences_are_sparse_per_device_and_whole_per_stream() {
        let account = account(&[("a", 1, 0, 0), ("b", 1, 1, 0), ("a", 1, 3, 0), ("b", 1, 2, 0), ("a", 2, 0, 0)]);
        assert_eq!((account.received(), account.missing(), account.out_of_order()), (5, 0, 0));
    }

    #[test]
    fn a_hole_is_missing_unless_the_next_record_explains_it() {
        let account = account(&[("a", 1, 0, 0), ("a", 1, 4, 3), ("a", 1, 9, 1)]);
        let (_, stream) = account.streams().next().unwrap();
        assert_eq!(stream.missing(), [Missing { run: 1, first: 5, last: 8, unexplained: 3 }]);
        assert_eq!(stream.skipped(), 4);
    }

    #[test]
    fn a_copy_may_explain_the_hole_before_it() {
        let account = account(&[("a", 1, 0, 0), ("a", 1, 2, 0), ("a", 1, 2, 1)]);
        assert_eq!((account.received(), account.missing(), account.repeated()), (2, 0, 1));
    }

    #[test]
    fn a_copy_is_repeated_and_a_late_first_copy_is_out_of_order() {
        let account = account(&[("a", 1, 0, 0), ("a", 1, 2, 0), ("a", 1, 0, 0), ("a", 1, 1, 0), ("b", 1, 3, 0)]);
        assert_eq!((account.received(), account.repeated(), account.out_of_order()), (4, 1, 1));
        assert_eq!(account.missing(), 0);
    }

    #[test]
    fn what_is_no_record_is_counted_apart() {
        let mut account = Account::default();
        assert_eq!(account.add(b"{\"seq\":1}"), Added::Unreadable);
        assert_eq!(account.add(b"\xff"), Added::Unreadable);
        assert_eq!((account.unreadable(), account.received()), (2, 0));
    }

    proptest::proptest! {
        #[test]
        fn any_order_of_arrival_gives_the_same_holes(
            seqs in proptest::collection::vec(0_u64..60, 1..120),
        ) {
            let mut run = Run::default();
            let mut model = std::collections::BTreeSet::new();
            for seq in seqs {
                proptest::prop_assert_eq!(run.insert(seq), model.insert(seq));
            }
            let end = *model.last().unwrap();
            let holes = end + 1 - model.len() as u64;
            let found: u64 = run.missing(1).iter().map(|hole| hole.unexplained).sum();
            proptest::prop_assert_eq!(found, holes);
        }
    }
}
