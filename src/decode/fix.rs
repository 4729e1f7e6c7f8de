//! Puts the sentences of one navigation epoch together: one fix an epoch, never one a sentence.
//!
//! An epoch closes when a sentence of another time arrives, when the line falls silent (the driver says so), or, once
//! the receiver's last sentence is known, with that sentence. A position is given only when the receiver vouches for
//! it: without a fix there is none, neither zero nor the last one.

use crate::decode::nmea::{Date, Kind, Quality, Sentence};
use crate::reading::{Field, Value};

/// A GPS week counter runs over after 1024 weeks; stale firmware then reports dates so many days back.
const ROLLOVER_DAYS: i64 = 7_168;

/// Epochs that must end with the same sentence before it is taken for the receiver's last one.
const LAST_SENTENCE_SEEN_MIN: u8 = 3;

/// One closed navigation epoch.
#[derive(Debug, Clone, PartialEq)]
pub struct Fix {
    /// Whether the receiver vouches for the position.
    pub is_valid: bool,
    /// UTC in microseconds since 1970; only with a position and a date.
    pub measured_us: Option<i64>,
    /// Boot time in nanoseconds when the epoch's first byte came in, as the driver said.
    pub boot_ns: u64,
    /// What is known of it; without a fix only `fix`, `quality` and satellites.
    pub fields: Vec<Field>,
}

/// What has been heard of the open epoch.
#[derive(Debug)]
struct Epoch {
    facts: Sentence,
    boot_ns: u64,
    kinds_seen: u16,
    last_kind: Kind,
    /// The most any one constellation had in view.
    satellites_in_view: Option<u32>,
}

/// Assembles epochs.
#[derive(Debug)]
pub struct Assembler {
    day_floor: i64,
    open: Option<Epoch>,
    /// The time of an epoch that was given out before its time had passed.
    given_out_us: Option<u64>,
    last_kind: Option<Kind>,
    last_kind_seen: u8,
}

impl Assembler {
    /// An assembler that knows that today is `day_floor` or later, in days since 1970-01-01. Dates more than half a
    /// rollover before it are moved forward; younger ones stay, so a log of the last years can be replayed.
    pub fn new(day_floor: i64) -> Self {
        Self { day_floor, open: None, given_out_us: None, last_kind: None, last_kind_seen: 0 }
    }

    /// Takes one sentence in, whose epoch's first byte (if it opens one) came in at `boot_ns`.
    pub fn push(&mut self, sentence: &Sentence, boot_ns: u64, emit: &mut impl FnMut(Fix)) {
        if sentence.kind == Kind::Other {
            return;
        }
        if self.belongs_to_given_out(sentence) {
            // The last sentence was not the last one after all.
            self.last_kind = None;
            self.last_kind_seen = 0;
            return;
        }
        self.given_out_us = None;
        if self.open.as_ref().is_some_and(|epoch| !epoch.takes(sentence)) {
            self.close(emit);
        }
        let epoch = self.open.get_or_insert_with(|| Epoch::new(sentence.kind, boot_ns));
        epoch.add(sentence);
        let is_last = self.last_kind == Some(sentence.kind) && self.last_kind_seen >= LAST_SENTENCE_SEEN_MIN;
        if is_last && !sentence.kind.repeats() && epoch.facts.time_of_day_us.is_some() {
            self.given_out_us = epoch.facts.time_of_day_us;
            self.close(emit);
        }
    }

    /// The line has been silent for longer than a receiver pauses inside an epoch.
    pub fn silence(&mut self, emit: &mut impl FnMut(Fix)) {
        self.given_out_us = None;
        self.close(emit);
    }

    fn belongs_to_given_out(&self, sentence: &Sentence) -> bool {
        self.given_out_us.is_some_and(|given| sentence.time_of_day_us.is_none_or(|time| time == given))
    }

    fn close(&mut self, emit: &mut impl FnMut(Fix)) {
        let Some(epoch) = self.open.take() else { return };
        if self.last_kind == Some(epoch.last_kind) {
            self.last_kind_seen = self.last_kind_seen.saturating_add(1);
        } else {
            self.last_kind = Some(epoch.last_kind);
            self.last_kind_seen = 1;
        }
        // Satellites alone are no epoch: at least one sentence must have said whether there is a position.
        if epoch.facts.is_valid.is_some() {
            emit(epoch.into_fix(self.day_floor));
        }
    }
}

impl Epoch {
    fn new(kind: Kind, boot_ns: u64) -> Self {
        Self { facts: Sentence::empty(kind), boot_ns, kinds_seen: 0, last_kind: kind, satellites_in_view: None }
    }

    /// Whether `sentence` belongs to this epoch: it bears the same time, or none and is not a second of its kind.
    fn takes(&self, sentence: &Sentence) -> bool {
        match (self.facts.time_of_day_us, sentence.time_of_day_us) {
            (Some(open), Some(time)) => open == time,
            _ => sentence.kind.repeats() || self.kinds_seen & sentence.kind.bit() == 0,
        }
    }

