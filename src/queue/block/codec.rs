//! Compression of a block's body.

use anyhow::{Context as _, ensure};

use crate::config::Compression;

/// The bits of a header's flags that name the codec.
pub(super) const MASK: u16 = 0b11;
const NONE: u16 = 0;
const LZ4: u16 = 1;
pub(super) const ZSTD: u16 = 2;

/// See `docs/decisions/0010-full-blocks.md`.
const ZSTD_LEVEL: i32 = 7;

/// Compresses, unless that makes it no smaller; says how.
pub(super) fn compress(compression: Compression, plain: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
    let (codec, packed) = match compression {
        Compression::None => return Ok((NONE, plain.to_vec())),
        Compression::Lz4 => (LZ4, lz4_flex::block::compress(plain)),
        Compression::Zstd => (ZSTD, zstd::bulk::compress(plain, ZSTD_LEVEL).context("zstd")?),
    };
    Ok(if packed.len() < plain.len() { (codec, packed) } else { (NONE, plain.to_vec()) })
}

/// The body again, of exactly so many bytes; no more are allocated for it.
pub(super) fn decompress(codec: u16, body: &[u8], plain_bytes: usize) -> anyhow::Result<Vec<u8>> {
    let plain = match codec {
        NONE => body.to_vec(),
        LZ4 => lz4_flex::block::decompress(body, plain_bytes).context("lz4 body")?,
        ZSTD => zstd::bulk::decompress(body, plain_bytes).context("zstd body")?,
        other => anyhow::bail!("codec {other} is not known"),
    };
    ensure!(plain.len() == plain_bytes, "body has {} bytes, header says {plain_bytes}", plain.len());
    Ok(plain)
}
