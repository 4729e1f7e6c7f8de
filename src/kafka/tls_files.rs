//! Notices that certificates, keys or trust anchors were renewed on disk, so that a new client can take them up.
//!
//! Contents are compared, not times: a renewal by rename, by link or in place looks the same, and a file that was only
//! touched is no reason to connect anew.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::clock::wall_us;
use crate::config::{Kafka, Tls};

use super::Producer;
use super::certificates::{Certificate, FILE_BYTES_MAX, read_certificates};

/// What became of the files since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// Nothing that matters.
    None,
    /// They changed and a client can be made of them.
    Ready,
    /// They changed and no client can be made of them (yet): a renewal is under way, or one of them is wrong. Said
    /// once for each state of the files.
    Unusable(String),
}

/// The certificate that makes a file useless first when it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstToExpire {
    /// The file.
    pub file: PathBuf,
    /// The certificate, or why there is none.
    pub certificate: Result<Certificate, String>,
}

/// The files and their last known contents.
#[derive(Debug)]
pub struct TlsFiles {
    tls: Tls,
    paths: Vec<PathBuf>,
    /// What the present client was made of.
    in_use: Vec<Option<[u8; 32]>>,
    /// When our certificate of the present client expires, seconds since 1970 UTC.
    in_use_until_s: Option<i64>,
    /// What was last found unusable.
    refused: Option<Vec<Option<[u8; 32]>>>,
    /// What the file system said at the last glance.
    glanced: Vec<Option<Mark>>,
}

/// Device, inode, size, change time: a file that was written, renamed or linked anew has another.
type Mark = (u64, u64, u64, i64, i64);

impl TlsFiles {
    /// Takes the present contents as those in use.
    pub fn new(tls: Option<&Tls>) -> Self {
        let tls = tls.cloned().unwrap_or_default();
        let paths: Vec<PathBuf> = [&tls.ca, &tls.cert, &tls.key].into_iter().flatten().cloned().collect();
        let glanced = paths.iter().map(|path| mark(path)).collect();
        let in_use = paths.iter().map(|path| digest(path)).collect();
        let in_use_until_s = our_expiry_s(&tls);
        Self { tls, paths, in_use, in_use_until_s, refused: None, glanced }
    }

    /// Whether the file system says that a file was touched since the last glance: cheap, and never the last word, as
    /// two writes within a tick of its clock look like one.
    pub fn glance(&mut self) -> bool {
        let found = self.paths.iter().map(|path| mark(path)).collect();
        std::mem::replace(&mut self.glanced, found) != self.glanced
    }

    /// Looks again. What is [`Renewal::Ready`] counts as in use from then on.
    pub fn look(&mut self, kafka: &Kafka, streams: usize) -> Renewal {
        let found: Vec<_> = self.paths.iter().map(|path| digest(path)).collect();
        if found == self.in_use {
            self.refused = None;
            return Renewal::None;
        }
        if self.refused.as_ref() == Some(&found) {
            return Renewal::None;
        }
        match self.usable(kafka, streams) {
            Ok(()) => {
                (self.in_use, self.refused) = (found, None);
                self.in_use_until_s = our_expiry_s(&self.tls);
                Renewal::Ready
            }
            Err(error) => {
                self.refused = Some(found);
                Renewal::Unusable(error)
            }
        }
    }

    /// Whether a client can be made of the files, and is not worse than the present one.
    fn usable(&self, kafka: &Kafka, streams: usize) -> Result<(), String> {
        Producer::check(kafka, streams).map_err(|error| error.to_string())?;
        let now_s = wall_us() / 1_000_000;
        match (our_expiry_s(&self.tls), self.in_use_until_s) {
            (Some(until_s), Some(in_use_until_s)) if until_s <= now_s && now_s < in_use_until_s => {
                let ago_s = now_s - until_s;
                Err(format!("the new certificate expired {ago_s} s ago by this machine's clock, the old one has not"))
            }
            _ => Ok(()),
        }
    }

    /// How long each file of certificates serves: ours until the first of its chain expires, the trust anchors until
    /// the last one does.
    pub fn first_to_expire(&self) -> Vec<FirstToExpire> {
        let key = |certificate: &Certificate| certificate.not_after_s;
        let ours = self.tls.cert.iter().map(|file| {
            let certificate = read_certificates(file).map(|found| found.into_iter().min_by_key(key));
            (file, certificate)
        });
        let anchors = self.tls.ca.iter().map(|file| {
            let certificate = read_certificates(file).map(|found| found.into_iter().max_by_key(key));
            (file, certificate)
        });
        let files = ours.chain(anchors).map(|(file, certificate)| FirstToExpire {
            file: file.clone(),
            certificate: certificate.and_then(|found| found.ok_or_else(|| "there is no certificate in it".to_owned())),
        });
        files.collect()
    }
}

