//! What Kafka holds, judged without the product's code: read by kcat, counted here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::process::{output, tool};

/// What has one sequence: a queue's stream in one run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    pub queue: String,
    pub stream: String,
    pub run: u32,
}

/// The records of one life.
#[derive(Debug, Default)]
pub struct Kept {
    pub seqs: BTreeSet<u64>,
    pub repeated: u64,
}

impl Kept {
    /// Sequence numbers below the highest that are not there.
    pub fn missing(&self) -> u64 {
        self.seqs.last().map_or(0, |last| last + 1 - self.seqs.len() as u64)
    }
}

/// Everything read back.
#[derive(Debug, Default)]
pub struct Ledger {
    pub lives: BTreeMap<Life, Kept>,
    /// First copies that came after a later record of the same device.
    pub out_of_order: u64,
    /// Devices whose records are in more than one partition: their order would rest on luck.
    pub scattered: BTreeSet<String>,
    /// Records that say that others were left out.
    pub skipped: u64,
    /// Messages, copies included.
    pub messages: u64,
    /// Each record once, in the order of its partition.
    pub records: Vec<Value>,
    devices: BTreeMap<(String, String), (i64, u32, u64)>,
}

impl Ledger {
    /// Reads a topic from its beginning to its end.
    pub fn add_topic(&mut self, bootstrap: &str, topic: &str) {
        let mut kcat = tool("kcat", "kcat");
        kcat.args(["-b", bootstrap, "-C", "-t", topic, "-o", "beginning", "-e", "-q"]);
        kcat.args(["-X", "isolation.level=read_committed", "-f", "%p\t%k\t%s\n"]);
        for line in output(&mut kcat).lines() {
            let [partition, key, value] = line.splitn(3, '\t').collect::<Vec<_>>().try_into().unwrap();
            self.add(partition.parse().unwrap(), key, value);
        }
    }

    fn add(&mut self, partition: i64, key: &str, value: &str) {
        let record: Value = serde_json::from_str(value).unwrap_or_else(|error| panic!("{error}: {value}"));
        let text = |name: &str| record[name].as_str().unwrap_or_else(|| panic!("no {name}: {value}")).to_owned();
        let number = |name: &str| record[name].as_u64().unwrap_or_else(|| panic!("no {name}: {value}"));
        let (stream, device) = (text("stream"), text("device"));
        assert_eq!(key, device, "the key is the device");
        let (run, seq) = (u32::try_from(number("run")).unwrap(), number("seq"));
        self.messages += 1;
        self.skipped += record["skipped"].as_u64().unwrap_or(0);
        let kept = self.lives.entry(Life { queue: text("queue"), stream: stream.clone(), run }).or_default();
        if !kept.seqs.insert(seq) {
            kept.repeated += 1;
            return;
        }
        let before = self.devices.insert((stream, device.clone()), (partition, run, seq));
        if let Some((partition_before, run_before, seq_before)) = before {
            self.out_of_order += u64::from((run, seq) < (run_before, seq_before));
            if partition != partition_before {
                self.scattered.insert(device);
            }
        }
        self.records.push(record);
    }

    /// Records, each once.
    pub fn kept(&self) -> u64 {
        self.records.len() as u64
    }

    pub fn repeated(&self) -> u64 {
        self.lives.values().map(|kept| kept.repeated).sum()
    }

    pub fn missing(&self) -> u64 {
        self.lives.values().map(Kept::missing).sum()
    }

    /// The records of one source.
    pub fn of_source(&self, source: &str) -> impl Iterator<Item = &Value> {
        self.records.iter().filter(move |record| record["source"] == source)
    }
}
