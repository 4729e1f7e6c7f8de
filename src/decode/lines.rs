//! Lines of text: columns (CSV) or `key=value` pairs, as data loggers, scales and small firmware send them.
//!
//! [`Splitter`] finds lines in a stream of bytes within a limit; [`parse`] turns one into fields.

use crate::config::{Column, ColumnKind, Format};
use crate::decode::Trouble;
use crate::reading::{FIELDS_MAX, Field, Value, is_reserved};

/// Longest name a field of a `key=value` line may have; longer ones make the line malformed.
pub const NAME_BYTES_MAX: usize = 64;

/// Cuts a stream into lines at LF, CR or CR LF. Holds at most the longest line allowed.
#[derive(Debug)]
pub struct Splitter {
    line: Vec<u8>,
    line_bytes_max: usize,
    /// Up to the next end of a line: the line is too long, or its beginning may have been missed.
    is_skipping: bool,
    /// Nothing has come since the start.
    is_untouched: bool,
    trouble: Trouble,
}

impl Splitter {
    /// A splitter that drops lines of more than `line_bytes_max` bytes, each counted once. It begins in the midst of a
    /// line, whose rest it drops: half a number is a wrong number. See [`Splitter::silence`].
    pub fn new(line_bytes_max: usize) -> Self {
        let trouble = Trouble::default();
        Self { line: Vec::new(), line_bytes_max, is_skipping: true, is_untouched: true, trouble }
    }

    /// What could not be used, by kind.
    pub fn trouble(&mut self) -> &mut Trouble {
        &mut self.trouble
    }

    /// Whether the next byte is the first of a line.
    pub fn is_between_lines(&self) -> bool {
        self.line.is_empty()
    }

    /// Whether [`Splitter::silence`] would make a difference.
    pub fn awaits_silence(&self) -> bool {
        self.is_skipping && self.is_untouched
    }

    /// The stream was silent since its start, for longer than within a line: what comes next begins a line.
    pub fn silence(&mut self) {
        if self.is_untouched {
            self.is_skipping = false;
        }
    }

    /// Forgets a half line, and what follows up to its end, as when the port was reopened.
    pub fn reset(&mut self) {
        self.trouble.dropped_bytes += self.line.len() as u64;
        self.line.clear();
        self.is_skipping = true;
        self.is_untouched = true;
    }

    /// Takes bytes in; gives each whole line, without its end and never empty, to `emit`.
    pub fn push(&mut self, bytes: &[u8], emit: &mut impl FnMut(&[u8])) {
        self.is_untouched &= bytes.is_empty();
        for byte in bytes {
            match byte {
                b'\n' | b'\r' => {
                    if !self.line.is_empty() {
                        emit(&self.line);
                    }
                    self.line.clear();
                    self.is_skipping = false;
                }
                _ if self.is_skipping => self.trouble.dropped_bytes += 1,
                _ if self.line.len() >= self.line_bytes_max => {
                    self.trouble.too_long += 1;
                    self.trouble.dropped_bytes += self.line.len() as u64 + 1;
                    self.line.clear();
                    self.is_skipping = true;
                }
                _ => self.line.push(*byte),
            }
        }
    }
}

/// Why a line gave no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Not text.
    #[error("line is not UTF-8")]
    NotText,
    /// Another number of columns than described.
    #[error("line has {found} columns, {expected} are described")]
    Columns {
        /// How many it has.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A column that is not what it should be.
    #[error("column {name} is {value:?}, not {kind}")]
    Value {
        /// The column.
        name: String,
        /// What it holds, shortened.
        value: String,
        /// What it should be.
        kind: &'static str,
    },
    /// A quote that is not closed.
    #[error("quote is not closed")]
    Quote,
    /// Something that is not `key=value`.
    #[error("{0:?} is not a key and a value")]
    Pair(String),
    /// More fields than a reading may have.
    #[error("line has more than {FIELDS_MAX} fields")]
    TooMany,
    /// Neither column nor pair in it.
    #[error("line holds no field")]
    Empty,
}

/// Fields of one line, as `format` describes it. A format that has no lines gives [`LineError::Empty`].
///
/// # Errors
/// Says what is wrong with the line; nothing of it is used then.
pub fn parse(format: &Format, line: &[u8]) -> Result<Vec<Field>, LineError> {
    let text = std::str::from_utf8(line).map_err(|_| LineError::NotText)?;
    let fields = match format {
        Format::Csv { separator, columns, .. } => csv(text, *separator, columns)?,
        Format::KeyValue { separator, assign, .. } => key_values(text, *separator, *assign)?,
        Format::Preset(_) => Vec::new(),
    };
    if fields.is_empty() { Err(LineError::Empty) } else { Ok(fields) }
}

