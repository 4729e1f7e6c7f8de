//! Thinning: a coarser history in the place of a hole, when an outage is longer than the queue is large.
//!
//! A pass goes from the oldest epoch to the newest and divides the time since boot into intervals. Per device the
//! records of an interval that survive are originals: its first and last, those that hold a numeric field's minimum or
//! maximum, and the first and last change of any other field. At the next pass the intervals are twice as wide. Pure:
//! `retention` decides when, the block store puts the blocks in place.
//!
//! | module | what it is |
//! |---|---|
//! | `select` | which records survive at an interval's width |
//! | `reseal` | the blocks that take the place of others, `skipped` carried on |
//! | `plan` | which epochs are next, and how wide their intervals are |
//! | `work` | one pass over some blocks, in small pieces |

mod plan;
mod reseal;
mod select;
mod work;

pub(super) use plan::{Plan, plan, width_ns};
pub(super) use work::{Thinned, Work};
