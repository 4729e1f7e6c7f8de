//! Records of boots whose clock was set late or never: whatever happens, what is read bears the time that is known by then,
//! nothing is lost by waiting for it, and what is known outlives a crash.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay::config::Durability;
use forebay::queue::{Batch, Limit, NewRecord, PeekError, Pushed, Queue, StreamIndex};
use forebay::reading::{Position, Stamp, Trust};
use proptest::prelude::*;

use super::memory::{Clock, Disk, settings, start_in_boot};
use super::record;

const ONE: StreamIndex = StreamIndex(0);
const SECOND_NS: u64 = 1_000_000_000;
/// Records wait so long after boot for the clock.
const HOLD_S: u64 = 120;
/// Later than the software was made.
const FIRST_BOOT_US: i64 = 1_800_000_000_000_000;
const LIMIT: Limit = Limit { records: 7, bytes: 1 << 16 };

#[derive(Debug, Clone)]
enum Step {
    /// Records while nobody vouches for the clock, which stands so many seconds beside the truth; or while it is right.
    Push {
        records: usize,
        beside_s: Option<i64>,
    },
    Pass {
        seconds: u64,
    },
    SetClock,
    Seal,
    /// The power goes; the machine is off for so long.
    PowerCut {
        off_s: u64,
    },
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..20_usize, proptest::option::of(-2_000_000_000..2_000_000_000_i64))
            .prop_map(|(records, beside_s)| Step::Push { records, beside_s }),
        2 => (1..90_u64).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::SetClock),
        2 => Just(Step::Seal),
        1 => (0..5_000_u64).prop_map(|off_s| Step::PowerCut { off_s }),
        2 => Just(Step::Read),
    ]
}

/// What was pushed: the boot, the stamp, and the true time.
struct Known {
    boot: u32,
    stamp: Stamp,
    true_us: i64,
}

struct World {
    disk: Disk,
    clock: Clock,
    dir: tempfile::TempDir,
    queue: Queue,
    boot: u32,
    /// When each boot truly began.
    began_us: Vec<i64>,
    /// Whose clock was set.
    set: BTreeMap<u32, i64>,
    pushed: BTreeMap<Position, Known>,
}

