//! A gateway in front of a cluster that demands certificates or logins.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cluster::{Cluster, PASSWORD};
use crate::agent::Agent;
use crate::process::wait_for;
use crate::scene::{Scene, wait_until_up};

pub const FLEET: &str = "[[source]]\nname = \"fleet\"\ntype = \"simulated\"\nevery = \"50ms\"\ndevices = 5\n";
pub const BOTH_STREAMS: &str = "[[source]]\nname = \"fleet\"\ntype = \"simulated\"\nevery = \"50ms\"\ndevices = 5\n\
                                [[source]]\nname = \"watch\"\ntype = \"simulated\"\nevery = \"100ms\"\nstream = \"alarms\"\n";
pub const UP_MAX: Duration = Duration::from_secs(60);

/// An unsigned JWT of this subject that ends so many seconds from now.
pub fn token(subject: &str, seconds: i64) -> String {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let part = |json: String| base64_url(json.as_bytes());
    let claims = format!("{{\"sub\":\"{subject}\",\"iat\":{},\"exp\":{}}}", now.min(now + seconds - 1), now + seconds);
    format!("{}.{}.", part("{\"alg\":\"none\"}".to_owned()), part(claims))
}

fn base64_url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// The gateway and the cluster.
pub struct Stage {
    pub cluster: Cluster,
    pub scene: Scene,
}

impl Stage {
    pub fn new(name: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("forebay-real-").tempdir().unwrap();
        let (cluster, kafka) = Cluster::start(dir.path());
        std::fs::write(dir.path().join("ca.pem"), cluster.authorities[0].pem()).unwrap();
        std::fs::write(dir.path().join("password"), PASSWORD).unwrap();
        std::fs::write(dir.path().join("token"), token("gateway-1", 600)).unwrap();
        Self { cluster, scene: Scene::logging_in(name, dir, kafka, String::new()) }
    }

    /// A certificate of this name in the files `NAME.pem` and `NAME.key`, valid so many days.
    pub fn certificate(&self, file: &str, common_name: &str, days: i32) {
        let (cert, key) = self.cluster.authorities[0].issue(common_name, days);
        std::fs::write(self.scene.dir().join(format!("{file}.pem")), cert).unwrap();
        std::fs::write(self.scene.dir().join(format!("{file}.key")), key).unwrap();
    }

    pub fn by_certificate(&mut self, file: &str) {
        let tls = format!("tls = {{ ca = \"ca.pem\", cert = \"{file}.pem\", key = \"{file}.key\" }}");
        self.scene.uplink = Some(format!("brokers = [\"{}\"]\n{tls}", self.cluster.by_certificate));
    }

    pub fn by_login(&mut self, sasl: &str) {
        let tls = "tls = { ca = \"ca.pem\" }";
        self.scene.uplink = Some(format!("brokers = [\"{}\"]\n{tls}\nsasl = {{ {sasl} }}", self.cluster.by_login));
    }

    /// The agent on these sources and the login set last.
    pub fn agent(&mut self, sources: &str) -> Agent {
        self.scene.configure(sources, None);
        let agent = self.scene.agent();
        if !sources.is_empty() {
            wait_until_up(&agent, &["fleet"]);
        }
        agent
    }

    /// One life of the agent that delivers all it has.
    pub fn delivers(&mut self, login: &str) {
        let agent = self.agent(BOTH_STREAMS);
        let delivered = || agent.streams().iter().all(|stream| stream.acknowledged >= Some(4));
        wait_for(&format!("delivery by {login}"), UP_MAX, || delivered().then_some(()));
        self.scene.demand_all(&agent);
        agent.terminate();
        println!("  delivers by {login}");
    }

    /// One life of the agent that is not let in; its status must say why, in these words, and all of it stays queued.
    /// Gives its log.
    pub fn is_refused(&mut self, login: &str, words: &str) -> String {
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
