//! From files to a [`Config`]: the file and its includes are read, bounded, and all their mistakes are given at once.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keys::{CLOCK, GATEWAY, INCLUDED, KAFKA, MQTT, QUEUE, ROOT, STATUS, Section};
use super::ports::may_be_one;
use super::problem::{Errors, Place, Problem, Report};
use super::reader::Table;
use super::resolved::{Clock, Config, Delivery, Kafka, Modbus, ModbusConnect, Port, Source, SourceKind};
use super::secret::Secrets;
use super::source::{self, SOURCES_MAX, Surroundings};
use super::tree::{self, Kind, Node, quoted};
use super::{broker, flash, gateway, kafka, output, storage, thinning};

/// Longest configuration file in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most included files.
pub const INCLUDES_MAX: usize = 256;

/// A configuration and what is odd about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What works, yet probably not as meant.
    pub warnings: Vec<Problem>,
}

/// Reads the configuration at `path` and what it includes; opens password files.
///
/// # Errors
/// Every mistake found, each with its place.
pub fn load(path: &Path) -> Result<Loaded, Errors> {
    let report = Report::default();
    let main: Arc<Path> = path.into();
    let place = whole(&main);
    let mut files = vec![main.clone()];
    let mut trees = Vec::new();
    match read_bounded(path) {
        Err(why) => report.error(&place, "", why),
        Ok(text) => {
            if let Some(root) = tree::parse(&main, &text, &report) {
                let directory = path.parent().unwrap_or(Path::new("")).to_owned();
                for file in included(&root, &directory, &report) {
                    read_included(file.into(), &mut files, &mut trees, &report);
                }
                return assemble(&root, &trees, &files, Secrets::Read(&directory), report);
            }
        }
    }
    Err(report.finish(&files).err().unwrap_or_else(|| never(&main)))
}

/// Reads `text` as the configuration that `path` names; touches no file: includes are not followed, secrets stay empty.
///
/// # Errors
/// Every mistake found, each with its place.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, Errors> {
    let report = Report::default();
    let file: Arc<Path> = path.into();
    match tree::parse(&file, text, &report) {
        Some(root) => assemble(&root, &[], &[file], Secrets::Skip, report),
        None => Err(report.finish(std::slice::from_ref(&file)).err().unwrap_or_else(|| never(&file))),
    }
}

fn whole(file: &Arc<Path>) -> Place {
    Place { file: file.clone(), line: 0, column: 0 }
}

/// What a user sees if a part is missing and nothing was reported, which would be a mistake of ours.
fn never(file: &Arc<Path>) -> Errors {
    let message = "the configuration is incomplete, and no reason was noted; please report this".to_owned();
    Errors { problems: vec![Problem { place: whole(file), key: String::new(), message }], more: 0 }
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| format!("cannot open: {error}"))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot read: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is longer than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
}

fn read_included(file: Arc<Path>, files: &mut Vec<Arc<Path>>, trees: &mut Vec<Node>, report: &Report) {
    match read_bounded(&file) {
        Ok(text) => trees.extend(tree::parse(&file, &text, report)),
        Err(why) => report.error(&whole(&file), "", why),
    }
    files.push(file);
}

/// The files that `gateway.include` names: patterns in the order written, files of a pattern by name.
fn included(root: &Node, directory: &Path, report: &Report) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for node in patterns(root) {
        let Kind::Text(pattern) = &node.kind else { continue };
        let found = match expand(directory, pattern) {
            Ok(found) => found,
            Err(why) => {
                report.error(&node.at, "gateway.include", format!("{} {why}", quoted(pattern)));
                continue;
            }
        };
        files.extend(found);
        if files.len() > INCLUDES_MAX {
            let message =
                format!("{} makes {} included files; allowed: at most {INCLUDES_MAX}", quoted(pattern), files.len());
            report.error(&node.at, "gateway.include", message);
            files.truncate(INCLUDES_MAX);
            break;
        }
    }
    files
}

