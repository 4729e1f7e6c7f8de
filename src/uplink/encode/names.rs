//! Names of a record's fields as messages show them: no two members of a message bear one name. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::reading::{Field, is_reserved};

/// The names of the fields, in their order. A field named like a tag or like one of the record's own members gets
/// trailing underscores, as many as it takes that no member appears twice.
pub fn shown_names<'a>(
    tags: &'a BTreeMap<String, String>,
    fields: &'a [Field],
) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
    let mut renamed: Vec<String> = Vec::new();
    fields.iter().map(move |field| {
        let is_taken = |name: &str| is_reserved(name) || tags.contains_key(name);
        if !is_taken(&field.name) {
            return Cow::Borrowed(&*field.name);
        }
        let mut name = format!("{}_", field.name);
        while is_taken(&name) || renamed.contains(&name) || fields.iter().any(|other| *other.name == *name) {
            name.push('_');
        }
        renamed.push(name.clone());
        Cow::Owned(name)
    })
}
