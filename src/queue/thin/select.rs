//! Which records of a stream survive a pass: per device and interval the first, the last, and those that hold what a
//! chart of the interval would show.
//!
//! A minimum of minima is the minimum, so a later pass over the survivors gives what it would have given over all.

use std::cmp::Ordering;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash as _, Hasher as _};

use crate::reading::{Lineage, Name, Position, Record, Value};

/// Most fields of all devices that are followed in one interval. With more it ends early, so that more survives.
const FIELDS_FOLLOWED_MAX: usize = 65_536;

/// What a stream is made of, as far as it was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Composition {
    /// Records looked at.
    pub(super) records: u64,
    /// Their fields.
    pub(super) fields: u64,
    /// Devices seen.
    pub(super) devices: u64,
}

/// Follows the records of one stream in the order of their positions.
pub(super) struct Selector {
    width_ns: u64,
    interval: Option<Interval>,
    devices: HashMap<Name, Device>,
    /// Of fields that are not numbers: a fingerprint of each device's last value.
    before: HashMap<Name, Vec<(Name, u64)>>,
    fields_followed: usize,
    fields_before: usize,
    last: Option<Position>,
    survivors: Vec<Position>,
    seen: Composition,
}

/// An interval of one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Interval {
    queue: uuid::Uuid,
    boot_index: u32,
    number: u64,
}

/// What survives of a device in the interval under way.
struct Device {
    first: Position,
    last: Position,
    fields: Vec<(Name, Field)>,
}

/// What survives for a field.
#[derive(Default)]
struct Field {
    lowest: Option<(Number, Position)>,
    highest: Option<(Number, Position)>,
    first_change: Option<Position>,
    last_change: Option<Position>,
}

impl Selector {
    /// Intervals of this width, from boot on.
    pub(super) fn new(width_ns: u64) -> Self {
        Self {
            width_ns: width_ns.max(1),
            interval: None,
            devices: HashMap::new(),
            before: HashMap::new(),
            fields_followed: 0,
            fields_before: 0,
            last: None,
            survivors: Vec::new(),
            seen: Composition::default(),
        }
    }

    /// The next record; positions ascend.
    pub(super) fn add(&mut self, lineage: &Lineage, record: &Record) {
        // `skipped` tells of its own run only, so the last record of a run has to be there to carry it.
        if let Some(last) = self.last.filter(|last| last.run() != record.position.run()) {
            self.survivors.push(last);
        }
        let number = record.stamp.boot_ns / self.width_ns;
        let mut interval = Interval { queue: lineage.queue, boot_index: lineage.boot_index, number };
        if let Some(open) =
            self.interval.filter(|open| (open.queue, open.boot_index) == (interval.queue, interval.boot_index))
        {
            // One that was on its way for longer than others belongs to those it came with.
            interval.number = number.max(open.number);
        }
        if self.interval != Some(interval) || self.fields_followed > FIELDS_FOLLOWED_MAX {
            self.end_interval();
            self.interval = Some(interval);
        }
        self.follow(record);
        self.last = Some(record.position);
        self.seen.records += 1;
        self.seen.fields += record.fields.len() as u64;
    }

    fn follow(&mut self, record: &Record) {
        let at = record.position;
        if self.fields_before > FIELDS_FOLLOWED_MAX {
            // What is forgotten counts as changed: more survives.
            self.before.clear();
            self.fields_before = 0;
        }
        let device = self.devices.entry(Name::clone(&record.device)).or_insert_with(|| Device {
            first: at,
            last: at,
            fields: Vec::with_capacity(record.fields.len()),
        });
        device.last = at;
        // The first of all survives anyway; a field that comes later is a change.
        let is_first = !self.before.contains_key(&record.device);
        let before = self.before.entry(Name::clone(&record.device)).or_default();
        for (hint, field) in record.fields.iter().enumerate() {
            let (seen, is_new) = slot(&mut device.fields, hint, &field.name);
            self.fields_followed += usize::from(is_new);
            if let Some(number) = Number::of(&field.value) {
                seen.meet(number, at);
                continue;
            }
            let fingerprint = fingerprint(&field.value);
            let (last, is_new) = slot(before, hint, &field.name);
            self.fields_before += usize::from(is_new);
            let changed = is_new || *last != fingerprint;
            *last = fingerprint;
            if changed && !is_first {
                seen.first_change.get_or_insert(at);
                seen.last_change = Some(at);
            }
        }
        self.seen.devices = self.seen.devices.max(self.before.len() as u64);
    }

    fn end_interval(&mut self) {
        for device in std::mem::take(&mut self.devices).into_values() {
            let of_fields = device.fields.iter().flat_map(|(_, field)| field.survivors()).flatten();
            // Each once: together they are never more than there are records.
            let of_device: BTreeSet<Position> = of_fields.chain([device.first, device.last]).collect();
            self.survivors.extend(of_device);
        }
        self.fields_followed = 0;
    }

    /// The positions of the survivors, ascending, and what was seen.
    pub(super) fn finish(mut self) -> (Vec<Position>, Composition) {
        self.end_interval();
        self.survivors.sort_unstable();
        self.survivors.dedup();
        (self.survivors, self.seen)
    }
}

impl Field {
    fn meet(&mut self, number: Number, at: Position) {
        if self.lowest.is_none_or(|(lowest, _)| number.compare(lowest) == Ordering::Less) {
            self.lowest = Some((number, at));
        }
        if self.highest.is_none_or(|(highest, _)| number.compare(highest) == Ordering::Greater) {
            self.highest = Some((number, at));
        }
    }

    /// At most two, as the precondition of `retention.when-full = "thin"` counts: of a field with numbers the extremes,
    /// else its first and last change.
    fn survivors(&self) -> [Option<Position>; 2] {
        match (self.lowest, self.highest) {
            (Some((_, lowest)), Some((_, highest))) => [Some(lowest), Some(highest)],
            _ => [self.first_change, self.last_change],
        }
    }
}

/// The place of a name in a short list, most likely at `hint`; made where it is missing.
fn slot<'a, T: Default>(slots: &'a mut Vec<(Name, T)>, hint: usize, name: &Name) -> (&'a mut T, bool) {
    let is_at_hint = slots.get(hint).is_some_and(|(known, _)| known == name);
    let known = if is_at_hint { Some(hint) } else { slots.iter().position(|(known, _)| known == name) };
    let at = known.unwrap_or(slots.len());
    if known.is_none() {
        slots.push((Name::clone(name), T::default()));
    }
    (&mut slots[at].1, known.is_none())
}

/// A numeric value that can be compared with others.
#[derive(Debug, Clone, Copy)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(number) => Some(Self::Whole(i128::from(*number))),
            Value::Unsigned(number) => Some(Self::Whole(i128::from(*number))),
            Value::Float(number) => Some(Self::Real(*number)),
            Value::Null | Value::Bool(_) | Value::Text(_) => None,
        }
    }

    fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => one.cmp(&other),
            (one, other) => one.real().total_cmp(&other.real()),
        }
    }

    fn real(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Real(number) => number,
        }
    }
}

/// Stands for a value that is not a number: a text may have kilobytes.
fn fingerprint(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    match value {
        Value::Bool(flag) => (1, flag).hash(&mut hasher),
        Value::Text(text) => (2, text).hash(&mut hasher),
        _ => 0.hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
