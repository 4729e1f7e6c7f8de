//! Topic names (MQTT 3.1.1, section 4.7): what a publication's template and a source's `device` expand to. The
//! configuration has checked both. Pure.

/// Longest topic name in bytes of UTF-8 (MQTT 3.1.1, 4.7.3).
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// What a publication's topic is made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// `{gateway}`
    pub gateway: &'a str,
    /// `{source}`
    pub source: &'a str,
    /// `{stream}`
    pub stream: &'a str,
    /// `{device}`
    pub device: &'a str,
}

/// The topic that `template` makes of `parts`; each part becomes one level at most: `+`, `#`, `/` and control
/// characters become `_`.
///
/// Braces that are no known placeholder stay as they are: the configuration has refused them before.
pub fn expand(template: &str, parts: Parts<'_>) -> String {
    let mut topic = String::with_capacity(template.len() + 32);
    for piece in pieces(template) {
        match piece {
            Piece::Text(text) => topic.push_str(text),
            Piece::Placeholder("gateway") => sanitise(parts.gateway, &mut topic),
            Piece::Placeholder("source") => sanitise(parts.source, &mut topic),
            Piece::Placeholder("stream") => sanitise(parts.stream, &mut topic),
            Piece::Placeholder("device") => sanitise(parts.device, &mut topic),
            Piece::Placeholder(other) => {
                topic.push('{');
                topic.push_str(other);
                topic.push('}');
            }
        }
    }
    topic
}

/// Appends `name` as one topic level: `+`, `#`, `/` and control characters become `_`.
fn sanitise(name: &str, topic: &mut String) {
    topic.extend(name.chars().map(|c| if matches!(c, '+' | '#' | '/') || c.is_control() { '_' } else { c }));
}

/// Whether a topic filter takes in a topic (MQTT 3.1.1, 4.7.1, 4.7.2): `+` is one level, `#` all that follow and their
/// parent; neither matches a first level that begins with `$`. `$share/<group>/` before a filter is passed over.
pub fn matches(filter: &str, topic: &str) -> bool {
    let filter = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')).map_or(filter, |(_, rest)| rest);
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filters, mut levels) = (filter.split('/'), topic.split('/'));
    loop {
        match (filters.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

/// A source's device template, e.g. `{topic.1}`, applied to a topic a message came in on: `{topic}` is the whole topic,
/// `{topic.N}` its level N from 0. A level the topic does not have is empty.
pub fn device_of(template: &str, topic: &str) -> String {
    let mut device = String::with_capacity(topic.len());
    for piece in pieces(template) {
        match piece {
            Piece::Text(text) => device.push_str(text),
            Piece::Placeholder("topic") => device.push_str(topic),
            Piece::Placeholder(name) => {
                let level = name.strip_prefix("topic.").and_then(|index| index.parse::<usize>().ok());
                device.push_str(level.and_then(|index| topic.split('/').nth(index)).unwrap_or(""));
            }
        }
    }
    device
}

enum Piece<'a> {
    Text(&'a str),
    Placeholder(&'a str),
}

/// Splits a template at its braces; an unclosed brace begins a placeholder that keeps it, which the checks refuse.
fn pieces(template: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(inner) = rest.strip_prefix('{') {
            let (name, after) = inner.split_once('}').unwrap_or((rest, ""));
            rest = after;
            return Some(Piece::Placeholder(name));
        }
        let end = rest.find('{').unwrap_or(rest.len());
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Piece::Text(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_expands_and_a_device_stays_one_level() {
        let parts = Parts { gateway: "gw", source: "plc", stream: "telemetry", device: "a/b+c#d\n" };
        assert_eq!(expand("forebay/{gateway}/{source}/{stream}/{device}", parts), "forebay/gw/plc/telemetry/a_b_c_d_");
        assert_eq!(expand("x-{device}-y", Parts { device: "1", ..parts }), "x-1-y");
    }

    #[test]
    fn a_filter_takes_in_what_the_standard_says() {
        for (filter, topic) in [("#", "a/b"), ("a/#", "a"), ("a/+", "a/"), ("+/+", "/a"), ("$share/g/a/+", "a/b")] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [("a/+", "a"), ("a/+", "a/b/c"), ("+", "/a"), ("#", "$SYS/x"), ("a/b", "a/B")] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }

    #[test]
    fn devices_come_from_topic_levels() {
        assert_eq!(device_of("{topic.1}", "sensors/yard/data"), "yard");
        assert_eq!(device_of("mq-{topic.0}-{topic.1}", "a/b"), "mq-a-b");
        assert_eq!(device_of("{topic}", "a/b"), "a/b");
        assert_eq!(device_of("{topic.9}", "a/b"), "");
    }
}
