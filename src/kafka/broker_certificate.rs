//! Looks at the certificates that brokers show, by a handshake of its own: the client library says only that one was
//! refused, not whose it is, for which names, or until when.
//!
//! What the client itself makes of a certificate is its own library's affair (OpenSSL); both follow RFC 5280 and 6125,
//! and where this one knows only that it would refuse, that is said as not known.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::certificates::{Certificate, names, parse, trust_anchors};
use crate::config::Tls;

/// Longest time for a connection and its handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(15);
/// Brokers that are looked at together; each has a thread meanwhile.
const AT_ONCE: usize = 16;
/// Certificates of a chain that are kept; a server sends two or three.
const CHAIN_MAX: usize = 8;

/// A broker and the certificate it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerCertificate {
    /// `host:port`
    pub broker: String,
    /// What it showed, or why nothing was seen, in words.
    pub shown: Result<Shown, String>,
}

/// What a broker showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The broker's own certificate and those sent with it, in the order sent.
    pub chain: Vec<Certificate>,
    /// Names and addresses that its own certificate is for.
    pub names: Vec<String>,
    /// Whether the chain leads to a trust anchor, whatever its dates.
    pub trust: Judgement,
    /// Whether it is for the host that we connect to.
    pub name: Judgement,
}

/// A judgement on a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing is wrong.
    Good,
    /// It is refused.
    Bad,
    /// This library would refuse it, for a reason that the client may see otherwise, in words.
    Unknown(String),
}

/// Connects to each of these brokers, 16 at a time, and looks at what it shows; `now_s` is the time in seconds since 1970
/// UTC. Takes up to a quarter of a minute for each 16 where one does not answer.
pub fn look_at_brokers(tls: &Tls, brokers: &[String], now_s: i64) -> Vec<BrokerCertificate> {
    brokers.chunks(AT_ONCE).flat_map(|brokers| look_at_once(tls, brokers, now_s)).collect()
}

fn look_at_once(tls: &Tls, brokers: &[String], now_s: i64) -> Vec<BrokerCertificate> {
    std::thread::scope(|scope| {
        let looks: Vec<_> =
            brokers.iter().map(|broker| (broker, scope.spawn(move || look(tls, broker, now_s)))).collect();
        let looked = looks.into_iter().map(|(broker, look)| BrokerCertificate {
            broker: broker.clone(),
            shown: look.join().unwrap_or_else(|_| Err("the look at it failed".to_owned())),
        });
        looked.collect()
    })
}

fn look(tls: &Tls, broker: &str, now_s: i64) -> Result<Shown, String> {
    let (host, _) = broker.rsplit_once(':').ok_or_else(|| "it has no port".to_owned())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} cannot stand in a certificate"))?;
    let anchors = trust_anchors(tls.ca.as_deref())?;
    let chain = shown_chain(tls, broker, name.clone())?;
    judge(&chain, &anchors, &name, host, now_s)
}

/// The certificates that the broker sends.
fn shown_chain(tls: &Tls, broker: &str, name: ServerName<'static>) -> Result<Vec<CertificateDer<'static>>, String> {
    let end = Instant::now() + HANDSHAKE_MAX;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let recorder = Arc::new(Recorder { provider: Arc::clone(&provider), chain: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&recorder) as Arc<dyn ServerCertVerifier>);
    // A broker that wants ours gets it where this library can read it, so that it need not log a refusal.
    let config = match ours(tls) {
        Some((chain, key)) => {
            config.clone().with_client_auth_cert(chain, key).unwrap_or_else(|_| config.with_no_client_auth())
        }
        None => config.with_no_client_auth(),
    };
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    let ended = connect(broker, end).and_then(|mut tcp| shake_hands(&mut connection, &mut tcp, end));
    let chain = std::mem::take(&mut *recorder.chain.lock().unwrap_or_else(PoisonError::into_inner));
    match ended {
        // What became of the handshake after the certificate came is the client's to say.
        _ if !chain.is_empty() => Ok(chain),
        Ok(()) => Err("it showed none".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn ours(tls: &Tls) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_file_iter(tls.cert.as_ref()?).ok()?.collect::<Result<Vec<_>, _>>().ok()?;
    Some((chain, PrivateKeyDer::from_pem_file(tls.key.as_ref()?).ok()?))
}

fn connect(broker: &str, end: Instant) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in broker.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(end)?) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn shake_hands(connection: &mut ClientConnection, tcp: &mut TcpStream, end: Instant) -> io::Result<()> {
    while connection.is_handshaking() {
        tcp.set_read_timeout(Some(left(end)?))?;
        tcp.set_write_timeout(Some(left(end)?))?;
        if connection.wants_write() {
            connection.write_tls(tcp)?;
        } else if connection.read_tls(tcp)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the connection: does the port speak TLS?",
            ));
        } else {
            connection.process_new_packets().map_err(io::Error::other)?;
        }
    }
    connection.send_close_notify();
    while connection.wants_write() {
        connection.write_tls(tcp)?;
    }
    Ok(())
}

/// What is left until `end`.
fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    let over = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", HANDSHAKE_MAX.as_secs()));
    if left.is_zero() { Err(over()) } else { Ok(left) }
}

/// Judges what was shown by a broker that is reached under `name`, which is `host` as written.
fn judge(
    chain: &[CertificateDer<'_>],
    anchors: &[CertificateDer<'static>],
    name: &ServerName<'_>,
    host: &str,
    now_s: i64,
) -> Result<Shown, String> {
    let read = chain.iter().map(|der| parse(der)).collect::<Result<Vec<Certificate>, _>>()?;
    let (Some(own_der), Some(own)) = (chain.first(), read.first()) else { return Err("it showed none".to_owned()) };
    let names = names(own_der)?;
    let (trust, name) = match ParsedCertificate::try_from(own_der) {
        Err(error) => (Judgement::Unknown(error.to_string()), Judgement::Unknown(error.to_string())),
        Ok(parsed) => {
            // Names of old: OpenSSL looks at the common name where there are no others.
            let by_common_name =
                || names.is_empty() && own.common_name().is_some_and(|common| common.eq_ignore_ascii_case(host));
            let is_for_host = verify_server_name(&parsed, name).is_ok() || by_common_name();
            // The dates are judged apart, as the clock may be what is wrong.
            let at_s = now_s.clamp(own.not_before_s, own.not_after_s.max(own.not_before_s));
            // One that is trusted by itself needs no chain.
            let trust =
                if anchors.contains(own_der) { Judgement::Good } else { judge_chain(&parsed, chain, anchors, at_s) };
            (trust, if is_for_host { Judgement::Good } else { Judgement::Bad })
        }
    };
    Ok(Shown { chain: read, names, trust, name })
}

fn judge_chain(
    own: &ParsedCertificate<'_>,
    chain: &[CertificateDer<'_>],
    anchors: &[CertificateDer<'static>],
    at_s: i64,
) -> Judgement {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(anchors.iter().cloned());
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at_s).unwrap_or(0)));
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    let others = chain.get(1..).unwrap_or(&[]);
    match verify_server_cert_signed_by_trust_anchor(own, &store, others, at, algorithms.all) {
        Ok(()) => Judgement::Good,
        Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => Judgement::Bad,
        Err(error) => Judgement::Unknown(error.to_string()),
    }
}

/// Takes every certificate, and keeps what was shown.
#[derive(Debug)]
struct Recorder {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = std::iter::once(own).chain(others).take(CHAIN_MAX);
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) =
            shown.map(|der| der.clone().into_owned()).collect();
        // Nothing is sent over this connection.
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, own, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, own, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "broker_certificate_tests.rs"]
mod tests;
