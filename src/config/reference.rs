//! The reference page `docs/configuration.md`, made from the table of keys; `FOREBAY_WRITE_DOCS=1` writes it anew.

use std::fmt::Write;

use super::keys::{Default, Kind, SECTIONS, Section};
use super::owned_properties::OWNED_PROPERTIES;
use crate::reading::RESERVED_FIELDS;

const INTRODUCTION: &str = "\
# Configuration

One TOML file, given as `--config FILE`; where none is given it is `/etc/forebay/forebay.toml`. An example to begin with
is `systemd/forebay.toml`. This page is made from the table of keys that the agent itself reads by.

- Durations and sizes are text with a unit: `\"500ms\"`, `\"2min\"`, `\"64 MiB\"`, `\"100 kB\"`. `MiB` is 1024², `MB` is 1000².
- Unknown keys are errors. Keys that are known but not yet supported are errors too: nothing is ignored.
- `forebay check --config FILE` shows all mistakes at once, each with file, line, column, the value and what is
  allowed, and ends with status 78. `forebay run` does the same and starts nothing.
- Secrets stand in files or systemd credentials, never in the configuration. Relative paths of secrets and
  certificates start at the directory of the file.
";

/// The reference of every key, as Markdown: what `docs/configuration.md` holds and `forebay check --reference` prints.
pub fn reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    for section in SECTIONS {
        write_section(&mut page, section).expect("writing to a string cannot fail");
    }
    let reserved = RESERVED_FIELDS.map(|name| format!("`{name}`")).join(", ");
    page.push_str(&format!(
        "\n## Reserved names\n\nNo field and no tag may be named {reserved}: every record bears these itself.\n"
    ));
    page.push_str("\n## librdkafka properties that are refused\n\n| property | why |\n|---|---|\n");
    for (name, why) in OWNED_PROPERTIES {
        page.push_str(&format!("| `{name}` | {why} |\n"));
    }
    page.push_str("\nSo are all names that end in `_cb`: callbacks belong to the agent.\n");
    page
}

fn write_section(page: &mut String, section: &Section) -> std::fmt::Result {
    let title = section.title.replace('[', "\\[").replace(']', "\\]");
    writeln!(page, "\n## {title}\n\n{}\n", section.about)?;
    let (later, now): (Vec<_>, Vec<_>) = section.keys.iter().partition(|key| matches!(key.kind, Kind::Later));
    if !now.is_empty() {
        writeln!(page, "| key | allowed | default | meaning |\n|---|---|---|---|")?;
    }
    for key in now {
        let default = match key.default {
            Default::Required => "required".to_owned(),
            Default::Words(words) => words.to_owned(),
            Default::Is(text) if matches!(key.kind, Kind::Integer(..) | Kind::Number(_) | Kind::Boolean) => {
                format!("`{text}`")
            }
            Default::Is(text) => format!("`\"{text}\"`"),
        };
        let allowed = allowed(key.kind);
        writeln!(page, "| `{}` | {allowed} | {default} | {} |", key.name, key.meaning)?;
    }
    for key in later {
        writeln!(page, "\nNot yet supported: `{}`. {}", key.name, key.meaning)?;
    }
    Ok(())
}

fn allowed(kind: Kind) -> String {
    use super::units::{shown_duration, shown_size};
    use std::time::Duration;
    match kind {
        Kind::Word(now, later) => {
            let words =
                |words: &[&str]| words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ");
            if later.is_empty() { words(now) } else { format!("{}; not yet: {}", words(now), words(later)) }
        }
        Kind::Duration(min, max) => {
            format!("{} to {}", shown_duration(Duration::from_millis(min)), shown_duration(Duration::from_millis(max)))
        }
        Kind::Size(min, max) => format!("{} to {}", shown_size(min), shown_size(max)),
        Kind::Integer(min, max) => format!("{min} to {max}"),
        other => other.allowed(),
    }
}

#[test]
fn the_reference_page_is_what_the_table_of_keys_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os("FOREBAY_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == reference(),
        "docs/configuration.md is out of date; run FOREBAY_WRITE_DOCS=1 cargo test --lib config::reference"
    );
}
