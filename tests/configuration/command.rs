//! The built binary: exit codes, and all mistakes on standard error.

use std::process::{Command, Output};

fn forebay(arguments: &[&str], text: &str) -> (Output, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forebay.toml");
    std::fs::write(&path, text.replace("STATE", directory.path().join("state").to_str().unwrap())).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    let output = command.args(arguments).arg("--config").arg(&path).output().unwrap();
    assert!(!directory.path().join("state").exists(), "nothing was started");
    let errors = String::from_utf8(output.stderr.clone()).unwrap().replace(path.to_str().unwrap(), "FILE");
    (output, errors)
}

#[test]
fn a_bad_configuration_ends_run_and_check_with_78_and_every_mistake() {
    let text = "[gateway]\nstate-dir = \"STATE\"\n[queue]\nwindow = \"1ms\"\n[kafka]\nbroker = [\"k\"]\n";
    for command in ["run", "check"] {
        let (output, errors) = forebay(&[command], text);
        assert_eq!(output.status.code(), Some(78), "{command}: {errors}");
        let lines: Vec<_> = errors.lines().collect();
        assert_eq!(lines.len(), 3, "{errors}");
        assert!(
            lines[0].starts_with("FILE:4:10: queue.window: \"1ms\" is out of range; allowed: 50ms to 1h"),
            "{errors}"
        );
        assert!(lines[1].starts_with("FILE:5:1: kafka.brokers: missing"), "{errors}");
        assert!(
            lines[2].starts_with("FILE:6:1: kafka.broker: unknown key \"broker\"; did you mean \"brokers\"?"),
            "{errors}"
        );
    }
}

#[test]
fn check_says_ok_and_warns_of_what_this_machine_lacks() {
    let text = "[gateway]\nid = \"g\"\nstate-dir = \"STATE\"\n[[source]]\nname = \"gps\"\ntype = \"gnss\"\nport = \"/dev/none\"\n";
    let (output, errors) = forebay(&["check"], text);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "ok: 1 source, 1 stream, readings of g go into the queue only; 2 warnings\n"
    );
    assert!(errors.contains("warning: source \"gps\": port /dev/none: No such file"), "{errors}");
    assert!(errors.contains("warning: FILE:1:1: kafka: [kafka] is not written"), "{errors}");
}

#[test]
fn a_wrong_command_line_ends_with_2_and_help_names_the_exit_codes() {
    let forebay = |argument: &str| Command::new(env!("CARGO_BIN_EXE_forebay")).arg(argument).output().unwrap();
    assert_eq!(forebay("--nonsense").status.code(), Some(2));
    let help = forebay("--help");
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("78  the configuration is wrong") && help.contains("forebay check --config"), "{help}");
}
