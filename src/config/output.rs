//! How records are written into messages: `encoding`, `shape`, `registry` and `cloudevents` of `[kafka]`, and what
//! streams say of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::keys::REGISTRY;
use super::names::{host_port, is_kafka_topic};
use super::problem::Place;
use super::reader::Table;
use super::resolved::{
    ColumnKind, Encoding, Form, Format, Number, Output, Registry, Shape, Source, SourceKind, Stream,
};
use super::secret::{self, Secrets};
use crate::reading::{NARROW_MEMBERS, Name};

/// What a `[[stream]]` says about its messages, and where.
pub(super) struct WrittenForm {
    stream: Name,
    encoding: Option<Encoding>,
    shape: Option<Shape>,
    encoding_at: Place,
    encoding_path: String,
}

impl WrittenForm {
    /// Reads the keys of one stream.
    pub(super) fn read(table: &Table<'_>, stream: &Stream) -> Self {
        Self {
            stream: stream.name.clone(),
            encoding: encoding(table),
            shape: shape(table),
            encoding_at: table.place_of("encoding"),
            encoding_path: table.path_of("encoding"),
        }
    }
}

/// What messages are checked against.
pub(super) struct Surroundings<'a> {
    pub(super) streams: &'a [Stream],
    pub(super) written: &'a [WrittenForm],
    pub(super) tags: &'a [String],
    pub(super) sources: &'a [Source],
}

/// One stream's form, and where it comes from.
struct Chosen<'a> {
    stream: &'a Stream,
    form: Form,
    at: Place,
    path: String,
}

/// Reads what `[kafka]` says about messages.
pub(super) fn read(table: &Table<'_>, around: &Surroundings<'_>, secrets: Secrets<'_>) -> Option<Output> {
    let default_encoding = encoding(table);
    let default_shape = shape(table);
    let registry = table.table("registry", &REGISTRY).map(|registry| read_registry(&registry, secrets));
    let cloudevents = table.boolean("cloudevents");
    let dead_letter_topic = read_dead_letter_topic(table, around.streams);
    let default = Form { encoding: default_encoding?, shape: default_shape? };
    let chosen: Vec<Chosen<'_>> = around.streams.iter().map(|stream| choose(table, stream, default, around)).collect();
    for chosen in &chosen {
        refuse_what_does_not_fit(table, chosen, around);
    }
    refuse_shared_topics(table, &chosen);
    let output = Output {
        forms: chosen.iter().map(|chosen| (chosen.stream.name.clone(), chosen.form)).collect(),
        registry: match registry {
            Some(read) => Some(read?),
            None => None,
        },
        cloudevents: cloudevents?,
        untyped_sources: BTreeSet::new(),
        dead_letter_topic,
    };
    if !output.has_schemas() {
        if table.has("registry") {
            let message = "is not used: no stream is written as avro or protobuf".to_owned();
            table.report.warning(&table.place_of("registry"), table.path_of("registry"), message);
        }
        return Some(output);
    }
    Some(Output { untyped_sources: untyped(around.sources), ..output })
}

fn read_dead_letter_topic(table: &Table<'_>, streams: &[Stream]) -> Option<String> {
    const KEY: &str = "dead-letter-topic";
    let topic = if table.has(KEY) { table.text(KEY)? } else { return None };
    if !is_kafka_topic(&topic) {
        table.refuse(KEY, "is not a Kafka topic");
    } else if let Some(stream) = streams.iter().find(|stream| stream.topic == topic) {
        table.refuse(KEY, &format!("is the topic of stream {:?}", stream.name));
    }
    Some(topic)
}

fn encoding(table: &Table<'_>) -> Option<Encoding> {
    Some(match table.word("encoding")? {
        "avro" => Encoding::Avro,
        "protobuf" => Encoding::Protobuf,
        _ => Encoding::Json,
    })
}

fn shape(table: &Table<'_>) -> Option<Shape> {
    Some(match table.word("shape")? {
        "narrow" => Shape::Narrow,
        _ => Shape::Wide,
    })
}

