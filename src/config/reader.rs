//! A typed reader of one table: it knows the table's keys, and notes every mistake instead of stopping at the first.

use std::time::Duration;

use super::keys::{Default, Key, Kind, Section};
use super::problem::{Place, Report};
use super::tree::{self, Entry, Node, quoted};
use super::units;

/// One table of the configuration, being read.
///
/// Getters give `None` where the key is absent and has no default, and where it is wrong, which they have then noted.
pub(super) struct Table<'a> {
    section: &'static Section,
    /// Dotted path of the table; empty for the file.
    pub(super) path: String,
    /// Where the table begins.
    pub(super) at: Place,
    entries: &'a [Entry],
    pub(super) report: &'a Report,
}

impl<'a> Table<'a> {
    /// Begins to read `node` as `section`; unknown and not yet supported keys are noted here.
    pub(super) fn new(node: &'a Node, path: String, section: &'static Section, report: &'a Report) -> Option<Self> {
        let tree::Kind::Table(entries) = &node.kind else {
            report.error(&node.at, path, format!("{} is not a table; allowed: a table", node.shown()));
            return None;
        };
        let table = Self { section, path, at: node.at.clone(), entries, report };
        table.refuse_foreign_keys();
        Some(table)
    }

    fn refuse_foreign_keys(&self) {
        for entry in self.entries {
            match self.section.key(&entry.key) {
                Some(Key { kind: Kind::Later, .. }) => {
                    self.error(&entry.at, &entry.key, "not yet supported; remove it".to_owned());
                }
                Some(_) => {}
                None => self.error(&entry.at, &entry.key, unknown_key(self.section, &entry.key)),
            }
        }
    }

