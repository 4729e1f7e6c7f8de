//! Positions that left the tail before they were durable, so that whoever waits for one learns that it was not kept.

use std::collections::VecDeque;

use crate::reading::Position;

/// Most ranges remembered of a stream; with more, the two oldest become one. What lies between them then counts as
/// dropped as well, which costs a duplicate at worst.
const RANGES_MAX: usize = 64;

/// Ascending, disjoint ranges, both ends included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    ranges: VecDeque<(Position, Position)>,
}

impl Dropped {
    /// Whether the record at this position was dropped from memory.
    pub fn contains(&self, position: Position) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&position))
    }

    /// Adds a position. Those of a stream are dropped in ascending order but for what was being written meanwhile.
    pub(crate) fn add(&mut self, position: Position) {
        let at = self.ranges.partition_point(|(first, _)| *first <= position);
        match at.checked_sub(1).and_then(|before| self.ranges.get_mut(before)) {
            Some((_, last)) if last.next() >= position => *last = position.max(*last),
            _ => self.ranges.insert(at, (position, position)),
        }
        if self.ranges.len() > RANGES_MAX
            && let (Some((first, _)), Some(second)) = (self.ranges.pop_front(), self.ranges.front_mut())
        {
            second.0 = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_dropped_position_is_forgotten_and_the_ranges_are_bounded() {
        let mut dropped = Dropped::default();
        let all: Vec<Position> = (0..1_000).filter(|n| n % 5 < 2).map(|n| Position::new(1, n)).collect();
        for position in &all {
            dropped.add(*position);
        }
        assert_eq!(dropped.ranges.len(), RANGES_MAX);
        assert!(all.iter().all(|position| dropped.contains(*position)));
        assert!(!dropped.contains(Position::new(1, 999)) && !dropped.contains(Position::new(1, 1_000)));
        let mut late = Dropped::default();
        for seq in [7, 3, 4] {
            late.add(Position::new(1, seq));
        }
        let told: Vec<bool> = (2..9).map(|seq| late.contains(Position::new(1, seq))).collect();
        assert_eq!(told, [false, true, true, false, false, true, false]);
    }
}
