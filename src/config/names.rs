//! Names, addresses and topics as the configuration allows them.

use crate::reading::{Name, is_reserved};

use super::keys::Section;
use super::reader::Table;
use super::tree::quoted;

/// Longest device or field name in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Whether `text` is 1 to `max` of letters, digits, `.`, `_`, `-`.
pub(super) fn is_identifier(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Whether `text` may be a Kafka topic: Kafka's own rule (`Topic.validate` of the broker), 249 characters at most.
pub(super) fn is_kafka_topic(text: &str) -> bool {
    is_identifier(text, 249) && text != "." && text != ".."
}

/// Whether `text` may name a device or field: 1 to 128 bytes, no control characters.
pub(super) fn is_plain(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The identifier at `key`.
pub(super) fn identifier(table: &Table<'_>, key: &str, max: usize) -> Option<String> {
    let text = table.text(key)?;
    if !is_identifier(&text, max) {
        table.refuse(key, "is not a valid name");
        return None;
    }
    Some(text)
}

/// The device name at `key`.
pub(super) fn device(table: &Table<'_>, key: &str) -> Option<Name> {
    let text = table.text(key)?;
    if !is_plain(&text) {
        table.refuse(key, "is not a valid device name");
        return None;
    }
    Some(text.into())
}

/// The field name at `key`; `tags` are taken by every record.
pub(super) fn field(table: &Table<'_>, key: &str, tags: &[String]) -> Option<Name> {
    let text = table.text(key)?;
    if let Some(why) = field_fault(&text, tags) {
        table.refuse(key, why);
        return None;
    }
    Some(text.into())
}

/// Why `text` may not be a field's name.
pub(super) fn field_fault(text: &str, tags: &[String]) -> Option<&'static str> {
    if !is_plain(text) {
        Some("is not a valid field name")
    } else if is_reserved(text) {
        Some("is reserved: every record bears a member of this name")
    } else if tags.iter().any(|tag| tag == text) {
        Some("is the name of a tag in gateway.tags")
    } else {
        None
    }
}

/// The stream at `key`, which must be one of `streams`; `None` where it is not written and has no default.
pub(super) fn stream(table: &Table<'_>, key: &str, streams: &[String]) -> Option<Name> {
    let text = table.text(key)?;
    if !streams.contains(&text) {
        let known = streams.join(", ");
        table.error(&table.place_of(key), key, format!("{} is not a stream; allowed: {known}", quoted(&text)));
        return None;
    }
    Some(text.into())
}

/// Host and port of `host:port`, `host` or `[v6]:port`; `None` where it is neither, or lacks a port without default.
pub(super) fn host_port(text: &str, default_port: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let bracketed = text.starts_with('[');
    let is_host = bracketed || host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if host.is_empty() || host.len() > 253 || !is_host {
        return None;
    }
    let port = match port {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port != 0)?
        }
        Some(_) => return None,
        None => default_port?,
    };
    Some((host.to_owned(), port))
}

/// Whether `filter` is a topic filter by MQTT 3.1.1, 4.7.1: `#` alone at the end, `+` alone in its level.
pub(super) fn is_topic_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > 65_535 || filter.contains('\0') {
        return false;
    }
    let last = filter.split('/').count() - 1;
    filter.split('/').enumerate().all(|(index, level)| match level {
        "+" => true,
        "#" => index == last,
        _ => !level.contains(['+', '#']),
    })
}

