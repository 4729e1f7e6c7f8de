//! The encryption of a block's body. Header and lengths stay in clear, so that scans, recovery and retention need no
//! key; they are the associated data, so that a body cannot be put under another header.

use std::borrow::Cow;

use anyhow::Context as _;

use super::{SealedBlock, checksum, parse_parts, u16_at, u32_at};
use crate::queue::cipher::{CipherError, Key, KeyId, Keyring, NONCE_BYTES};

const BODY_BYTES_AT: usize = 12;
const CHECKSUM: std::ops::Range<usize> = 20..24;
const KEY_ID_AT: usize = 100;
const NONCE: std::ops::Range<usize> = 104..104 + NONCE_BYTES;

/// The key that a whole header names; `None`: the body is not encrypted.
pub(super) fn key_of(frame: &[u8]) -> Option<KeyId> {
    Some(u32_at(frame, KEY_ID_AT)).filter(|id| *id != 0).map(KeyId)
}

/// Whether a header without a key has a nonce all the same: whatever that means, this version does not know it.
pub(super) fn has_stray_nonce(frame: &[u8]) -> bool {
    key_of(frame).is_none() && frame[NONCE].iter().any(|byte| *byte != 0)
}

/// Ends a frame whose header names no key and whose body is in clear: encrypts the body where there is a key, and
/// computes the checksum.
pub(super) fn finish(frame: &mut Vec<u8>, header_bytes: usize, key: Option<&Key>) -> anyhow::Result<()> {
    if let Some(key) = key {
        let body = frame.split_off(header_bytes);
        let sealed_bytes = u32::try_from(body.len() + crate::queue::cipher::TAG_BYTES).context("length of the body")?;
        let nonce = Key::nonce()?;
        frame[BODY_BYTES_AT..BODY_BYTES_AT + 4].copy_from_slice(&sealed_bytes.to_le_bytes());
        frame[KEY_ID_AT..KEY_ID_AT + 4].copy_from_slice(&key.id().0.to_le_bytes());
        frame[NONCE].copy_from_slice(&nonce);
        let sealed = key.seal(&nonce, &covered(frame), &body)?;
        frame.extend_from_slice(&sealed);
    }
    let checksum = checksum(frame);
    frame[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// The header without its checksum, which is computed last.
fn covered(header: &[u8]) -> Vec<u8> {
    [&header[..CHECKSUM.start], &header[CHECKSUM.end..]].concat()
}

/// The body of a whole frame in clear.
pub(super) fn open_body<'a>(frame: &[u8], body: &'a [u8], keys: &Keyring) -> Result<Cow<'a, [u8]>, CipherError> {
    let Some(id) = key_of(frame) else { return Ok(Cow::Borrowed(body)) };
    let key = keys.find(id)?;
    let header = &frame[..usize::from(u16_at(frame, 10))];
    let nonce = header[NONCE].try_into().map_err(|_| CipherError::NotAuthentic { key: id })?;
    key.open(nonce, &covered(header), body).map(Cow::Owned)
}

