//! A record that Kafka refuses, on its way to the dead-letter topic: the message it would have been, and headers that
//! say where it comes from and why it is there.

use super::lane::{Event, Lane};
use crate::clock::{boot_ns, wall_us};
use crate::kafka::{Class, Failure};
use crate::queue::{Queue, StreamIndex};
use crate::reading::json::write_time;
use crate::reading::{Lineage, Position, Record};

/// Tries of a letter that end without an answer before it goes into the file: a dead-letter topic that is broken does not
/// hold its streams.
const TRIES_MAX: u32 = 3;

/// What `forebay_records_set_aside_total` says of a record that is in the dead-letter topic.
pub const REASON: &str = "poison_topic";

/// A record that is to be set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Which.
    pub position: Position,
    /// Why Kafka refuses it.
    pub failure: Failure,
    /// Tries that ended without an answer.
    pub tries: u32,
}

impl Letter {
    /// Nothing was tried yet.
    pub fn new(position: Position, failure: Failure) -> Self {
        Self { position, failure, tries: 0 }
    }

    /// It did not arrive. `is_up`: the uplink has a connection; without one nothing is known of the topic, and nothing
    /// else goes on meanwhile.
    pub fn failed(&mut self, failure: &Failure, is_up: bool) -> Next {
        if matches!(failure.class, Class::Poison | Class::Held) {
            return Next::File;
        }
        self.tries += u32::from(is_up);
        if self.tries < TRIES_MAX { Next::Again } else { Next::File }
    }
}

/// Where a letter goes that did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// To the topic once more.
    Again,
    /// Into the dead-letter file.
    File,
}

/// Puts a record that Kafka refuses with this error into the dead-letter file; gives what its stream does then.
pub fn file(queue: &Queue, stream: StreamIndex, lane: &mut Lane, (position, error): (Position, &str)) -> Vec<Event> {
    match queue.set_aside(stream, position, error) {
        Ok(()) => lane.was_set_aside().into_iter().collect(),
        Err(failed) => {
            let reason = format!("poison record {position} ({error}) stays: {failed}");
            lane.not_set_aside(reason, boot_ns(), fastrand::f64())
        }
    }
}

/// What the headers of a letter say beside those that the message would have had.
pub fn headers(
    lineage: &Lineage,
    stream: &str,
    topic: &str,
    record: &Record,
    failure: &Failure,
) -> Vec<(&'static str, String)> {
    let time = |wall_us| {
        let mut text = Vec::new();
        write_time(&mut text, wall_us);
        String::from_utf8_lossy(&text).into_owned()
    };
    let mut headers = vec![
        ("forebay-gateway", lineage.gateway.to_string()),
        ("forebay-stream", stream.to_owned()),
        ("forebay-topic", topic.to_owned()),
        ("forebay-device", record.device.to_string()),
        ("forebay-queue", lineage.queue.simple().to_string()),
        ("forebay-run", record.position.run().to_string()),
        ("forebay-seq", record.position.seq().to_string()),
        ("forebay-time", time(record.stamp.wall_us)),
        ("forebay-set-aside", time(wall_us())),
        ("forebay-error-text", failure.text.clone()),
    ];
    if !failure.name.is_empty() {
        headers.push(("forebay-error", failure.name.to_owned()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Stamp, Trust};

    #[test]
    fn headers_say_where_it_comes_from_and_why() {
        let lineage = Lineage { gateway: "truck-17".into(), queue: uuid::Uuid::from_u128(7), boot_index: 0 };
        let record = Record {
            position: Position::new(3, 5),
            skipped: 0,
            thinned: 0,
            stamp: Stamp { boot_ns: 1, wall_us: 1_795_348_800_123_456, trust: Trust::Gnss },
            source: "plc".into(),
            device: "boiler".into(),
            fields: Vec::new(),
        };
        let failure = Failure { name: "MESSAGE_TOO_LARGE", ..Failure::unwritable("too large".into()) };
        let headers = headers(&lineage, "telemetry", "fleet.telemetry", &record, &failure);
        let of = |name| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
        for (name, value) in [
            ("forebay-gateway", "truck-17"),
            ("forebay-stream", "telemetry"),
            ("forebay-topic", "fleet.telemetry"),
            ("forebay-device", "boiler"),
            ("forebay-queue", "00000000000000000000000000000007"),
            ("forebay-run", "3"),
            ("forebay-seq", "5"),
            ("forebay-time", "2026-11-22T12:00:00.123Z"),
            ("forebay-error", "MESSAGE_TOO_LARGE"),
            ("forebay-error-text", "too large"),
        ] {
            assert_eq!(of(name), Some(value), "{name}");
        }
        assert!(of("forebay-set-aside").unwrap().ends_with('Z'));
    }

    #[test]
    fn a_letter_goes_into_the_file_where_the_topic_refuses_it_or_does_not_answer() {
        let letter = Letter::new(Position::ZERO, Failure::unwritable(String::new()));
        for refusal in [Failure::unwritable(String::new()), Failure::held(String::new())] {
            assert_eq!(letter.clone().failed(&refusal, true), Next::File);
        }
        let (mut letter, silence) = (letter, Failure::retried(String::new()));
        assert_eq!([(); 9].map(|()| letter.failed(&silence, false)), [Next::Again; 9], "the link is down");
        assert_eq!([(); 3].map(|()| letter.failed(&silence, true)), [Next::Again, Next::Again, Next::File]);
    }
}
