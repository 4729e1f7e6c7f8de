//! The keys of encryption at rest: 32 random bytes from a file or a systemd credential, never from the configuration
//! itself or the command line.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;

use super::reader::Table;
use super::secret::{self, Secrets};

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Longest key file; 64 hexadecimal digits and some white space.
const FILE_BYTES_MAX: u64 = 256;
/// Most old keys. Each rotation leaves one, until everything is written anew.
pub(super) const OLD_KEYS_MAX: usize = 16;
/// What names a credential instead of a file.
const CREDENTIAL: &str = "credential:";

/// A key: shown as `***` wherever it is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyBytes([u8; KEY_BYTES]);

impl KeyBytes {
    /// A key of these bytes.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Reads a key file: 32 raw bytes, 64 hexadecimal digits, or base64; text may end in white space.
    ///
    /// # Errors
    /// When it cannot be read, others may read it, or it holds something else; the text never shows what it holds.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        if !metadata.is_file() {
            return Err("it is not a file".to_owned());
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Err(format!(
                "its mode {mode:04o} lets every user touch it; allowed: nothing for others, as 0400 or 0640"
            ));
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Self::decode(&bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
        let decoded = match (bytes.len(), text.len()) {
            (KEY_BYTES, _) => bytes.to_vec(),
            (_, 64) => hexadecimal(text).unwrap_or_default(),
            (_, 44) => base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default(),
            _ => Vec::new(),
        };
        let key: [u8; KEY_BYTES] = decoded.try_into().map_err(|_| {
            format!("it holds {} bytes that are no key; allowed: 32 raw bytes, 64 hexadecimal digits, 44 characters of base64", bytes.len())
        })?;
        if key.iter().all(|byte| *byte == key[0]) {
            return Err("all bytes of the key are the same; make one with `head -c 32 /dev/urandom`".to_owned());
        }
        Ok(Self(key))
    }
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs.map(|pair| u8::from_str_radix(pair.filter(|pair| !pair.starts_with('+'))?, 16).ok()).collect()
}

impl std::fmt::Debug for KeyBytes {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("***")
    }
}

/// `queue.key` and `queue.old-keys`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueKeys {
    /// Encrypts what is written; `None`: nothing is encrypted.
    pub current: Option<KeyBytes>,
    /// Open what was written before.
    pub old: Vec<KeyBytes>,
}

/// Reads both keys of `[queue]`; mistakes are noted there.
pub(super) fn read(table: &Table<'_>, secrets: Secrets<'_>) -> Option<QueueKeys> {
    let mut whole = true;
    let mut key_of = |key: &str, written: &str, place: &super::Place| match (locate(written, secrets), secrets) {
        (_, Secrets::Skip) => None,
        (Ok(path), _) => match KeyBytes::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                table.error(place, key, format!("{} cannot be used: {why}", path.display()));
                whole = false;
                None
            }
        },
        (Err(why), _) => {
            table.error(place, key, format!("{written:?} {why}"));
            whole = false;
            None
        }
    };
    let written = if table.has("key") { table.text("key") } else { None };
    let current = written.and_then(|written| key_of("key", &written, &table.place_of("key")));
    let old = table.texts("old-keys", 0..=OLD_KEYS_MAX);
    let old = old.into_iter().filter_map(|(written, place)| key_of("old-keys", written, &place)).collect();
    whole.then_some(QueueKeys { current, old })
}

fn locate(written: &str, secrets: Secrets<'_>) -> Result<PathBuf, String> {
    match (written.strip_prefix(CREDENTIAL), secrets) {
        (Some(name), _) => secret::credential(name).map_err(str::to_owned),
        (None, Secrets::Read(directory)) => Ok(directory.join(written)),
        (None, Secrets::Skip) => Ok(PathBuf::from(written)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_in_each_form_and_nothing_else_is() {
        let raw: Vec<u8> = (100..132).collect();
        let hex: String = raw.iter().map(|byte| format!("{byte:02X}")).collect();
        let base64 = base64::engine::general_purpose::STANDARD.encode(&raw);
        for form in [raw.clone(), format!("{hex}\n").into_bytes(), format!(" {base64}\r\n").into_bytes()] {
            assert_eq!(KeyBytes::decode(&form).unwrap().bytes().as_slice(), raw);
        }
        let plus = format!("+1{}", &hex[2..]).into_bytes();
        for wrong in [&raw[1..], &hex.as_bytes()[1..], b"", b"secret", &plus, &[7; 32], "ü".repeat(32).as_bytes()] {
            let error = KeyBytes::decode(wrong).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, (0..32).collect::<Vec<u8>>()).unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let error = KeyBytes::read(&path).unwrap_err();
        assert!(error.contains("0644"), "{error}");
        mode(0o640);
        assert!(KeyBytes::read(&path).is_ok());
        assert!(KeyBytes::read(dir.path()).unwrap_err().contains("not a file"));
    }
}
