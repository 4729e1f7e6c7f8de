//! A connection to the registry: TCP, and TLS with certificates checked against the configured or the system's anchors.
//!
//! OpenSSL, as librdkafka brings it anyway: a second TLS library would be a megabyte of a gateway's flash. Built
//! statically it looks for anchors where it was built, so the usual places are looked for here, as for Kafka.

use std::path::Path;
use std::pin::Pin;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509VerifyResult;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::config::Registry;

/// A connection with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects. Trust anchors are read anew, so a renewed file needs no restart.
pub(super) async fn open(registry: &Registry) -> anyhow::Result<TokioIo<Box<dyn Stream>>> {
    let tcp = TcpStream::connect((registry.host.as_str(), registry.port)).await?;
    if !registry.tls {
        return Ok(TokioIo::new(Box::new(tcp)));
    }
    // Checks the certificate's chain, and its name against this one.
    let session = connector(registry.ca.as_deref())?.configure()?.into_ssl(&registry.host).context("TLS")?;
    let mut tls = SslStream::new(session, tcp).context("TLS")?;
    let connected = Pin::new(&mut tls).connect().await;
    let verified = tls.ssl().verify_result();
    if connected.is_err() && verified != X509VerifyResult::OK {
        // OpenSSL's own error says no more than that it was refused.
        anyhow::bail!("TLS: certificate for {} is refused: {}", registry.host, verified.error_string());
    }
    connected.context("TLS")?;
    Ok(TokioIo::new(Box::new(tls)))
}

fn connector(ca: Option<&Path>) -> anyhow::Result<SslConnector> {
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    match ca {
        Some(file) => connector.set_ca_file(file).with_context(|| format!("ca {}", file.display()))?,
        None => {
            let places = openssl_probe::probe();
            anyhow::ensure!(
                places.cert_file.is_some() || !places.cert_dir.is_empty(),
                "the system has no certificates to trust; write kafka.registry.ca"
            );
            let dir = places.cert_dir.first().map(std::path::PathBuf::as_path);
            connector.load_verify_locations(places.cert_file.as_deref(), dir)?;
        }
    }
    Ok(connector.build())
}
