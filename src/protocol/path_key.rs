//! The key of one `/v1` path and one direction, derived from a DEK.
//!
//! With a key for each, an envelope authenticates only where it was meant to go: a request does not open on another
//! path or on `/generate`, and an answer does not open as a request.

use std::fmt;

use super::error::Rejected;
use super::fernet::{Token, fernet_of, open};
use crate::secret::Secret;

/// A Fernet key for one path and one direction. Wiped on drop, never printed.
pub struct PathKey(fernet::Fernet);

impl PathKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(fernet_of(key))
    }

    /// Seals `plaintext` under the current time.
    pub fn seal(&self, plaintext: &[u8]) -> String {
        self.0.encrypt(plaintext)
    }

    /// Opens `token`. Its age is not checked here: see [`Token::is_fresh`].
    ///
    /// # Errors
    /// [`Rejected`] if the HMAC or the padding is wrong, which is so for every token of another path or direction.
    pub fn open(&self, token: &Token) -> Result<Secret<Vec<u8>>, Rejected> {
        open(&self.0, token)
    }
}

impl fmt::Debug for PathKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PathKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dek;

    const PATHS: [&str; 2] = ["/v1/completions", "/v1/chat/completions"];

    #[test]
    fn each_path_and_direction_opens_its_own_tokens_only() {
        let dek = Dek::generate().unwrap();
        let keys: Vec<PathKey> =
            PATHS.iter().flat_map(|path| [dek.for_requests(path), dek.for_answers(path)]).collect();
        for (index, sealer) in keys.iter().enumerate() {
            let token = Token::parse(sealer.seal(b"x").as_bytes()).unwrap();
            for (other, opener) in keys.iter().enumerate() {
                assert_eq!(opener.open(&token).is_ok(), index == other, "{index} {other}");
            }
            assert!(dek.open(&token).is_err() && dek.open_prompt(&token).is_err());
        }
        let prompt = Token::parse(dek.seal(b"x").as_bytes()).unwrap();
        let generated = Token::parse(dek.seal_generated(b"x").unwrap().as_bytes()).unwrap();
        assert!(keys.iter().all(|key| key.open(&prompt).is_err() && key.open(&generated).is_err()));
    }

    #[test]
    fn nothing_prints_the_key() {
        let key = Dek::generate().unwrap().for_requests("/v1/completions");
        assert_eq!(format!("{key:?}"), "PathKey([redacted])");
    }
}