    /// The dotted path of a key of this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        let shown = if key.chars().all(|c| c.is_ascii_alphanumeric() || "-_[]".contains(c)) && !key.is_empty() {
            key.to_owned()
        } else {
            quoted(key)
        };
        if self.path.is_empty() { shown } else { format!("{}.{shown}", self.path) }
    }

    /// Notes a mistake at `key`.
    pub(super) fn error(&self, place: &Place, key: &str, message: String) {
        self.report.error(place, self.path_of(key), message);
    }

    /// The value written for `key`, if any.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        debug_assert!(self.section.key(key).is_some(), "{key} is not in the table of keys of {}", self.section.title);
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// Whether `key` is written.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// All keys and values, for tables whose keys the user names.
    pub(super) fn entries_of(&self, key: &str) -> &'a [Entry] {
        match self.get(key).map(|node| (node, &node.kind)) {
            None => &[],
            Some((_, tree::Kind::Table(entries))) => entries,
            Some((node, _)) => {
                self.error(&node.at, key, format!("{} is not a table; allowed: a table", node.shown()));
                &[]
            }
        }
    }

    /// Where the value of `key` is written, or else the table.
    pub(super) fn place_of(&self, key: &str) -> Place {
        self.get(key).map_or_else(|| self.at.clone(), |node| node.at.clone())
    }

    /// Notes that the value of `key` is wrong: the value, why, and what is allowed by the table of keys.
    pub(super) fn refuse(&self, key: &str, why: &str) {
        let allowed = self.section.key(key).map_or_else(String::new, |known| known.kind.allowed());
        let (place, value) = match self.get(key) {
            Some(node) => (node.at.clone(), node.shown()),
            None => (self.at.clone(), "nothing".to_owned()),
        };
        self.error(&place, key, format!("{value} {why}; allowed: {allowed}"));
    }

    /// What is written for `key`, or its default as a user would write it; a missing required key is noted.
    fn written(&self, key: &str) -> Option<Written<'a>> {
        if let Some(node) = self.get(key) {
            return Some(Written::Node(node));
        }
        let known = self.section.key(key)?;
        match known.default {
            Default::Is(text) => Some(Written::Default(text)),
            Default::Words(_) => None,
            Default::Required => {
                self.error(&self.at, key, format!("missing; needed: {}", known.kind.allowed()));
                None
            }
        }
    }

    fn kind(&self, key: &str) -> Kind {
        self.section.key(key).map_or(Kind::Later, |known| known.kind)
    }

    /// Text, not empty.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        match self.written(key)? {
            Written::Default(text) => Some(text.to_owned()),
            Written::Node(Node { kind: tree::Kind::Text(text), .. }) if !text.is_empty() => Some(text.clone()),
            Written::Node(Node { kind: tree::Kind::Text(_), .. }) => {
                self.refuse(key, "is empty");
                None
            }
            Written::Node(_) => {
                self.refuse(key, "is not text");
                None
            }
        }
    }

    /// One of the words of the key.
    pub(super) fn word(&self, key: &str) -> Option<&'static str> {
        let text = self.text(key)?;
        let Kind::Word(words, later) = self.kind(key) else { return None };
        if let Some(word) = words.iter().find(|word| **word == text) {
            return Some(word);
        }
        if later.contains(&text.as_str()) {
            self.refuse(key, "is not yet supported");
        } else {
            self.refuse(key, "is not known");
        }
        None
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        match self.written(key)? {
            Written::Default(text) => Some(text == "true"),
            Written::Node(Node { kind: tree::Kind::Boolean(flag), .. }) => Some(*flag),
            Written::Node(_) => {
                self.refuse(key, "is not true or false");
                None
            }
        }
    }

    /// A whole number within the key's limits, as the type its user needs.
    pub(super) fn integer<T: TryFrom<i64>>(&self, key: &str) -> Option<T> {
        let number = match self.written(key)? {
            Written::Default(text) => text.parse().ok()?,
            Written::Node(Node { kind: tree::Kind::Integer(number), .. }) => *number,
            Written::Node(_) => {
                self.refuse(key, "is not a whole number");
                return None;
            }
        };
        let Kind::Integer(min, max) = self.kind(key) else { return None };
        if !(min..=max).contains(&number) {
            self.refuse(key, "is out of range");
            return None;
        }
        T::try_from(number).ok()
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        let number = match self.written(key)? {
            Written::Default(text) => text.parse().ok()?,
            Written::Node(Node { kind: tree::Kind::Float(number), .. }) => *number,
            Written::Node(Node { kind: tree::Kind::Integer(number), .. }) => *number as f64,
            Written::Node(_) => f64::NAN,
        };
        if !number.is_finite() {
            self.refuse(key, "is not a finite number");
            return None;
        }
        Some(number)
    }

    /// A duration within the key's limits.
    pub(super) fn duration(&self, key: &str) -> Option<Duration> {
        let Kind::Duration(min, max) = self.kind(key) else { return None };
        let duration = self.amount(key, units::duration, "is not a duration")?;
        if !(min..=max).contains(&u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)) {
            self.refuse(key, "is out of range");
            return None;
        }
        Some(duration)
    }

    /// A size in bytes within the key's limits, as the type its user needs.
    pub(super) fn size<T: TryFrom<u64>>(&self, key: &str) -> Option<T> {
        let Kind::Size(min, max) = self.kind(key) else { return None };
        let bytes = self.amount(key, units::size, "is not a size")?;
        if !(min..=max).contains(&bytes) {
            self.refuse(key, "is out of range");
            return None;
        }
        T::try_from(bytes).ok()
    }

    fn amount<T>(&self, key: &str, parse: fn(&str) -> Option<T>, why: &str) -> Option<T> {
        let text = match self.written(key)? {
            Written::Default(text) => text,
            Written::Node(Node { kind: tree::Kind::Text(text), .. }) => text.as_str(),
            Written::Node(_) => {
                self.refuse(key, why);
                return None;
            }
        };
        let amount = parse(text);
        if amount.is_none() {
            self.refuse(key, why);
        }
        amount
    }

    /// A list of text with the place of each, `count` long.
    pub(super) fn texts(&self, key: &str, count: std::ops::RangeInclusive<usize>) -> Vec<(&'a str, Place)> {
        let mut texts = Vec::new();
        for node in self.list(key, count) {
            match &node.kind {
                tree::Kind::Text(text) if !text.is_empty() => texts.push((text.as_str(), node.at.clone())),
                _ => self.error(&node.at, key, format!("{} is not text, or empty; allowed: text", node.shown())),
            }
        }
        texts
    }

    /// The elements of a list, `count` long; nothing where it is absent or wrong.
    pub(super) fn list(&self, key: &str, count: std::ops::RangeInclusive<usize>) -> &'a [Node] {
        match self.written(key) {
            Some(Written::Node(Node { kind: tree::Kind::List(nodes), .. })) if count.contains(&nodes.len()) => nodes,
            Some(Written::Node(Node { kind: tree::Kind::List(nodes), .. })) => {
                let (min, max) = count.into_inner();
                self.refuse(key, &format!("has {} elements, {min} to {max} may be", nodes.len()));
                &[]
            }
            Some(Written::Node(_)) => {
                self.refuse(key, "is not a list");
                &[]
            }
            Some(Written::Default(_)) | None => &[],
        }
    }

    /// The table at `key`, where it is written.
    pub(super) fn table(&self, key: &str, section: &'static Section) -> Option<Table<'a>> {
        Table::new(self.get(key)?, self.path_of(key), section, self.report)
    }

    /// The tables of the list at `key`, `count` long.
    pub(super) fn tables(
        &self,
        key: &str,
        section: &'static Section,
        count: std::ops::RangeInclusive<usize>,
    ) -> Vec<Table<'a>> {
        let nodes = self.list(key, count);
        let path = self.path_of(key);
        let numbered = nodes.iter().enumerate();
        numbered
            .filter_map(|(index, node)| Table::new(node, format!("{path}[{}]", index + 1), section, self.report))
            .collect()
    }
}

