//! Certificates of a made-up authority, by the openssl command.

use std::path::{Path, PathBuf};

use crate::process::{output, tool};

/// Who signs.
pub struct Authority {
    dir: PathBuf,
    name: String,
}

impl Authority {
    pub fn new(dir: &Path, name: &str) -> Self {
        let authority = Self { dir: dir.to_owned(), name: name.to_owned() };
        let (key, pem) = (authority.path("key"), authority.path("pem"));
        output(openssl().args(["req", "-x509", "-days", "30"]).args(new_key(&key, name)).arg("-out").arg(pem));
        authority
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        std::fs::read_to_string(self.path("pem")).unwrap()
    }

    /// A certificate for the common name, valid for so many days from now on (0: until now), and its key; both in PEM.
    pub fn issue(&self, common_name: &str, days: i32) -> (String, String) {
        let at = |end: &str| self.dir.join(format!("{}-{common_name}.{end}", self.name));
        let (key, request, names, cert) = (at("key"), at("request"), at("names"), at("pem"));
        output(openssl().arg("req").args(new_key(&key, common_name)).arg("-out").arg(&request));
        std::fs::write(&names, format!("subjectAltName=DNS:{common_name}\n")).unwrap();
        let mut sign = openssl();
        sign.args(["x509", "-req", "-CAcreateserial", "-days", &days.to_string()]).arg("-in").arg(&request);
        sign.arg("-CA").arg(self.path("pem")).arg("-CAkey").arg(self.path("key"));
        output(sign.arg("-extfile").arg(&names).arg("-out").arg(&cert));
        [cert, key].map(|file| std::fs::read_to_string(file).unwrap()).into()
    }

    fn path(&self, end: &str) -> PathBuf {
        self.dir.join(format!("{}.{end}", self.name))
    }
}

fn openssl() -> std::process::Command {
    tool("openssl", "openssl")
}

/// Arguments for a new key without a password, and the subject.
fn new_key(key: &Path, common_name: &str) -> [String; 9] {
    let curve = "ec_paramgen_curve:P-256";
    let key = key.display().to_string();
    let subject = format!("/CN={common_name}");
    ["-newkey", "ec", "-pkeyopt", curve, "-nodes", "-keyout", &key, "-subj", &subject].map(str::to_owned)
}