fn patterns(root: &Node) -> &[Node] {
    let Kind::Table(sections) = &root.kind else { return &[] };
    let Some(gateway) = sections.iter().find(|entry| entry.key == "gateway") else { return &[] };
    let Kind::Table(entries) = &gateway.value.kind else { return &[] };
    match entries.iter().find(|entry| entry.key == "include").map(|entry| &entry.value.kind) {
        Some(Kind::List(nodes)) => nodes,
        _ => &[],
    }
}

/// Files that `pattern` names; `*` and `?` stand in its last part only. A pattern may name none, a plain path must exist.
fn expand(directory: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let full = directory.join(pattern);
    let (Some(parent), Some(name)) = (full.parent(), full.file_name().and_then(|name| name.to_str())) else {
        return Err("names no file".to_owned());
    };
    let has_wildcard = |text: &str| text.contains(['*', '?', '[']);
    if pattern.rsplit_once('/').is_some_and(|(before, _)| has_wildcard(before)) || name.contains('[') {
        return Err("has a wildcard in a directory, or a [; allowed: * and ? in the last part".to_owned());
    }
    if !has_wildcard(name) {
        return if full.is_file() { Ok(vec![full]) } else { Err("is not a file".to_owned()) };
    }
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(format!("cannot be listed: {error}")),
    };
    for entry in entries.take(100 * INCLUDES_MAX) {
        let entry = entry.map_err(|error| format!("cannot be listed: {error}"))?;
        if entry.file_name().to_str().is_some_and(|file| matches(name, file)) && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Whether `name` fits `pattern`; like a shell, a wildcard takes no leading dot.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut in_name) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        if pattern.get(at) == Some(&'*') {
            last_star = Some((at, in_name));
            at += 1;
        } else if pattern.get(at).is_some_and(|wanted| *wanted == '?' || *wanted == name[in_name]) {
            at += 1;
            in_name += 1;
        } else if let Some((star, from)) = last_star {
            last_star = Some((star, from + 1));
            at = star + 1;
            in_name = from + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

/// The tables of `[[key]]` in all files, with their paths.
fn collected<'a>(root: &Table<'a>, others: &[Table<'a>], key: &str, max: usize) -> Vec<(&'a Node, String)> {
    let mut found = Vec::new();
    for table in std::iter::once(root).chain(others) {
        if !table.has(key) {
            continue;
        }
        let nodes = table.list(key, 0..=usize::MAX).iter().enumerate();
        found.extend(nodes.map(|(index, node)| (node, format!("{key}[{}]", index + 1))));
    }
    if let Some((node, path)) = found.get(max) {
        root.report.error(&node.at, path.as_str(), format!("is number {}; allowed: at most {max}", max + 1));
        found.truncate(max);
    }
    found
}

fn assemble(
    root: &Node,
    includes: &[Node],
    files: &[Arc<Path>],
    secrets: Secrets<'_>,
    report: Report,
) -> Result<Loaded, Errors> {
    let config = build(root, includes, secrets, &report);
    let warnings = report.finish(files)?;
    match config {
        Some(config) => Ok(Loaded { config, warnings }),
        None => Err(never(&root.at.file)),
    }
}

fn build(root_node: &Node, includes: &[Node], secrets: Secrets<'_>, report: &Report) -> Option<Config> {
    let root = Table::new(root_node, String::new(), &ROOT, report)?;
    let others: Vec<_> =
        includes.iter().filter_map(|node| Table::new(node, String::new(), &INCLUDED, report)).collect();
    let nothing = Node { at: root_node.at.clone(), kind: Kind::Table(Vec::new()) };
    let section = |key: &str, section: &'static Section| {
        if root.has(key) { root.table(key, section) } else { Table::new(&nothing, key.to_owned(), section, report) }
    };
    let gateway_table = section("gateway", &GATEWAY);
    if let Some(table) = &gateway_table {
        table.texts("include", 0..=INCLUDES_MAX);
    }
    let gateway = gateway_table.as_ref().and_then(gateway::read);
    let gateway_id = gateway.as_ref().map(|gateway| &*gateway.id);
    let written_streams = collected(&root, &others, "stream", 2 * super::STREAMS_MAX);
    let (streams, stream_names, forms) = storage::streams(&written_streams, report);
    let mqtt_table = root.table("mqtt", &MQTT);
    let (mqtt, publications) = match &mqtt_table {
        Some(table) => broker::read(table, gateway_id, secrets),
        None => (None, None),
    };
    let tags: Vec<String> = gateway.iter().flat_map(|gateway| gateway.tags.keys().cloned()).collect();
    let around = Surroundings { streams: &stream_names, tags: &tags, publications: publications.as_ref() };
    let sources = read_sources(&collected(&root, &others, "source", SOURCES_MAX), &around, report);
    if sources.is_empty() {
        report.warning(&root.at, "source", "no source is enabled; nothing will be recorded");
    }
    let queue_table = section("queue", &QUEUE);
    let queue = queue_table.as_ref().and_then(|table| storage::queue(table, secrets));
    let kafka_table = root.table("kafka", &KAFKA);
    let kafka = kafka_table.as_ref().map(|table| {
        let around = output::Surroundings { streams: &streams, written: &forms, tags: &tags, sources: &sources };
        let output = output::read(table, &around, secrets);
        Some(Kafka { output: output?, ..kafka::read(table, gateway_id, &streams, secrets)? })
    });
    if let (Some(table), Some(queue), Some(kafka_table), Some(Some(kafka))) =
        (&queue_table, &queue, &kafka_table, &kafka)
    {
        let exactly_once = kafka.delivery != Delivery::AtLeastOnce;
        let uplink = flash::Uplink { table: kafka_table, linger: kafka.linger, exactly_once };
        flash::warn(table, queue.window, &uplink);
    }
    if !root.has("kafka") {
        report.warning(&root.at, "kafka", "[kafka] is not written; readings stay in the queue until it is full");
    }
    thinning::warn(&written_streams, &streams, queue.as_ref(), &sources, report);
    let clock = section("clock", &CLOCK).and_then(|table| Some(Clock { hold: table.duration("hold")? }));
    let status = section("status", &STATUS).and_then(|table| storage::status(&table));
    Some(Config {
        gateway: gateway?,
        sources,
        mqtt: if root.has("mqtt") { Some(mqtt?) } else { None },
        queue: queue?,
        streams,
        kafka: match kafka {
            Some(read) => Some(read?),
            None => None,
        },
        clock: clock?,
        status: status?,
    })
}

