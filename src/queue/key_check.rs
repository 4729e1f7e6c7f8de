//! Whether the configured key is this queue's: a small record sealed with the current key, in `queue/key-check`.
//!
//! Without it a wrong key would be noticed only when the first block of an earlier run is read, after new blocks were
//! written with it. It is looked at before anything in the directory is touched, the lock included.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::cipher::{Key, KeyId, Keyring, NONCE_BYTES};
use super::disk;
use super::error::OpenError;

const FILE: &str = "key-check";
/// What the seal covers; there is nothing inside.
const COVER: &[u8] = b"forebay queue key check 1";
/// More than this is not read of the file.
const FILE_BYTES_MAX: u64 = 256;

/// What stands in a state directory.
enum Record {
    None,
    /// There is a file and it is not whole: it names no key.
    Damaged,
    Sealed {
        key: KeyId,
        nonce: [u8; NONCE_BYTES],
        tag: Vec<u8>,
    },
}

/// Says whether a queue with these keys may be opened. Only reads.
///
/// # Errors
/// [`OpenError::WrongKey`] when the record was sealed with a key that is not at hand.
pub(crate) fn look(dir: &Path, keys: &Keyring) -> Result<(), OpenError> {
    let path = path_in(dir);
    match read(&path)? {
        Record::None | Record::Damaged => Ok(()),
        Record::Sealed { key, nonce, tag } => {
            let opens = keys.find(key).and_then(|known| known.open(&nonce, COVER, &tag));
            opens.map(drop).map_err(|_| OpenError::WrongKey { path, needed: key, given: keys.current_id() })
        }
    }
}

/// Makes the record name the current key; the caller holds the lock. Before anything is sealed with that key.
///
/// # Errors
/// As [`look`], and when the file cannot be written.
pub(crate) fn settle(dir: &Path, keys: &Keyring) -> Result<(), OpenError> {
    look(dir, keys)?;
    let path = path_in(dir);
    let failed = |error| OpenError::io("write", &path, error);
    match (read(&path)?, keys.current()) {
        (Record::None, None) => Ok(()),
        (Record::Sealed { key, .. }, Some(current)) if key == current.id() => Ok(()),
        (found, Some(current)) => {
            let before = match found {
                Record::Damaged => "damaged".to_owned(),
                Record::None => "none".to_owned(),
                Record::Sealed { key, .. } => key.to_string(),
            };
            let text = encode(current).map_err(std::io::Error::other).map_err(failed)?;
            disk::write_atomically(&path, text.as_bytes()).map_err(failed)?;
            tracing::info!(key = %current.id(), before, "the queue is encrypted with a new key from here on");
            Ok(())
        }
        (_, None) => {
            // Its key is at hand as an old one, so this is what the user wants.
            std::fs::remove_file(&path).and_then(|()| disk::sync_dir(&dir.join("queue"))).map_err(failed)?;
            tracing::warn!("the queue is not encrypted from here on");
            Ok(())
        }
    }
}

/// The key that the queue below `dir` is encrypted with, as its record says; `None`: none, or the record is damaged.
pub(crate) fn named(dir: &Path) -> Option<KeyId> {
    match read(&path_in(dir)) {
        Ok(Record::Sealed { key, .. }) => Some(key),
        Ok(Record::None | Record::Damaged) | Err(_) => None,
    }
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("queue").join(FILE)
}

fn read(path: &Path) -> Result<Record, OpenError> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| OpenError::io("read", path, e))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Record::None),
        Err(error) => return Err(OpenError::io("open", path, error)),
    };
    let record = std::str::from_utf8(&bytes).ok().and_then(decode);
    Ok(record.map_or(Record::Damaged, |(key, nonce, tag)| Record::Sealed { key, nonce, tag }))
}

fn encode(key: &Key) -> anyhow::Result<String> {
    let nonce = Key::nonce()?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text = format!("key {} {} {}", key.id(), hex(&nonce), hex(&key.seal(&nonce, COVER, b"")?));
    Ok(format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes())))
}

fn decode(text: &str) -> Option<(KeyId, [u8; NONCE_BYTES], Vec<u8>)> {
    let (covered, crc) = text.trim_end().rsplit_once(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(covered.as_bytes()) {
        return None;
    }
    let mut words = covered.strip_prefix("key ")?.split(' ');
    let key = KeyId(u32::from_str_radix(words.next()?, 16).ok()?);
    let (nonce, tag) = (bytes(words.next()?)?, bytes(words.next()?)?);
    Some((key, nonce.try_into().ok()?, tag))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::cipher::tests::keyring;

    fn state_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("queue")).unwrap();
        dir
    }

    #[test]
    fn a_key_is_changed_only_where_the_one_before_is_at_hand() {
        let dir = state_dir();
        let at = dir.path();
        look(at, &keyring(&[1])).unwrap();
        settle(at, &keyring(&[1])).unwrap();
        look(at, &keyring(&[1])).unwrap();
        let first = std::fs::read(path_in(at)).unwrap();
        settle(at, &keyring(&[1])).unwrap();
        assert_eq!(std::fs::read(path_in(at)).unwrap(), first, "written once");
        for wrong in [&[2][..], &[], &[2, 3]] {
            let error = settle(at, &keyring(wrong)).unwrap_err();
            assert!(matches!(error, OpenError::WrongKey { .. }), "{error}");
            assert_eq!(std::fs::read(path_in(at)).unwrap(), first, "nothing was touched");
        }
        settle(at, &keyring(&[2, 1])).unwrap();
        assert!(look(at, &keyring(&[1])).is_err());
        look(at, &keyring(&[2])).unwrap();
        // Off again: only with the old key.
        let off =
            Keyring::new(&crate::config::QueueKeys { current: None, old: vec![crate::config::KeyBytes::new([2; 32])] });
        settle(at, &off).unwrap();
        assert!(!path_in(at).exists());
    }

    #[test]
    fn a_damaged_record_names_no_key_and_is_written_anew() {
        let dir = state_dir();
        settle(dir.path(), &keyring(&[1])).unwrap();
        let mut bytes = std::fs::read(path_in(dir.path())).unwrap();
        for at in 0..bytes.len() - 1 {
            bytes[at] ^= 4;
            std::fs::write(path_in(dir.path()), &bytes).unwrap();
            look(dir.path(), &keyring(&[1])).unwrap();
            bytes[at] ^= 4;
        }
        std::fs::write(path_in(dir.path()), b"key").unwrap();
        settle(dir.path(), &keyring(&[1])).unwrap();
        assert!(look(dir.path(), &keyring(&[2])).is_err());
    }
}