impl World {
    fn new() -> Self {
        let (disk, clock) = (Disk::default(), Clock::default());
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("queue")).unwrap();
        let queue = start(&disk, &clock, dir.path(), 0);
        let (set, pushed) = (BTreeMap::new(), BTreeMap::new());
        Self { disk, clock, dir, queue, boot: 0, began_us: vec![FIRST_BOOT_US], set, pushed }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Push { records, beside_s } => (0..records).for_each(|_| self.push(beside_s)),
            Step::Pass { seconds } => {
                self.clock.fetch_add(seconds * SECOND_NS, Ordering::SeqCst);
            }
            Step::SetClock => {
                let began_us = self.began_us[self.boot as usize];
                self.queue.boot_began(began_us);
                self.set.insert(self.boot, began_us);
            }
            // What is asked of the store thread is done in turn: after this the clock's setting is durable too.
            Step::Seal => self.queue.flush().unwrap(),
            Step::PowerCut { off_s } => self.power_cut(off_s),
            Step::Read => {
                self.read();
            }
        }
    }

    fn push(&mut self, beside_s: Option<i64>) {
        let boot_ns = self.clock.load(Ordering::SeqCst);
        let true_us = self.began_us[self.boot as usize] + (boot_ns / 1_000) as i64;
        let trust = if beside_s.is_some() { Trust::Unknown } else { Trust::Ntp };
        let stamp = Stamp { boot_ns, wall_us: true_us + beside_s.unwrap_or(0) * 1_000_000, trust };
        match self.queue.push(ONE, NewRecord { stamp, ..record(boot_ns) }).unwrap() {
            Pushed::Queued(position) => self.pushed.insert(position, Known { boot: self.boot, stamp, true_us }),
            Pushed::SetAside => panic!("a small record is queued"),
        };
    }

    /// What was made durable before is there afterwards; this is not about what was not.
    fn power_cut(&mut self, off_s: u64) {
        self.queue.flush().unwrap();
        let ran_us = (self.clock.load(Ordering::SeqCst) / 1_000) as i64;
        self.began_us.push(self.began_us[self.boot as usize] + ran_us + off_s as i64 * 1_000_000);
        self.boot += 1;
        self.clock.store(SECOND_NS, Ordering::SeqCst);
        self.queue = start(&self.disk, &self.clock, self.dir.path(), self.boot);
    }

    /// Reads from the beginning as far as it goes. Gives whether all was read.
    fn read(&self) -> bool {
        let mut expected = self.pushed.iter();
        let mut after = None;
        loop {
            match self.queue.peek(ONE, after, LIMIT) {
                Ok(Some(Batch { records, .. })) => {
                    for read in &records {
                        let (position, known) = expected.next().unwrap();
                        assert_eq!(read.position, *position, "nothing is passed over");
                        self.judge(known, read.stamp);
                    }
                    after = records.last().map(|read| read.position);
                }
                Ok(None) => {
                    assert_eq!(expected.next().map(|(position, _)| position), None, "the end is missing");
                    return true;
                }
                Err(PeekError::ClockUnset { hold_s }) => {
                    let (_, next) = expected.next().unwrap();
                    assert_eq!(hold_s, HOLD_S);
                    assert!(self.waits() && self.is_unknown(next), "nothing to wait for: {:?}", next.stamp);
                    return false;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn waits(&self) -> bool {
        !self.set.contains_key(&self.boot) && self.clock.load(Ordering::SeqCst) < HOLD_S * SECOND_NS
    }

    fn is_unknown(&self, known: &Known) -> bool {
        known.stamp.trust == Trust::Unknown && self.set.range(known.boot..).next().is_none()
    }

    fn judge(&self, known: &Known, read: Stamp) {
        assert_eq!(read.boot_ns, known.stamp.boot_ns);
        if known.stamp.trust == Trust::Ntp {
            assert_eq!(read, known.stamp);
        } else if self.set.contains_key(&known.boot) {
            assert_eq!((read.wall_us, read.trust), (known.true_us, Trust::Corrected));
        } else if let Some((_, after_us)) = self.set.range(known.boot..).next() {
            assert_eq!(read.trust, Trust::Estimated);
            assert!(read.wall_us <= *after_us, "after the machine was on again: {read:?}");
            let before = self.set.range(..known.boot).next_back();
            assert!(before.is_none_or(|(_, before_us)| read.wall_us >= *before_us), "before an earlier boot: {read:?}");
        } else {
            assert_eq!(read, known.stamp);
            assert!(!self.waits(), "it was to wait: {read:?}");
        }
    }
}

fn start(disk: &Disk, clock: &Clock, dir: &std::path::Path, boot: u32) -> Queue {
    let settings = settings(&[("one", Durability::Window)], 1 << 20, dir);
    let queue = start_in_boot(disk, &settings, clock, boot).0;
    queue.hold_for_clock(Duration::from_secs(HOLD_S));
    queue
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::trials(200), ..ProptestConfig::default() })]

    #[test]
    fn every_record_is_read_with_the_time_that_is_known_by_then(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.step(&Step::Pass { seconds: HOLD_S });
        prop_assert!(world.read(), "nothing waits for ever");
    }
}

#[test]
fn a_trusted_record_does_not_overtake_one_that_waits_for_the_clock() {
    let mut world = World::new();
    for beside_s in [None, Some(5), None] {
        world.push(beside_s);
    }
    let first = world.queue.peek(ONE, None, LIMIT).unwrap().unwrap().records;
    assert_eq!(first.len(), 1, "those before it go");
    let waits = world.queue.peek(ONE, Some(first[0].position), LIMIT).unwrap_err();
    assert_eq!(waits, PeekError::ClockUnset { hold_s: HOLD_S });
    assert_eq!(world.queue.status().streams[0].records, 3);
    world.step(&Step::SetClock);
    assert!(world.read());
}

#[test]
fn the_clocks_setting_is_written_once() {
    let mut world = World::new();
    world.step(&Step::Seal);
    let before = world.disk.with(|platter| platter.saves);
    for _ in 0..100 {
        world.step(&Step::SetClock);
        world.step(&Step::Pass { seconds: 1 });
        world.step(&Step::Seal);
    }
    assert_eq!(world.disk.with(|platter| (platter.saves - before, platter.boots.clone())), (1, world.set));
}