/// When the first certificate of our chain expires; `None` where it cannot be said.
fn our_expiry_s(tls: &Tls) -> Option<i64> {
    let chain = read_certificates(tls.cert.as_ref()?).ok()?;
    chain.iter().map(|certificate| certificate.not_after_s).min()
}

fn mark(path: &Path) -> Option<Mark> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.len(), found.ctime(), found.ctime_nsec()))
}

/// SHA-256 of a file; `None` where it cannot be read or is too large to be what it should.
fn digest(path: &Path) -> Option<[u8; 32]> {
    let small = std::fs::metadata(path).ok().filter(|metadata| metadata.is_file() && metadata.len() <= FILE_BYTES_MAX);
    small?;
    std::fs::read(path).ok().map(|bytes| Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KafkaCompression;

    const CA_1: &str = include_str!("../../tests/data/tls/ca-1.pem");
    const CA_2: &str = include_str!("../../tests/data/tls/ca-2.pem");

    fn kafka(ca: PathBuf) -> Kafka {
        Kafka {
            brokers: vec!["127.0.0.1:1".into()],
            client_id: "test".into(),
            tls: Some(Tls { ca: Some(ca), ..Tls::default() }),
            sasl: None,
            compression: KafkaCompression::None,
            in_flight_bytes_max: 1 << 20,
            linger: std::time::Duration::from_millis(5),
            drain: Default::default(),
            rate: Default::default(),
            budget: None,
            delivery: crate::config::Delivery::AtLeastOnce,
            properties: [].into(),
            output: Default::default(),
        }
    }

    #[test]
    fn a_renewed_file_is_taken_up_once_and_a_spoilt_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.pem");
        let kafka = kafka(ca.clone());
        std::fs::write(&ca, CA_1).unwrap();
        let mut files = TlsFiles::new(kafka.tls.as_ref());
        assert_eq!(files.look(&kafka, 1), Renewal::None);
        assert!(!files.glance());
        std::fs::write(&ca, CA_1).unwrap();
        assert_eq!(files.look(&kafka, 1), Renewal::None, "written again, the same");

        std::fs::write(&ca, &CA_2[..CA_2.len() / 2]).unwrap();
        let Renewal::Unusable(reason) = files.look(&kafka, 1) else { panic!("half a file is no use") };
        assert!(reason.contains("ca.pem") || reason.contains("ssl.ca.location"), "{reason}");
        assert_eq!(files.look(&kafka, 1), Renewal::None, "said once");

        std::fs::write(&ca, CA_2).unwrap();
        assert!(files.glance(), "half a file and a whole one differ in size");
        assert!(!files.glance());
        assert_eq!(files.look(&kafka, 1), Renewal::Ready);
        assert_eq!(files.look(&kafka, 1), Renewal::None);
        std::fs::remove_file(&ca).unwrap();
        assert!(matches!(files.look(&kafka, 1), Renewal::Unusable(_)));
        std::fs::write(&ca, CA_2).unwrap();
        assert_eq!(files.look(&kafka, 1), Renewal::None, "back as it was");
    }

    #[test]
    fn an_expired_certificate_takes_the_place_of_no_valid_one() {
        let dir = tempfile::tempdir().unwrap();
        let [cert, key] = ["gateway.pem", "gateway.key"].map(|name| dir.path().join(name));
        let data = |name: &str| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/").to_owned() + name;
        let put = |name: &str| std::fs::copy(data(name), &cert).unwrap();
        std::fs::copy(data("gateway.key"), &key).unwrap();
        put("gateway-1.pem");
        let tls = Tls { ca: Some(data("ca-1.pem").into()), cert: Some(cert.clone()), key: Some(key) };
        let kafka = Kafka { tls: Some(tls), ..kafka("".into()) };
        let mut files = TlsFiles::new(kafka.tls.as_ref());
        put("gateway-expired.pem");
        let Renewal::Unusable(reason) = files.look(&kafka, 1) else { panic!("an expired one was taken") };
        assert!(reason.contains("expired") && reason.contains("the old one has not"), "{reason}");
        put("gateway-2.pem");
        assert_eq!(files.look(&kafka, 1), Renewal::Ready);

        put("gateway-expired.pem");
        let mut files = TlsFiles::new(kafka.tls.as_ref());
        put("gateway-1.pem");
        assert_eq!(files.look(&kafka, 1), Renewal::Ready, "the one in use has expired");
    }

    #[test]
    fn without_tls_there_is_nothing_to_renew() {
        let mut kafka = kafka("/nowhere".into());
        kafka.tls = None;
        assert_eq!(TlsFiles::new(None).look(&kafka, 1), Renewal::None);
    }
}
