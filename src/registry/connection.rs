//! A connection to the registry: TCP, and TLS with certificates checked against the configured or the system's anchors.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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
    let name = ServerName::try_from(registry.host.clone()).context("its name cannot stand in a certificate")?;
    let connector = TlsConnector::from(Arc::new(tls(registry.ca.as_deref())?));
    let tls = connector.connect(name, tcp).await.context("TLS")?;
    Ok(TokioIo::new(Box::new(tls)))
}

fn tls(ca: Option<&Path>) -> anyhow::Result<rustls::ClientConfig> {
    let mut anchors = rustls::RootCertStore::empty();
    match ca {
        Some(file) => {
            let shown = file.display();
            for certificate in CertificateDer::pem_file_iter(file).with_context(|| format!("ca {shown}"))? {
                anchors
                    .add(certificate.with_context(|| format!("ca {shown}"))?)
                    .with_context(|| format!("ca {shown}"))?;
            }
            anyhow::ensure!(!anchors.is_empty(), "ca {shown} holds no certificate");
        }
        None => {
            // A system's bundle may hold some that cannot be read; the others do.
            anchors.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            anyhow::ensure!(!anchors.is_empty(), "the system has no certificates to trust; write kafka.registry.ca");
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(anchors).with_no_client_auth())
}