    fn add(&mut self, sentence: &Sentence) {
        let facts = &mut self.facts;
        // GGA tells every quality; the others must not overwrite what it said.
        if sentence.kind == Kind::Gga || self.kinds_seen & Kind::Gga.bit() == 0 {
            facts.quality = sentence.quality.or(facts.quality);
        }
        // One sentence that does not vouch for the position is enough to distrust it.
        facts.is_valid = match (facts.is_valid, sentence.is_valid) {
            (Some(before), Some(now)) => Some(before && now),
            (before, now) => before.or(now),
        };
        if let Some(in_view) = sentence.satellites_in_view {
            self.satellites_in_view = Some(self.satellites_in_view.unwrap_or(0).max(in_view));
        }
        facts.time_of_day_us = facts.time_of_day_us.or(sentence.time_of_day_us);
        facts.date = sentence.date.or(facts.date);
        facts.position_deg = sentence.position_deg.or(facts.position_deg);
        facts.altitude_m = sentence.altitude_m.or(facts.altitude_m);
        facts.geoid_separation_m = sentence.geoid_separation_m.or(facts.geoid_separation_m);
        facts.speed_m_s = sentence.speed_m_s.or(facts.speed_m_s);
        facts.course_deg = sentence.course_deg.or(facts.course_deg);
        facts.dimensions = facts.dimensions.max(sentence.dimensions);
        facts.satellites_used = facts.satellites_used.max(sentence.satellites_used);
        facts.hdop = sentence.hdop.or(facts.hdop);
        facts.pdop = sentence.pdop.or(facts.pdop);
        facts.vdop = sentence.vdop.or(facts.vdop);
        facts.correction_age_s = sentence.correction_age_s.or(facts.correction_age_s);
        facts.error_horizontal_m = sentence.error_horizontal_m.or(facts.error_horizontal_m);
        for (known, said) in facts.error_m.iter_mut().zip(sentence.error_m) {
            *known = said.or(*known);
        }
        self.kinds_seen |= sentence.kind.bit();
        self.last_kind = sentence.kind;
    }

    fn into_fix(self, day_floor: i64) -> Fix {
        let facts = &self.facts;
        let position = facts.position_deg.filter(|_| facts.is_valid == Some(true));
        let is_valid = position.is_some();
        let mut fields = vec![
            Field::new("fix", Value::Text(dimensions_word(is_valid, facts).to_owned())),
            Field::new("quality", Value::Text(quality_word(is_valid, facts).to_owned())),
        ];
        let mut measured_us = None;
        if let Some((latitude, longitude)) = position {
            let (at_us, is_corrected) = instant_us(facts.date, facts.time_of_day_us, day_floor);
            measured_us = at_us;
            fields.push(Field::new("latitude_deg", Value::float(latitude)));
            fields.push(Field::new("longitude_deg", Value::float(longitude)));
            push_reals(&mut fields, facts);
            if is_corrected {
                fields.push(Field::new("date_corrected", Value::Bool(true)));
            }
        }
        let counts = [("satellites_used", facts.satellites_used), ("satellites_in_view", self.satellites_in_view)];
        for (name, count) in counts.into_iter().filter_map(|(name, count)| Some((name, count?))) {
            fields.push(Field::new(name, Value::Integer(i64::from(count))));
        }
        Fix { is_valid, measured_us, boot_ns: self.boot_ns, fields }
    }
}

fn push_reals(fields: &mut Vec<Field>, facts: &Sentence) {
    let [error_latitude, error_longitude, error_altitude] = facts.error_m;
    let reals = [
        ("altitude_m", facts.altitude_m),
        ("geoid_separation_m", facts.geoid_separation_m),
        ("speed_m_s", facts.speed_m_s),
        ("course_deg", facts.course_deg),
        ("hdop", facts.hdop),
        ("pdop", facts.pdop),
        ("vdop", facts.vdop),
        ("error_horizontal_m", facts.error_horizontal_m),
        ("error_latitude_m", error_latitude),
        ("error_longitude_m", error_longitude),
        ("error_altitude_m", error_altitude),
        ("correction_age_s", facts.correction_age_s),
    ];
    fields.extend(reals.into_iter().filter_map(|(name, real)| Some(Field::new(name, Value::float(real?)))));
}

fn dimensions_word(is_valid: bool, facts: &Sentence) -> &'static str {
    match facts.dimensions {
        _ if !is_valid => "none",
        Some(2) => "2d",
        Some(3) => "3d",
        // Without GSA an altitude is the sign of a fix in three dimensions.
        _ if facts.altitude_m.is_some() => "3d",
        _ => "2d",
    }
}

fn quality_word(is_valid: bool, facts: &Sentence) -> &'static str {
    if is_valid { facts.quality.unwrap_or(Quality::Gps).as_str() } else { Quality::None.as_str() }
}

/// Microseconds since 1970, and whether the date had to be corrected for a week rollover.
fn instant_us(date: Option<Date>, time_of_day_us: Option<u64>, day_floor: i64) -> (Option<i64>, bool) {
    let day = date.and_then(|date| days_since_1970(&date));
    let (Some(day), Some(time_us)) = (day, time_of_day_us.and_then(|time_us| i64::try_from(time_us).ok())) else {
        return (None, false);
    };
    // As many as bring the date nearest to the floor.
    let rollovers = ((day_floor - day).max(0) + ROLLOVER_DAYS / 2 - 1) / ROLLOVER_DAYS;
    let day = day + rollovers * ROLLOVER_DAYS;
    (Some(day * 86_400_000_000 + time_us), rollovers > 0)
}

fn days_since_1970(date: &Date) -> Option<i64> {
    let date = jiff::civil::Date::new(date.year, date.month, date.day).ok()?;
    let instant = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(instant.as_second().div_euclid(86_400))
}

#[cfg(test)]
mod tests;
