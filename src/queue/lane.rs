//! What of a stream is still to be delivered: at most [`LANES_MAX`] ranges `[next, end)`, everything else is done.
//!
//! Oldest-first delivery has one lane, `[cursor, END)`. Newest-first splits the last lane and drains the newer part
//! before the older one. Pure data, so that it can be tested against a set of positions.

use crate::reading::Position;

/// Most lanes of one stream.
pub const LANES_MAX: usize = 16;

/// Version byte of the encoded form.
const ENCODING: u8 = 1;

/// Why lanes could not be read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// Not the form that [`Lanes::encode`] writes.
    #[error("lanes of {bytes} bytes in encoding {encoding} are not readable, encoding {ENCODING} is known")]
    Unreadable {
        /// Bytes given.
        bytes: usize,
        /// First byte.
        encoding: u8,
    },
    /// None, more than 16, empty, overlapping, or not open at the end.
    #[error("{lanes} lanes are not 1 to {LANES_MAX} ascending, disjoint ranges with an open end")]
    NotLanes {
        /// Lanes given.
        lanes: usize,
    },
}

/// One lane as [`Lanes::lane_at`] gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneAt {
    /// End of the lane before it; zero where there is none. What lies between this and `next` is done.
    pub start: Position,
    /// Its first position that is not done.
    pub next: Position,
    /// Its end, not included.
    pub end: Position,
}

/// The lanes of one stream: ascending, disjoint, none empty, the last one open at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lanes {
    lanes: Vec<(Position, Position)>,
}

impl Lanes {
    /// One lane from `cursor` on.
    pub fn from_cursor(cursor: Position) -> Self {
        Self { lanes: vec![(cursor, Position::END)] }
    }

    /// From `(next, end)` pairs.
    ///
    /// # Errors
    /// When they are not what [`Lanes::pairs`] gives.
    pub fn from_pairs(pairs: &[(Position, Position)]) -> Result<Self, LaneError> {
        let ascending = pairs.windows(2).all(|two| two[0].1 <= two[1].0);
        let filled = pairs.iter().all(|(next, end)| next < end);
        let open = pairs.last().is_some_and(|(_, end)| *end == Position::END);
        if !(ascending && filled && open && pairs.len() <= LANES_MAX) {
            return Err(LaneError::NotLanes { lanes: pairs.len() });
        }
        Ok(Self { lanes: pairs.to_vec() })
    }

    /// The lanes as `(next, end)`, ascending.
    pub fn pairs(&self) -> &[(Position, Position)] {
        &self.lanes
    }

    /// `next` of the first lane: everything below is done.
    pub fn cursor(&self) -> Position {
        self.lanes.first().map_or(Position::END, |(next, _)| *next)
    }

    /// Whether a position is delivered or removed.
    pub fn is_done(&self, position: Position) -> bool {
        !self.lanes.iter().any(|(next, end)| *next <= position && position < *end)
    }

    /// The smallest position at or after `at` that is not done.
    pub fn first_open(&self, at: Position) -> Position {
        self.lanes.iter().find(|(_, end)| at < *end).map_or(Position::END, |(next, _)| at.max(*next))
    }

    /// Everything of the first lane through `through` is delivered; never reaches into the next lane. Says whether
    /// anything moved.
    pub fn ack(&mut self, through: Position) -> bool {
        self.ack_lane(0, through)
    }

    /// The same for the lane of this index.
    pub fn ack_lane(&mut self, lane: usize, through: Position) -> bool {
        let Some((next, end)) = self.lanes.get_mut(lane) else { return false };
        if through < *next {
            return false;
        }
        // The last lane stays open: a cursor at END would make a stream done for ever.
        let limit = if *end == Position::END { Position::from_packed(Position::END.packed() - 1) } else { *end };
        *next = through.next().min(limit);
        if next >= end {
            self.lanes.remove(lane);
        }
        true
    }

