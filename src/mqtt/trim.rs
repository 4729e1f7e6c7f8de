//! Cuts publications that are too large, between a broker and a subscribing client, to a size the client takes.
//!
//! MQTT 3.1.1 has no word for "too large": a client that gives up its connection over such a packet gets it again on the
//! next one, for ever, and everything behind it waits. Cut short it arrives, is seen to be too large, is counted and
//! acknowledged, and the rest goes on. rumqttc opens its own sockets, so this stands between as a relay on loopback.

use std::io;
use std::net::{Ipv4Addr, TcpListener as StdListener};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Bytes of a longest fixed header: type, and a remaining length of four bytes (MQTT 3.1.1, 2.2).
const FIXED_HEADER_BYTES_MAX: usize = 5;
/// A topic of 65 535 bytes with its length, and a packet id: never cut.
const VARIABLE_HEADER_BYTES_MAX: usize = 2 + 65_535 + 2;
/// Smallest limit there can be.
pub(crate) const PACKET_BYTES_LEAST: usize = 128 * 1024;
const _: () = assert!(PACKET_BYTES_LEAST > FIXED_HEADER_BYTES_MAX + VARIABLE_HEADER_BYTES_MAX);
/// Bytes read from the broker at once.
const CHUNK_BYTES: usize = 16 * 1024;
const PUBLISH: u8 = 3;

/// Finds its way through the packets of one direction.
#[derive(Debug)]
struct Trimmer {
    packet_bytes_max: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    FixedHeader {
        bytes: [u8; FIXED_HEADER_BYTES_MAX],
        count: usize,
    },
    /// So many bytes of the packet go on, then so many do not.
    Body {
        pass: usize,
        skip: usize,
    },
    /// This is no MQTT: all goes on, the client will say so.
    Lost,
}

const BETWEEN: Place = Place::FixedHeader { bytes: [0; FIXED_HEADER_BYTES_MAX], count: 0 };

impl Trimmer {
    fn new(packet_bytes_max: usize) -> Self {
        Self { packet_bytes_max: packet_bytes_max.max(PACKET_BYTES_LEAST), place: BETWEEN }
    }

    /// Takes the next bytes of the stream; appends to `out` what goes on of them.
    fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while let Some((first, rest)) = input.split_first() {
            match &mut self.place {
                Place::Lost => {
                    out.extend_from_slice(input);
                    return;
                }
                Place::Body { pass, skip } => {
                    let passing = input.len().min(*pass);
                    out.extend_from_slice(&input[..passing]);
                    *pass -= passing;
                    let skipped = (input.len() - passing).min(*skip);
                    *skip -= skipped;
                    input = &input[passing + skipped..];
                    if (*pass, *skip) == (0, 0) {
                        self.place = BETWEEN;
                    }
                }
                Place::FixedHeader { bytes, count } => {
                    bytes[*count] = *first;
                    *count += 1;
                    input = rest;
                    let header = &bytes[..*count];
                    // The last byte of a remaining length has its top bit clear.
                    let is_whole = header.len() > 1 && *first < 0x80;
                    if is_whole {
                        let place = begin(header, self.packet_bytes_max, out);
                        self.place = place;
                    } else if header.len() == FIXED_HEADER_BYTES_MAX {
                        out.extend_from_slice(header);
                        self.place = Place::Lost;
                    }
                }
            }
        }
    }
}

/// Passes a fixed header on, with another length where its packet will be cut.
fn begin(header: &[u8], packet_bytes_max: usize, out: &mut Vec<u8>) -> Place {
    let remaining = header[1..].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
    let is_too_large = header[0] >> 4 == PUBLISH && FIXED_HEADER_BYTES_MAX + remaining > packet_bytes_max;
    let pass = if is_too_large { packet_bytes_max - FIXED_HEADER_BYTES_MAX } else { remaining };
    if is_too_large {
        out.push(header[0]);
        out.extend_from_slice(&remaining_length(pass));
    } else {
        out.extend_from_slice(header);
    }
    if remaining == 0 { BETWEEN } else { Place::Body { pass, skip: remaining - pass } }
}

