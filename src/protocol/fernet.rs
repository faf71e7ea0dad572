//! Fernet tokens (<https://github.com/fernet/spec>), read as leniently as Python's `cryptography` reads them.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::base64::{self, Alphabet};
use super::error::Rejected;
use crate::secret::Secret;

/// The only version that the specification knows.
pub(super) const VERSION: u8 = 0x80;

/// The length of an initialization vector.
pub(super) const IV_BYTES: usize = 16;

/// Version, timestamp, IV, one block and HMAC: no token is shorter.
const MIN_BYTES: usize = 1 + 8 + IV_BYTES + 16 + 32;

/// A token in canonical form: not opened yet, so nothing of it is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    text: String,
    timestamp: u64,
    iv: [u8; IV_BYTES],
    digest: [u8; 32],
}

impl Token {
    /// Reads a token as Python's `Fernet.decrypt` would.
    ///
    /// # Errors
    /// [`Rejected`] if it cannot be a Fernet token.
    pub fn parse(text: &[u8]) -> Result<Self, Rejected> {
        let bytes = base64::decode(text, Alphabet::UrlSafe)?;
        let [VERSION, rest @ ..] = bytes.as_slice() else { return Err(Rejected) };
        if bytes.len() < MIN_BYTES {
            return Err(Rejected);
        }
        let (timestamp, rest) = rest.split_first_chunk().ok_or(Rejected)?;
        let (timestamp, iv) = (u64::from_be_bytes(*timestamp), *rest.first_chunk().ok_or(Rejected)?);
        // Many texts decode to one token; the digest is taken of the bytes, or a replay could hide in a newline.
        let digest = Sha256::digest(&bytes).into();
        Ok(Self { text: base64::encode_url_safe(&bytes), timestamp, iv, digest })
    }

    /// Reads the codelab's form, standard base64 over the token's text.
    ///
    /// # Errors
    /// [`Rejected`] if either layer cannot be read.
    pub fn parse_nested(text: &[u8]) -> Result<Self, Rejected> {
        Self::parse(&base64::decode(text, Alphabet::Standard)?)
    }

    /// The token's canonical text, URL-safe base64 with padding.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Seconds since 1970 at which the sender says it sealed this. Unauthenticated until the token is opened.
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// The initialization vector. Unauthenticated until the token is opened.
    pub(super) fn iv(&self) -> &[u8; IV_BYTES] {
        &self.iv
    }

    /// SHA-256 of the token's bytes: what a replay is recognised by.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Whether the timestamp lies within `window` seconds of `now`.
    pub fn is_fresh(&self, now: u64, window: u64) -> bool {
        self.timestamp.abs_diff(now) <= window
    }
}

/// The Fernet key of 32 bytes.
pub(super) fn fernet_of(key: &[u8; 32]) -> ::fernet::Fernet {
    let text = Zeroizing::new(base64::encode_url_safe(key));
    // The text was made from 32 bytes a line above.
    #[allow(clippy::expect_used)]
    ::fernet::Fernet::new(&text).expect("44 characters of base64 are a Fernet key")
}

/// Opens `token`, whatever its age.
pub(super) fn open(fernet: &::fernet::Fernet, token: &Token) -> Result<Secret<Vec<u8>>, Rejected> {
    // The library refuses tokens from the future and adds to this number: give it the token's own time.
    let now = token.timestamp().min(u64::MAX - 60);
    fernet.decrypt_at_time(token.as_str(), None, now).map(Secret::new).map_err(|_| Rejected)
}
