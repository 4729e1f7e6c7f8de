//! Keys of the uplink: `[kafka]`.

use super::{Default::*, Kind, Section, key};

pub(in crate::config) static KAFKA: Section = Section {
    title: "[kafka]",
    about: "Where the queue drains to.",
    base: None,
    keys: &[
        key("brokers", Kind::Texts("`host:port`, 1 to 32"), Required, "Brokers to start from."),
        key("tls", Kind::Table("`{ ca, cert, key }`"), Words("no TLS"), "Encrypted connections; `{}` is enough."),
        key("sasl", Kind::Table("`{ mechanism, ... }`"), Words("no SASL"), "Who we are."),
        key("compression", Kind::Word(&["zstd", "lz4", "none"], &[]), Is("zstd"), "Of batches."),
        key(
            "in-flight-bytes",
            Kind::Size(64 << 10, 64 << 20),
            Is("1 MiB"),
            "Most bytes handed to the client and not yet acknowledged, per stream; at most 64 MiB over all streams. \
             On a slow link fewer: what the link has shown to deliver in 3 s, at least 32 KiB of all streams together and \
             4 KiB of each. At most 10,000 records, and 40,000 that are delivered behind one that is not.",
        ),
        key(
            "linger",
            Kind::Duration(0, 60_000),
            Is("50ms"),
            "How long a batch is gathered while the queue is short; more than a tenth of `queue.window` brings warnings.",
        ),
        key(
            "delivery",
            Kind::Word(&["at-least-once", "exactly-once"], &[]),
            Is("at-least-once"),
            "Every durable record reaches Kafka: after a crash some twice, with the same identity, or in transactions each \
             once for `read_committed` readers ([exactly once](exactly-once.md)).",
        ),
        key(
            "transactional-id",
            Kind::Text("1 to 200 letters, digits, `-`, `_`, `.`"),
            Words("`GATEWAY.QUEUE`: `gateway.id` and the first 8 digits of the queue's identity"),
            "With `exactly-once`: names the transactions; the consumer groups `ID.STREAM` keep the queue's cursors.",
        ),
        key(
            "transaction-timeout",
            Kind::Duration(5_000, 900_000),
            Is("30s"),
            "With `exactly-once`: after so long Kafka gives a transaction up whose agent is gone. Until then it holds \
             `read_committed` readers of the same partitions. A transaction has at most 32 MiB and 65 536 records, and is \
             committed after 5 s of filling, or half this time.",
        ),
        key(
            "drain",
            Kind::Word(&["oldest-first", "newest-first"], &[]),
            Is("oldest-first"),
            "In what order a backlog is sent. `newest-first`: after an outage the last 5 minutes or 256 KiB first, \
             history behind; order then holds in each of at most 12 parts.",
        ),
        key(
            "encoding",
            Kind::Word(&["json", "avro", "protobuf"], &[]),
            Is("json"),
            "How records are written into Kafka messages; streams may differ. Avro and Protobuf need `registry`. \
             See `docs/encodings.md`.",
        ),
        key(
            "shape",
            Kind::Word(&["wide", "narrow"], &[]),
            Is("wide"),
            "`wide`: a message is a whole reading. `narrow`: a message is one field of it. Streams may differ.",
        ),
        key(
            "registry",
            Kind::Table("`{ url, username, password-file or password-credential, ca, timeout }`"),
            Words("none"),
            "The Schema Registry that Avro and Protobuf need.",
        ),
        key("cloudevents", Kind::Boolean, Is("false"), "Whether messages bear CloudEvents headers (binary mode)."),
        key(
            "properties",
            Kind::Table("text, number or boolean by librdkafka property name; at most 64"),
            Words("none"),
            "Further librdkafka properties; those that the agent's promises rest on are refused.",
        ),
        key(
            "dead-letter-topic",
            Kind::Text("a Kafka topic that is no stream's"),
            Words("none: the dead-letter file"),
            "Topic for records that Kafka refuses in their stream's topic, with headers `forebay-*` that say where they come \
             from and why. What it does not take either, or where it is missing, goes into the dead-letter file.",
        ),
        key(
            "rate",
            Kind::Table("`{ records, bytes }`"),
            Words("none"),
            "How fast all streams together may be sent; with `exactly-once` in goes of a second.",
        ),
        key(
            "budget",
            Kind::Table("`{ day, month, reserve, reserve-priority }`"),
            Words("none"),
            "How much may go over a metered link.",
        ),
    ],
};

