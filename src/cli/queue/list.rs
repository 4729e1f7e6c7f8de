//! `forebay queue list`: every block.

use std::io::Write;
use std::ops::ControlFlow;

use clap::Args;
use serde_json::json;

use super::{Ended, Look, walk};
use crate::queue::block::Header;
use crate::queue::inspect::BlockAt;
use crate::queue::lane::Lanes;

/// Arguments of `forebay queue list`.
#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Only blocks of this stream (may be repeated)
    #[arg(long, value_name = "NAME")]
    stream: Vec<String>,
}

pub(super) fn run(look: &Look, arguments: &ListArguments, out: &mut impl Write) -> anyhow::Result<Ended> {
    if !look.json {
        writeln!(
            out,
            "{:>12} {:<20} {:>16} {:>16} {:>8} {:>8} {:>5} delivered",
            "epoch", "stream", "first", "last", "records", "bytes", "boot"
        )?;
    }
    let mut lanes: Vec<(String, Lanes)> = Vec::new();
    let met = walk::epochs(look, |view| {
        let epoch = format!("{}.{}", view.number, view.generation);
        for newer in &view.newer {
            if look.json {
                writeln!(out, "{}", json!({"epoch": epoch, "version": newer.version, "bytes": newer.bytes}))?;
            } else {
                writeln!(
                    out,
                    "{epoch:>12} block of version {}, {} bytes, kept for a newer forebay",
                    newer.version, newer.bytes
                )?;
            }
        }
        for block in &view.blocks {
            let stream = &*block.header.stream;
            if !arguments.stream.is_empty() && !arguments.stream.iter().any(|name| name == stream) {
                continue;
            }
            if !lanes.iter().any(|(name, _)| name == stream) {
                // One stream's blocks mostly stand together; a bounded memory of names is enough.
                lanes.truncate(15);
                lanes.push((stream.to_owned(), look.inspection.lanes(stream)));
            }
            let delivered = lanes
                .iter()
                .find(|(name, _)| name == stream)
                .map_or("no", |(_, lanes)| delivered(&block.header, lanes));
            write_block(look.json, out, &epoch, block, delivered)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Ended::damaged(met.damaged > 0))
}

/// `yes`, `no` or `partly`: delivered, or removed on purpose, which is as done.
fn delivered(header: &Header, lanes: &Lanes) -> &'static str {
    if lanes.first_open(header.first) > header.last {
        return "yes";
    }
    let open_throughout = lanes.pairs().iter().any(|(next, end)| *next <= header.first && header.last < *end);
    if open_throughout { "no" } else { "partly" }
}

fn write_block(json: bool, out: &mut impl Write, epoch: &str, block: &BlockAt, delivered: &str) -> std::io::Result<()> {
    let Header { stream, lineage, first, last, count, key, .. } = &block.header;
    if json {
        let line = json!({
            "epoch": epoch, "stream": &**stream, "first": first.to_string(), "last": last.to_string(), "records": count,
            "bytes": block.bytes, "boot": lineage.boot_index, "gateway": &*lineage.gateway,
            "queue": lineage.queue.to_string(), "delivered": delivered, "key": key.map(|key| key.to_string()),
        });
        return writeln!(out, "{line}");
    }
    let (first, last, stream) = (first.to_string(), last.to_string(), stream.escape_debug().to_string());
    writeln!(
        out,
        "{epoch:>12} {stream:<20} {first:>16} {last:>16} {count:>8} {:>8} {:>5} {delivered}",
        block.bytes, lineage.boot_index
    )
}
