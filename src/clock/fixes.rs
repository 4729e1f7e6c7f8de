//! The time that GNSS receivers tell, for a machine whose own clock nobody has set.
//!
//! One fix is no proof: a receiver may wake up with an old date. Five that agree are taken.

use super::{BUILD_FLOOR_MS, began_us};

/// Fixes that have to agree.
const FIXES: usize = 5;
/// How far apart they may put the beginning of this boot: a receiver's sentences take up to 0.3 s to arrive, on a slow
/// line longer.
const APART_US: i64 = 2_000_000;

/// What the last fixes say.
#[derive(Debug, Default)]
pub(super) struct Fixes {
    /// When this boot began by each of them, microseconds since 1970 UTC.
    began_us: Vec<i64>,
    agreed_us: Option<i64>,
}

impl Fixes {
    /// A fix for this time arrived at this boot time. Gives when this boot began, once the last fixes agree.
    pub(super) fn note(&mut self, at_boot_ns: u64, measured_us: i64) -> Option<i64> {
        // An older time is that of a receiver that does not know the date.
        if measured_us.div_euclid(1_000) >= BUILD_FLOOR_MS {
            self.began_us.push(began_us(at_boot_ns, measured_us));
            self.began_us.drain(..self.began_us.len().saturating_sub(FIXES));
            if let (Some(first), Some(last)) = (self.began_us.iter().min(), self.began_us.iter().max())
                && self.began_us.len() == FIXES
                && last.saturating_sub(*first) <= APART_US
            {
                // The one that took least time on its way is nearest to the truth.
                self.agreed_us = Some(*last);
            }
        }
        self.agreed_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    /// A day after the floor.
    const BEGAN_US: i64 = (BUILD_FLOOR_MS + 86_400_000) * 1_000;

    /// Fixes of one a second, each so late; gives what is agreed after each.
    fn agreed(fixes: &mut Fixes, began_us: i64, late_us: &[i64]) -> Vec<Option<i64>> {
        let mut second = 0;
        let note = |late_us: &i64| {
            second += 1;
            fixes.note(second * SECOND_NS, began_us + second as i64 * 1_000_000 - late_us)
        };
        late_us.iter().map(note).collect()
    }

    #[test]
    fn five_fixes_that_agree_are_taken_and_the_quickest_of_them_counts() {
        let late_us = [300_000, 90_000, 200_000, 80_000, 250_000, 400_000];
        let expected = [None, None, None, None, Some(BEGAN_US - 80_000), Some(BEGAN_US - 80_000)];
        assert_eq!(agreed(&mut Fixes::default(), BEGAN_US, &late_us), expected);
    }

    #[test]
    fn fixes_that_disagree_prove_nothing() {
        let late_us = [0, 5_000_000, 0, 5_000_000, 0, 5_000_000, 0];
        assert_eq!(agreed(&mut Fixes::default(), BEGAN_US, &late_us), [None; 7]);
    }

    #[test]
    fn a_receiver_that_wakes_up_in_the_past_is_not_believed_and_does_not_disturb() {
        let mut fixes = Fixes::default();
        assert_eq!(agreed(&mut fixes, 0, &[0; 9]), [None; 9]);
        assert_eq!(agreed(&mut fixes, BEGAN_US, &[0; 5])[4], Some(BEGAN_US));
        assert_eq!(agreed(&mut fixes, 0, &[0; 9]), [Some(BEGAN_US); 9]);
    }

    #[test]
    fn what_was_agreed_holds_until_others_agree() {
        let mut fixes = Fixes::default();
        agreed(&mut fixes, BEGAN_US, &[0; 5]);
        let later_us = BEGAN_US + 3_600_000_000;
        let said = agreed(&mut fixes, later_us, &[0; 5]);
        assert_eq!(said, [Some(BEGAN_US), Some(BEGAN_US), Some(BEGAN_US), Some(BEGAN_US), Some(later_us)]);
    }
}
