//! Encryption at rest: keys, their ids, and one sealed piece of bytes. Pure; no files.
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha, RFC 8439 with a 24-byte nonce): the nonce is long enough to be drawn at
//! random for every block, so nothing has to be counted across crashes and clones of a state directory.

use std::fmt;
use std::sync::Arc;

use chacha20poly1305::aead::{Aead, Generate as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest as _, Sha256};

use crate::config::{KeyBytes, QueueKeys};

/// Bytes of a nonce.
pub(crate) const NONCE_BYTES: usize = 24;
/// Bytes that sealing adds: Poly1305's tag.
pub(crate) const TAG_BYTES: usize = 16;

/// Which key sealed something: the first four bytes of a hash of it, never 0, shown as 8 hex digits. It reveals nothing
/// of the key, and one wrong key in four thousand million bears the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(crate) u32);

impl KeyId {
    /// The id of a key.
    pub fn of(key: &KeyBytes) -> Self {
        let digest = Sha256::new().chain_update("forebay queue key id").chain_update(key.bytes()).finalize();
        let first = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
        Self(first.max(1))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:08x}", self.0)
    }
}

/// Why something sealed cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// No key of this id is known: what it sealed is whole, and waits for the key.
    #[error("sealed with key {key}, which is not among queue.key and queue.old-keys")]
    MissingKey {
        /// The id of the key that is needed.
        key: KeyId,
    },
    /// The bytes are not what was sealed with this key.
    #[error("not authentic: does not open with key {key}, although it names it")]
    NotAuthentic {
        /// The key's id.
        key: KeyId,
    },
    /// The system gives no random numbers.
    #[error("no random numbers for a nonce")]
    NoRandom,
    /// Larger than the cipher can take.
    #[error("too large to be sealed")]
    TooLarge,
}

/// One key, ready for use.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Key({})", self.id)
    }
}

impl Key {
    /// Makes a key of its bytes.
    pub fn new(bytes: &KeyBytes) -> Self {
        Self { id: KeyId::of(bytes), cipher: XChaCha20Poly1305::new(bytes.bytes().into()) }
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Draws a nonce.
    pub(crate) fn nonce() -> Result<[u8; NONCE_BYTES], CipherError> {
        XNonce::try_generate().map(Into::into).map_err(|_| CipherError::NoRandom)
    }

    /// Seals `plain`; `covered` stays in clear and cannot be changed unnoticed. A nonce must never be used twice.
    pub(crate) fn seal(&self, nonce: &[u8; NONCE_BYTES], covered: &[u8], plain: &[u8]) -> Result<Vec<u8>, CipherError> {
        let payload = Payload { msg: plain, aad: covered };
        self.cipher.encrypt(nonce.into(), payload).map_err(|_| CipherError::TooLarge)
    }

    /// Opens what [`Self::seal`] made.
    pub(crate) fn open(
        &self,
        nonce: &[u8; NONCE_BYTES],
        covered: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, CipherError> {
        let payload = Payload { msg: sealed, aad: covered };
        self.cipher.decrypt(nonce.into(), payload).map_err(|_| CipherError::NotAuthentic { key: self.id })
    }
}

/// The keys at hand: one that seals, and others that only open.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    current: Option<Key>,
    old: Vec<Key>,
}

impl Keyring {
    /// From the configuration.
    pub fn new(keys: &QueueKeys) -> Arc<Self> {
        Arc::new(Self { current: keys.current.as_ref().map(Key::new), old: keys.old.iter().map(Key::new).collect() })
    }

    /// The same keys with another current one; the one before becomes an old one.
    pub fn with_current(&self, current: Option<&KeyBytes>) -> Arc<Self> {
        let old = self.current.iter().chain(&self.old).cloned().collect();
        Arc::new(Self { current: current.map(Key::new), old })
    }

    /// The key that new blocks are sealed with; `None`: they are not encrypted.
    pub fn current(&self) -> Option<&Key> {
        self.current.as_ref()
    }

    /// The id of [`Self::current`].
    pub fn current_id(&self) -> Option<KeyId> {
        self.current.as_ref().map(Key::id)
    }

    /// The key of this id.
    pub(crate) fn find(&self, id: KeyId) -> Result<&Key, CipherError> {
        let known = self.current.iter().chain(&self.old).find(|key| key.id == id);
        known.ok_or(CipherError::MissingKey { key: id })
    }

    /// Whether no key is at hand.
    pub fn is_empty(&self) -> bool {
        self.current.is_none() && self.old.is_empty()
    }
}

/// The id of the key that is missing, where that is the (root) cause of an error.
pub fn missing_key(error: &anyhow::Error) -> Option<KeyId> {
    match error.downcast_ref::<CipherError>() {
        Some(CipherError::MissingKey { key }) => Some(*key),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A keyring of keys made of one byte each, the first of them current.
    pub(crate) fn keyring(bytes: &[u8]) -> Arc<Keyring> {
        let key = |byte: &u8| KeyBytes::new([*byte; 32]);
        Keyring::new(&QueueKeys { current: bytes.first().map(key), old: bytes.iter().skip(1).map(key).collect() })
    }

    #[test]
    fn the_cipher_is_the_one_of_the_draft() {
        // draft-irtf-cfrg-xchacha-03, A.3.1.
        let key: Vec<u8> = (0x80..=0x9f).collect();
        let key = Key::new(&KeyBytes::new(key.try_into().unwrap()));
        let nonce: Vec<u8> = (0x40..=0x57).collect();
        let covered = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                     sunscreen would be it.";
        let sealed = key.seal(&nonce.try_into().unwrap(), &covered, text).unwrap();
        assert_eq!(sealed[..8], [0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b]);
        let tag = [0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a, 0xcf, 0x49];
        assert_eq!(sealed[text.len()..], tag);
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_and_its_cover_alone() {
        let keys = keyring(&[7, 8]);
        let key = keys.current().unwrap();
        let nonce = Key::nonce().unwrap();
        let sealed = key.seal(&nonce, b"cover", b"secret").unwrap();
        assert_eq!(sealed.len(), 6 + TAG_BYTES);
        assert_eq!(key.open(&nonce, b"cover", &sealed).unwrap(), b"secret");
        assert_eq!(key.open(&nonce, b"other", &sealed), Err(CipherError::NotAuthentic { key: key.id() }));
        let other = keyring(&[8]);
        assert!(other.current().unwrap().open(&nonce, b"cover", &sealed).is_err());
        assert_eq!(other.find(key.id()).unwrap_err(), CipherError::MissingKey { key: key.id() });
        assert_ne!(Key::nonce().unwrap(), nonce);
        assert!(!format!("{keys:?}").contains("7, 7"), "{keys:?}");
    }
}
