//! stub of the block format: the storage part replaces it
use crate::reading::{Lineage, Name, Position, Record};
use std::sync::Arc;

/// The clear part of a block.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The stream.
    pub stream: Name,
    /// What its records have in common (gateway, queue uuid, boot index).
    pub lineage: Arc<Lineage>,
    /// First position.
    pub first: Position,
    /// Last position; same run as `first`.
    pub last: Position,
    /// Records in it.
    pub count: u32,
    /// `last` of the stream's previous block, of whatever run; `None`: there was none.
    pub prev_last: Option<Position>,
    /// The stream's cursor when it was sealed.
    pub cursor_at_seal: Position,
    /// Boot time of its oldest and newest record, ns.
    pub boot_ns: (u64, u64),
}

/// A block: clear header and the whole frame as it goes to disk.
#[derive(Debug, Clone, PartialEq)]
pub struct SealedBlock {
    /// The parsed header.
    pub header: Header,
    /// Header, body, CRC: all bytes.
    pub bytes: Vec<u8>,
}

/// What a seal needs beside the records.
#[derive(Debug, Clone)]
pub struct SealContext {
    /// The stream.
    pub stream: Name,
    /// Common parts.
    pub lineage: Arc<Lineage>,
    /// See [`Header::prev_last`].
    pub prev_last: Option<Position>,
    /// See [`Header::cursor_at_seal`].
    pub cursor_at_seal: Position,
    /// Compression.
    pub compression: crate::config::Compression,
}

type Row = (u64, u64, u64, i64, u8, String, String, Vec<(String, u64)>);

/// Seals records (ascending, one run, at least one) into one block.
#[allow(clippy::missing_errors_doc)]
pub fn seal(context: &SealContext, records: &[Record]) -> anyhow::Result<SealedBlock> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else { anyhow::bail!("no records") };
    let rows: Vec<Row> = records
        .iter()
        .map(|r| {
            let fields = r
                .fields
                .iter()
                .map(|f| (f.name.to_string(), if let crate::reading::Value::Unsigned(n) = f.value { n } else { 0 }))
                .collect();
            (
                r.position.packed(),
                r.skipped,
                r.stamp.boot_ns,
                r.stamp.wall_us,
                r.stamp.trust as u8,
                r.source.to_string(),
                r.device.to_string(),
                fields,
            )
        })
        .collect();
    Ok(SealedBlock {
        header: Header {
            stream: context.stream.clone(),
            lineage: context.lineage.clone(),
            first: first.position,
            last: last.position,
            count: records.len() as u32,
            prev_last: context.prev_last,
            cursor_at_seal: context.cursor_at_seal,
            boot_ns: (first.stamp.boot_ns, last.stamp.boot_ns),
        },
        bytes: postcard::to_allocvec(&rows)?,
    })
}

/// Decodes a block's records, checking its CRC.
#[allow(clippy::missing_errors_doc)]
pub fn open(block: &SealedBlock) -> anyhow::Result<Vec<Record>> {
    let rows: Vec<Row> = postcard::from_bytes(&block.bytes)?;
    Ok(rows
        .into_iter()
        .map(|(p, skipped, boot_ns, wall_us, trust, source, device, fields)| Record {
            position: Position::from_packed(p),
            skipped,
            stamp: crate::reading::Stamp { boot_ns, wall_us, trust: crate::reading::Trust::from_u8(trust) },
            source: source.into(),
            device: device.into(),
            fields: fields
                .into_iter()
                .map(|(n, v)| crate::reading::Field::new(n, crate::reading::Value::Unsigned(v)))
                .collect(),
        })
        .collect())
}

/// Largest record, encoded.
pub const RECORD_BYTES_MAX: usize = 24 * 1024;

/// Estimate of a record's encoded size.
pub fn record_bytes(record: &Record) -> usize {
    32 + record.device.len()
        + record
            .fields
            .iter()
            .map(|f| 12 + f.name.len() + if let crate::reading::Value::Text(t) = &f.value { t.len() } else { 8 })
            .sum::<usize>()
}
