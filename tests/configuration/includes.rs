//! Included files and secrets: what is read from disk.

use std::fs;
use std::path::Path;

use forebay::config::{self, SourceKind};

fn write(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn included_files_add_sources_and_streams_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "forebay.toml", "[gateway]\ninclude = [\"conf.d/*.toml\"]\n");
    write(directory.path(), "conf.d/20-b.toml", "[[source]]\nname = \"b\"\ntype = \"simulated\"\nstream = \"fast\"\n");
    write(
        directory.path(),
        "conf.d/10-a.toml",
        "[[source]]\nname = \"a\"\ntype = \"simulated\"\n[[stream]]\nname = \"fast\"\n",
    );
    write(directory.path(), "conf.d/.hidden.toml", "not toml");
    write(directory.path(), "conf.d/30-c.toml.bak", "not toml");
    let loaded = config::load(&directory.path().join("forebay.toml")).unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<_> = loaded.config.sources.iter().map(|source| &*source.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(matches!(loaded.config.sources[0].kind, SourceKind::Simulated(_)));
    assert_eq!(loaded.config.streams.len(), 2);
}

#[test]
fn mistakes_of_all_files_come_together_each_with_its_own_file() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "forebay.toml", "[gateway]\ninclude = [\"*.inc\", \"gone.toml\", \"*/x\"]\nid = 5\n");
    write(directory.path(), "a.inc", "[[source]]\nname = \"a\"\ntype = \"x\"\n");
    write(directory.path(), "b.inc", "[kafka]\n");
    write(directory.path(), "c.inc", "[[");
    let errors = config::load(&directory.path().join("forebay.toml")).unwrap_err().to_string();
    let shown: Vec<_> =
        errors.lines().map(|line| line.strip_prefix(directory.path().to_str().unwrap()).unwrap()).collect();
    let starts = [
        "/forebay.toml:2:21: gateway.include: \"gone.toml\" is not a file",
        "/forebay.toml:2:34: gateway.include: \"*/x\" has a wildcard in a directory",
        "/forebay.toml:3:6: gateway.id: 5 is not text",
        "/a.inc:3:8: source[1].type: \"x\" is not known",
        "/b.inc:1:2: kafka: unknown key \"kafka\"",
        "/c.inc:1:",
    ];
    assert_eq!(shown.len(), starts.len(), "{errors}");
    for (line, start) in shown.iter().zip(starts) {
        assert!(line.starts_with(start), "wanted {start}, got {line}");
    }
}

#[test]
fn passwords_come_from_files_and_are_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "secret", "swordfish\n");
    let text = "[mqtt]\nbroker = \"mqtt://b\"\nusername = \"u\"\npassword-file = \"secret\"\n";
    write(directory.path(), "forebay.toml", text);
    let loaded = config::load(&directory.path().join("forebay.toml")).unwrap_or_else(|errors| panic!("{errors}"));
    let password = loaded.config.mqtt.as_ref().and_then(|mqtt| mqtt.password.as_ref()).unwrap();
    assert_eq!(password.0, "swordfish");
    assert!(!format!("{:?}", loaded.config).contains("swordfish"));

    for (content, why) in [(None, "No such file"), (Some("\n".to_owned()), "empty"), (Some("x".repeat(5_000)), "4096")]
    {
        fs::remove_file(directory.path().join("secret")).ok();
        if let Some(content) = content {
            write(directory.path(), "secret", &content);
        }
        let errors = config::load(&directory.path().join("forebay.toml")).unwrap_err().to_string();
        assert!(errors.contains(":4:17: mqtt.password-file: \"secret\"") && errors.contains(why), "{errors}");
    }
}

#[test]
fn a_file_that_is_absent_too_long_or_not_text_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forebay.toml");
    let error = || config::load(&path).unwrap_err().to_string();
    assert!(error().contains("forebay.toml: cannot open: No such file"), "{}", error());
    fs::write(&path, vec![b'#'; config::FILE_BYTES_MAX as usize + 1]).unwrap();
    assert!(error().contains("longer than 1048576 bytes"), "{}", error());
    fs::write(&path, b"# \xff").unwrap();
    assert!(error().contains("not UTF-8 at byte 2"), "{}", error());
}
