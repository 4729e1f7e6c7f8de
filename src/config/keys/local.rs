//! Keys of the gateway itself: `[gateway]`, `[mqtt]`, `[queue]`, `[[stream]]`, `[clock]`, `[status]`.

use super::{Default::*, Kind, Section, key, later};

pub(in crate::config) static ROOT: Section = Section {
    title: "The file",
    about: "TOML 1.0. An included file may hold `[[source]]` and `[[stream]]` only.",
    base: None,
    keys: &[
        key("gateway", Kind::Table("`[gateway]`"), Words("all defaults"), "Who this gateway is."),
        key("source", Kind::Table("`[[source]]`, at most 64"), Words("none"), "Where readings come from."),
        key("mqtt", Kind::Table("`[mqtt]`"), Words("nothing is published locally"), "The local broker."),
        key("queue", Kind::Table("`[queue]`"), Words("all defaults"), "The store-and-forward queue."),
        key("stream", Kind::Table("`[[stream]]`, at most 16"), Words("`telemetry`"), "Ordered sequences of readings."),
        key("kafka", Kind::Table("`[kafka]`"), Words("readings stay in the queue"), "The uplink."),
        key("clock", Kind::Table("`[clock]`"), Words("all defaults"), "What to do while the clock is not set."),
        key("status", Kind::Table("`[status]`"), Words("all defaults"), "Metrics, health and the status page."),
    ],
};

pub(in crate::config) static INCLUDED: Section = Section {
    title: "An included file",
    about: "What may stand in a file that `gateway.include` names.",
    base: None,
    keys: &[
        key("source", Kind::Table("`[[source]]`"), Words("none"), "More sources."),
        key("stream", Kind::Table("`[[stream]]`"), Words("none"), "More streams."),
    ],
};

pub(in crate::config) static GATEWAY: Section = Section {
    title: "[gateway]",
    about: "Who this gateway is and where it keeps its state.",
    base: None,
    keys: &[
        key(
            "id",
            Kind::Text("1 to 128 of letters, digits, `.`, `_`, `-`"),
            Words("host name, `-` and 6 hex digits of this machine's application-specific id"),
            "Names this gateway in every record; part of every record's identity.",
        ),
        key(
            "state-dir",
            Kind::Text("an absolute path"),
            Is("/var/lib/forebay"),
            "Where the queue and small state live.",
        ),
        key(
            "tags",
            Kind::Table("text by name; at most 16, values of at most 256 bytes"),
            Words("none"),
            "Constant members of every record, such as `site`.",
        ),
        key(
            "include",
            Kind::Texts("paths, relative to this file; `*` and `?` in the last part; at most 256 files of 1 MiB"),
            Words("none"),
            "Further files, read in the order of their names.",
        ),
    ],
};

pub(in crate::config) static MQTT: Section = Section {
    title: "[mqtt]",
    about: "The local broker: `mqtt` sources subscribe there, and the readings of all others are published there.",
    base: None,
    keys: &[
        key(
            "broker",
            Kind::Text("`mqtt://host` or `mqtt://host:port`; `embedded` in builds with the feature `demo`"),
            Required,
            "Where the local broker is; port 1883 unless written.",
        ),
        key(
            "topic",
            Kind::Text("a topic without `+` and `#`; parts `{gateway}`, `{source}`, `{stream}`, `{device}`"),
            Is("forebay/{gateway}/{device}"),
            "Where readings are published.",
        ),
        key("qos", Kind::Integer(0, 2), Is("1"), "QoS of publications."),
        key("retain", Kind::Boolean, Is("false"), "Whether the broker keeps the last reading of each topic."),
        key("outbox", Kind::Table("`{ records = N }`"), Words("all defaults"), "What waits while the broker is away."),
        key("keep-alive", Kind::Duration(1_000, 3_600_000), Is("30s"), "Keep-alive interval of the connection."),
        key("username", Kind::Text("text"), Words("none"), "User name at the broker."),
        key("password-file", Kind::Text("a path"), Words("none"), "File whose first line is the password."),
        key(
            "password-credential",
            Kind::Text("a file name"),
            Words("none"),
            "Name of a systemd credential (a file in `$CREDENTIALS_DIRECTORY`) that holds the password.",
        ),
    ],
};

pub(in crate::config) static OUTBOX: Section = Section {
    title: "[mqtt.outbox]",
    about: "Publications that the local broker has not taken yet.",
    base: None,
    keys: &[key(
        "records",
        Kind::Integer(1, 100_000),
        Is("1000"),
        "Most of them, and at most 2 MiB in all; the oldest makes room, counted.",
    )],
};

pub(in crate::config) static QUEUE: Section = Section {
    title: "[queue]",
    about: "The store-and-forward queue between sources and Kafka.",
    base: None,
    keys: &[
        key(
            "size",
            Kind::Size(16 << 20, 1 << 40),
            Words("the smaller of 2 GiB and half of what is free at the first start"),
            "Most disk the state directory may take.",
        ),
        key(
            "window",
            Kind::Duration(50, 3_600_000),
            Is("1s"),
            "Durability window: what a kill or a power cut may cost.",
        ),
        key(
            "window-outage",
            Kind::Duration(50, 3_600_000),
            Words("the window"),
            "Durability window once the uplink has been down for 60 s, not shorter than `window`. A longer one spares \
             flash, as each flush costs the file system blocks of its own; a group that has grown to 64 KiB is written \
             without waiting longer.",
        ),
        key(
            "tail-bytes",
            Kind::Size(256 << 10, 256 << 20),
            Is("4 MiB"),
            "Most memory for records that are not on disk.",
        ),
        key("compression", Kind::Word(&["zstd", "lz4", "none"], &[]), Is("zstd"), "Of blocks on disk."),
        key(
            "key",
            Kind::Text(
                "a path, or `credential:NAME` of a systemd credential; 32 raw bytes, 64 hexadecimal digits or base64, not touchable by others",
            ),
            Words("nothing is encrypted"),
            "The key of encryption at rest: blocks and dead letters are written with it.",
        ),
        key(
            "old-keys",
            Kind::Texts("the same, at most 16"),
            Words("none"),
            "Keys that only read what was written before the key was changed; `forebay queue rekey` makes them needless.",
        ),
        later("reserve", "Free space left to others."),
    ],
};

