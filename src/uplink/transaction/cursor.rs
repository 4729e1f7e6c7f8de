//! The cursor of a stream as Kafka keeps it, and what follows from it when the agent starts. Pure.
//!
//! It is the committed offset of the group `<transactional.id>.<stream>`, written in the transaction that carries the
//! records: the offset is the first lane's next position, the metadata says the rest.

use std::fmt::Write as _;

use uuid::Uuid;

use crate::kafka::Committed;
use crate::queue::Lives;
use crate::queue::lane::Lanes;
use crate::reading::Position;

/// First word of the metadata: whose form this is, and its version.
const FORM: &str = "forebay1";

/// First and last position.
pub type Range = (Position, Position);

/// What a stream's group says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The queue it is of.
    pub queue: Uuid,
    /// Which life of the queue wrote it.
    pub life: u64,
    /// What is still to be delivered.
    pub lanes: Lanes,
    /// Records that Kafka may have twice: sent with a mark.
    pub doubtful: Option<Range>,
    /// So many records were left out before the first that is not delivered, and it does not say so by itself.
    pub skipped: u64,
}

impl Cursor {
    /// As it is committed.
    pub fn encode(&self) -> Committed {
        let mut metadata = format!("{FORM} {} {:016x} ", self.queue.simple(), self.life);
        for byte in self.lanes.encode() {
            // Writing to a String does not fail.
            let _ = write!(metadata, "{byte:02x}");
        }
        if let Some((first, last)) = self.doubtful {
            let _ = write!(metadata, " {:x}-{:x}", first.packed(), last.packed());
        }
        if self.skipped > 0 {
            let _ = write!(metadata, " +{:x}", self.skipped);
        }
        // A position is a positive i64.
        Committed { offset: i64::try_from(self.lanes.cursor().packed()).unwrap_or(i64::MAX), metadata }
    }

    /// Reads it back; `None`: it was not written by an agent, or its offset was changed since.
    pub fn decode(committed: &Committed) -> Option<Self> {
        let mut words = committed.metadata.split(' ');
        if words.next() != Some(FORM) {
            return None;
        }
        let queue = Uuid::try_parse(words.next()?).ok()?;
        let life = u64::from_str_radix(words.next()?, 16).ok()?;
        let lanes = Lanes::decode(&bytes(words.next()?)?).ok()?;
        let mut cursor = Self { queue, life, lanes, doubtful: None, skipped: 0 };
        let number = |text| u64::from_str_radix(text, 16).ok();
        for word in words {
            if let Some((first, last)) = word.split_once('-') {
                cursor.doubtful = Some((Position::from_packed(number(first)?), Position::from_packed(number(last)?)));
            } else {
                cursor.skipped = number(word.strip_prefix('+')?)?;
            }
        }
        (cursor.encode() == *committed).then_some(cursor)
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// Whose cursor a group has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// None: none was written, Kafka has forgotten it, or it is of another queue of this name.
    Nothing,
    /// This queue's own.
    Own(Cursor),
    /// It is this queue's, and this queue has not written it: a copy of it delivers.
    Copy,
}

impl Found {
    /// Judges what a group says.
    pub fn of(committed: Option<&Committed>, queue: Uuid, lives: &Lives) -> Self {
        match committed.map(Cursor::decode) {
            None | Some(None) => Self::Nothing,
            Some(Some(cursor)) if cursor.queue != queue => Self::Nothing,
            Some(Some(cursor)) if lives.contains(cursor.life) => Self::Own(cursor),
            Some(Some(_)) => Self::Copy,
        }
    }
}

/// Where a stream goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// What is still to be delivered.
    pub lanes: Lanes,
    /// What of it Kafka may have already.
    pub doubtful: Option<Range>,
}