/// Whether `filter` takes in any topic that the template `pattern` can become; `{...}` stands for any part of a level.
pub(super) fn filter_takes_in(filter: &str, pattern: &str) -> bool {
    let filter = match filter.strip_prefix("$share/") {
        Some(rest) => rest.split_once('/').map_or("", |(_, filter)| filter),
        None => filter,
    };
    // MQTT 3.1.1, 4.7.2: a leading wildcard does not match topics that begin with `$`.
    if pattern.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = pattern.split('/');
    for wanted in filter.split('/') {
        // `#` also takes in its parent level, so it fits however many levels are left, none included.
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || level_fits(level, wanted) => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Whether the template level can become `text`: literal head and tail must stand, what is between is free.
fn level_fits(level: &str, text: &str) -> bool {
    let (Some(open), Some(close)) = (level.find('{'), level.rfind('}')) else { return level == text };
    let head = &level[..open];
    let tail = level.get(close + 1..).unwrap_or("");
    text.len() >= head.len() + tail.len() && text.starts_with(head) && text.ends_with(tail)
}

/// Whether all `{...}` parts of `template` are among `parts` (or accepted by `also`).
pub(super) fn template_fault(template: &str, parts: &[&str], also: fn(&str) -> bool) -> Option<String> {
    let mut rest = template;
    while let Some(position) = rest.find(['{', '}']) {
        let after = &rest[position..];
        let Some(end) = after.strip_prefix('{').and_then(|inside| inside.find('}')) else {
            return Some("has a brace without its partner".to_owned());
        };
        let part = &after[1..=end];
        if !parts.contains(&part) && !also(part) {
            return Some(format!("has the unknown part {}", quoted(&format!("{{{part}}}"))));
        }
        rest = &after[end + 2..];
    }
    None
}

/// Notes names that were taken before; gives whether `name` is new.
pub(super) fn note_unique(table: &Table<'_>, key: &str, name: &str, taken: &mut Vec<String>, among: &str) -> bool {
    if taken.iter().any(|other| other == name) {
        let message = format!("{} is taken; names must be unique among {among}", quoted(name));
        table.error(&table.place_of(key), key, message);
        return false;
    }
    taken.push(name.to_owned());
    true
}

/// A key's allowed words, for use outside its table.
pub(super) fn allowed(section: &'static Section, key: &str) -> String {
    section.key(key).map_or_else(String::new, |known| known.kind.allowed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(host_port("kafka-1.example:9093", None), Some(("kafka-1.example".into(), 9093)));
        assert_eq!(host_port("[::1]:502", None), Some(("::1".into(), 502)));
        assert_eq!(host_port("plc", Some(502)), Some(("plc".into(), 502)));
        for wrong in ["", ":1", "a:", "a:0", "a:65536", "a b:1", "a:+1", "::1", "[::1", "[x]:1", "u@h:1", "[::1]1"] {
            assert_eq!(host_port(wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn filters_follow_the_standard() {
        for right in ["a", "a/+/b", "#", "a/#", "+", "/", "$SYS/#"] {
            assert!(is_topic_filter(right), "{right}");
        }
        for wrong in ["", "a#", "#/a", "a/b+", "a/#/b", "a\0"] {
            assert!(!is_topic_filter(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_filter_takes_in_what_a_template_can_become() {
        let template = "forebay/truck-17/{device}";
        for hit in
            ["#", "forebay/#", "+/+/+", "forebay/truck-17/boiler", "$share/g/forebay/+/x", "forebay/truck-17/x/#"]
        {
            assert!(filter_takes_in(hit, template), "{hit}");
        }
        for miss in ["sensors/+/data", "forebay/+", "forebay/truck-18/+", "forebay/truck-17/a/b", "+/+/+/+"] {
            assert!(!filter_takes_in(miss, template), "{miss}");
        }
        assert!(filter_takes_in("a/dev-1", "a/dev-{device}"));
        assert!(!filter_takes_in("a/1", "a/dev-{device}"));
        assert!(!filter_takes_in("#", "$gateway/{device}"));
    }

    #[test]
    fn templates_know_their_parts() {
        let none = |_: &str| false;
        assert_eq!(template_fault("a/{gateway}/{device}", &["gateway", "device"], none), None);
        assert!(template_fault("a/{x}", &["device"], none).is_some());
        assert!(template_fault("a/{device", &["device"], none).is_some());
        assert!(template_fault("a/device}", &["device"], none).is_some());
    }
}
