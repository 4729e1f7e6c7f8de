//! What the stores of the tests share where epochs are rewritten: sums of an epoch, and which blocks it has afterwards.

use std::time::Duration;

use forebay::queue::block::{self, SealedBlock};
use forebay::queue::lane::Lanes;
use forebay::queue::store::{Replacement, StreamEpoch};
use forebay::reading::{Name, Position};

/// What blocks of an epoch, in the order of a stream's positions, say of the stream.
pub fn stream_epoch<'a>(
    number: u64,
    blocks: impl Iterator<Item = (&'a block::Header, usize)> + Clone,
    stream: &str,
    passes: &[(Name, u32)],
    rewritable: bool,
) -> Option<StreamEpoch> {
    let at = |header: &block::Header| (header.lineage.boot_index, Duration::from_nanos(header.boot_ns.0));
    let mut mine: Vec<&block::Header> =
        blocks.clone().map(|(header, _)| header).filter(|header| &*header.stream == stream).collect();
    mine.sort_by_key(|header| header.first);
    let (first, last) = (mine.first()?, mine.last()?);
    let steps = mine.windows(2).map(|two| (at(two[0]), at(two[1]))).filter(|(one, two)| one.0 == two.0);
    Some(StreamEpoch {
        number,
        first: first.first,
        last: mine.iter().map(|header| header.last).max()?,
        records: mine.iter().map(|header| u64::from(header.count)).sum(),
        oldest: at(first),
        newest: at(last),
        covered: steps.map(|(one, two)| two.1.saturating_sub(one.1)).sum(),
        pass: passes.iter().find(|(name, _)| &**name == stream).map_or(0, |(_, pass)| *pass),
        epoch_bytes: blocks.clone().map(|(_, bytes)| bytes as u64).sum(),
        epoch_blocks: u32::try_from(blocks.count()).unwrap(),
        rewritable,
    })
}

/// The stream's blocks among these, in the order of positions, and the others; without those that are done.
pub fn split(stream: &str, blocks: Vec<SealedBlock>, lanes: &[(Name, Lanes)]) -> (Vec<SealedBlock>, Vec<SealedBlock>) {
    let done = |block: &SealedBlock| {
        let header = &block.header;
        lanes.iter().any(|(name, of)| *name == header.stream && of.is_range_done(header.first, header.last))
    };
    let (mut mine, others): (Vec<_>, Vec<_>) =
        blocks.into_iter().filter(|block| !done(block)).partition(|block| &*block.header.stream == stream);
    mine.sort_by_key(|block| (block.header.first, block.header.last));
    (mine, others)
}

/// What becomes of the blocks of the epochs that are put together, in the order of positions; `None`: it is not worth it.
///
/// # Errors
/// When the stream's blocks are not those that the replacement was made of.
pub fn put_together(
    replacement: &Replacement,
    blocks: Vec<SealedBlock>,
    lanes: &[(Name, Lanes)],
) -> std::io::Result<Option<Vec<SealedBlock>>> {
    let bytes = |blocks: &[SealedBlock]| blocks.iter().map(|block| block.bytes.len()).sum::<usize>();
    let before = bytes(&blocks);
    let (old, mut others) = split(&replacement.stream, blocks, lanes);
    let records: u64 = old.iter().map(|block| u64::from(block.header.count)).sum();
    let last = |blocks: &[SealedBlock]| blocks.iter().map(|block| block.header.last).max();
    if (records, last(&old)) != (replacement.records_before, last(&replacement.blocks)) {
        return Err(std::io::Error::other("blocks are not what they were"));
    }
    others.extend(replacement.blocks.clone());
    others.sort_by(|a, b| (&a.header.stream, a.header.first).cmp(&(&b.header.stream, b.header.first)));
    Ok((bytes(&others) + before / 8 <= before).then_some(others))
}

/// Records of a block at or after `from` that are not done, and those that they tell of. Of a block that only a newer
/// agent can open, all positions are taken for records that tell of none.
pub fn open_records(block: &SealedBlock, from: Position, lanes: &Lanes) -> (u64, u64) {
    if block.header.newer.is_some() {
        let from = from.max(block.header.first);
        let positions = (block.header.last.packed() + 1).saturating_sub(from.packed());
        return (positions.saturating_sub(lanes.done_positions(from, block.header.last)), 0);
    }
    let records = forebay::queue::block::open(block, &Default::default()).unwrap_or_default();
    let open = || records.iter().filter(|record| record.position >= from && !lanes.is_done(record.position));
    (open().count() as u64, open().map(|record| record.skipped).sum())
}
