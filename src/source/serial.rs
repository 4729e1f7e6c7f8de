//! Serial sensors that talk by themselves: frames of a preset, or lines of text.

use std::time::Duration;

use tokio_serial::SerialStream;

use crate::clock::boot_ns;
use crate::config::{Format, Preset, Serial};
use crate::decode::{Trouble, frame, lines};
use crate::reading::Field;
use crate::source::port::{self, Keeper, NoBytes};
use crate::source::{Outlet, Stopped};

/// Read buffer: half a second of a line at 115 200 baud would be more than a UART driver holds.
const READ_BYTES: usize = 4096;

/// How long to wait for bytes before looking again; a sensor may be silent for hours.
const PATIENCE: Duration = Duration::from_secs(60);

/// Silence after the port was opened that no sensor makes within a line, at least.
const OPENING_SILENCE_MIN: Duration = Duration::from_millis(100);

/// Reads the sensor until the agent stops.
pub(crate) async fn run(config: Serial, outlet: Outlet) {
    let mut keeper = Keeper::new(&outlet, &config.port);
    let mut decoder = Decoder::new(&config.format);
    while let Ok(mut stream) = keeper.open(&config.line).await {
        match session(&mut stream, config.line.baud, &mut decoder, &mut keeper, &outlet).await {
            NoBytes::Lost(error) => keeper.lost(&error),
            NoBytes::Stopped | NoBytes::Silence => break,
        }
        decoder.reset();
    }
    outlet.metrics.source_is_up(&outlet.source, false);
}

/// Reads one opening of the port to its end.
async fn session(
    stream: &mut SerialStream,
    baud: u32,
    decoder: &mut Decoder<'_>,
    keeper: &mut Keeper<'_>,
    outlet: &Outlet,
) -> NoBytes {
    let mut buffer = vec![0; READ_BYTES];
    // Two characters of up to 12 bits: at 50 baud one takes longer than the least silence.
    let opening_silence = Duration::from_secs_f64(24.0 / f64::from(baud.max(1))).max(OPENING_SILENCE_MIN);
    loop {
        let patience = if decoder.awaits_silence() { opening_silence } else { PATIENCE };
        let bytes = match port::read(stream, &mut buffer, patience, outlet).await {
            Ok(bytes) => bytes,
            Err(NoBytes::Silence) => {
                decoder.silence();
                continue;
            }
            Err(end) => return end,
        };
        keeper.works();
        let mut readings = Vec::new();
        decoder.push(&buffer[..bytes], boot_ns(), &mut |at, fields| readings.push((at, fields)));
        outlet.count(&decoder.take_trouble());
        if let Some(error) = decoder.first_error.take().filter(|_| !decoder.is_reported) {
            decoder.is_reported = true;
            tracing::warn!(source = %outlet.source, error = %error, "line not understood; more like it are only counted");
        }
        for (at, fields) in readings {
            if let Err(Stopped) = outlet.send(at, None, fields).await {
                return NoBytes::Stopped;
            }
        }
    }
}

/// The decoder a format asks for, and when the frame in progress began.
struct Decoder<'a> {
    format: &'a Format,
    framing: Framing,
    began_boot_ns: u64,
    malformed: u64,
    /// The first line of this opening of the port that was not understood: reported once, the rest is counted.
    first_error: Option<lines::LineError>,
    is_reported: bool,
}

enum Framing {
    Frames(frame::Decoder),
    Lines(lines::Splitter),
}

impl<'a> Decoder<'a> {
    fn new(format: &'a Format) -> Self {
        let framing = match format {
            Format::Csv { line_bytes_max, .. } | Format::KeyValue { line_bytes_max, .. } => {
                Framing::Lines(lines::Splitter::new(*line_bytes_max))
            }
            Format::Preset(Preset::Pms5003) => Framing::Frames(frame::Decoder::new(frame::PMS5003)),
        };
        Self { format, framing, began_boot_ns: 0, malformed: 0, first_error: None, is_reported: false }
    }

    /// Takes in what arrived at `arrived_boot_ns`; `emit` gets each reading's fields and when its first byte came.
    fn push(&mut self, bytes: &[u8], arrived_boot_ns: u64, emit: &mut impl FnMut(u64, Vec<Field>)) {
        let is_between = match &self.framing {
            Framing::Frames(decoder) => decoder.is_between_frames(),
            Framing::Lines(splitter) => splitter.is_between_lines(),
        };
        let mut began = if is_between { arrived_boot_ns } else { self.began_boot_ns };
        // What follows the first frame of these bytes began with these bytes.
        let mut emit = |fields| emit(std::mem::replace(&mut began, arrived_boot_ns), fields);
        match &mut self.framing {
            Framing::Frames(decoder) => decoder.push(bytes, &mut emit),
            Framing::Lines(splitter) => splitter.push(bytes, &mut |line| match lines::parse(self.format, line) {
                Ok(fields) => emit(fields),
                Err(error) => {
                    self.malformed += 1;
                    self.first_error.get_or_insert(error);
                }
            }),
        }
        self.began_boot_ns = began;
    }

    /// Whether it is to be told that the port was silent since it was opened.
    fn awaits_silence(&self) -> bool {
        matches!(&self.framing, Framing::Lines(splitter) if splitter.awaits_silence())
    }

    fn silence(&mut self) {
        if let Framing::Lines(splitter) = &mut self.framing {
            splitter.silence();
        }
    }

    fn take_trouble(&mut self) -> Trouble {
        let mut trouble = match &mut self.framing {
            Framing::Frames(decoder) => decoder.trouble().take(),
            Framing::Lines(splitter) => splitter.trouble().take(),
        };
        trouble.malformed += std::mem::take(&mut self.malformed);
        trouble
    }

    fn reset(&mut self) {
        self.is_reported = false;
        match &mut self.framing {
            Framing::Frames(decoder) => decoder.reset(),
            Framing::Lines(splitter) => splitter.reset(),
        }
    }
}

#[cfg(test)]
mod tests;
