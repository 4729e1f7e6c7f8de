//! A TLS server in this process, with one certificate after the other.

use std::net::TcpListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};

use super::*;

/// 2026-12-01T00:00:00Z, in seconds.
const NOW_S: i64 = 1_796_083_200;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)
}

/// A server for one connection, which shows this certificate and wants one of the client where `wants_ours`. Gives
/// its port, and how the handshake ended for it.
fn serve(certificate: &str, wants_ours: bool, version: &'static SupportedProtocolVersion) -> (u16, JoinHandle<bool>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[version]).unwrap();
    let builder = if wants_ours {
        let mut anchors = RootCertStore::empty();
        anchors.add(CertificateDer::from_pem_file(data("broker-ca.pem")).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let chain = vec![CertificateDer::from_pem_file(data(certificate)).unwrap()];
    let key = PrivateKeyDer::from_pem_file(data("broker.key")).unwrap();
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut connection = ServerConnection::new(config).unwrap();
        while connection.is_handshaking() {
            if connection.complete_io(&mut tcp).is_err() {
                return false;
            }
        }
        true
    });
    (port, thread)
}

fn trusting(ca: &str) -> Tls {
    Tls { ca: Some(data(ca)), ..Tls::default() }
}

/// What is seen of a server that shows this certificate, when it is reached under this name.
fn look_at(certificate: &str, host: &str, tls: &Tls) -> Result<Shown, String> {
    let (port, thread) = serve(certificate, false, &rustls::version::TLS13);
    let seen = look_at_brokers(tls, &[format!("{host}:{port}")], NOW_S).remove(0).shown;
    assert!(thread.join().unwrap(), "the handshake was not completed");
    seen
}

#[test]
fn a_certificate_on_which_nothing_is_wrong() {
    for host in ["localhost", "127.0.0.1"] {
        let shown = look_at("broker.pem", host, &trusting("broker-ca.pem")).unwrap();
        assert_eq!((shown.trust, shown.name), (Judgement::Good, Judgement::Good));
        assert_eq!(shown.names, ["localhost", "127.0.0.1"]);
        assert_eq!((shown.chain.len(), shown.chain[0].issuer.as_str()), (1, "CN=forebay test broker CA"));
        // 2126-01-01T00:00:00Z
        assert_eq!(shown.chain[0].not_after_s, 4_922_899_200);
    }
}

#[test]
fn dates_do_not_hide_who_signed_and_for_whom() {
    for (certificate, valid) in [("broker-expired.pem", false), ("broker-early.pem", false), ("broker.pem", true)] {
        let shown = look_at(certificate, "localhost", &trusting("broker-ca.pem")).unwrap();
        assert_eq!((&shown.trust, &shown.name), (&Judgement::Good, &Judgement::Good), "{certificate}");
        let own = &shown.chain[0];
        assert_eq!((own.not_before_s..own.not_after_s).contains(&NOW_S), valid, "{certificate}");
        let shown = look_at(certificate, "localhost", &trusting("registry-ca.pem")).unwrap();
        assert_eq!((shown.trust, shown.name), (Judgement::Bad, Judgement::Good), "{certificate}");
    }
}

#[test]
fn another_host_and_names_of_old() {
    let shown = look_at("broker-nameless.pem", "127.0.0.1", &trusting("broker-ca.pem")).unwrap();
    assert_eq!((shown.names.len(), shown.trust, shown.name), (0, Judgement::Good, Judgement::Bad));
    let by_common_name = look_at("broker-nameless.pem", "localhost", &trusting("broker-ca.pem")).unwrap();
    assert_eq!(by_common_name.name, Judgement::Good);
    let trusted_by_itself = look_at("broker.pem", "localhost", &trusting("broker.pem")).unwrap();
    assert_eq!(trusted_by_itself.trust, Judgement::Good);
}

#[test]
fn a_broker_that_wants_ours_is_seen_with_it_and_without() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for has_ours in [true, false] {
            let (port, thread) = serve("broker.pem", true, version);
            let ours = |name: &str| has_ours.then(|| data(name));
            let tls = Tls { cert: ours("broker.pem"), key: ours("broker.key"), ..trusting("broker-ca.pem") };
            let seen = look_at_brokers(&tls, &[format!("localhost:{port}")], NOW_S).remove(0);
            assert_eq!(seen.shown.unwrap().trust, Judgement::Good);
            assert_eq!(thread.join().unwrap(), has_ours, "{version:?}");
        }
    }
}

#[test]
fn what_is_not_seen_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let tls = trusting("broker-ca.pem");
    let brokers = [format!("127.0.0.1:{port}"), "no-port".to_owned(), "two words:1".to_owned()];
    let seen = look_at_brokers(&tls, &brokers, NOW_S);
    plain.join().unwrap();
    assert!(seen.iter().map(|found| &found.broker).eq(&brokers));
    let why: Vec<String> = seen.into_iter().map(|found| found.shown.unwrap_err()).collect();
    assert!(why[0].contains("does the port speak TLS") || why[0].contains("reset"), "{why:?}");
    assert!(why[1].contains("no port") && why[2].contains("cannot stand in a certificate"), "{why:?}");
    let missing = trusting("nowhere.pem");
    let why = look_at_brokers(&missing, &brokers[..1], NOW_S).remove(0).shown.unwrap_err();
    assert!(why.contains("nowhere.pem"), "{why}");
}
