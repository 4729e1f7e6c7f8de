//! The rights that `docs/kafka-acls.md` tells, read out of it: the tests give no others.

/// The arguments of each `kafka-acls.sh` line under the heading.
pub fn of(heading: &str) -> Vec<Vec<String>> {
    let page = include_str!("../../../docs/kafka-acls.md");
    let mut sections = page.split("\n## ").skip(1);
    let section = sections.find(|section| section.lines().next() == Some(heading));
    let section = section.unwrap_or_else(|| panic!("docs/kafka-acls.md has no heading {heading:?}"));
    let commands = section.lines().filter_map(|line| line.strip_prefix("kafka-acls.sh "));
    let found: Vec<Vec<String>> =
        commands.map(|arguments| arguments.split_whitespace().map(str::to_owned).collect()).collect();
    assert!(!found.is_empty(), "no right is told under {heading:?}");
    found
}
