//! The house rules that can be read off the text: who names which dependency, what is bounded, how long things get.
#![allow(clippy::unwrap_used)] // helpers of tests, which the lint does not take for tests

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 400;
/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 70;

/// Each big dependency and where alone it may be named. `src/demo/` may name the servers it embeds.
const HOMES: [(&str, &[&str]); 8] = [
    ("sled", &["src/queue/epoch.rs", "src/queue/epoch/", "src/queue/state.rs"]),
    ("rdkafka", &["src/kafka/", "src/demo/"]),
    ("rumqttc", &["src/mqtt/session.rs"]),
    ("rumqttd", &["src/demo/"]),
    ("tokio_modbus", &["src/source/modbus/", "src/demo/"]),
    ("hyper", &["src/status/", "src/registry/"]),
    ("clap", &["src/cli/"]),
    ("toml_edit", &["src/config/"]),
];

/// Constructors of channels without a bound.
const UNBOUNDED: [&str; 6] =
    ["unbounded_channel", "UnboundedSender", "UnboundedReceiver", "unbounded()", "mpsc::channel()", " channel()"];

/// All that people read: folders and files of the package's root, those that are made by programs apart.
const TEXTS: [&str; 18] = [
    ".ci",
    "CHANGELOG.md",
    "Cargo.toml",
    "README.md",
    "benches",
    "clippy.toml",
    "cross.toml",
    "deny.toml",
    "docs",
    "fuzz/Cargo.toml",
    "fuzz/fuzz_targets",
    "rustfmt.toml",
    "scripts",
    "src",
    "systemd",
    "tests",
    "x",
    "yocto-layer",
];

struct Source {
    /// From the package's root.
    path: String,
    lines: Vec<String>,
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs")
    }

    /// Everything before its tests.
    fn product(&self) -> &[String] {
        let tests =
            self.lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with("mod tests {"));
        &self.lines[..tests.unwrap_or(self.lines.len())]
    }

    /// Numbered lines of the product that are not comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = self.product().iter().enumerate().map(|(index, line)| (index + 1, line.as_str()));
        numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The file, or all files under the directory, sorted.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.iter().flat_map(|entry| files(entry)).collect()
}

fn sources() -> Vec<Source> {
    let of_package = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        Source { path, lines: text.lines().map(str::to_owned).collect() }
    };
    let rust = files(&root().join("src")).into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let sources: Vec<_> = rust.map(of_package).collect();
    assert!(sources.len() > 50, "the sources were not found");
    sources
}

/// Fails with everything that was found.
fn none(found: Vec<String>) {
    assert!(found.is_empty(), "{}\n", found.join("\n"));
}

/// Whether `line` names the crate: `crate_name::` not preceded by a letter, `_` or `:`.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + name.len()..];
        (after.starts_with("::") || line[..at].ends_with("use ") || line[..at].ends_with("extern crate "))
            && !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn a_big_dependency_is_named_in_its_own_module_only() {
    let mut strangers = Vec::new();
    let mut at_home = BTreeSet::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (number, line) in source.code() {
            for (name, homes) in HOMES.iter().filter(|(name, _)| names_crate(line, name)) {
                if homes.iter().any(|home| source.path.starts_with(home)) {
                    at_home.insert(*name);
                } else {
                    strangers.push(format!("{}:{number}: names {name}, allowed in {homes:?}", source.path));
                }
            }
        }
    }
    none(strangers);
    assert_eq!(at_home.len(), HOMES.len(), "each is named at home; found {at_home:?}");
}

#[test]
fn names_of_crates_are_told_from_names_that_contain_them() {
    assert!(names_crate("use sled::Db;", "sled") && names_crate("let db = sled::open(path);", "sled"));
    assert!(names_crate("use sled;", "sled"));
    assert!(!names_crate("let assled::x", "sled") && !names_crate("crate::sled::x", "sled"));
    assert!(!names_crate("the sled of", "sled") && !names_crate("use sledge::x", "sled"));
}

#[test]
fn no_channel_is_without_a_bound() {
    let mut found = Vec::new();
    for source in sources() {
        for (number, line) in source.code() {
            found.extend(
                UNBOUNDED
                    .iter()
                    .filter(|word| line.contains(*word))
                    .map(|word| format!("{}:{number}: {word}", source.path)),
            );
        }
    }
    none(found);
}

#[test]
fn every_module_says_what_it_is() {
    let silent = |source: &&Source| !source.lines.first().is_some_and(|line| line.starts_with("//! "));
    let sources = sources();
    let modules = sources.iter().filter(|source| !source.is_test());
    none(modules.filter(silent).map(|source| format!("{}: does not open with `//! `", source.path)).collect());
}

#[test]
fn files_are_short_enough_to_be_read() {
    let mut long = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let lines = source.product().len();
        if lines > FILE_LINES_MAX {
            long.push(format!("{}: {lines} lines without tests, limit is {FILE_LINES_MAX}", source.path));
        }
    }
    none(long);
}

/// Lines of the function that begins at `first`, as rustfmt lays it out: it ends at the brace under its first letter.
fn function_lines(lines: &[String], first: usize) -> Option<usize> {
    let line = &lines[first];
    let indent = line.len() - line.trim_start().len();
    let mut words = line.split_whitespace().skip_while(|word| {
        word.starts_with("pub") || matches!(*word, "const" | "async" | "unsafe" | "extern" | "\"C\"" | "in" | "super)")
    });
    if words.next() != Some("fn") || line.ends_with('}') || line.ends_with(';') {
        return None;
    }
    let end = format!("{}}}", " ".repeat(indent));
    lines[first..].iter().position(|line| *line == end).map(|length| length + 1)
}

#[test]
fn functions_fit_a_screen() {
    let (mut long, mut seen) = (Vec::new(), 0);
    for source in sources() {
        for first in 0..source.lines.len() {
            let Some(lines) = function_lines(&source.lines, first) else { continue };
            seen += 1;
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}:{}: {lines} lines, limit is {FUNCTION_LINES_MAX}", source.path, first + 1));
            }
        }
    }
    assert!(seen > 500, "functions were not recognised: {seen}");
    none(long);
}

#[test]
fn locked_packages_come_from_one_registry_and_no_repository() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let sources: BTreeSet<_> = lock.lines().filter_map(|line| line.strip_prefix("source = \"")).collect();
    assert_eq!(sources.len(), 1, "{sources:?}");
    assert!(sources.iter().all(|source| source.starts_with("registry+")), "{sources:?}");
}

#[test]
fn no_file_names_a_folder_of_one_persons_machine() {
    let folders = ["/home", "/root", "/Users", "/work"].map(|folder| format!("{folder}/"));
    let mut found = Vec::new();
    let mut looked_at = 0;
    for top in TEXTS {
        for path in files(&root().join(top)) {
            looked_at += 1;
            // Binary samples are no text.
            let Ok(text) = fs::read_to_string(&path) else { continue };
            for (index, line) in text.lines().enumerate() {
                let names_one = folders.iter().any(|folder| {
                    line.match_indices(folder.as_str())
                        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c)))
                });
                if names_one {
                    found.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
                }
            }
        }
    }
    assert!(looked_at > 400, "the files were not found: {looked_at}");
    none(found);
}
