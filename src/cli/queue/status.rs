//! `forebay queue status`: what waits, per stream, and what the queue takes on disk.

use std::io::Write;
use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::{Ended, Look, walk};
use crate::queue::cipher::missing_key;
use crate::queue::inspect::{BlockAt, EpochView};
use crate::queue::lane::Lanes;
use crate::queue::state::{State, StreamState};
use crate::reading::json::write_time;
use crate::reading::{Name, Position};

/// One stream, as far as it is on disk.
struct Stream {
    name: Name,
    lanes: Lanes,
    blocks: u64,
    bytes: u64,
    waiting: u64,
    done: u64,
    /// Records thinned out, as those that wait tell.
    thinned: u64,
    /// Wall time of the first record that waits and of the newest on disk, microseconds since 1970.
    oldest_us: Option<i64>,
    newest_us: Option<i64>,
    unreadable: u64,
    /// Encrypted with a key that is not at hand.
    closed: u64,
}

pub(super) fn run(look: &Look, out: &mut impl Write) -> anyhow::Result<Ended> {
    let state = look.inspection.state();
    let mut streams: Vec<Stream> =
        state.iter().flat_map(|state| &state.streams).map(|known| Stream::new(look, &known.name)).collect();
    let met = walk::blocks(look, |view, block, first_new| {
        let name = &block.header.stream;
        let at = streams.iter().position(|stream| stream.name == *name).unwrap_or_else(|| {
            streams.push(Stream::new(look, name));
            streams.len() - 1
        });
        // The newest record's time is in its body: the last block of the stream in this epoch is decoded for it.
        let last = view.blocks.iter().rfind(|other| other.header.stream == *name);
        streams[at].add(view, block, first_new, last == Some(block));
        Ok(ControlFlow::Continue(()))
    })?;
    let unreadable: u64 = streams.iter().map(|stream| stream.unreadable).sum();
    let damaged = met.damaged + unreadable;
    if look.json {
        writeln!(out, "{}", to_json(look, state, &streams, &met, damaged))?;
    } else {
        write_text(out, look, state, &streams, &met, damaged)?;
    }
    Ok(Ended::damaged(damaged > 0))
}

impl Stream {
    fn new(look: &Look, name: &Name) -> Self {
        Self {
            name: name.clone(),
            lanes: look.inspection.lanes(name),
            blocks: 0,
            bytes: 0,
            waiting: 0,
            done: 0,
            thinned: 0,
            oldest_us: None,
            newest_us: None,
            unreadable: 0,
            closed: 0,
        }
    }

    /// Counts a block's records from `first_new` on; decodes it only where its header does not say enough.
    fn add(&mut self, view: &EpochView, block: &BlockAt, first_new: Position, is_last: bool) {
        let header = &block.header;
        self.blocks += 1;
        self.bytes += block.bytes as u64;
        let open = |(next, end): &(Position, Position)| *next <= header.first && header.last < *end;
        let all_new = first_new == header.first;
        let all_waits = all_new && self.lanes.pairs().iter().any(open);
        let all_done = all_new && self.lanes.first_open(header.first) > header.last;
        let times_known = !is_last && (all_done || self.oldest_us.is_some());
        if (all_waits || all_done) && times_known && (all_done || !block.has_thinned) {
            *(if all_waits { &mut self.waiting } else { &mut self.done }) += u64::from(header.count);
            return;
        }
        let records = match view.read(block) {
            Ok(records) => records,
            Err(error) if missing_key(&error).is_some() => return self.add_closed(block, first_new),
            Err(_) => {
                self.unreadable += 1;
                return;
            }
        };
        for record in records.iter().filter(|record| record.position >= first_new) {
            if self.lanes.is_done(record.position) {
                self.done += 1;
            } else {
                self.waiting += 1;
                self.thinned = self.thinned.saturating_add(record.thinned);
                self.oldest_us.get_or_insert(record.stamp.wall_us);
            }
            self.newest_us = Some(record.stamp.wall_us);
        }
    }
}

impl Stream {
    /// Counts a block that does not open by its header: inside a block positions mostly follow each other.
    fn add_closed(&mut self, block: &BlockAt, first_new: Position) {
        let header = &block.header;
        let span =
            |from: Position| (header.last.packed() + 1).saturating_sub(from.packed()).min(u64::from(header.count));
        let (new, waiting) = (span(first_new), span(self.lanes.first_open(first_new)));
        self.waiting += waiting;
        self.done += new - waiting.min(new);
        self.closed += 1;
    }
}

fn time(wall_us: Option<i64>) -> Option<String> {
    let mut text = Vec::new();
    write_time(&mut text, wall_us?);
    String::from_utf8(text).ok()
}

fn known<'a>(state: Option<&'a State>, name: &str) -> Option<&'a StreamState> {
    state?.streams.iter().find(|known| &*known.name == name)
}

