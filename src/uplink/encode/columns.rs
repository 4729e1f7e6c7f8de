//! The columns of a topic's schema: which one takes a field's value. They only ever grow. Pure.
//!
//! A column belongs to a field and a type. A field whose values change their type gets a second column beside the
//! first, so that every value has a place and no consumer sees a type change.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::message::EXACT_MAX;
use crate::reading::{RESERVED_FIELDS, Value};

/// Most columns of a topic, tags included. Each new one may be a new version of the schema, so this bounds both.
pub const COLUMNS_MAX: usize = 1_000;
/// Numbers of a message's own members end before this one (Protobuf).
pub const FIRST_NUMBER: u32 = 32;
/// Highest number: below those that Protobuf reserves (19,000 to 19,999). Gaps of other gateways' making fit in between.
const NUMBER_MAX: u32 = 18_999;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A signed 64-bit integer.
    Long,
    /// An unsigned 64-bit integer; only for values above `i64::MAX`.
    Unsigned,
    /// A 64-bit float.
    Double,
    /// UTF-8 text.
    Text,
}

impl Kind {
    /// As it stands behind the names of second columns.
    pub fn word(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Long => "long",
            Self::Unsigned => "unsigned",
            Self::Double => "double",
            Self::Text => "text",
        }
    }
}

/// A value in the type of its column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// For [`Kind::Boolean`].
    Boolean(bool),
    /// For [`Kind::Long`].
    Long(i64),
    /// For [`Kind::Unsigned`].
    Unsigned(u64),
    /// For [`Kind::Double`].
    Double(f64),
    /// For [`Kind::Text`].
    Text(&'a str),
}

impl Cell<'_> {
    fn kind(self) -> Kind {
        match self {
            Self::Boolean(_) => Kind::Boolean,
            Self::Long(_) => Kind::Long,
            Self::Unsigned(_) => Kind::Unsigned,
            Self::Double(_) => Kind::Double,
            Self::Text(_) => Kind::Text,
        }
    }
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The field or tag, as in JSON.
    pub field: String,
    /// Its name in the schema: letters, digits and `_`, unique.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// Its number in Protobuf, unique.
    pub number: u32,
}

/// All columns of a topic's schema, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Columns {
    columns: Vec<Column>,
    places: HashMap<Kind, HashMap<String, usize>>,
    spellings: HashSet<String>,
}

impl Columns {
    /// Columns as they were registered; what contradicts itself is left out.
    pub fn from_list(list: Vec<Column>) -> Self {
        let mut columns = Self::default();
        for column in list {
            columns.take_over(column);
        }
        columns
    }

    /// In the schema's order.
    pub fn list(&self) -> &[Column] {
        &self.columns
    }

    /// The value in the type of the column it goes to, and the column's place where there is one already. `None`: a
    /// null, which has no column of its own. `untyped`: a number without a fraction may be a float all the same.
    pub fn place<'v>(&self, field: &str, value: &'v Value, untyped: bool) -> Option<(Cell<'v>, Option<usize>)> {
        let of = |kind: Kind| self.places.get(&kind).and_then(|places| places.get(field)).copied();
        let cell = match value {
            Value::Null => return None,
            Value::Bool(flag) => Cell::Boolean(*flag),
            Value::Float(number) => Cell::Double(*number),
            Value::Text(text) => Cell::Text(text),
            Value::Integer(number) => {
                let exact = number.unsigned_abs() <= EXACT_MAX;
                let as_float = if untyped { true } else { of(Kind::Long).is_none() && of(Kind::Double).is_some() };
                if exact && as_float { Cell::Double(*number as f64) } else { Cell::Long(*number) }
            }
            Value::Unsigned(number) => match i64::try_from(*number) {
                Ok(_) if untyped && *number <= EXACT_MAX => Cell::Double(*number as f64),
                Ok(signed) => Cell::Long(signed),
                Err(_) => Cell::Unsigned(*number),
            },
        };
        Some((cell, of(cell.kind())))
    }

    /// The place of a tag's column.
    pub fn text_place(&self, tag: &str) -> Option<usize> {
        self.places.get(&Kind::Text)?.get(tag).copied()
    }

    /// A column for this field and type, where it is missing. Gives false where there is no room for it.
    pub fn add(&mut self, field: &str, cell: Cell<'_>) -> bool {
        let kind = cell.kind();
        if self.places.get(&kind).is_some_and(|places| places.contains_key(field)) {
            return true;
        }
        let number = self.columns.iter().map(|column| column.number + 1).max().unwrap_or(FIRST_NUMBER);
        if self.columns.len() >= COLUMNS_MAX || number > NUMBER_MAX {
            return false;
        }
        let name = self.free_name(field, kind);
        self.push(Column { field: field.to_owned(), name, kind, number });
        true
    }

    /// These columns behind all of `latest`, what others have registered for the same topic. Gives `None` where the
    /// two together are more than [`COLUMNS_MAX`].
    pub fn behind(&self, latest: &Self) -> Option<Self> {
        let mut merged = latest.clone();
        for column in &self.columns {
            if merged.take_over(column.clone()) {
                continue;
            }
            if !merged.add(&column.field, empty(column.kind)) {
                return None;
            }
        }
        (merged.columns.len() <= COLUMNS_MAX).then_some(merged)
    }

    /// Takes a column as it is, where nothing of it is taken. Gives whether its field and type now have a column.
    fn take_over(&mut self, column: Column) -> bool {
        if self.places.get(&column.kind).is_some_and(|places| places.contains_key(&column.field)) {
            return true;
        }
        let usable = is_name(&column.name) && (FIRST_NUMBER..=NUMBER_MAX).contains(&column.number);
        let number_is_taken = self.columns.iter().any(|other| other.number == column.number);
        if !usable || number_is_taken || self.is_taken(&column.name) || self.columns.len() >= COLUMNS_MAX {
            return false;
        }
        self.push(column);
        true
    }

    fn push(&mut self, column: Column) {
        self.spellings.insert(spelling(&column.name));
        self.places.entry(column.kind).or_default().insert(column.field.clone(), self.columns.len());
        self.columns.push(column);
    }

    /// The field's name as schemas allow it; with the type behind it where another column has it already.
    fn free_name(&self, field: &str, kind: Kind) -> String {
        let plain = schema_name(field);
        if !self.is_taken(&plain) {
            return plain;
        }
        let typed = format!("{plain}_{}", kind.word());
        let numbered = (2..).map(|number| format!("{typed}_{number}"));
        // There are fewer columns than numbers.
        std::iter::once(typed.clone()).chain(numbered).find(|name| !self.is_taken(name)).unwrap_or(plain)
    }

    fn is_taken(&self, name: &str) -> bool {
        let spelling = spelling(name);
        RESERVED_FIELDS.contains(&spelling.as_str()) || self.spellings.contains(&spelling)
    }
}

fn empty(kind: Kind) -> Cell<'static> {
    match kind {
        Kind::Boolean => Cell::Boolean(false),
        Kind::Long => Cell::Long(0),
        Kind::Unsigned => Cell::Unsigned(0),
        Kind::Double => Cell::Double(0.0),
        Kind::Text => Cell::Text(""),
    }
}

/// What names of one message must differ in: proto3 refuses names that differ in underscores and capitals only.
pub fn spelling(name: &str) -> String {
    name.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

fn is_name(text: &str) -> bool {
    let first_is_right = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    first_is_right && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// `field` with `_` for everything that Avro and Protobuf do not allow in names.
pub fn schema_name(field: &str) -> String {
    let mut name: String = field.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        name.insert(0, '_');
    }
    name
}