pub(in crate::config) static STREAM: Section = Section {
    title: "[[stream]]",
    about: "An ordered, durable sequence of readings with its own Kafka topic. `telemetry` exists without being written.",
    base: None,
    keys: &[
        key("name", Kind::Text("1 to 64 of letters, digits, `.`, `_`, `-`"), Required, "Its name, unique."),
        key(
            "topic",
            Kind::Text("1 to 249 of letters, digits, `.`, `_`, `-`; not `.` or `..`"),
            Words("the stream's name"),
            "Its Kafka topic.",
        ),
        key("priority", Kind::Integer(0, 9), Is("0"), "Higher drains first."),
        key(
            "durability",
            Kind::Word(&["window", "every-record"], &[]),
            Is("window"),
            "Whether records are made durable within the queue's window or each at once.",
        ),
        key(
            "retention",
            Kind::Table("`{ size, age, when-full }`"),
            Words("all defaults"),
            "How much is kept, for how long, and what goes first.",
        ),
        key(
            "drain",
            Kind::Word(&["oldest-first", "newest-first"], &[]),
            Words("as `kafka.drain`"),
            "In what order its backlog is sent.",
        ),
        key(
            "encoding",
            Kind::Word(&["json", "avro", "protobuf"], &[]),
            Words("`kafka.encoding`"),
            "How its records are written into Kafka messages.",
        ),
        key(
            "shape",
            Kind::Word(&["wide", "narrow"], &[]),
            Words("`kafka.shape`"),
            "Whether a message is a whole reading or one field of it.",
        ),
        key("rate", Kind::Table("`{ records, bytes }`"), Words("none"), "How fast the stream may be sent."),
    ],
};

pub(in crate::config) static RETENTION: Section = Section {
    title: "[stream.retention]",
    about: "How much of a stream is kept for how long, and what happens when its size or the queue's is used up.",
    base: None,
    keys: &[
        key(
            "when-full",
            Kind::Word(&["drop-oldest", "reject-newest", "thin"], &[]),
            Is("drop-oldest"),
            "`drop-oldest`: the oldest records make room; counted, and marked by `skipped` in the next one. \
             `reject-newest`: new records are refused; MQTT publishers are not acknowledged, polled values are skipped and counted. \
             `thin`: from 85 % of the limit on old records give way to fewer, oldest first, in intervals of the time since \
             boot that double from pass to pass. Of each device the first and the last record of an interval stay, those \
             with the lowest and the highest value of each numeric field, and the first and last change of any other; all \
             are originals, and the next one says how many are gone (`skipped`, of these `thinned`). Records that were \
             handed to Kafka's client stay. No interval is longer than a twelfth of the time covered, so each tenth of it \
             has records of every device that gives some; what does not fit so is dropped as by `drop-oldest`. Nothing \
             needs to be dropped, however long an outage lasts, where the limit is at least devices × 10 × (2 + 2 × fields) \
             × bytes of a record before compression, if compression leaves a third. A stream that is thinned beside one of \
             the same priority that drops gives way while it is the larger one.",
        ),
        key(
            "size",
            Kind::Size(1 << 20, 1 << 40),
            Words("none"),
            "A size for this stream alone; `queue.size` limits all streams together.",
        ),
        key(
            "age",
            Kind::Duration(60_000, 10 * 366 * 86_400_000),
            Words("none"),
            "An age after which records are not sent any more. Only what is certain counts: the time since boot, and \
             across boots the clock where it could be trusted at both ends.",
        ),
    ],
};

pub(in crate::config) static CLOCK: Section = Section {
    title: "[clock]",
    about: "What to do while the clock is not set. It is set once the kernel says that it is synchronised (chrony, ntpd, \
            systemd-timesyncd), or five fixes of a GNSS receiver in a row agree. What was recorded before in this boot then \
            goes out with its corrected time, and what a boot left behind whose clock was never set, with an estimate.",
    base: None,
    keys: &[key(
        "hold",
        Kind::Duration(0, 86_400_000),
        Is("2min"),
        "Kafka gets no record with a time that nobody vouches for while the machine is up for less than this and its clock \
         is not set; afterwards such records go out marked by `clock`. They are published locally all the same. `0s`: \
         nothing waits.",
    )],
};

pub(in crate::config) static STATUS: Section = Section {
    title: "[status]",
    about: "`/metrics`, `/healthz`, `/readyz`, `/status` and a page.",
    base: None,
    keys: &[key(
        "listen",
        Kind::Text("`address:port`, IPv6 addresses in brackets; or `off`"),
        Is("127.0.0.1:9273"),
        "Where to listen; there is no password, so keep it on loopback or a trusted network.",
    )],
};
