//! Exactly-once delivery: records and the stream's cursor go to Kafka in one transaction.
//!
//! One transaction has records of one stream, one lane and one run, ascending. `session` says what the client does next,
//! `cursor` what Kafka keeps and what a start makes of it, `names` what it is kept under (all pure); `thread` does it:
//! `look` reads the cursors, `batch` reads records, `filling` puts them into transactions, `schema` has what they need
//! registered before, `letter` sets records aside, `link` serves the client, `outcome` tells the queue, `stalls` finds a
//! client that is stuck.
//!
//! # Why nothing is delivered twice
//!
//! 1. Records become visible together with the cursor behind them, or not at all.
//! 2. A client sends only after it has taken the transactional id over, which ends what was open before, and has then
//!    read the cursors. So no transaction of a former client can still be committed, and all that were are known.
//! 3. The outcome of a commit that did not end well is taken from the cursor, read by the next client.
//! 4. Every stream's cursor is committed before its first record is, and again every day; so it is missing only where
//!    Kafka has forgotten it. Then the queue's own lanes count, and a transaction that was in doubt is sent again, each
//!    record with the header `possible-duplicate`. The queue made that doubt durable before any of these records could
//!    outlive a crash.
//!
//! Nothing is lost, as the queue's lanes move only when a commit was confirmed, or by a cursor that this queue wrote.

mod batch;
mod cursor;
mod filling;
mod letter;
mod limits;
mod link;
mod look;
mod names;
mod outcome;
mod outlet;
mod reading;
mod schema;
mod session;
mod stalls;
mod thread;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod model_tests;

pub(super) use names::{group_id, transactional_id};
pub(super) use thread::run;
