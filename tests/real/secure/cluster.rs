//! A Kafka node that lets in only who has a certificate or a login, and lets do only what it was told.

use std::path::{Path, PathBuf};

use super::acls;
use super::authority::Authority;
use crate::process::{output, script};
use crate::servers::{Kafka, free_port};

const PACKAGE: &str = "org.apache.kafka.common.security";
/// What the node's own clients and the account use: a listener without encryption, whose anonymous user may do all.
const SUPER: &str = "User:ANONYMOUS";
pub const PASSWORD: &str = "not-to-be-guessed";

/// The node and its authorities.
pub struct Cluster {
    pub authorities: [Authority; 2],
    /// `host:port` where a client certificate is demanded.
    pub by_certificate: String,
    /// `host:port` where a SASL login is demanded, over TLS.
    pub by_login: String,
    dir: PathBuf,
    node: PathBuf,
}

impl Cluster {
    /// Starts it with topics and the rights of a gateway.
    pub fn start(dir: &Path) -> (Self, Kafka) {
        let authorities = ["authority-1", "authority-2"].map(|name| Authority::new(dir, name));
        let ports = [free_port(), free_port()];
        let mut kafka = Kafka::prepare(dir, settings(dir, ports));
        let [by_certificate, by_login] = ports.map(|port| format!("localhost:{port}"));
        let node = kafka.dir().to_owned();
        let cluster = Self { authorities, by_certificate, by_login, dir: dir.to_owned(), node };
        cluster.present(0, &[0, 1]);
        kafka.up();
        for (topic, partitions) in [("telemetry", "3"), ("alarms", "1")] {
            kafka.topic(&[topic, partitions]);
        }
        cluster.grant("A gateway");
        (cluster, kafka)
    }

    /// Gives the rights that the page tells under this heading.
    pub fn grant(&self, heading: &str) {
        for arguments in acls::of(heading) {
            self.acls(&arguments);
        }
    }

    /// kafka-acls.sh.
    pub fn acls(&self, arguments: &[impl AsRef<std::ffi::OsStr>]) {
        output(script("kafka").arg("admin").arg(&self.node).arg("AclCommand").args(arguments));
    }

    /// What the node shows and whom it trusts from its next start on.
    pub fn present(&self, issuer: usize, trusted: &[usize]) {
        let (cert, key) = self.authorities[issuer].issue("localhost", 20);
        std::fs::write(self.dir.join("node.pem"), key + &cert).unwrap();
        let trusted: String = trusted.iter().map(|authority| self.authorities[*authority].pem()).collect();
        std::fs::write(self.dir.join("trusted.pem"), trusted).unwrap();
    }
}

fn settings(dir: &Path, [by_certificate, by_login]: [u16; 2]) -> Vec<String> {
    let listeners = |host: &str| format!("CERT://{host}:{by_certificate},LOGIN://{host}:{by_login}");
    let here = listeners("127.0.0.1");
    let module = |mechanism: &str, module: &str| {
        format!("listener.name.login.{mechanism}.sasl.jaas.config={PACKAGE}.{module} required")
    };
    vec![
        format!("listeners=BROKER://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller_port}},{here}"),
        format!("advertised.listeners=BROKER://127.0.0.1:{{port}},{}", listeners("localhost")),
        "listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,CERT:SSL,LOGIN:SASL_SSL".into(),
        "ssl.keystore.type=PEM".into(),
        format!("ssl.keystore.location={}/node.pem", dir.display()),
        "ssl.truststore.type=PEM".into(),
        format!("ssl.truststore.location={}/trusted.pem", dir.display()),
        "listener.name.cert.ssl.client.auth=required".into(),
        "listener.name.cert.ssl.principal.mapping.rules=RULE:^CN=(.*?)$/$1/".into(),
        "listener.name.login.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER".into(),
        // Connections by login end unless they log in again: what tokens are renewed for.
        "listener.name.login.connections.max.reauth.ms=4000".into(),
        format!("{} user_gateway-1=\"{PASSWORD}\";", module("plain", "plain.PlainLoginModule")),
        format!("{};", module("scram-sha-256", "scram.ScramLoginModule")),
        format!("{};", module("scram-sha-512", "scram.ScramLoginModule")),
        format!("scram.gateway-1={PASSWORD}"),
        format!(
            "{} unsecuredLoginStringClaim_sub=\"node\";",
            module("oauthbearer", "oauthbearer.OAuthBearerLoginModule")
        ),
        format!(
            "listener.name.login.oauthbearer.sasl.server.callback.handler.class=\
             {PACKAGE}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
        ),
        // Below what a gateway may be configured with.
        "transaction.max.timeout.ms=60000".into(),
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".into(),
        format!("super.users={SUPER}"),
    ]
}