enum Written<'a> {
    Node(&'a Node),
    Default(&'static str),
}

impl Kind {
    /// What is allowed, in words.
    pub(super) fn allowed(self) -> String {
        match self {
            Self::Text(form) | Self::Number(form) => form.to_owned(),
            Self::Texts(form) => format!("a list of {form}"),
            Self::Table(form) => form.to_owned(),
            Self::Word(words, _) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", "),
            Self::Boolean => "true, false".to_owned(),
            Self::Integer(min, max) => format!("a whole number from {min} to {max}"),
            Self::Duration(min, max) => format!(
                "{} to {} ({})",
                units::shown_duration(Duration::from_millis(min)),
                units::shown_duration(Duration::from_millis(max)),
                units::DURATION_FORM
            ),
            Self::Size(min, max) => {
                format!("{} to {} ({})", units::shown_size(min), units::shown_size(max), units::SIZE_FORM)
            }
            Self::Later => "nothing yet".to_owned(),
        }
    }
}

fn unknown_key(section: &Section, key: &str) -> String {
    let names = || section.all_keys().filter(|known| !matches!(known.kind, Kind::Later)).map(|known| known.name);
    let limit = ((key.chars().count() + 1) / 3).clamp(1, 3);
    let nearest = names().map(|name| (distance(key, name), name)).min().filter(|(distance, _)| *distance <= limit);
    let hint = nearest.map_or_else(String::new, |(_, name)| format!("; did you mean \"{name}\"?"));
    let allowed = names().collect::<Vec<_>>().join(", ");
    format!("unknown key {}{hint}; allowed: {allowed}", quoted(key))
}

/// Levenshtein distance; long keys are not compared, they are no slip of the finger.
fn distance(written: &str, known: &str) -> usize {
    const COMPARED_CHARS_MAX: usize = 64;
    let written: Vec<char> = written.chars().take(COMPARED_CHARS_MAX + 1).collect();
    if written.len() > COMPARED_CHARS_MAX {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=written.len()).collect();
    for (line, expected) in known.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, found) in written.iter().enumerate() {
            let replaced = diagonal + usize::from(*found != expected);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[written.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_edits() {
        assert_eq!(distance("window", "window"), 0);
        assert_eq!(distance("wndow", "window"), 1);
        assert_eq!(distance("", "qos"), 3);
        assert_eq!(distance(&"x".repeat(65), "qos"), usize::MAX);
    }
}
