//! Judges certificates, ours and the brokers', and the clock that judges their dates.

use super::{Finding, Severity};
use crate::config::Kafka;
use crate::kafka::{BrokerCertificate, Certificate, Judgement, Shown};

/// A certificate that ends within this is worth a warning.
const EXPIRES_SOON_S: i64 = 30 * 86_400;

/// What a certificate's dates mean at this time; `role` names it. The clock and the dates are judged together: either
/// may be wrong.
pub fn judge_certificate(role: &str, certificate: &Certificate, now_s: i64) -> Option<Finding> {
    let subject = &certificate.subject;
    let (severity, text) = if certificate.not_after_s <= now_s {
        let until = date(certificate.not_after_s);
        (Severity::Problem, format!("{subject} expired at {until}; this machine's clock says {}", date(now_s)))
    } else if now_s < certificate.not_before_s {
        let from = date(certificate.not_before_s);
        (Severity::Problem, format!("{subject} is valid from {from} on; this machine's clock says {}", date(now_s)))
    } else if certificate.not_after_s - now_s < EXPIRES_SOON_S {
        let days = (certificate.not_after_s - now_s) / 86_400;
        (Severity::Warning, format!("{subject} expires in {days} days, at {}", date(certificate.not_after_s)))
    } else {
        return None;
    };
    Some(Finding::new(severity, role, text))
}

/// A file of `kafka.tls` that cannot be read.
pub fn unreadable(role: &str, why: &str) -> Finding {
    Finding::new(Severity::Problem, role, why)
}

/// What a broker's certificate means for the client, as `[kafka]` configures it.
pub fn judge_broker(kafka: &Kafka, found: &BrokerCertificate, now_s: i64) -> Vec<Finding> {
    let role = format!("certificate of {}", found.broker);
    let shown = match &found.shown {
        Ok(shown) => shown,
        Err(why) => return vec![Finding::new(Severity::Unknown, role, format!("it was not seen: {why}"))],
    };
    let is_set =
        |name: &str, value: &str| kafka.properties.get(name).is_some_and(|set| set.eq_ignore_ascii_case(value));
    if is_set("enable.ssl.certificate.verification", "false") {
        let text =
            "kafka.properties.\"enable.ssl.certificate.verification\" is false: whoever answers there is believed";
        return vec![Finding::new(Severity::Warning, role, text)];
    }
    let mut findings = Vec::new();
    // One is enough: the first that expired or will.
    findings.extend(shown.chain.iter().find_map(|certificate| judge_certificate(&role, certificate, now_s)));
    findings.extend(of_trust(&role, shown));
    if !is_set("ssl.endpoint.identification.algorithm", "none") {
        findings.extend(of_name(&role, &found.broker, shown));
    }
    findings
}

fn of_trust(role: &str, shown: &Shown) -> Option<Finding> {
    match &shown.trust {
        Judgement::Good => None,
        Judgement::Bad => {
            let issuer = shown.chain.last().map_or("nobody", |last| last.issuer.as_str());
            let text = format!("it is signed by {issuer}, which is not among what kafka.tls.ca trusts");
            Some(Finding::new(Severity::Problem, role, text))
        }
        Judgement::Unknown(why) => Some(not_judged(role, why)),
    }
}

fn of_name(role: &str, broker: &str, shown: &Shown) -> Option<Finding> {
    match &shown.name {
        Judgement::Good => None,
        Judgement::Bad => {
            let names = if shown.names.is_empty() { "no name".to_owned() } else { shown.names.join(", ") };
            let text = format!("it is for {names}, and the client connects to {broker}");
            Some(Finding::new(Severity::Problem, role, text))
        }
        Judgement::Unknown(why) => Some(not_judged(role, why)),
    }
}

fn not_judged(role: &str, why: &str) -> Finding {
    let text = format!("this check cannot judge it ({why}); whether the client takes it, the connection tells");
    Finding::new(Severity::Unknown, role, text)
}

/// What it means that the kernel does not trust its clock.
pub fn clock_unknown() -> Finding {
    let text = "it is not known to be set (no time source since boot): certificates are judged by it, and records are sent \
                with the time estimated. Kafka does not tell its time, so a clock that is ahead shows here only by \
                certificates; records ahead of Kafka by more than message.timestamp.after.max.ms are refused once";
    Finding::new(Severity::Warning, "clock", text)
}

/// A clock that shows a time before `floor_s`, when this program was made, was never set; both in seconds since 1970 UTC.
pub fn clock_before(now_s: i64, floor_s: i64) -> Option<Finding> {
    let text = "this machine's clock was never set: certificates look as if they were not valid yet";
    (now_s < floor_s).then(|| {
        Finding::new(Severity::Problem, "clock", text).values(date(now_s), format!("at least {}", date(floor_s)))
    })
}

fn date(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}
