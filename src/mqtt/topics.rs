//! Topic names and filters (MQTT 3.1.1, section 4.7): template expansion, validity, and whether a filter takes in what
//! a template makes, so that the agent never subscribes to its own publications. Pure.

use thiserror::Error;

/// Longest topic name or filter in bytes of UTF-8 (MQTT 3.1.1, 4.7.3).
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// The placeholders of a publication's topic template.
const PLACEHOLDERS: [&str; 4] = ["gateway", "source", "stream", "device"];

/// What is wrong with a topic, a filter or a template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TopicError {
    /// MQTT 3.1.1, 4.7.3: at least one character.
    #[error("topic is empty")]
    Empty,
    /// MQTT 3.1.1, 4.7.3.
    #[error("topic has {bytes} bytes, limit is {TOPIC_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A control character or U+0000 (MQTT 3.1.1, 1.5.3).
    #[error("topic `{topic}` holds control character U+{code:04X}")]
    Control {
        /// The topic, escaped.
        topic: String,
        /// The character.
        code: u32,
    },
    /// A wildcard where a name is wanted, or not alone in its level, or `#` not at the end (4.7.1).
    #[error("topic `{topic}`: wildcard in level `{level}` is not allowed there")]
    Wildcard {
        /// The topic.
        topic: String,
        /// The level at fault.
        level: String,
    },
    /// A `{...}` that means nothing here, or a brace that is not closed.
    #[error("topic template `{template}`: unknown placeholder `{placeholder}`, known are {known}")]
    Placeholder {
        /// The template.
        template: String,
        /// What stands between the braces.
        placeholder: String,
        /// Those that would do.
        known: &'static str,
    },
}

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

/// The topic that `template` makes of `parts`; each part becomes one level at most ([`sanitise`]).
///
/// Braces that are no known placeholder stay as they are: [`check_template`] has refused them before.
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
pub fn sanitise(name: &str, topic: &mut String) {
    topic.extend(name.chars().map(|c| if matches!(c, '+' | '#' | '/') || c.is_control() { '_' } else { c }));
}

/// Whether `template` is good for a publication's topic.
///
/// # Errors
/// An empty or too long template, a wildcard, a control character, or a placeholder that is not `{gateway}`,
/// `{source}`, `{stream}` or `{device}`.
pub fn check_template(template: &str) -> Result<(), TopicError> {
    check_text(template)?;
    for piece in pieces(template) {
        match piece {
            Piece::Placeholder(name) if !PLACEHOLDERS.contains(&name) => {
                return Err(TopicError::Placeholder {
                    template: template.to_owned(),
                    placeholder: name.to_owned(),
                    known: "{gateway}, {source}, {stream}, {device}",
                });
            }
            _ => {}
        }
    }
    match template.split('/').find(|level| level.contains(['+', '#'])) {
        Some(level) => Err(TopicError::Wildcard { topic: template.to_owned(), level: level.to_owned() }),
        None => Ok(()),
    }
}

/// Whether `filter` is a valid topic filter (MQTT 3.1.1, 4.7.1).
///
/// # Errors
/// Says what is wrong with it.
pub fn check_filter(filter: &str) -> Result<(), TopicError> {
    check_text(filter)?;
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        let good = match level {
            "+" => true,
            "#" => last,
            other => !other.contains(['+', '#']),
        };
        if !good {
            return Err(TopicError::Wildcard { topic: filter.to_owned(), level: level.to_owned() });
        }
    }
    Ok(())
}

fn check_text(topic: &str) -> Result<(), TopicError> {
    if topic.is_empty() {
        return Err(TopicError::Empty);
    }
    if topic.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong { bytes: topic.len() });
    }
    match topic.chars().find(|c| c.is_control()) {
        Some(c) => Err(TopicError::Control { topic: topic.escape_debug().to_string(), code: u32::from(c) }),
        None => Ok(()),
    }
}

/// The pattern of all topics `template` can make: a level with a placeholder becomes `+`.
///
/// `gateway` is filled in where it is known, which makes the pattern narrower.
pub fn pattern(template: &str, gateway: Option<&str>) -> String {
    let known = match gateway {
        Some(id) => {
            let mut level = String::new();
            sanitise(id, &mut level);
            template.replace("{gateway}", &level)
        }
        None => template.to_owned(),
    };
    let levels: Vec<&str> = known.split('/').map(|level| if level.contains('{') { "+" } else { level }).collect();
    levels.join("/")
}

