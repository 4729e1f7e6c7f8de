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

/// Seals records (ascending, one run, at least one) into one block.
#[allow(unused_variables, clippy::missing_errors_doc)]
pub fn seal(context: &SealContext, records: &[Record]) -> anyhow::Result<SealedBlock> {
    todo!()
}

/// Decodes a block's records, checking its CRC.
#[allow(unused_variables, clippy::missing_errors_doc)]
pub fn open(block: &SealedBlock) -> anyhow::Result<Vec<Record>> {
    todo!()
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