    /// Everything from `from` through `through` is delivered, but for the lanes that are held by their `next`. A lane
    /// moves only where all of it before `from` is done already, so that an acknowledgement never reaches over what was
    /// not sent. Gives the end of the lane before the first that moved ([`Position::ZERO`]: there is none); `None`:
    /// nothing moved.
    pub fn ack_range(
        &mut self,
        from: Position,
        through: Position,
        is_held: impl Fn(Position) -> bool,
    ) -> Option<Position> {
        let mut floor = None;
        for lane in (0..self.lanes.len()).rev() {
            let (next, _) = self.lanes[lane];
            if from <= next && next <= through && !is_held(next) {
                floor = Some(lane.checked_sub(1).map_or(Position::ZERO, |before| self.lanes[before].1));
                self.ack_lane(lane, through);
            }
        }
        floor
    }

    /// Everything through `through` was removed, whatever lane it is in.
    pub fn remove_through(&mut self, through: Position) {
        while self.lanes.len() > 1 && self.lanes[0].1 <= through.next() {
            self.lanes.remove(0);
        }
        self.ack(through);
    }

    /// The lane `[next, end)` that holds `position` or, where it is done, the next one; and where the lane before it
    /// ends.
    pub fn lane_at(&self, position: Position) -> LaneAt {
        let lane = self.lanes.partition_point(|(_, end)| *end <= position);
        let start = lane.checked_sub(1).map_or(Position::ZERO, |before| self.lanes[before].1);
        let (next, end) = self.lanes.get(lane).copied().unwrap_or((Position::END, Position::END));
        LaneAt { start, next, end }
    }

    /// Whether every position of a range, both ends included, is done.
    pub fn is_range_done(&self, first: Position, last: Position) -> bool {
        self.first_open(first) > last
    }

    /// How many positions of a range, both ends included, are done. Where a part that is done ends in a later run than
    /// it begins, how long it is cannot be told, and it counts nothing.
    pub fn done_positions(&self, first: Position, last: Position) -> u64 {
        let after = last.next();
        let mut done = 0;
        let mut from = first;
        for (next, end) in self.lanes.iter().copied().chain([(Position::END, Position::END)]) {
            let until = next.clamp(from, after.max(from));
            if until.run() == from.run() {
                done += until.seq() - from.seq();
            }
            from = end.clamp(until, after.max(until));
        }
        done
    }

    /// Whether something from `from` through `through` is done here that was not done in `before`.
    pub fn has_more_done_than(&self, before: &Self, from: Position, through: Position) -> bool {
        before.lanes.iter().take_while(|(next, _)| *next <= through).any(|(next, end)| {
            let mut at = from.max(*next);
            while at < *end && at <= through {
                let lane = self.lane_at(at);
                if lane.next > at {
                    return true;
                }
                at = lane.end;
            }
            false
        })
    }

    /// Splits the last lane at `at`, so that what is newer can be drained first. False where nothing would come of it:
    /// `at` is not inside the last lane, or there are [`LANES_MAX`] lanes.
    pub fn split_last(&mut self, at: Position) -> bool {
        let full = self.lanes.len() >= LANES_MAX;
        let Some((next, end)) = self.lanes.last_mut() else { return false };
        if full || at <= *next || at >= *end {
            return false;
        }
        let newest = (at, *end);
        *end = at;
        self.lanes.push(newest);
        true
    }

    /// What is open of `[first, end)` becomes lanes of its own, one where it has no hole. `None` where that makes more
    /// than [`LANES_MAX`].
    pub fn with_apart(&self, first: Position, end: Position) -> Option<Self> {
        let mut lanes: Vec<(Position, Position)> = Vec::with_capacity(self.lanes.len() + 2);
        for (from, until) in &self.lanes {
            let (inner, outer) = ((*from).max(first), (*until).min(end));
            if inner >= outer {
                lanes.push((*from, *until));
                continue;
            }
            if *from < inner {
                lanes.push((*from, inner));
            }
            match lanes.last_mut() {
                Some((before, touching)) if *touching == inner && *before >= first => *touching = outer,
                _ => lanes.push((inner, outer)),
            }
            if outer < *until {
                lanes.push((outer, *until));
            }
        }
        Self::from_pairs(&lanes).ok()
    }

    /// Makes one lane of those that touch: nothing was delivered between them. Those that are held, by their `next`,
    /// stay apart.
    pub fn merge_touching(&mut self, is_held: impl Fn(Position) -> bool) {
        self.lanes.dedup_by(|newer, older| {
            let touch = older.1 == newer.0 && !is_held(older.0) && !is_held(newer.0);
            if touch {
                older.1 = newer.1;
            }
            touch
        });
    }