fn choose<'a>(table: &Table<'_>, stream: &'a Stream, default: Form, around: &Surroundings<'_>) -> Chosen<'a> {
    let written = around.written.iter().find(|written| written.stream == stream.name);
    let form = Form {
        encoding: written.and_then(|written| written.encoding).unwrap_or(default.encoding),
        shape: written.and_then(|written| written.shape).unwrap_or(default.shape),
    };
    match written.filter(|written| written.encoding.is_some()) {
        Some(written) => Chosen { stream, form, at: written.encoding_at.clone(), path: written.encoding_path.clone() },
        None => Chosen { stream, form, at: table.place_of("encoding"), path: table.path_of("encoding") },
    }
}

fn refuse_what_does_not_fit(table: &Table<'_>, chosen: &Chosen<'_>, around: &Surroundings<'_>) {
    let (stream, form) = (&chosen.stream.name, chosen.form);
    let error = |message: String| table.report.error(&chosen.at, chosen.path.as_str(), message);
    if form.shape == Shape::Narrow {
        // As schemas compare names: without underscores and capitals.
        let spelled = |tag: &str| tag.replace('_', "").to_ascii_lowercase();
        for tag in around.tags.iter().filter(|tag| NARROW_MEMBERS.contains(&spelled(tag).as_str())) {
            let members = NARROW_MEMBERS.join(", ");
            error(format!(
                "stream {stream:?} is narrow, and the tag {tag:?} has the name of a member; taken: {members}"
            ));
        }
    }
    if form.encoding == Encoding::Json {
        return;
    }
    if !table.has("registry") {
        error(format!("stream {stream:?} is written as {:?} and needs kafka.registry", form.encoding.as_str()));
    }
    if form.shape == Shape::Wide {
        for conflict in type_conflicts(stream, around.sources) {
            error(format!("{conflict}; {} allows a field one type: rename one of them", form.encoding.as_str()));
        }
    }
}

/// Messages of one topic are all of one kind.
fn refuse_shared_topics(table: &Table<'_>, chosen: &[Chosen<'_>]) {
    for (index, one) in chosen.iter().enumerate() {
        let Some(other) = chosen[..index].iter().find(|other| other.stream.topic == one.stream.topic) else { continue };
        if other.form != one.form {
            let shown = |form: Form| format!("{} and {}", form.encoding.as_str(), form.shape.as_str());
            let message = format!(
                "streams {:?} ({}) and {:?} ({}) share the topic {:?}; allowed: one encoding and shape a topic",
                other.stream.name,
                shown(other.form),
                one.stream.name,
                shown(one.form),
                one.stream.topic
            );
            table.report.error(&one.at, one.path.as_str(), message);
        }
    }
}

/// Fields of a stream that the configuration gives two types, in words.
fn type_conflicts(stream: &str, sources: &[Source]) -> Vec<String> {
    let mut seen: BTreeMap<Name, (&'static str, &Name)> = BTreeMap::new();
    let mut conflicts = Vec::new();
    for (source, field, kind) in sources.iter().flat_map(|source| typed_fields(source, stream)) {
        match seen.get(&field) {
            Some((other_kind, other)) if *other_kind != kind => conflicts.push(format!(
                "field {field:?} of stream {stream:?} is {other_kind} in source {other:?} and {kind} in source {source:?}"
            )),
            Some(_) => {}
            None => {
                seen.insert(field, (kind, source));
            }
        }
    }
    conflicts
}

/// The fields that a source sends to this stream with a type that the configuration says.
fn typed_fields<'a>(source: &'a Source, stream: &str) -> Vec<(&'a Name, Name, &'static str)> {
    match &source.kind {
        SourceKind::Modbus(modbus) => {
            let registers = modbus.units.iter().flat_map(|unit| &unit.registers);
            let of_stream = registers.filter(|register| *register.stream == *stream);
            let kind = |number: Number, scale: f64| match number {
                Number::Bit => "a boolean",
                Number::F32 => "a float",
                _ if scale.to_bits() == 1.0_f64.to_bits() => "an integer",
                _ => "a float",
            };
            of_stream.map(|found| (&source.name, found.name.clone(), kind(found.number, found.scale))).collect()
        }
        SourceKind::Serial(serial) if *source.stream == *stream => {
            let Format::Csv { columns, .. } = &serial.format else { return Vec::new() };
            let kind = |kind: ColumnKind| match kind {
                ColumnKind::Float => "a float",
                ColumnKind::Integer => "an integer",
                ColumnKind::Text => "text",
                ColumnKind::Bool => "a boolean",
            };
            let named = columns.iter().filter(|column| !column.name.is_empty());
            named.map(|column| (&source.name, column.name.clone(), kind(column.kind))).collect()
        }
        _ => Vec::new(),
    }
}

