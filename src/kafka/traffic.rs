//! What the client moved over the network: the library counts the bytes of its requests and answers; what the network
//! adds is estimated.

/// IPv4 and TCP headers of a segment, with TCP's time stamps.
const HEADER_BYTES: u64 = 52;
/// Payload of a full segment on a link of 1500 bytes.
const SEGMENT_BYTES: u64 = 1_448;
/// To open and close a TCP connection.
const CONNECT_BYTES: u64 = 8 * HEADER_BYTES;
/// A TLS handshake with certificates on both sides, less its headers.
const HANDSHAKE_BYTES: u64 = 5_000;
/// What TLS adds to a record of at most 16 KiB.
const TLS_RECORD_BYTES: u64 = 29;
const TLS_RECORD_PAYLOAD_BYTES: u64 = 16 * 1024;

/// Sums since the client was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Requests sent.
    pub requests: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Answers received.
    pub answers: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Connections that came about.
    pub connections: u64,
}

impl Traffic {
    /// Bytes of IP packets in both directions, without what TCP sent again.
    pub fn wire_bytes(&self, tls: bool) -> u64 {
        let full_segments = self.sent_bytes / SEGMENT_BYTES + self.received_bytes / SEGMENT_BYTES;
        // Every request and every answer ends in a segment of its own; an answer is acknowledged by an empty one, as
        // are two full ones.
        let segments = full_segments + self.requests + self.answers + self.answers + full_segments / 2;
        let tcp = segments * HEADER_BYTES + self.connections * CONNECT_BYTES;
        let records = |bytes: u64, messages: u64| bytes / TLS_RECORD_PAYLOAD_BYTES + messages;
        let tls_bytes = (records(self.sent_bytes, self.requests) + records(self.received_bytes, self.answers))
            * TLS_RECORD_BYTES
            + self.connections * HANDSHAKE_BYTES;
        self.sent_bytes + self.received_bytes + tcp + if tls { tls_bytes } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_requests_cost_more_than_their_bytes() {
        let small = Traffic { requests: 100, sent_bytes: 10_000, answers: 100, received_bytes: 5_000, connections: 0 };
        assert_eq!(small.wire_bytes(false), 15_000 + (6 + 3 + 300 + 4) * 52);
        let large = Traffic { requests: 10, sent_bytes: 1_448_000, answers: 10, received_bytes: 500, connections: 1 };
        let wire = large.wire_bytes(false);
        assert!(wire > 1_448_000 * 104 / 100 && wire < 1_448_000 * 107 / 100, "{wire}");
        assert!(large.wire_bytes(true) > wire + 5_000);
    }
}
