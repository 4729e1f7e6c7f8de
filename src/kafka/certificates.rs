//! Reads certificates for what an operator has to know of them: whose they are and how long they are valid.
//!
//! Whether a certificate is to be trusted is not judged here but by the client's TLS library.

use std::net::IpAddr;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::Certificate as X509;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Largest file that is looked at; a bundle of all public trust anchors has about 220 KiB.
pub(super) const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a certificate says of itself (RFC 5280, section 4.1.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is, as `CN=gateway-1,O=Example`.
    pub subject: String,
    /// Who signed it, in the same form.
    pub issuer: String,
    /// Valid from here on, seconds since 1970 UTC.
    pub not_before_s: i64,
    /// Valid until here, seconds since 1970 UTC.
    pub not_after_s: i64,
}

/// All certificates of a PEM file, in its order; other contents are passed over.
///
/// # Errors
/// In words: the file cannot be read, is too large, holds no certificate or a broken one.
pub fn read_certificates(file: &Path) -> Result<Vec<Certificate>, String> {
    let metadata = std::fs::metadata(file).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(format!("it is not a file of at most {FILE_BYTES_MAX} bytes"));
    }
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let found: Vec<Certificate> = CertificateDer::pem_slice_iter(&bytes)
        .map(|der| parse(&der.map_err(|error| format!("it is not PEM: {error}"))?))
        .collect::<Result<_, String>>()?;
    if found.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(found) }
}

impl Certificate {
    /// The common name in its subject.
    pub(super) fn common_name(&self) -> Option<&str> {
        self.subject.split([',', '+']).find_map(|part| part.strip_prefix("CN="))
    }
}

/// The certificates to trust: those of the file, else the system's.
///
/// # Errors
/// In words: the file cannot be read, or there is none.
pub(super) fn trust_anchors(ca: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let anchors = match ca {
        Some(file) => {
            let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            read.map_err(|error| format!("{}: {error}", file.display()))?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    if anchors.is_empty() {
        Err("there is no certificate to trust: write kafka.tls.ca".to_owned())
    } else {
        Ok(anchors)
    }
}

/// The host names and addresses that a certificate in DER is for (RFC 5280, section 4.2.1.6).
///
/// # Errors
/// In words: it is none.
pub(super) fn names(der: &[u8]) -> Result<Vec<String>, String> {
    let unreadable = |error| format!("certificate cannot be read: {error}");
    let parsed = X509::from_der(der).map_err(unreadable)?.tbs_certificate;
    let Some((_, SubjectAltName(names))) = parsed.get::<SubjectAltName>().map_err(unreadable)? else {
        return Ok(Vec::new());
    };
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(octets.as_bytes()).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(octets.as_bytes()).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    };
    Ok(names.iter().filter_map(name).collect())
}

/// A certificate in DER.
///
/// # Errors
/// In words: it is none.
pub(super) fn parse(der: &[u8]) -> Result<Certificate, String> {
    let parsed = X509::from_der(der).map_err(|error| format!("certificate cannot be read: {error}"))?.tbs_certificate;
    let seconds = |time: x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    Ok(Certificate {
        subject: parsed.subject.to_string(),
        issuer: parsed.issuer.to_string(),
        not_before_s: seconds(parsed.validity.not_before),
        not_after_s: seconds(parsed.validity.not_after),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls").join(name)
    }

    #[test]
    fn a_file_may_hold_several_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let both = dir.path().join("both.pem");
        let texts = ["ca-1.pem", "ca-2.pem"].map(|name| std::fs::read_to_string(data(name)).unwrap());
        std::fs::write(&both, format!("# two of them\n{}", texts.concat())).unwrap();
        let found = read_certificates(&both).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], read_certificates(&data("ca-1.pem")).unwrap()[0]);
        assert_ne!(found[0].subject, found[1].subject);
        assert!(found.iter().all(|certificate| certificate.not_before_s < certificate.not_after_s));
    }

    #[test]
    fn what_is_no_certificate_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cert.pem");
        let why = |text: &str| {
            std::fs::write(&file, text).unwrap();
            read_certificates(&file).unwrap_err()
        };
        assert!(why("").contains("no certificate"));
        assert!(why("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").contains("cannot be read"));
        assert!(why("-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n").contains("not PEM"));
        assert!(read_certificates(dir.path()).unwrap_err().contains("not a file"));
        assert!(read_certificates(&dir.path().join("none")).is_err());
    }
}
