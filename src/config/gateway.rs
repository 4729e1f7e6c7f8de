//! `[gateway]`: who this gateway is. Without an id, the machine gives one that says nothing about its machine id.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::names::{identifier, is_identifier, is_plain};
use super::reader::Table;
use super::resolved::Gateway;
use super::tree::{Kind, quoted};
use crate::reading::is_reserved;

/// Most tags of a gateway.
const TAGS_MAX: usize = 16;
/// Longest value of a tag in bytes.
const TAG_BYTES_MAX: usize = 256;
/// Longest gateway id.
const ID_CHARS_MAX: usize = 128;
/// Names this application to [`application_specific`]; drawn once at random, never to change.
const APPLICATION_ID: [u8; 16] =
    [0x6b, 0x1f, 0x0a, 0xd3, 0x52, 0x9c, 0x4e, 0x77, 0x9d, 0x20, 0xe8, 0x35, 0xc4, 0x71, 0x0b, 0xa6];

/// Reads `[gateway]`.
pub(super) fn read(table: &Table<'_>) -> Option<Gateway> {
    let id = if table.has("id") { identifier(table, "id", ID_CHARS_MAX) } else { Some(default_id()) };
    let state_dir = table.text("state-dir").map(PathBuf::from);
    if state_dir.as_deref().is_some_and(Path::is_relative) {
        table.refuse("state-dir", "is not absolute");
    }
    let tags = tags(table);
    Some(Gateway { id: id?.into(), state_dir: state_dir?, tags })
}

fn tags(table: &Table<'_>) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    let entries = table.entries_of("tags");
    if entries.len() > TAGS_MAX {
        table.refuse("tags", &format!("has {} tags", entries.len()));
    }
    for entry in entries.iter().take(TAGS_MAX) {
        let key = format!("tags.{}", entry.key);
        let fault = |message: String| table.report.error(&entry.value.at, format!("{}.{key}", table.path), message);
        if is_reserved(&entry.key) {
            fault(format!("tag {} is reserved: every record bears a member of this name", quoted(&entry.key)));
        } else if !is_plain(&entry.key) {
            fault(format!("tag {} is not valid; allowed: 1 to 128 bytes, no control characters", quoted(&entry.key)));
        }
        match &entry.value.kind {
            Kind::Text(value) if value.len() <= TAG_BYTES_MAX => {
                tags.insert(entry.key.clone(), value.clone());
            }
            _ => fault(format!("{} is not text, or too long; allowed: text of at most 256 bytes", entry.value.shown())),
        }
    }
    tags
}

/// Host name, `-` and 6 hex digits of this machine's application-specific id.
fn default_id() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    named_after(&host, machine.trim())
}

fn named_after(host: &str, machine_id: &str) -> String {
    let host: String =
        host.chars().take(64).map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    let host = if is_identifier(&host, 64) { host } else { "gateway".to_owned() };
    let digits: String = application_specific(machine_id).iter().take(3).map(|byte| format!("{byte:02x}")).collect();
    format!("{host}-{digits}")
}

/// HMAC-SHA256 of this application's id, keyed by the machine id, as `sd_id128_get_machine_app_specific(3)` does it
/// (before it marks the result as a UUID): the machine id is confidential and must not be guessed from what we send.
fn application_specific(machine_id: &str) -> [u8; 32] {
    let key: Vec<u8> = (0..machine_id.len() / 2)
        .filter_map(|index| u8::from_str_radix(machine_id.get(index * 2..index * 2 + 2)?, 16).ok())
        .collect();
    let mut code = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
    code.update(&APPLICATION_ID);
    code.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_name_is_stable_legal_and_tells_machines_apart() {
        let one = named_after("truck 17", "0123456789abcdef0123456789abcdef");
        assert_eq!(one, named_after("truck 17", "0123456789abcdef0123456789abcdef"));
        assert_ne!(one, named_after("truck 17", "0123456789abcdef0123456789abcdee"));
        assert!(one.starts_with("truck-17-") && is_identifier(&one, ID_CHARS_MAX), "{one}");
        assert!(named_after("", "not hex: ü").starts_with("gateway-"));
    }
}
