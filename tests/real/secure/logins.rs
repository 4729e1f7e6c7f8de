//! Every way to log in delivers with exactly the rights of a gateway; what must be refused is, and says why.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cluster::{Cluster, PASSWORD};
use crate::agent::Agent;
use crate::process::{output, tool, wait_for};
use crate::scene::{Scene, wait_until_up};

const FLEET: &str = "[[source]]\nname = \"fleet\"\ntype = \"simulated\"\nevery = \"50ms\"\ndevices = 5\n";
const BOTH_STREAMS: &str = "[[source]]\nname = \"fleet\"\ntype = \"simulated\"\nevery = \"50ms\"\ndevices = 5\n\
                            [[source]]\nname = \"watch\"\ntype = \"simulated\"\nevery = \"100ms\"\nstream = \"alarms\"\n";
const UP_MAX: Duration = Duration::from_secs(20);

/// An unsigned JWT of this subject that ends so many seconds from now.
fn token(subject: &str, seconds: i64) -> String {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let part = |json: String| base64_url(json.as_bytes());
    let claims = format!("{{\"sub\":\"{subject}\",\"iat\":{},\"exp\":{}}}", now.min(now + seconds - 1), now + seconds);
    format!("{}.{}.", part("{\"alg\":\"none\"}".to_owned()), part(claims))
}

fn base64_url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

struct Stage {
    cluster: Cluster,
    scene: Scene,
}

impl Stage {
    fn new(name: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("forebay-real-").tempdir().unwrap();
        let (cluster, kafka) = Cluster::start(dir.path());
        std::fs::write(dir.path().join("ca.pem"), cluster.authorities[0].pem()).unwrap();
        std::fs::write(dir.path().join("password"), PASSWORD).unwrap();
        std::fs::write(dir.path().join("token"), token("gateway-1", 600)).unwrap();
        Self { cluster, scene: Scene::with(name, dir, kafka, String::new()) }
    }

    /// A certificate of this name in the files `NAME.pem` and `NAME.key`, valid so many days.
    fn certificate(&self, file: &str, common_name: &str, days: i32) {
        let (cert, key) = self.cluster.authorities[0].issue(common_name, days);
        std::fs::write(self.scene.dir().join(format!("{file}.pem")), cert).unwrap();
        std::fs::write(self.scene.dir().join(format!("{file}.key")), key).unwrap();
    }

    fn by_certificate(&mut self, file: &str) {
        let tls = format!("tls = {{ ca = \"ca.pem\", cert = \"{file}.pem\", key = \"{file}.key\" }}");
        self.scene.uplink = format!("brokers = [\"{}\"]\n{tls}", self.cluster.by_certificate);
    }

    fn by_login(&mut self, sasl: &str) {
        let tls = "tls = { ca = \"ca.pem\" }";
        self.scene.uplink = format!("brokers = [\"{}\"]\n{tls}\nsasl = {{ {sasl} }}", self.cluster.by_login);
    }

    /// The agent on these sources and the login set last.
    fn agent(&mut self, sources: &str) -> Agent {
        self.scene.configure(sources, None);
        let agent = self.scene.agent();
        if !sources.is_empty() {
            wait_until_up(&agent, &["fleet"]);
        }
        agent
    }

    /// One life of the agent that delivers all it has.
    fn delivers(&mut self, login: &str) {
        let agent = self.agent(BOTH_STREAMS);
        let delivered = || agent.streams().iter().all(|stream| stream.acknowledged >= Some(4));
        wait_for(&format!("delivery by {login}"), UP_MAX, || delivered().then_some(()));
        self.scene.demand_all(&agent);
        agent.terminate();
        println!("  delivers by {login}");
    }

    /// One life of the agent that is not let in; its status must say why, in these words, and all of it stays queued.
    /// Gives its log.
    fn is_refused(&mut self, login: &str, words: &str) -> String {
        let agent = self.agent(FLEET);
        let error = || agent.status()["uplink"]["last_error"].as_str().unwrap_or_default().to_owned();
        wait_for(&format!("{words:?} for {login}"), UP_MAX, || error().contains(words).then_some(()));
        let telemetry = &agent.streams()[0];
        assert_eq!((telemetry.acknowledged, agent.metric("forebay_uplink_up")), (None, 0.0), "{login}");
        assert!(telemetry.pushed > 0 && telemetry.waiting > 0, "{login}: {telemetry:?}");
        println!("  refused {login}: {}", error());
        self.scene.demand_all(&agent);
        agent.terminate().1
    }
}

const WITH_TOKEN: &str = "mechanism = \"OAUTHBEARER\", token-file = \"token\"";

fn with_password(mechanism: &str) -> String {
    format!("mechanism = \"{mechanism}\", username = \"gateway-1\", password-file = \"password\"")
}

#[test]
fn let_in_and_refused() {
    let mut stage = Stage::new("secure::logins");
    stage.certificate("gateway", "gateway-1", 20);
    stage.certificate("expired", "gateway-1", -1);
    stage.by_certificate("gateway");
    stage.delivers("certificate");
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        stage.by_login(&with_password(mechanism));
        stage.delivers(mechanism);
    }
    stage.by_login(WITH_TOKEN);
    stage.delivers("OAUTHBEARER from a file");

    stage.by_certificate("gateway");
    stage.scene.uplink = stage.scene.uplink.replace("localhost", "127.0.0.1");
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

    // What was refused entry is still there, and arrives.
    stage.by_certificate("gateway");
    stage.scene.drain_rest();
    stage.scene.settle();
}

#[test]
fn tokens_are_renewed_while_records_flow() {
    let mut stage = Stage::new("secure::tokens");
    let command = stage.scene.dir().join("print-token");
    write_token_command(&command, stage.scene.dir());
    stage.by_login(&format!("mechanism = \"OAUTHBEARER\", token-command = [\"{}\"]", command.display()));
    let agent = stage.agent(FLEET);
    // Each token lives 6 s and each connection 4 s without another login.
    let printed = || std::fs::read_to_string(stage.scene.dir().join("printed")).map_or(0, |text| text.lines().count());
    wait_for("three tokens", Duration::from_secs(40), || (printed() >= 3).then_some(()));
    stage.scene.wait_until_delivered(&agent);
    assert_eq!(agent.metric("forebay_uplink_reconnects_total"), 0.0, "a new token is no outage");
    stage.scene.demand_all(&agent);
    agent.terminate();
    stage.scene.drain_rest();
    assert_eq!(stage.scene.settle().repeated(), 0);
}

/// A script that prints tokens which live 6 s, and keeps count.
fn write_token_command(command: &Path, dir: &Path) {
    let script = format!(
        "#!/bin/sh\nset -eu\necho once >> {dir}/printed\nnow=$(date +%s)\nurl() {{ base64 -w0 | tr '+/' '-_' | tr -d =; }}\n\
         printf '{{\"alg\":\"none\"}}' | url\nprintf .\n\
         printf '{{\"sub\":\"gateway-1\",\"iat\":%s,\"exp\":%s}}' $now $((now + 6)) | url\nprintf '.\\n'\n",
        dir = dir.display()
    );
    std::fs::write(command, script).unwrap();
    output(tool("chmod", "coreutils").arg("+x").arg(command));
}

#[test]
fn a_missing_right_holds_one_stream_and_loses_nothing() {
    let mut stage = Stage::new("secure::rights");
    stage.certificate("gateway", "gateway-1", 20);
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
    stage.scene.drain_rest();
    stage.scene.settle();
}
