//! The members that every record has, out of Avro and Protobuf in Confluent's wire format, without a registry.
//!
//! In the agent's Avro schemas they come first and in one order, in its Protobuf schemas they have fixed numbers below
//! 32: see `uplink::encode`, which writes them and whose tests read them here. Any bytes may come; nothing is kept of
//! them but four names, which are no longer than the value.

use super::head::{Head, Unreadable, fingerprint};
use super::{Origin, QUEUE_DIGITS};

const AVRO: &str = "avro";
const PROTOBUF: &str = "protobuf";
const ID_BYTES: u64 = 4;

/// Reads a datum of one of the agent's Avro schemas.
///
/// Behind the members of every record a narrow one has `metric`, a wide one its first column, and nothing in the value
/// tells the shape. What stands there is taken for the metric if it can be: of a wide record every copy has the same.
pub(super) fn avro(value: &[u8]) -> Result<Head, Unreadable> {
    let fault = |member| move || Unreadable::Member { encoding: AVRO, member };
    let mut rest = datum(value, AVRO)?;
    let gateway = rest.avro_text().ok_or_else(fault("gateway"))?.to_owned();
    let stream = rest.avro_text().ok_or_else(fault("stream"))?.to_owned();
    let device = rest.avro_text().ok_or_else(fault("device"))?.to_owned();
    rest.avro_text().ok_or_else(fault("source"))?;
    let time_us = rest.long().ok_or_else(fault("time"))?;
    rest.avro_text().ok_or_else(fault("clock"))?;
    let queue = rest.avro_text().filter(|text| is_queue(text)).ok_or_else(fault("queue"))?.to_owned();
    let run = rest.long().and_then(|run| u32::try_from(run).ok()).ok_or_else(fault("run"))?;
    let seq = rest.long().and_then(|seq| u64::try_from(seq).ok()).ok_or_else(fault("seq"))?;
    let skipped = rest.avro_count().ok_or_else(fault("skipped"))?;
    rest.avro_count().ok_or_else(fault("thinned"))?;
    let metric = (rest.long() == Some(1)).then(|| rest.avro_text()).flatten();
    let origin = Origin { gateway, queue, stream };
    let metric = metric.map(|name| fingerprint(name.as_bytes()));
    Ok(Head { origin, device, run, seq, skipped, time_us: Some(time_us), metric })
}

/// Reads a message of one of the agent's Protobuf schemas.
pub(super) fn protobuf(value: &[u8]) -> Result<Head, Unreadable> {
    let fault = |member| Unreadable::Member { encoding: PROTOBUF, member };
    let mut rest = datum(value, PROTOBUF)?;
    // The agent's schemas have one message.
    if rest.varint() != Some(0) {
        return Err(fault("the message index"));
    }
    let origin = Origin { gateway: String::new(), queue: String::new(), stream: String::new() };
    // What is 0 or empty is left out.
    let mut head = Head { origin, device: String::new(), run: 0, seq: 0, skipped: 0, time_us: None, metric: None };
    while !rest.0.is_empty() {
        let (number, part) = rest.part().ok_or_else(|| fault("a member"))?;
        take(&mut head, number, &part).map_err(fault)?;
    }
    if is_queue(&head.origin.queue) { Ok(head) } else { Err(fault("queue")) }
}

/// Puts a member where it belongs; fails with its name.
fn take(head: &mut Head, number: u64, part: &Part<'_>) -> Result<(), &'static str> {
    match number {
        1 => head.origin.gateway = part.text().ok_or("gateway")?,
        2 => head.origin.stream = part.text().ok_or("stream")?,
        3 => head.device = part.text().ok_or("device")?,
        5 => head.time_us = Some(part.time_us().ok_or("time")?),
        7 => head.origin.queue = part.text().ok_or("queue")?,
        8 => head.run = part.number().and_then(|run| u32::try_from(run).ok()).ok_or("run")?,
        9 => head.seq = part.number().ok_or("seq")?,
        10 => head.skipped = part.number().ok_or("skipped")?,
        16 => head.metric = Some(fingerprint(part.bytes().ok_or("metric")?)),
        _ => {}
    }
    Ok(())
}

/// The first 8 hex digits of a uuid. Bytes of others that look like a record up to here do not have them.
fn is_queue(text: &str) -> bool {
    text.len() == QUEUE_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What follows the zero and the schema's id.
fn datum<'a>(value: &'a [u8], encoding: &'static str) -> Result<Rest<'a>, Unreadable> {
    let mut rest = Rest(value);
    match rest.bytes(1 + ID_BYTES) {
        Some([0, ..]) => Ok(rest),
        _ => Err(Unreadable::Member { encoding, member: "the schema's id" }),
    }
}

/// A member of a Protobuf message.
enum Part<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a type that no member read here has.
    Other,
}

impl<'a> Part<'a> {
    fn number(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    fn text(&self) -> Option<String> {
        std::str::from_utf8(self.bytes()?).ok().map(str::to_owned)
    }

    /// Of a `google.protobuf.Timestamp`.
    fn time_us(&self) -> Option<i64> {
        let (mut rest, mut seconds, mut nanos) = (Rest(self.bytes()?), 0, 0);
        while !rest.0.is_empty() {
            match rest.part()? {
                (1, part) => seconds = part.number()?.cast_signed(),
                (2, part) => nanos = part.number()?.cast_signed(),
                _ => {}
            }
        }
        seconds.checked_mul(1_000_000)?.checked_add(nanos / 1_000)
    }
}

/// What is not yet read of a value. Nothing is read twice, and nothing beyond the end.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn bytes(&mut self, count: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Seven bits a byte, the lowest first; the tenth byte has room for one.
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = *self.bytes(1)?.first()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// A number with its sign in the lowest bit.
    fn long(&mut self) -> Option<i64> {
        let number = self.varint()?;
        Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    fn avro_text(&mut self) -> Option<&'a str> {
        let length = u64::try_from(self.long()?).ok()?;
        std::str::from_utf8(self.bytes(length)?).ok()
    }

    /// A nullable count: null is 0.
    fn avro_count(&mut self) -> Option<u64> {
        match self.long()? {
            0 => Some(0),
            1 => u64::try_from(self.long()?).ok(),
            _ => None,
        }
    }

    /// The number of a Protobuf member, and the member.
    fn part(&mut self) -> Option<(u64, Part<'a>)> {
        let tag = self.varint()?;
        let part = match tag & 7 {
            0 => Part::Number(self.varint()?),
            1 => self.bytes(8).map(|_| Part::Other)?,
            2 => {
                let length = self.varint()?;
                Part::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Part::Other)?,
            _ => return None,
        };
        Some((tag >> 3, part))
    }
}