/// The same block under the current key, or in clear where there is none. At most 16 bytes larger.
///
/// # Errors
/// When its key is missing, or it is not authentic ([`CipherError`]).
pub(crate) fn reseal(block: &SealedBlock, keys: &Keyring) -> anyhow::Result<SealedBlock> {
    let (header, body) = parse_parts(&block.bytes)?;
    let plain = open_body(&block.bytes, body, keys)?;
    let header_bytes = usize::from(u16_at(&block.bytes, 10));
    let mut bytes = block.bytes[..header_bytes].to_vec();
    let body_bytes = u32::try_from(plain.len()).context("length of the body")?;
    bytes[BODY_BYTES_AT..BODY_BYTES_AT + 4].copy_from_slice(&body_bytes.to_le_bytes());
    bytes[KEY_ID_AT..KEY_ID_AT + 4].fill(0);
    bytes[NONCE].fill(0);
    bytes.extend_from_slice(&plain);
    finish(&mut bytes, header_bytes, keys.current())?;
    let header = super::Header { key: keys.current_id(), ..header };
    Ok(SealedBlock { header, bytes })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::tests::{context, sample_records};
    use super::super::{FrameError, SealContext, open, parse, seal};
    use super::*;
    use crate::config::Compression;
    use crate::queue::cipher::{missing_key, tests::keyring};

    fn encrypted(keys: &Arc<Keyring>) -> SealedBlock {
        let context = SealContext { keys: Arc::clone(keys), ..context(Compression::Zstd) };
        seal(&context, &sample_records(20)).unwrap()
    }

    #[test]
    fn records_are_in_clear_nowhere_and_come_back_with_the_key() {
        let keys = keyring(&[1]);
        let block = encrypted(&keys);
        assert_eq!(parse(&block.bytes).unwrap(), block);
        assert_eq!(block.header.key, keys.current_id());
        assert_eq!(open(&block, &keys).unwrap(), sample_records(20));
        assert_eq!(open(&block, &keyring(&[9, 1])).unwrap(), sample_records(20), "with the key among the old ones");
        let plain = SealContext { keys: Arc::clone(&keys), ..context(Compression::None) };
        let bytes = seal(&plain, &sample_records(20)).unwrap().bytes;
        assert!(!bytes.windows(6).any(|window| window == b"boiler"));
        assert_ne!(encrypted(&keys).bytes, block.bytes, "every block has its own nonce");
    }

    #[test]
    fn without_its_key_a_block_is_whole_and_says_which_it_needs() {
        let block = encrypted(&keyring(&[1]));
        for keys in [Arc::default(), keyring(&[2])] {
            let error = open(&parse(&block.bytes).unwrap(), &keys).unwrap_err();
            assert_eq!(missing_key(&error), block.header.key, "{error:#}");
        }
    }

    #[test]
    fn a_block_is_carried_from_key_to_key_into_the_clear_and_back() {
        let (first, second) = (keyring(&[1]), keyring(&[2, 1]));
        let block = encrypted(&first);
        let next = reseal(&block, &second).unwrap();
        assert_eq!((parse(&next.bytes).unwrap(), next.bytes.len()), (next.clone(), block.bytes.len()));
        assert_eq!(open(&next, &keyring(&[2])).unwrap(), sample_records(20));
        assert!(open(&next, &first).is_err());
        let off =
            Keyring::new(&crate::config::QueueKeys { current: None, old: vec![crate::config::KeyBytes::new([2; 32])] });
        let plain = reseal(&next, &off).unwrap();
        let never_encrypted = seal(&context(Compression::Zstd), &sample_records(20)).unwrap();
        assert_eq!(plain, never_encrypted, "the very bytes of a block that was never encrypted");
        assert_eq!(open(&reseal(&plain, &first).unwrap(), &first).unwrap(), sample_records(20));
        assert!(missing_key(&reseal(&block, &keyring(&[3])).unwrap_err()).is_some());
    }

    proptest! {
        /// Somebody who can compute checksums changes any byte: no record is ever given that was not sealed.
        #[test]
        fn a_forged_byte_gives_no_record(hit in any::<prop::sample::Index>(), mask in 1u8..) {
            let keys = keyring(&[1]);
            let mut block = encrypted(&keys);
            let hit = hit.index(block.bytes.len());
            block.bytes[hit] ^= mask;
            let sum = checksum(&block.bytes);
            block.bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
            if let Ok(parsed) = parse(&block.bytes) {
                // Its own checksum is computed over the change, so only a hit on the checksum changes nothing.
                let opened = open(&parsed, &keys);
                prop_assert!(opened.is_err() || CHECKSUM.contains(&hit), "byte {hit}");
            }
        }
    }

    #[test]
    fn a_nonce_without_a_key_is_for_a_newer_agent() {
        let mut block = seal(&context(Compression::Zstd), &sample_records(3)).unwrap();
        block.bytes[NONCE.start] = 1;
        let sum = checksum(&block.bytes);
        block.bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        assert!(matches!(parse(&block.bytes), Err(FrameError::Newer { version: 1, .. })));
    }
}
