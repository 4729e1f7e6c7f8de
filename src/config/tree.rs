//! A TOML file as a tree in which every key and value knows its line and column.
//!
//! This is the only place that sees `toml_edit`; the tree drops comments and layout and keeps positions.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml_edit::{Document, Item, TableLike, Value};

use super::problem::{Place, Report};

/// A value and where it is written.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Date(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Place,
    pub(super) value: Node,
}

impl Node {
    /// The value as a message shows it: short, quoted where it is text.
    pub(super) fn shown(&self) -> String {
        match &self.kind {
            Kind::Text(text) => quoted(text),
            Kind::Integer(number) => number.to_string(),
            Kind::Float(number) => format!("{number:?}"),
            Kind::Boolean(flag) => flag.to_string(),
            Kind::Date(date) => date.clone(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Table(_) => "a table".to_owned(),
        }
    }
}

/// `text` in quotes, control characters escaped, cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Byte offsets to lines and columns of one file.
struct Places<'a> {
    file: Arc<Path>,
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Places<'a> {
    fn new(file: Arc<Path>, text: &'a str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(index, _)| index + 1);
        Self { file, text, line_starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    fn at(&self, span: Option<Range<usize>>, fallback: &Place) -> Place {
        let Some(offset) = span.map(|span| span.start.min(self.text.len())) else { return fallback.clone() };
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Place { file: self.file.clone(), line, column }
    }
}

/// Parses `text`; what is not TOML is reported with its place, and gives `None`.
pub(super) fn parse(file: &Arc<Path>, text: &str, report: &Report) -> Option<Node> {
    let places = Places::new(file.clone(), text);
    let start = Place { file: file.clone(), line: 1, column: 1 };
    match Document::parse(text) {
        Ok(document) => Some(Node { kind: Kind::Table(entries(document.as_table(), &places, &start)), at: start }),
        Err(error) => {
            let message = error.message().trim().replace('\n', "; ");
            report.error(&places.at(error.span(), &start), "", format!("not valid TOML: {message}"));
            None
        }
    }
}

fn entries(table: &dyn TableLike, places: &Places<'_>, fallback: &Place) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (name, item) in table.iter() {
        let key_span = table.get_key_value(name).and_then(|(key, _)| key.span());
        let at = places.at(key_span, fallback);
        if let Some(value) = node_of_item(item, places, &at) {
            entries.push(Entry { key: name.to_owned(), at, value });
        }
    }
    entries
}

fn node_of_item(item: &Item, places: &Places<'_>, fallback: &Place) -> Option<Node> {
    let at = places.at(item.span(), fallback);
    let kind = match item {
        Item::None => return None,
        Item::Value(value) => return Some(node_of_value(value, places, fallback)),
        Item::Table(table) => Kind::Table(entries(table, places, &at)),
        Item::ArrayOfTables(tables) => Kind::List(
            tables
                .iter()
                .map(|table| {
                    let at = places.at(table.span(), fallback);
                    Node { kind: Kind::Table(entries(table, places, &at)), at }
                })
                .collect(),
        ),
    };
    Some(Node { at, kind })
}

fn node_of_value(value: &Value, places: &Places<'_>, fallback: &Place) -> Node {
    let at = places.at(value.span(), fallback);
    let kind = match value {
        Value::String(text) => Kind::Text(text.value().clone()),
        Value::Integer(number) => Kind::Integer(*number.value()),
        Value::Float(number) => Kind::Float(*number.value()),
        Value::Boolean(flag) => Kind::Boolean(*flag.value()),
        Value::Datetime(date) => Kind::Date(date.value().to_string()),
        Value::Array(list) => Kind::List(list.iter().map(|value| node_of_value(value, places, &at)).collect()),
        Value::InlineTable(table) => Kind::Table(entries(table, places, &at)),
    };
    Node { at, kind }
}