/// Sources in whose numbers a missing fraction says nothing about the type.
fn untyped(sources: &[Source]) -> BTreeSet<Name> {
    let is_untyped = |source: &&Source| match &source.kind {
        SourceKind::Mqtt(_) => true,
        SourceKind::Serial(serial) => matches!(serial.format, Format::KeyValue { .. }),
        _ => false,
    };
    sources.iter().filter(is_untyped).map(|source| source.name.clone()).collect()
}

fn read_registry(table: &Table<'_>, secrets: Secrets<'_>) -> Option<Registry> {
    let url = table.text("url");
    let parsed = url.as_deref().and_then(|text| {
        let parsed = parse_url(text);
        if let Err(why) = &parsed {
            table.refuse("url", why);
        }
        parsed.ok()
    });
    let username = if table.has("username") { table.text("username") } else { None };
    if username.as_deref().is_some_and(|name| name.contains(':') || name.chars().any(char::is_control)) {
        table.refuse("username", "is not a user name");
    }
    let password = secret::read(table, secrets);
    let has_password = table.has("password-file") || table.has("password-credential");
    if has_password && !table.has("username") {
        table.error(&table.at, "username", "missing; a password needs a user name".to_owned());
    }
    let ca = if table.has("ca") { table.text("ca") } else { None };
    let tls = parsed.as_ref().is_some_and(|(tls, ..)| *tls);
    if parsed.is_some() && !tls {
        if ca.is_some() {
            table.error(&table.place_of("ca"), "ca", "goes with an https url only; remove it".to_owned());
        }
        if has_password {
            let message = "sends the password in clear; write an https url".to_owned();
            table.report.warning(&table.place_of("url"), table.path_of("url"), message);
        }
    }
    let directory = if let Secrets::Read(directory) = secrets { directory } else { Path::new("") };
    let timeout = table.duration("timeout");
    if has_password && password.is_none() {
        return None;
    }
    let (tls, host, port, path) = parsed?;
    let ca = ca.map(|path| directory.join(path));
    Some(Registry { tls, host, port, path, username, password, ca, timeout: timeout? })
}

/// Whether it is TLS, host, port and path of the URL.
fn parse_url(url: &str) -> Result<(bool, String, u16, String), &'static str> {
    const URL_BYTES_MAX: usize = 1_024;
    if url.len() > URL_BYTES_MAX {
        return Err("is longer than 1024 bytes");
    }
    let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err("does not begin with http:// or https://"),
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    if authority.contains('@') {
        return Err("holds a user name; write username and password-file");
    }
    let path = path.trim_end_matches('/');
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._~-".contains(&byte)) {
        return Err("has a path with other characters than letters, digits and / . _ ~ -");
    }
    let default_port = if tls { 443 } else { 80 };
    let (host, port) = host_port(authority, Some(default_port)).ok_or("has no usable host and port")?;
    Ok((tls, host, port, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse_url;

    #[test]
    fn urls_are_taken_apart() {
        let of = |url| parse_url(url).map(|(tls, host, port, path)| format!("{tls} {host} {port} {path}"));
        assert_eq!(of("http://r:8081").unwrap(), "false r 8081 ");
        assert_eq!(of("https://r.example/apis/ccompat/v7/").unwrap(), "true r.example 443 /apis/ccompat/v7");
        assert_eq!(of("http://[::1]:80/").unwrap(), "false ::1 80 ");
        for wrong in ["r:8081", "ftp://r", "http://", "http://u:p@r:8081", "http://r:x", "http://r/a?b", "http://r/a b"]
        {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