pub(in crate::config) static REGISTRY: Section = Section {
    title: "[kafka.registry]",
    about: "A Schema Registry that speaks Confluent's HTTP API. Ids are kept on disk: once a schema is registered, the \
            registry may be away. At most 1000 fields a topic.",
    base: None,
    keys: &[
        key(
            "url",
            Kind::Text("`http://host:port` or `https://host:port`, a path may follow"),
            Required,
            "Where it is.",
        ),
        key("username", Kind::Text("text without a colon"), Words("none"), "User name for basic authentication."),
        key("password-file", Kind::Text("a path"), Words("none"), "File whose first line is the password."),
        key(
            "password-credential",
            Kind::Text("a file name"),
            Words("none"),
            "Name of a systemd credential (a file in `$CREDENTIALS_DIRECTORY`) that holds the password.",
        ),
        key(
            "ca",
            Kind::Text("a path"),
            Words("the system's"),
            "PEM file of certificates that an `https` registry's certificate must lead to; read at each connection.",
        ),
        key(
            "timeout",
            Kind::Duration(100, 120_000),
            Is("10s"),
            "How long one request may take; it is tried again with growing pauses, at most a minute.",
        ),
    ],
};

pub(in crate::config) static TLS: Section = Section {
    title: "[kafka.tls]",
    about: "PEM files. `cert` and `key` stand together or not at all.",
    base: None,
    keys: &[
        key("ca", Kind::Text("a path"), Words("the system's"), "Certificates that brokers' certificates must lead to."),
        key("cert", Kind::Text("a path"), Words("none"), "Our certificate."),
        key("key", Kind::Text("a path"), Words("none"), "Its private key."),
    ],
};

pub(in crate::config) static SASL: Section = Section {
    title: "[kafka.sasl]",
    about: "How the agent logs in. PLAIN and SCRAM need `username` and one of `password-file` and `password-credential`; \
            OAUTHBEARER needs one of `token-file` and `token-command`.",
    base: None,
    keys: &[
        key(
            "mechanism",
            Kind::Word(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"], &["GSSAPI"]),
            Required,
            "How the login is proven; PLAIN and OAUTHBEARER only over TLS.",
        ),
        key("username", Kind::Text("text"), Words("none"), "User name."),
        key("password-file", Kind::Text("a path"), Words("none"), "File whose first line is the password."),
        key(
            "password-credential",
            Kind::Text("a file name"),
            Words("none"),
            "Name of a systemd credential (a file in `$CREDENTIALS_DIRECTORY`) that holds the password.",
        ),
        key(
            "token-file",
            Kind::Text("a path"),
            Words("none"),
            "File that holds a bearer token of at most 16 KiB; read again when the token has used up four fifths of its life.",
        ),
        key(
            "token-command",
            Kind::Texts("a program and its arguments, 1 to 32"),
            Words("none"),
            "Program that prints a bearer token of at most 16 KiB within 10 s; run without a shell, again when the token has \
             used up four fifths of its life.",
        ),
        key(
            "token-lifetime",
            Kind::Duration(10_000, 86_400_000),
            Is("5min"),
            "How long a token is used that does not say when it expires (no JWT with `exp`).",
        ),
    ],
};

pub(in crate::config) static RATE: Section = Section {
    title: "[kafka.rate], [stream.rate]",
    about: "A limit on how fast a backlog, or anything else, is sent; over times longer than a quarter second.",
    base: None,
    keys: &[
        key("records", Kind::Integer(1, 1_000_000), Words("none"), "Records a second."),
        key(
            "bytes",
            Kind::Size(1_000, 1 << 30),
            Words("none"),
            "Bytes of keys and values a second, before compression.",
        ),
    ],
};

pub(in crate::config) static BUDGET: Section = Section {
    title: "[kafka.budget]",
    about: "For metered links: sent and received bytes with TCP, IP and TLS headers, estimated from the client's own \
            count. What the client had not yet counted when it ended, and with exactly-once delivery the reading of \
            cursors, are guessed. What TCP sends again, attempts to connect that fail, and the short questions of \
            a client that may be stuck are not in it. At least one of `day` and `month` is needed.",
    base: None,
    keys: &[
        key(
            "day",
            Kind::Size(64 << 10, 1 << 40),
            Words("none"),
            "Most in a day of UTC; in 24 hours while the clock is not set.",
        ),
        key("month", Kind::Size(1 << 20, 1 << 44), Words("none"), "Most in a month of UTC."),
        key(
            "reserve",
            Kind::Text("a whole percentage, `\"0%\"` to `\"90%\"`"),
            Is("20%"),
            "The share that only streams of `reserve-priority` and above may use.",
        ),
        key("reserve-priority", Kind::Integer(0, 9), Is("1"), "The lowest priority that may use the reserve."),
    ],
};