/// Seven bits a byte, lowest first; the top bit says that more follow.
fn remaining_length(mut length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FIXED_HEADER_BYTES_MAX - 1);
    loop {
        // Masked to seven bits.
        let low = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// A relay for one connection to a broker; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    _task: AbortOnDropHandle<()>,
}

/// Starts a relay to the broker that cuts its publications to `packet_bytes_max`.
///
/// # Errors
/// When no port can be had.
pub(crate) fn relay(host: String, port: u16, packet_bytes_max: usize) -> io::Result<Relay> {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let listen = listener.local_addr()?.port();
    let listener = TcpListener::from_std(listener)?;
    let task = tokio::spawn(async move {
        // Either side's end shows as the connection's end at the client.
        if let Err(error) = carry(listener, (host.as_str(), port), packet_bytes_max).await {
            tracing::debug!(%error, "relay to the mqtt broker ended");
        }
    });
    Ok(Relay { port: listen, _task: AbortOnDropHandle::new(task) })
}

async fn carry(listener: TcpListener, broker: (&str, u16), packet_bytes_max: usize) -> io::Result<()> {
    let (mut client, _) = listener.accept().await?;
    drop(listener);
    // An IPv6 address stands in brackets in a URL.
    let (host, port) = (broker.0.trim_matches(['[', ']']), broker.1);
    let mut broker = TcpStream::connect((host, port)).await?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_broker, mut to_broker) = broker.split();
    let inward = async {
        let mut trimmer = Trimmer::new(packet_bytes_max);
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut out = Vec::with_capacity(CHUNK_BYTES + FIXED_HEADER_BYTES_MAX);
        loop {
            let count = from_broker.read(&mut chunk).await?;
            if count == 0 {
                return Ok(());
            }
            out.clear();
            trimmer.feed(&chunk[..count], &mut out);
            to_client.write_all(&out).await?;
        }
    };
    let outward = async { copy(&mut from_client, &mut to_broker).await.map(drop) };
    tokio::select! {
        ended = inward => ended,
        ended = outward => ended,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet whose body is `body`.
    fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind << 4], remaining_length(body.len()).as_slice(), body].concat()
    }

    fn trimmed(input: &[u8], chunk_bytes: usize) -> Vec<u8> {
        let mut trimmer = Trimmer::new(PACKET_BYTES_LEAST);
        let mut out = Vec::new();
        for chunk in input.chunks(chunk_bytes) {
            trimmer.feed(chunk, &mut out);
        }
        out
    }

    #[test]
    fn the_lengths_of_the_standard_are_read_and_written() {
        // MQTT 3.1.1, table 2.4.
        for (length, bytes) in [
            (0, &[0_u8][..]),
            (127, &[0x7f]),
            (128, &[0x80, 1]),
            (16_384, &[0x80, 0x80, 1]),
            (2_097_151, &[0xff, 0xff, 0x7f]),
        ] {
            assert_eq!(remaining_length(length), bytes);
        }
    }

    #[test]
    fn what_is_no_mqtt_goes_on_as_it_is() {
        let input = [&[0x30, 0xff, 0xff, 0xff, 0xff][..], &[7; 300_000]].concat();
        assert_eq!(trimmed(&input, 1_000), input);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// In whatever pieces it comes: packets within the limit are as they were, larger publications are their own
        /// beginning, and no publication is larger than the limit.
        #[test]
        fn only_large_publications_are_cut(
            bodies in proptest::collection::vec((1_u8..15, prop_oneof![0..300_usize, 131_000..131_200_usize, 131_072..400_000_usize]), 1..6),
            chunk_bytes in prop_oneof![1..50_usize, 1_000..200_000_usize],
        ) {
            let (mut input, mut expected) = (Vec::new(), Vec::new());
            for (kind, length) in bodies {
                let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
                input.extend(packet(kind, &body));
                let keep = PACKET_BYTES_LEAST - FIXED_HEADER_BYTES_MAX;
                let cut = kind == PUBLISH && length > keep;
                expected.extend(packet(kind, if cut { &body[..keep] } else { &body }));
            }
            prop_assert_eq!(trimmed(&input, chunk_bytes), expected);
        }
    }
}
