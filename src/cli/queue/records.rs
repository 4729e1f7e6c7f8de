//! `forebay queue peek` and `export`: records, chosen by stream, position and time.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::{Ended, Look, walk};
use crate::queue::block::Header;
use crate::queue::cipher::missing_key;
use crate::queue::lane::Lanes;
use crate::reading::json::{Object, write_time};
use crate::reading::{Name, Position, Record};
use crate::uplink::encode::encode_json;

/// Which records.
#[derive(Debug, Args)]
struct Choice {
    /// Only records of this stream (may be repeated)
    #[arg(long, value_name = "NAME")]
    stream: Vec<String>,
    /// Only records at or after this position
    #[arg(long, value_name = "RUN:SEQ")]
    from: Option<Position>,
    /// Only records at or before this position
    #[arg(long, value_name = "RUN:SEQ")]
    to: Option<Position>,
    /// Only records measured at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from_time: Option<i64>,
    /// Only records measured before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to_time: Option<i64>,
    /// Also records that are delivered (or were removed by a retention rule) and still on disk
    #[arg(long)]
    include_delivered: bool,
}

/// Arguments of `forebay queue peek`.
#[derive(Debug, Args)]
pub(super) struct PeekArguments {
    #[command(flatten)]
    choice: Choice,
    /// Most records shown
    #[arg(long, value_name = "RECORDS", default_value_t = 10)]
    limit: u64,
}

/// Arguments of `forebay queue export`.
#[derive(Debug, Args)]
pub(super) struct ExportArguments {
    #[command(flatten)]
    choice: Choice,
    /// A new file for the records; an existing one is not touched [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Microseconds since 1970.
pub(super) fn parse_time(text: &str) -> Result<i64, String> {
    let timestamp: jiff::Timestamp = text.parse().map_err(|_| "a time is like 2026-11-22T12:00:00Z".to_owned())?;
    Ok(timestamp.as_microsecond())
}

/// One record with what it needs to be printed.
struct Chosen<'a> {
    header: &'a Header,
    record: &'a Record,
}

pub(super) fn peek(look: &Look, arguments: &PeekArguments, out: &mut impl Write) -> anyhow::Result<Ended> {
    let mut left = arguments.limit;
    if left == 0 {
        return Ok(Ended::damaged(false));
    }
    let mut line = Vec::new();
    each_record(look, &arguments.choice, |chosen| {
        line.clear();
        if look.json {
            wire_line(&mut line, look, &chosen)
        } else {
            text_line(&mut line, &chosen)
        }
        out.write_all(&line)?;
        left -= 1;
        Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
}

pub(super) fn export(look: &Look, arguments: &ExportArguments, stdout: &mut impl Write) -> anyhow::Result<Ended> {
    let Some(path) = &arguments.output else {
        return export_to(look, &arguments.choice, stdout).map(|(_, damaged)| damaged);
    };
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let file = file.with_context(|| format!("output file {} cannot be created", path.display()))?;
    let mut out = io::BufWriter::new(file);
    let (records, damaged) = export_to(look, &arguments.choice, &mut out)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).with_context(|| format!("output file {}", path.display()))?;
    eprintln!("{records} records written to {}", path.display());
    Ok(damaged)
}

fn export_to(look: &Look, choice: &Choice, out: &mut impl Write) -> anyhow::Result<(u64, Ended)> {
    let mut line = Vec::new();
    let mut records = 0;
    let damaged = each_record(look, choice, |chosen| {
        line.clear();
        wire_line(&mut line, look, &chosen);
        out.write_all(&line)?;
        records += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    out.flush()?;
    Ok((records, damaged))
}

/// Hands on the chosen records: epoch by epoch, in each by stream and position, so ascending in every stream.
fn each_record(
    look: &Look,
    choice: &Choice,
    mut each: impl FnMut(Chosen<'_>) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<Ended> {
    let (mut unreadable, mut closed) = (0u64, 0u64);
    let mut lanes: Option<(Name, Lanes)> = None;
    let met = walk::blocks(look, |view, block, first_new| {
        let header = &block.header;
        let lanes = match &mut lanes {
            Some((stream, lanes)) if *stream == header.stream => lanes,
            other => &mut other.insert((header.stream.clone(), look.inspection.lanes(&header.stream))).1,
        };
        let lanes = (!choice.include_delivered).then_some(&*lanes);
        if !choice.may_take(header, lanes) {
            return Ok(ControlFlow::Continue(()));
        }
        let records = match view.read(block) {
            Ok(records) => records,
            Err(error) if missing_key(&error).is_some() => {
                closed += 1;
                if closed == 1 {
                    eprintln!("forebay: {error:#}");
                }
                return Ok(ControlFlow::Continue(()));
            }
            Err(error) => {
                unreadable += 1;
                eprintln!("forebay: {error:#}");
                return Ok(ControlFlow::Continue(()));
            }
        };
        for record in records.iter().filter(|record| record.position >= first_new && choice.takes(record, lanes)) {
            if each(Chosen { header, record })?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if met.newer > 0 {
        eprintln!("forebay: {} blocks of a newer version were left out", met.newer);
    }
    if met.damaged > 0 {
        eprintln!("forebay: {} blocks are damaged, see `forebay queue verify`", met.damaged);
    }
    if closed > 0 {
        eprintln!("forebay: {closed} blocks are encrypted with keys that were not given (--key), they were left out");
    }
    Ok(match (unreadable + met.damaged, closed) {
        (0, 0) => Ended::Well,
        (0, _) => Ended::KeyMissing,
        _ => Ended::Damaged,
    })
}

impl Choice {
    /// Whether some of the block's records may be chosen, by its header.
    fn may_take(&self, header: &Header, lanes: Option<&Lanes>) -> bool {
        (self.stream.is_empty() || self.stream.iter().any(|name| **name == *header.stream))
            && self.from.is_none_or(|from| header.last >= from)
            && self.to.is_none_or(|to| header.first <= to)
            && lanes.is_none_or(|lanes| lanes.first_open(header.first) <= header.last)
    }

    fn takes(&self, record: &Record, lanes: Option<&Lanes>) -> bool {
        let wall_us = record.stamp.wall_us;
        self.from.is_none_or(|from| record.position >= from)
            && self.to.is_none_or(|to| record.position <= to)
            && self.from_time.is_none_or(|from_us| wall_us >= from_us)
            && self.to_time.is_none_or(|to_us| wall_us < to_us)
            && lanes.is_none_or(|lanes| !lanes.is_done(record.position))
    }
}

/// The record as Kafka gets it.
fn wire_line(line: &mut Vec<u8>, look: &Look, Chosen { header, record }: &Chosen<'_>) {
    encode_json(line, &header.stream, &header.lineage, record, &look.tags);
    line.push(b'\n');
}

/// The record for people: names are escaped, they came from outside.
fn text_line(line: &mut Vec<u8>, Chosen { header, record }: &Chosen<'_>) {
    line.extend_from_slice(format!("{} {} ", header.stream.escape_debug(), record.position).as_bytes());
    write_time(line, record.stamp.wall_us);
    let (trust, device) = (record.stamp.trust.as_str(), record.device.escape_debug());
    line.extend_from_slice(format!(" {trust} {device} ").as_bytes());
    let mut object = Object::begin(line);
    for field in &record.fields {
        object.value(&field.name, &field.value);
    }
    object.end();
    if record.skipped > 0 {
        line.extend_from_slice(format!(" ({} skipped before it)", record.skipped).as_bytes());
    }
    line.push(b'\n');
}