fn csv(text: &str, separator: char, columns: &[Column]) -> Result<Vec<Field>, LineError> {
    let cells = split_quoted(text, separator)?;
    if cells.len() != columns.len() {
        return Err(LineError::Columns { found: cells.len(), expected: columns.len() });
    }
    let named = columns.iter().zip(&cells).filter(|(column, _)| !column.name.is_empty());
    named.map(|(column, cell)| Ok(Field::new(column.name.clone(), cell_value(column, cell)?))).collect()
}

/// Cells of a line; a cell in double quotes may hold the separator, and `""` is a quote (RFC 4180, section 2).
fn split_quoted(text: &str, separator: char) -> Result<Vec<String>, LineError> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let Some(cell) = cells.last_mut() else { break };
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if cell.trim().is_empty() => {
                cell.clear();
                quoted = true;
            }
            _ if character == separator && !quoted => cells.push(String::new()),
            _ => cell.push(character),
        }
        if cells.len() > FIELDS_MAX {
            return Err(LineError::TooMany);
        }
    }
    if quoted { Err(LineError::Quote) } else { Ok(cells) }
}

fn cell_value(column: &Column, cell: &str) -> Result<Value, LineError> {
    let cell = cell.trim();
    if column.kind == ColumnKind::Text {
        return Ok(Value::Text(cell.to_owned()));
    }
    if cell.is_empty() || cell.eq_ignore_ascii_case("nan") {
        return Ok(Value::Null);
    }
    let value = match column.kind {
        ColumnKind::Float => cell.parse().ok().map(Value::float),
        ColumnKind::Integer => integer(cell),
        ColumnKind::Bool => boolean(cell).or(match cell {
            "0" => Some(Value::Bool(false)),
            "1" => Some(Value::Bool(true)),
            _ => None,
        }),
        ColumnKind::Text => None,
    };
    value.ok_or_else(|| LineError::Value {
        name: column.name.to_string(),
        value: shortened(cell),
        kind: match column.kind {
            ColumnKind::Float => "a number",
            ColumnKind::Integer => "a whole number",
            ColumnKind::Bool => "0, 1, true, false, on or off",
            ColumnKind::Text => "text",
        },
    })
}

fn key_values(text: &str, separator: char, assign: char) -> Result<Vec<Field>, LineError> {
    let mut fields: Vec<Field> = Vec::new();
    for pair in text.split(separator).map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(assign).ok_or_else(|| LineError::Pair(shortened(pair)))?;
        let name = snake_case(key).ok_or_else(|| LineError::Pair(shortened(pair)))?;
        if fields.len() == FIELDS_MAX {
            return Err(LineError::TooMany);
        }
        let value = guess(value.trim());
        // A key that is said twice keeps its last value: JSON objects have each name once.
        match fields.iter_mut().find(|field| *field.name == *name) {
            Some(field) => field.value = value,
            None => fields.push(Field::new(name, value)),
        }
    }
    Ok(fields)
}

/// A field name from a key: lower case, runs of anything but letters and digits become one underscore, a digit in
/// front gets one before it, a reserved name gets one behind it. `None`: nothing is left, or it is too long.
fn snake_case(key: &str) -> Option<String> {
    let mut name = String::new();
    let mut previous = '_';
    for character in key.trim().chars() {
        let starts_word =
            character.is_ascii_uppercase() && (previous.is_ascii_lowercase() || previous.is_ascii_digit());
        if (starts_word || !character.is_ascii_alphanumeric()) && !name.is_empty() && !name.ends_with('_') {
            name.push('_');
        }
        if character.is_ascii_alphanumeric() {
            name.push(character.to_ascii_lowercase());
        }
        previous = character;
    }
    name.truncate(name.trim_end_matches('_').len());
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        name.insert(0, '_');
    }
    if is_reserved(&name) {
        name.push('_');
    }
    (!name.is_empty() && name.len() <= NAME_BYTES_MAX).then_some(name)
}

fn guess(text: &str) -> Value {
    if text.is_empty() || text.eq_ignore_ascii_case("nan") || text.eq_ignore_ascii_case("null") {
        return Value::Null;
    }
    let looks_numeric = text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '.'));
    integer(text)
        .or_else(|| text.parse().ok().filter(|_| looks_numeric).map(Value::float))
        .or_else(|| boolean(text))
        .unwrap_or_else(|| Value::Text(text.trim_matches('"').to_owned()))
}

fn integer(text: &str) -> Option<Value> {
    text.parse().map(Value::Integer).or_else(|_| text.parse().map(Value::Unsigned)).ok()
}

fn boolean(text: &str) -> Option<Value> {
    let is = |word| text.eq_ignore_ascii_case(word);
    if is("true") || is("on") {
        Some(Value::Bool(true))
    } else if is("false") || is("off") {
        Some(Value::Bool(false))
    } else {
        None
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests;
