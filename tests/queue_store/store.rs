//! The block store alone on a disk that is full: an append is refused or fails cleanly, and it goes on once there is room.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::Context as _;
use forebay::config::Compression;
use forebay::metrics::Metrics;
use forebay::queue::block::{SealContext, SealedBlock, seal};
use forebay::queue::recovery;
use forebay::queue::store::{BlockStore as _, StoreError};
use forebay::reading::{Field, Lineage, Name, Position, Record, Stamp, Trust, Value};

use super::disk::LoopDisk;
use super::{QUOTA_BYTES, STREAM};

const RECORDS: u64 = 60;

fn block_at(first: Position) -> anyhow::Result<SealedBlock> {
    let context = SealContext {
        stream: STREAM.into(),
        lineage: Arc::new(Lineage { gateway: "storm".into(), queue: uuid::Uuid::nil(), boot_index: 0 }),
        prev_last: None,
        cursor_at_seal: Position::ZERO,
        compression: Compression::None,
        keys: Default::default(),
    };
    seal(&context, &records_from(first))
}

fn records_from(first: Position) -> Vec<Record> {
    let text = |n: u64| format!("{:0>200}", first.packed().wrapping_mul(n + 3));
    (0..RECORDS)
        .map(|n| Record {
            position: Position::from_packed(first.packed() + n),
            skipped: 0,
            thinned: 0,
            stamp: Stamp { boot_ns: n, wall_us: 0, trust: Trust::Ntp },
            source: Name::from("storm"),
            device: Name::from("device"),
            fields: vec![Field::new("text", Value::Text(text(n)))],
        })
        .collect()
}

/// Fills a small file system beside the queue: the append must be refused or fail cleanly, and go on once there is room.
pub fn fill_disk() -> anyhow::Result<()> {
    let disk = LoopDisk::make(96)?;
    let dir = disk.mount_point.join("state");
    let mut opened = recovery::open(&dir, Some(QUOTA_BYTES), Metrics::new().0)?;
    let mut seq = 0;
    let mut append = |opened: &mut recovery::Opened| -> Result<(), StoreError> {
        let block = block_at(Position::new(1, seq)).map_err(|source| StoreError::Failed {
            what: "seal",
            path: String::new(),
            source,
        })?;
        opened.store.append(&[block])?;
        seq += RECORDS;
        Ok(())
    };
    for _ in 0..100 {
        append(&mut opened)?;
    }
    let filler = disk.mount_point.join("filler");
    let mut file = std::fs::File::create(&filler)?;
    while file.write_all(&[1; 65536]).is_ok() {}
    drop(file);
    let refused = append(&mut opened).err().context("an append on a full disk went through")?;
    println!("full disk: {refused}");
    let mut at = Position::new(1, 0);
    for _ in 0..100 {
        let block = opened.store.read(STREAM, at)?.with_context(|| format!("no block at {at} on the full disk"))?;
        at = block.header.last.next();
    }
    std::fs::remove_file(&filler)?;
    append(&mut opened).context("append once there is room")?;
    println!("full disk: 100 of 100 blocks read, appends go on once there is room");
    Ok(())
}