fn to_json(look: &Look, state: Option<&State>, streams: &[Stream], met: &walk::Met, damaged: u64) -> Value {
    let streams_closed: u64 = streams.iter().map(|stream| stream.closed).sum();
    let streams: Vec<Value> = streams
        .iter()
        .map(|stream| {
            let known = known(state, &stream.name);
            let lanes = stream.lanes.pairs().iter();
            json!({
                "stream": &*stream.name,
                "waiting_records": stream.waiting,
                "delivered_records": stream.done,
                "thinned_records": stream.thinned,
                "blocks": stream.blocks,
                "bytes": stream.bytes,
                "oldest_waiting": time(stream.oldest_us),
                "newest": time(stream.newest_us),
                "cursor": stream.lanes.cursor().to_string(),
                "lanes": lanes.map(|(next, end)| [next.to_string(), end.to_string()]).collect::<Vec<_>>(),
                "skipped": known.map_or(0, |known| known.skipped.iter().map(|(_, count)| count).sum::<u64>()),
                "in_doubt": known.and_then(|known| known.in_doubt).map(|(first, last)| {
                    [first, last].map(|packed| Position::from_packed(packed).to_string())
                }),
            })
        })
        .collect();
    json!({
        "directory": look.inspection.dir().display().to_string(),
        "queue": state.map(|state| state.queue().to_string()),
        "run": state.map(|state| state.run),
        "agent_pid": look.inspection.agent_pid(),
        "disk_bytes": look.inspection.disk_bytes(),
        "quota_bytes": state.map(|state| state.quota_bytes),
        "epochs": met.epochs,
        "epochs_vanished": met.vanished,
        "newer_blocks": met.newer,
        "damaged_blocks": damaged,
        "quarantined_epochs": look.inspection.quarantined(),
        "closed_blocks": streams_closed,
        "key": look.inspection.key().map(|key| key.to_string()),
        "streams": streams,
    })
}

fn write_text(
    out: &mut impl Write,
    look: &Look,
    state: Option<&State>,
    streams: &[Stream],
    met: &walk::Met,
    damaged: u64,
) -> std::io::Result<()> {
    let inspection = &look.inspection;
    let agent =
        inspection.agent_pid().map_or("not seen running here".to_owned(), |pid| format!("running, process {pid}"));
    writeln!(out, "directory   {}", inspection.dir().display())?;
    writeln!(out, "agent       {agent}")?;
    match state {
        Some(state) => writeln!(out, "queue       {}, run {}", state.queue(), state.run)?,
        None => writeln!(out, "queue       no durable state is whole: everything on disk counts as waiting")?,
    }
    if let Some(key) = inspection.key() {
        writeln!(out, "key         {key}")?;
    }
    let quota = state.map(|state| state.quota_bytes).filter(|bytes| *bytes > 0);
    let quota = quota.map_or(String::new(), |bytes| format!(" of {}", indicatif::BinaryBytes(bytes)));
    writeln!(out, "disk        {}{quota}, {} epochs", indicatif::BinaryBytes(inspection.disk_bytes()), met.epochs)?;
    let notes = [
        (
            streams.iter().map(|stream| stream.closed).sum(),
            "blocks looked at were encrypted with keys not given (--key): times are unknown",
        ),
        (damaged, "damaged blocks, see `forebay queue verify`"),
        (met.newer, "blocks of a newer version, kept for a newer forebay"),
        (inspection.quarantined() as u64, "damaged epochs in quarantine, after a rescue"),
        (met.vanished, "epochs vanished meanwhile: delivered or dropped by the agent"),
    ];
    for (count, what) in notes.into_iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "note        {count} {what}")?;
    }
    writeln!(
        out,
        "\n{:<20} {:>12} {:>12} {:>10} {:>16}  {:<24}  newest",
        "stream", "waiting", "delivered", "bytes", "cursor", "oldest waiting"
    )?;
    for stream in streams {
        let dash = || "-".to_owned();
        let (oldest, newest) =
            (time(stream.oldest_us).unwrap_or_else(dash), time(stream.newest_us).unwrap_or_else(dash));
        let (name, cursor) = (stream.name.escape_debug().to_string(), stream.lanes.cursor().to_string());
        let bytes = indicatif::BinaryBytes(stream.bytes).to_string();
        writeln!(
            out,
            "{name:<20} {:>12} {:>12} {bytes:>10} {cursor:>16}  {oldest:<24}  {newest}",
            stream.waiting, stream.done
        )?;
        if stream.thinned > 0 {
            writeln!(out, "  {} records thinned out among those that wait", stream.thinned)?;
        }
        let marks = known(state, &stream.name);
        if let Some((first, last)) = marks.and_then(|known| known.in_doubt) {
            let [first, last] = [first, last].map(Position::from_packed);
            writeln!(out, "  a transaction over {first} to {last} is in doubt")?;
        }
        if stream.lanes.pairs().len() > 1 {
            let lanes = stream.lanes.pairs().iter().map(|(next, end)| match *end {
                Position::END => format!("{next} on"),
                end => format!("{next} to before {end}"),
            });
            writeln!(out, "  lanes: {}", lanes.collect::<Vec<_>>().join(", "))?;
        }
    }
    Ok(())
}