/// The sources that are enabled; the others are checked as well.
fn read_sources(written: &[(&Node, String)], around: &Surroundings<'_>, report: &Report) -> Vec<Source> {
    let (mut taken, mut sources) = (Vec::new(), Vec::new());
    let mut ports: Vec<(Port, String)> = Vec::new();
    for (node, path) in written {
        let Some(read) = source::read(node, path.clone(), around, &mut taken, report) else { continue };
        if read.enabled {
            refuse_shared_port(&read.source.kind, &read.source.name, node, path, &mut ports, report);
            sources.push(read.source);
        }
    }
    sources
}

/// Two sources cannot share a tty: each would take bytes from the other.
fn refuse_shared_port(
    kind: &SourceKind,
    name: &str,
    node: &Node,
    path: &str,
    ports: &mut Vec<(Port, String)>,
    report: &Report,
) {
    let (port, key) = match kind {
        SourceKind::Gnss(gnss) => (&gnss.port, "port"),
        SourceKind::Serial(serial) => (&serial.port, "port"),
        SourceKind::Modbus(Modbus { connect: ModbusConnect::Rtu { port, .. }, .. }) => (port, "connect"),
        _ => return,
    };
    if let Some((_, other)) = ports.iter().find(|(taken, _)| may_be_one(taken, port)) {
        let Kind::Table(entries) = &node.kind else { return };
        let written = entries.iter().find(|entry| entry.key == key).map_or(node, |entry| &entry.value);
        let message =
            format!("{} is the port of source {} too; allowed: one source a port", written.shown(), quoted(other));
        report.error(&written.at, format!("{path}.{key}"), message);
    }
    ports.push((port.clone(), name.to_owned()));
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name) in [("*.toml", "a.toml"), ("a?c*", "abc"), ("*a*b", "xaaab"), ("*", "x"), ("..", "..")] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.toml", ".a.toml"), ("*.toml", "a.toml~"), ("a?", "a"), ("", "a"), ("*ab", "aab ")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