/// Joins what the queue knows with Kafka's cursor, read when no transaction of this agent is open any more: what
/// either says is done is done. Only without a cursor a transaction in doubt stays so.
pub fn resume(local: &Lanes, in_doubt: Option<Range>, cursor: Option<&Cursor>) -> Resumed {
    let (lanes, doubtful) = match cursor {
        Some(cursor) => (local.common(&cursor.lanes), cursor.doubtful),
        None => (local.clone(), in_doubt),
    };
    let doubtful = doubtful.filter(|(first, last)| lanes.first_open(*first) <= *last);
    Resumed { lanes, doubtful }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seq: u64) -> Position {
        Position::new(1, seq)
    }

    fn cursor(seq: u64, life: u64) -> Cursor {
        Cursor { queue: Uuid::from_u128(7), life, lanes: Lanes::from_cursor(at(seq)), doubtful: None, skipped: 0 }
    }

    #[test]
    fn the_largest_cursor_fits_what_kafka_keeps() {
        let mut lanes = Lanes::from_cursor(at(0));
        for n in 1..16 {
            assert!(lanes.split_last(at(n * 10)));
            lanes.ack_lane(n as usize, at(n * 10 + 2));
        }
        let full = Cursor { lanes, doubtful: Some((at(3), Position::END)), skipped: u64::MAX, ..cursor(0, u64::MAX) };
        let committed = full.encode();
        assert!(committed.metadata.len() < 1024, "{}", committed.metadata.len());
        assert_eq!(Cursor::decode(&committed), Some(full.clone()));
        let marked = Cursor { doubtful: None, skipped: 3, ..full };
        assert_eq!(Cursor::decode(&marked.encode()), Some(marked));
    }

    #[test]
    fn an_offset_that_somebody_has_set_is_no_cursor() {
        let committed = cursor(5, 1).encode();
        let moved = Committed { offset: committed.offset + 1, ..committed.clone() };
        assert_eq!(Cursor::decode(&moved), None);
        assert_eq!(Cursor::decode(&Committed { metadata: String::new(), ..committed }), None);
    }

    #[test]
    fn a_copy_is_known_by_a_life_that_this_queue_has_not_had() {
        let dir = tempfile::tempdir().unwrap();
        let queue = crate::uplink::transaction::bench::queue(dir.path());
        let lives = queue.begin_life().unwrap();
        let own = Cursor { queue: queue.id(), ..cursor(5, lives.newest()) };
        assert_eq!(Found::of(Some(&own.encode()), queue.id(), &lives), Found::Own(own.clone()));
        assert_eq!(Found::of(Some(&own.encode()), queue.id(), &Lives::default()), Found::Copy);
        assert_eq!(Found::of(Some(&own.encode()), Uuid::from_u128(8), &lives), Found::Nothing);
        assert_eq!(Found::of(None, queue.id(), &lives), Found::Nothing);
    }

    #[test]
    fn the_later_of_both_cursors_counts_and_only_without_one_a_doubt_stays() {
        let (local, doubt) = (Lanes::from_cursor(at(5)), Some((at(5), at(9))));
        let with = |seq| resume(&local, doubt, Some(&cursor(seq, 1)));
        assert_eq!(with(10), Resumed { lanes: Lanes::from_cursor(at(10)), doubtful: None });
        assert_eq!(with(3), Resumed { lanes: local.clone(), doubtful: None });
        assert_eq!(resume(&local, doubt, None), Resumed { lanes: local.clone(), doubtful: doubt });
        let beyond = Some((at(1), at(4)));
        assert_eq!(resume(&local, beyond, None), Resumed { lanes: local.clone(), doubtful: None });
        let marked = Cursor { doubtful: doubt, ..cursor(7, 1) };
        assert_eq!(resume(&local, None, Some(&marked)).doubtful, doubt, "a crash forgets no mark");
    }

    proptest! {
        #[test]
        fn what_is_no_cursor_does_no_harm(offset: i64, metadata in "(forebay1 )?[0-9a-f \\-+é]{0,120}") {
            let _ = Cursor::decode(&Committed { offset, metadata });
        }
    }
}
