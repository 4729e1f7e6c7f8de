//! Certificates, keys and trust anchors while the uplink runs: taken up when they are renewed, announced before they
//! expire.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::clock::{boot_ns, wall_us};
use crate::config::{Kafka, Tls};
use crate::kafka::{Certificate, Renewal, TlsFiles};
use crate::metrics::{ByFile, ByKind, Metrics};

/// How often the file system is asked whether a file was touched.
const GLANCE_NS: u64 = 2_000_000_000;
/// How often the contents are compared, whatever the file system says.
const LOOK_NS: u64 = 30_000_000_000;
/// Days before expiry at which the log says so, and at expiry.
const ANNOUNCED_DAYS: [i64; 4] = [0, 1, 7, 30];
const DAY_S: i64 = 86_400;

/// What is known of the TLS files.
#[derive(Debug)]
pub struct TlsWatch {
    files: TlsFiles,
    /// Last asked, boot time; `None`: never.
    glanced_ns: Option<u64>,
    looked_ns: Option<u64>,
    announced: Announced,
}

impl TlsWatch {
    /// Of the files that a client is made of now.
    pub fn new(tls: Option<&Tls>) -> Self {
        Self { files: TlsFiles::new(tls), glanced_ns: None, looked_ns: None, announced: Announced::default() }
    }

    /// Says how long the files will serve, and whether they were renewed and a client of so many streams can be made of
    /// them.
    pub fn look(&mut self, kafka: &Kafka, streams: usize, metrics: &Metrics) -> bool {
        if kafka.tls.is_none() || !self.is_due(boot_ns()) {
            return false;
        }
        self.announced.look(&self.files, wall_us() / 1_000_000, metrics);
        let (renewed, kind) = match self.files.look(kafka, streams) {
            Renewal::None => return false,
            Renewal::Ready => (true, "applied"),
            Renewal::Unusable(error) => {
                tracing::warn!(error, "tls files changed and cannot be used; the client goes on with the old ones");
                (false, "refused")
            }
        };
        metrics.uplink_tls_renewals.get_or_create(&ByKind { kind }).inc();
        renewed
    }

    /// Whether it is time to compare contents.
    fn is_due(&mut self, now_ns: u64) -> bool {
        let over = |since: Option<u64>, span_ns| since.is_none_or(|at_ns| now_ns.saturating_sub(at_ns) >= span_ns);
        if !over(self.glanced_ns, GLANCE_NS) {
            return false;
        }
        self.glanced_ns = Some(now_ns);
        let touched = self.files.glance();
        if !touched && !over(self.looked_ns, LOOK_NS) {
            return false;
        }
        self.looked_ns = Some(now_ns);
        true
    }
}

/// What was last said of each file: until when it serves, and the least number of days announced.
#[derive(Debug, Default)]
struct Announced(HashMap<PathBuf, (i64, i64)>);

impl Announced {
    fn look(&mut self, files: &TlsFiles, now_s: i64, metrics: &Metrics) {
        for found in files.first_to_expire() {
            let by_file = ByFile { file: found.file.display().to_string() };
            // What is wrong with the file is said where it is compared, or by the client that is made of it.
            let Ok(certificate) = found.certificate else { continue };
            let left_s = certificate.not_after_s.saturating_sub(now_s);
            metrics.tls_certificate_expiry_seconds.get_or_create(&by_file).set(left_s);
            if let Some(days) = self.due(&found.file, &certificate, left_s) {
                announce(&by_file.file, &certificate, days);
            }
        }
    }

    /// The number of days that is to be announced now, once for each certificate.
    fn due(&mut self, file: &PathBuf, certificate: &Certificate, left_s: i64) -> Option<i64> {
        let days = ANNOUNCED_DAYS.into_iter().find(|days| left_s <= days * DAY_S)?;
        let said = self.0.get(file).filter(|(until_s, _)| *until_s == certificate.not_after_s);
        if said.is_some_and(|(_, said_days)| *said_days <= days) {
            return None;
        }
        self.0.insert(file.clone(), (certificate.not_after_s, days));
        Some(days)
    }
}

fn announce(file: &str, certificate: &Certificate, days: i64) {
    let subject = &certificate.subject;
    let until = jiff::Timestamp::from_second(certificate.not_after_s).unwrap_or_default();
    match days {
        0 => tracing::error!(file, subject, %until, "certificate has expired by this machine's clock"),
        _ => tracing::warn!(file, subject, %until, days, "certificate expires within days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(not_after_s: i64) -> Certificate {
        Certificate { subject: "CN=gateway-1".into(), issuer: "CN=ca".into(), not_before_s: 0, not_after_s }
    }

    #[test]
    fn each_threshold_is_announced_once_for_each_certificate() {
        let mut announced = Announced::default();
        let file = PathBuf::from("gateway.pem");
        let until_s = 100 * DAY_S;
        let mut at_day = |day: i64, until_s: i64| announced.due(&file, &certificate(until_s), until_s - day * DAY_S);
        let said: Vec<_> = (60..=101).filter_map(|day| at_day(day, until_s).map(|days| (day, days))).collect();
        assert_eq!(said, [(70, 30), (93, 7), (99, 1), (100, 0)]);
        assert_eq!(at_day(101, 200 * DAY_S), None, "renewed");
        assert_eq!(at_day(195, 200 * DAY_S), Some(7), "found late: the nearest threshold only");
        assert_eq!(at_day(195, 200 * DAY_S), None);
        assert_eq!(at_day(195, 201 * DAY_S), Some(7), "another certificate");
    }

    #[test]
    fn the_metric_tells_how_long_a_file_serves() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/ca-1.pem");
        let files = TlsFiles::new(Some(&Tls { ca: Some(file.into()), ..Tls::default() }));
        let until_s = files.first_to_expire()[0].certificate.as_ref().unwrap().not_after_s;
        let (metrics, _) = Metrics::new();
        let mut announced = Announced::default();
        announced.look(&files, until_s - 90, &metrics);
        let shown = metrics.tls_certificate_expiry_seconds.get_or_create(&ByFile { file: file.into() }).get();
        assert_eq!(shown, 90);
        assert_eq!(announced.0[&PathBuf::from(file)], (until_s, 1));
    }
}
