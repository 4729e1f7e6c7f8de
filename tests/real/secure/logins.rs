//! Every way to log in delivers with exactly the rights of a gateway; what must be refused is, and says why.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::online;
use super::stage::{BOTH_STREAMS, FLEET, Stage, UP_MAX, token};
use crate::process::{output, tool, wait_for};

const WITH_TOKEN: &str = "mechanism = \"OAUTHBEARER\", token-file = \"token\"";

fn with_password(mechanism: &str) -> String {
    format!("mechanism = \"{mechanism}\", username = \"gateway-1\", password-file = \"password\"")
}

#[test]
fn logins_rights_and_questions() {
    let mut stage = Stage::new("secure::logins");
    stage.certificate("gateway", "gateway-1", 20);
    stage.certificate("expired", "gateway-1", 0);
    every_login_delivers(&mut stage);
    tokens_are_renewed_while_records_flow(&mut stage);
    strangers_are_refused(&mut stage);
    a_missing_right_holds_one_stream(&mut stage);
    // What was refused entry is still there, and arrives.
    stage.by_certificate("gateway");
    stage.scene.drain_rest();
    let kept = stage.scene.settle().kept();
    an_auditor_reads_it_all(&stage, kept);
    online::says_what_would_go_wrong(&mut stage);
}

fn every_login_delivers(stage: &mut Stage) {
    stage.by_certificate("gateway");
    stage.delivers("certificate");
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        stage.by_login(&with_password(mechanism));
        stage.delivers(mechanism);
    }
    stage.by_login(WITH_TOKEN);
    stage.delivers("OAUTHBEARER from a file");
}

fn strangers_are_refused(stage: &mut Stage) {
    stage.by_certificate("gateway");
    stage.scene.uplink = stage.scene.uplink.take().map(|uplink| uplink.replace("localhost", "127.0.0.1"));
    stage.is_refused("a node of another name", "certificate verify failed");
    stage.by_certificate("expired");
    // Java's word for a certificate whose end lies before its beginning; what is wrong, the agent's log says itself.
    let log = stage.is_refused("an expired certificate", "alert certificate");
    assert!(log.contains("certificate has expired") && log.contains("expired.pem"), "{log}");
    stage.by_login(&with_password("SCRAM-SHA-256"));
    std::fs::write(stage.scene.dir().join("password"), "guessed").unwrap();
    stage.is_refused("a wrong password", "SASL authentication error");
    std::fs::write(stage.scene.dir().join("token"), token("gateway-1", -60)).unwrap();
    stage.by_login(WITH_TOKEN);
    stage.is_refused("an expired token", "the token expired");
}

fn tokens_are_renewed_while_records_flow(stage: &mut Stage) {
    let command = stage.scene.dir().join("print-token");
    write_token_command(&command, stage.scene.dir());
    stage.by_login(&format!("mechanism = \"OAUTHBEARER\", token-command = [\"{}\"]", command.display()));
    let agent = stage.agent(FLEET);
    // Each token lives 5 s and each connection 4 s without another login.
    let count_file = stage.scene.dir().join("printed");
    let printed = || std::fs::read_to_string(&count_file).map_or(0, |text| text.lines().count());
    wait_for("three tokens", Duration::from_secs(40), || (printed() >= 3).then_some(()));
    stage.scene.wait_until_delivered(&agent);
    stage.scene.demand_all(&agent);
    agent.terminate();
    println!("  delivers by OAUTHBEARER from a command, with {} tokens", printed());
}

/// A script that prints tokens which live 5 s, and keeps count.
fn write_token_command(command: &Path, dir: &Path) {
    let script = format!(
        "#!/bin/sh\nset -eu\necho once >> {dir}/printed\nnow=$(date +%s)\nurl() {{ base64 -w0 | tr '+/' '-_' | tr -d =; }}\n\
         printf '{{\"alg\":\"none\"}}' | url\nprintf .\n\
         printf '{{\"sub\":\"gateway-1\",\"iat\":%s,\"exp\":%s}}' $now $((now + 5)) | url\nprintf '.\\n'\n",
        dir = dir.display()
    );
    std::fs::write(command, script).unwrap();
    output(tool("chmod", "coreutils").arg("+x").arg(command));
}

fn a_missing_right_holds_one_stream(stage: &mut Stage) {
    let right = ["--allow-principal", "User:gateway-1", "--operation", "Write", "--topic", "alarms"];
    let remove = [&["--remove", "--force"][..], &right].concat();
    stage.cluster.acls(&remove);
    stage.by_certificate("gateway");
    let agent = stage.agent(BOTH_STREAMS);
    let held = || agent.status()["uplink"]["held"].to_string();
    wait_for("the stream without a right to be held", UP_MAX, || held().contains("uthorization failed").then_some(()));
    let [telemetry, alarms] = agent.streams().try_into().unwrap();
    assert_eq!(alarms.acknowledged, None, "{}", held());
    wait_for("the other stream", UP_MAX, || (agent.streams()[0].acknowledged > telemetry.acknowledged).then_some(()));
    stage.cluster.acls(&[&["--add"][..], &right].concat());
    stage.scene.wait_until_delivered(&agent);
    stage.scene.demand_all(&agent);
    agent.terminate();
}

/// `forebay consume` with the rights of an auditor, and no other.
fn an_auditor_reads_it_all(stage: &Stage, kept: u64) {
    stage.cluster.grant("For `forebay consume`");
    stage.certificate("auditor", "auditor", 20);
    let tls = "tls = { ca = \"ca.pem\", cert = \"auditor.pem\", key = \"auditor.key\" }";
    let file = stage.scene.dir().join("auditor.toml");
    let text = format!(
        "[gateway]\nid = \"auditor\"\n[[stream]]\nname = \"alarms\"\n[kafka]\nbrokers = [\"{}\"]\n{tls}\n",
        stage.cluster.by_certificate
    );
    std::fs::write(&file, text).unwrap();
    let account = output(forebay().args(["consume", "--json", "--config"]).arg(&file));
    let account: serde_json::Value = serde_json::from_str(&account).unwrap();
    assert_eq!(account["received"], kept, "{account:#}");
}

/// The product's command.
pub fn forebay() -> Command {
    Command::new(env!("CARGO_BIN_EXE_forebay"))
}