/// Whether some topic that fits `topic_pattern` would be delivered to a subscription to `filter`.
///
/// In the pattern a `+` stands for a level that may be anything; in the filter `+` and `#` mean what MQTT says, also
/// that they do not match a first level that begins with `$` (4.7.2).
pub fn filter_takes_in(filter: &str, topic_pattern: &str) -> bool {
    if topic_pattern.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut filter_levels = filter.split('/');
    let mut topic_levels = topic_pattern.split('/');
    loop {
        match (filter_levels.next(), topic_levels.next()) {
            // `a/#` takes in `a` itself too (4.7.1.2), hence the `None`.
            (Some("#"), _) | (None, None) => return true,
            (Some(wanted), Some(level)) if wanted == "+" || level.contains('+') || wanted == level => {}
            _ => return false,
        }
    }
}

/// [`filter_takes_in`] for a publication template with placeholders.
pub fn filter_overlaps_template(filter: &str, template: &str) -> bool {
    filter_takes_in(filter, &pattern(template, None))
}

/// Where the gateway's retained status stands: the literal levels the template begins with, the gateway, `status`.
/// `forebay/{gateway}/{device}` gives `forebay/<gateway>/status`.
pub fn status_topic(template: &str, gateway: &str) -> String {
    let mut topic = String::new();
    for level in template.split('/').take_while(|level| !level.contains('{')) {
        topic.push_str(level);
        topic.push('/');
    }
    sanitise(gateway, &mut topic);
    topic.push_str("/status");
    topic
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

/// Whether `template` is good for a source's `device`.
///
/// # Errors
/// An empty template, or a placeholder that is neither `{topic}` nor `{topic.N}`.
pub fn check_device_template(template: &str) -> Result<(), TopicError> {
    if template.is_empty() {
        return Err(TopicError::Empty);
    }
    for piece in pieces(template) {
        if let Piece::Placeholder(name) = piece {
            let known = name == "topic" || name.strip_prefix("topic.").is_some_and(|n| n.parse::<u16>().is_ok());
            if !known {
                return Err(TopicError::Placeholder {
                    template: template.to_owned(),
                    placeholder: name.to_owned(),
                    known: "{topic}, {topic.0}, {topic.1}, ...",
                });
            }
        }
    }
    Ok(())
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
    fn templates_and_filters_are_checked() {
        assert_eq!(check_template("forebay/{gateway}/{device}"), Ok(()));
        assert_eq!(check_template(""), Err(TopicError::Empty));
        assert!(matches!(check_template("a/{devise}"), Err(TopicError::Placeholder { .. })));
        assert!(matches!(check_template("a/{device"), Err(TopicError::Placeholder { .. })));
        assert!(matches!(check_template("a/#"), Err(TopicError::Wildcard { .. })));
        for good in ["#", "+", "a/+/b", "a/#", "/", "+/+/#", "$SYS/#"] {
            assert_eq!(check_filter(good), Ok(()), "{good}");
        }
        for bad in ["a#", "a/#/b", "a+/b", "", "a/\0"] {
            assert!(check_filter(bad).is_err(), "{bad:?}");
        }
        assert!(matches!(check_filter(&"a".repeat(65_536)), Err(TopicError::TooLong { bytes: 65_536 })));
    }

    #[test]
    fn filters_that_would_feed_us_our_own_publications_are_found() {
        let ours = "forebay/{gateway}/{device}";
        for takes in ["#", "forebay/#", "+/+/+", "forebay/gw/boiler", "forebay/gw/boiler/#", "+/gw/#"] {
            assert!(filter_overlaps_template(takes, ours), "{takes}");
        }
        for not in ["sensors/#", "forebay/+", "+/+", "forebay/gw/boiler/x", "forebay"] {
            assert!(!filter_overlaps_template(not, ours), "{not}");
        }
        assert!(!filter_takes_in("#", "$SYS/x"));
        assert!(filter_takes_in("a/#", "a"));
        assert!(!filter_takes_in("forebay/other/+", &pattern(ours, Some("gw"))));
        assert!(filter_takes_in("a/xyz", &pattern("a/x{device}", None)));
    }

    #[test]
    fn the_status_topic_keeps_the_literal_prefix() {
        assert_eq!(status_topic("forebay/{gateway}/{device}", "gw"), "forebay/gw/status");
        assert_eq!(status_topic("{gateway}/{device}", "g/w"), "g_w/status");
        assert_eq!(status_topic("plant/a/x-{device}", "gw"), "plant/a/gw/status");
    }

    #[test]
    fn devices_come_from_topic_levels() {
        assert_eq!(device_of("{topic.1}", "sensors/yard/data"), "yard");
        assert_eq!(device_of("mq-{topic.0}-{topic.1}", "a/b"), "mq-a-b");
        assert_eq!(device_of("{topic}", "a/b"), "a/b");
        assert_eq!(device_of("{topic.9}", "a/b"), "");
        assert!(check_device_template("{topic.x}").is_err());
        assert_eq!(check_device_template("{topic.2}"), Ok(()));
    }
}
