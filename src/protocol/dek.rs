//! The data-encryption key of one client session.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::base64::{self, Alphabet};
use super::error::Rejected;
use super::fernet::{Token, fernet_of, open};
use super::path_key::PathKey;
use crate::secret::Secret;

/// A Fernet key: 16 bytes of signing key, 16 bytes of AES-128 key. Wiped on drop, never printed.
pub struct Dek {
    key: Zeroizing<[u8; 32]>,
    fernet: fernet::Fernet,
}

/// The prefix-cache namespace of a DEK: nothing is ever shared between two of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Namespace([u8; 32]);

impl Dek {
    /// Makes a fresh key from the operating system's randomness.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut())?;
        Ok(Self::from_bytes(key))
    }

    /// Reads the KMS plaintext: the 44-character Fernet key, as Python's `Fernet(key)` reads it.
    ///
    /// # Errors
    /// [`Rejected`] if it is not base64 of 32 bytes.
    pub fn parse(text: &[u8]) -> Result<Self, Rejected> {
        let bytes = Zeroizing::new(base64::decode(text, Alphabet::UrlSafe)?);
        let key = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| Rejected)?);
        Ok(Self::from_bytes(key))
    }

    /// The 44-character form: what Cloud KMS wraps.
    pub fn to_fernet_key(&self) -> Secret<String> {
        Secret::new(base64::encode_url_safe(self.key.as_ref()))
    }

    /// Seals `plaintext` under the key itself and the current time, as the codelab's client seals a prompt.
    pub fn seal(&self, plaintext: &[u8]) -> String {
        self.fernet.encrypt(plaintext)
    }

    /// Opens a `token` that was sealed under the key itself, in either direction, as the codelab's client opens an
    /// answer. Its age is not checked here: see [`Token::is_fresh`].
    ///
    /// # Errors
    /// [`Rejected`] if the HMAC or the padding is wrong.
    pub fn open(&self, token: &Token) -> Result<Secret<Vec<u8>>, Rejected> {
        open(&self.fernet, token)
    }

    /// The key of the requests to the `/v1` path `path`.
    pub fn for_requests(&self, path: &str) -> PathKey {
        PathKey::new(&self.derive(&[b"codeseal v1 request ", path.as_bytes()]))
    }

    /// The key of the answers of the `/v1` path `path`.
    pub fn for_answers(&self, path: &str) -> PathKey {
        PathKey::new(&self.derive(&[b"codeseal v1 answer ", path.as_bytes()]))
    }

    /// Derives the prefix-cache namespace.
    pub fn namespace(&self) -> Namespace {
        Namespace(*self.derive(&[b"codeseal prefix cache"]))
    }

    /// HKDF-SHA256 (RFC 5869) of the key, without salt; `info` is the concatenation of its parts.
    pub(super) fn derive<const N: usize>(&self, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
        const { assert!(N <= 255 * 32, "HKDF-SHA256 gives up to 255 blocks") }
        let mut derived = Zeroizing::new([0; N]);
        #[allow(clippy::expect_used)]
        Hkdf::<Sha256>::new(None, self.key.as_ref())
            .expand_multi_info(info, derived.as_mut())
            .expect("the length was checked at compile time");
        derived
    }

    /// The halves of the key: for HMAC-SHA256, and for AES-128.
    pub(super) fn halves(&self) -> (&[u8], &[u8]) {
        self.key.split_at(16)
    }

    fn from_bytes(key: Zeroizing<[u8; 32]>) -> Self {
        Self { fernet: fernet_of(&key), key }
    }
}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dek([redacted])")
    }
}

impl Namespace {
    /// The bytes that a prefix-cache hash chain starts from.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Namespace([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_and_opens() {
        let dek = Dek::generate().unwrap();
        for plaintext in ["", "fifteen bytes..", "sixteen bytes...", "한국어 🦀\0"] {
            let token = Token::parse(dek.seal(plaintext.as_bytes()).as_bytes()).unwrap();
            assert_eq!(dek.open(&token).unwrap().expose(), plaintext.as_bytes());
        }
    }

    #[test]
    fn another_key_opens_nothing() {
        let token = Token::parse(Dek::generate().unwrap().seal(b"secret").as_bytes()).unwrap();
        assert_eq!(Dek::generate().unwrap().open(&token).unwrap_err(), Rejected);
    }

    #[test]
    fn the_text_form_round_trips() {
        let dek = Dek::generate().unwrap();
        let text = dek.to_fernet_key();
        assert_eq!(text.expose().len(), 44);
        let again = Dek::parse(text.expose().as_bytes()).unwrap();
        assert_eq!(again.namespace(), dek.namespace());
    }

    #[test]
    fn a_forged_future_timestamp_is_rejected_without_a_panic() {
        let dek = Dek::generate().unwrap();
        let mut bytes = base64::decode(dek.seal(b"x").as_bytes(), Alphabet::UrlSafe).unwrap();
        bytes[1..9].copy_from_slice(&u64::MAX.to_be_bytes());
        let token = Token::parse(base64::encode_url_safe(&bytes).as_bytes()).unwrap();
        assert!(!token.is_fresh(1_760_000_000, 300));
        assert_eq!(dek.open(&token).unwrap_err(), Rejected);
    }

    #[test]
    fn nothing_prints_the_key() {
        let dek = Dek::generate().unwrap();
        let printed = format!("{dek:?} {:?}", dek.namespace());
        assert_eq!(printed, "Dek([redacted]) Namespace([redacted])");
    }
}