    /// What is open in both. Where that would be more than [`LANES_MAX`] lanes: these, from the later cursor on.
    pub fn common(&self, other: &Self) -> Self {
        let pairs = self.lanes.iter().flat_map(|(next, end)| {
            other.lanes.iter().map(|(other_next, other_end)| (*next.max(other_next), *end.min(other_end)))
        });
        let pairs: Vec<_> = pairs.filter(|(next, end)| next < end).collect();
        Self::from_pairs(&pairs).unwrap_or_else(|_| {
            let mut later = self.clone();
            if let Some(done) = other.cursor().packed().checked_sub(1) {
                later.remove_through(Position::from_packed(done));
            }
            later
        })
    }

    /// The durable form: a version, a count, two packed positions (little endian) a lane; at most 258 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 + self.lanes.len() * 16);
        out.push(ENCODING);
        // At most LANES_MAX by construction.
        out.push(self.lanes.len() as u8);
        for (next, end) in &self.lanes {
            out.extend_from_slice(&next.packed().to_le_bytes());
            out.extend_from_slice(&end.packed().to_le_bytes());
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// When it is not that.
    pub fn decode(bytes: &[u8]) -> Result<Self, LaneError> {
        let unreadable =
            || LaneError::Unreadable { bytes: bytes.len(), encoding: bytes.first().copied().unwrap_or_default() };
        let [ENCODING, count, body @ ..] = bytes else { return Err(unreadable()) };
        let (words, rest) = body.as_chunks::<8>();
        if !rest.is_empty() || words.len() != usize::from(*count) * 2 {
            return Err(unreadable());
        }
        let packed = |word: &[u8; 8]| Position::from_packed(u64::from_le_bytes(*word));
        let pairs: Vec<_> = words.chunks_exact(2).map(|two| (packed(&two[0]), packed(&two[1]))).collect();
        Self::from_pairs(&pairs)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(seq: u64) -> Position {
        Position::new(1, seq)
    }

    #[test]
    fn a_cursor_moves_forward_only() {
        let mut lanes = Lanes::from_cursor(at(0));
        assert!(lanes.ack(at(4)));
        assert!(!lanes.ack(at(4)), "the same again moves nothing");
        assert!(!lanes.ack(at(1)));
        assert_eq!(lanes.cursor(), at(5));
        assert!(lanes.is_done(at(4)) && !lanes.is_done(at(5)));
    }

    #[test]
    fn the_newer_lane_is_drained_apart_from_the_older() {
        let mut lanes = Lanes::from_cursor(at(0));
        assert!(lanes.split_last(at(100)));
        assert!(lanes.ack_lane(1, at(149)));
        assert_eq!(lanes.pairs(), [(at(0), at(100)), (at(150), Position::END)]);
        assert_eq!(lanes.first_open(at(120)), at(150));
        lanes.ack(at(500));
        assert_eq!(lanes.pairs(), [(at(150), Position::END)], "the first lane ends where it ends");
    }

    #[test]
    fn sixteen_lanes_are_the_limit_and_fit_300_bytes() {
        let mut lanes = Lanes::from_cursor(at(0));
        for n in 1..LANES_MAX as u64 {
            assert!(lanes.split_last(at(n * 10)));
            lanes.ack_lane(n as usize, at(n * 10 + 2));
        }
        assert!(!lanes.split_last(at(1_000)));
        assert!(lanes.encode().len() <= 300);
        assert_eq!(Lanes::decode(&lanes.encode()), Ok(lanes));
    }

    #[test]
    fn what_is_not_lanes_is_refused() {
        assert!(matches!(Lanes::decode(&[]), Err(LaneError::Unreadable { .. })));
        assert!(matches!(Lanes::decode(&[2, 0]), Err(LaneError::Unreadable { encoding: 2, .. })));
        assert!(matches!(Lanes::decode(&[1, 0]), Err(LaneError::NotLanes { lanes: 0 })));
        let overlapping = [(at(5), at(9)), (at(8), Position::END)];
        assert!(matches!(Lanes::from_pairs(&overlapping), Err(LaneError::NotLanes { lanes: 2 })));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ack(usize, u64),
        AckRange(u64, u64),
        Remove(u64),
        Split(u64),
        Merge,
        StoreAndLoad,
        Apart(u64, u64),
        Common(Vec<(bool, u64)>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4_usize, 0..64_u64).prop_map(|(lane, seq)| Step::Ack(lane, seq)),
            (0..64_u64, 0..64_u64).prop_map(|(from, through)| Step::AckRange(from, through)),
            (0..64_u64).prop_map(Step::Remove),
            (0..64_u64).prop_map(Step::Split),
            Just(Step::Merge),
            Just(Step::StoreAndLoad),
            (0..64_u64, 0..64_u64).prop_map(|(first, end)| Step::Apart(first, end)),
            proptest::collection::vec((any::<bool>(), 0..64_u64), 0..4).prop_map(Step::Common),
        ]
    }

    proptest! {
        /// The model is the set of positions that are not done.
        #[test]
        fn lanes_are_a_set_of_open_positions(steps in proptest::collection::vec(step(), 0..40)) {
            let mut lanes = Lanes::from_cursor(at(0));
            let mut open: BTreeSet<u64> = (0..64).collect();
            for step in steps {
                let (lanes_before, open_before) = (lanes.clone(), open.clone());
                match step {
                    Step::Ack(lane, seq) => {
                        let range = lanes.pairs().get(lane).copied();
                        if let Some((next, end)) = range {
                            open.retain(|s| at(*s) < next || at(*s) >= end || *s > seq);
                        }
                        lanes.ack_lane(lane, at(seq));
                    }
                    Step::AckRange(from, through) => {
                        for (next, end) in lanes.pairs().to_vec() {
                            if at(from) <= next {
                                open.retain(|s| at(*s) < next || at(*s) >= end || *s > through);
                            }
                        }
                        lanes.ack_range(at(from), at(through), |_| false);
                    }
                    Step::Remove(seq) => {
                        open.retain(|s| *s > seq);
                        lanes.remove_through(at(seq));
                    }
                    Step::Split(seq) => { lanes.split_last(at(seq)); }
                    Step::Merge => lanes.merge_touching(|_| false),
                    Step::Apart(first, end) => {
                        let Some(apart) = lanes.with_apart(at(first), at(end)) else { continue };
                        lanes = apart;
                        // No lane crosses a bound, and none ends inside but where something is done.
                        for seq in (first..end).filter(|seq| open.contains(seq)) {
                            let lane = lanes.lane_at(at(seq));
                            prop_assert!(at(first) <= lane.next && lane.end <= at(end), "{lanes:?}");
                            prop_assert!(lane.end == at(end) || !open.contains(&lane.end.seq()), "{lanes:?}");
                        }
                    }
                    Step::Common(others) => {
                        let mut other = Lanes::from_cursor(at(0));
                        for (split, seq) in others {
                            if split { other.split_last(at(seq)); } else { other.ack(at(seq)); }
                        }
                        open.retain(|seq| !other.is_done(at(*seq)));
                        lanes = lanes.common(&other);
                    }
                    Step::StoreAndLoad => lanes = Lanes::decode(&lanes.encode()).unwrap(),
                }
                prop_assert!(Lanes::from_pairs(lanes.pairs()).is_ok(), "{lanes:?}");
                for seq in 0..64 {
                    prop_assert_eq!(lanes.is_done(at(seq)), !open.contains(&seq), "seq {} in {:?}", seq, &lanes);
                    let first = open.range(seq..).next().copied().unwrap_or(64.max(lanes.first_open(at(seq)).seq()));
                    prop_assert_eq!(lanes.first_open(at(seq)), at(first));
                    let more = open_before.range(..=seq).any(|s| !open.contains(s));
                    prop_assert_eq!(lanes.has_more_done_than(&lanes_before, at(0), at(seq)), more, "through {}", seq);
                    let more = open_before.range(seq..).any(|s| !open.contains(s));
                    prop_assert_eq!(lanes.has_more_done_than(&lanes_before, at(seq), at(63)), more, "from {}", seq);
                    let done = (20..=seq).filter(|s| !open.contains(s)).count() as u64;
                    prop_assert_eq!(lanes.done_positions(at(20), at(seq.max(19))), done, "20 to {}", seq);
                    let lane = lanes.lane_at(at(seq));
                    prop_assert!(lane.start <= lane.next && lane.start <= at(seq) && at(seq) < lane.end);
                }
            }
        }
    }
}
