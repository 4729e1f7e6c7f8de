//! Notices that certificates, keys or trust anchors were renewed on disk, so that a new client can take them up.
//!
//! Contents are compared, not times: a renewal by rename, by link or in place looks the same, and a file that was only
//! touched is no reason to connect anew.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::config::{Kafka, Tls};

use super::Producer;

/// Largest file that is looked at; a bundle of all public trust anchors has about 220 KiB.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

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

/// The files and their last known contents.
#[derive(Debug)]
pub struct TlsFiles {
    paths: Vec<PathBuf>,
    /// What the present client was made of.
    in_use: Vec<Option<[u8; 32]>>,
    /// What was last found unusable.
    refused: Option<Vec<Option<[u8; 32]>>>,
}

impl TlsFiles {
    /// Takes the present contents as those in use.
    pub fn new(tls: Option<&Tls>) -> Self {
        let paths: Vec<PathBuf> =
            tls.into_iter().flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]).flatten().cloned().collect();
        let in_use = paths.iter().map(|path| digest(path)).collect();
        Self { paths, in_use, refused: None }
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
        match Producer::check(kafka, streams) {
            Ok(()) => {
                (self.in_use, self.refused) = (found, None);
                Renewal::Ready
            }
            Err(error) => {
                self.refused = Some(found);
                Renewal::Unusable(error.to_string())
            }
        }
    }
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
        std::fs::write(&ca, CA_1).unwrap();
        assert_eq!(files.look(&kafka, 1), Renewal::None, "written again, the same");

        std::fs::write(&ca, &CA_2[..CA_2.len() / 2]).unwrap();
        let Renewal::Unusable(reason) = files.look(&kafka, 1) else { panic!("half a file is no use") };
        assert!(reason.contains("ca.pem") || reason.contains("ssl.ca.location"), "{reason}");
        assert_eq!(files.look(&kafka, 1), Renewal::None, "said once");

        std::fs::write(&ca, CA_2).unwrap();
        assert_eq!(files.look(&kafka, 1), Renewal::Ready);
        assert_eq!(files.look(&kafka, 1), Renewal::None);
        std::fs::remove_file(&ca).unwrap();
        assert!(matches!(files.look(&kafka, 1), Renewal::Unusable(_)));
        std::fs::write(&ca, CA_2).unwrap();
        assert_eq!(files.look(&kafka, 1), Renewal::None, "back as it was");
    }

    #[test]
    fn without_tls_there_is_nothing_to_renew() {
        let mut kafka = kafka("/nowhere".into());
        kafka.tls = None;
        assert_eq!(TlsFiles::new(None).look(&kafka, 1), Renewal::None);
    }
}
