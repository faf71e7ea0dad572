//! The token that each request must bring when there is one.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

use crate::secret::Secret;

/// The shortest token that is taken, in bytes.
const MIN_BYTES: usize = 16;
/// The longest.
const MAX_BYTES: u64 = 512;

/// A token, compared in constant time.
#[derive(Debug)]
pub struct AccessToken {
    text: Secret<String>,
    digest: [u8; 32],
}

/// Why a token cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Its file cannot be read or made.
    #[error("cannot read the token's file: {0}")]
    File(ErrorKind),
    /// Others may read it.
    #[error("the token's file can be read by others: run `chmod 600` on it")]
    Open,
    /// It is not a token.
    #[error("the token must be one line of 16 to 512 letters, digits and -._~+/=")]
    Malformed,
    /// The OS random number generator failed.
    #[error("the OS random number generator failed")]
    Randomness,
}

impl AccessToken {
    /// The token `text`.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] if a header could not hold it, or it could be guessed.
    pub fn new(text: String) -> Result<Self, TokenError> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        let text = Secret::new(text);
        let length = text.expose().len();
        if length < MIN_BYTES || length as u64 > MAX_BYTES || !text.expose().bytes().all(is_token) {
            return Err(TokenError::Malformed);
        }
        let digest = Sha256::digest(text.expose().as_bytes()).into();
        Ok(Self { text, digest })
    }

    /// The token in a file, which is made with a random one if it is not there.
    ///
    /// # Errors
    /// [`TokenError`], also if others than its owner may read the file.
    pub fn of_file(path: &Path) -> Result<Self, TokenError> {
        let file = |error: std::io::Error| TokenError::File(error.kind());
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut created) => {
                let mut bytes = [0; 32];
                getrandom::fill(&mut bytes).map_err(|_| TokenError::Randomness)?;
                let token = Self::new(BASE64_URL_SAFE_NO_PAD.encode(bytes))?;
                created.write_all(token.text.expose().as_bytes()).map_err(file)?;
                created.write_all(b"\n").map_err(file)?;
                Ok(token)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let opened = std::fs::File::open(path).map_err(file)?;
                if opened.metadata().map_err(file)?.mode() & 0o077 != 0 {
                    return Err(TokenError::Open);
                }
                let mut text = String::new();
                opened.take(MAX_BYTES + 2).read_to_string(&mut text).map_err(file)?;
                Self::new(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            Err(error) => Err(file(error)),
        }
    }

    /// The token itself, to be printed into an editor's configuration.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    /// Whether a request has it, in any of the headers that clients use.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let authorization = headers.get_all(AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
        let keys = ["x-api-key", "api-key"].into_iter().flat_map(|name| headers.get_all(name));
        let keys = keys.filter_map(|value| value.to_str().ok());
        authorization.into_iter().any(|value| self.is_authorization(value))
            || keys.into_iter().any(|key| self.is(key))
    }

    /// `Bearer TOKEN`, or `Basic` with it as the password, which is what a browser sends.
    fn is_authorization(&self, value: &str) -> bool {
        let Some((scheme, value)) = value.split_once(' ') else { return false };
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(value);
        }
        let decoded = BASE64_STANDARD.decode(value).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"));
        let decoded = decoded.and_then(|bytes| Secret::new(bytes).into_text());
        decoded
            .is_some_and(|pair| pair.expose().split_once(':').is_some_and(|(_, password)| self.is(password)))
    }

    /// How long this takes depends on the digests alone, which an attacker can neither choose nor see.
    fn is(&self, given: &str) -> bool {
        Sha256::digest(given.as_bytes()).as_slice() == self.digest
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_made_once_and_only_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let first = AccessToken::of_file(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(AccessToken::of_file(&path).unwrap().expose(), first.expose());
        assert!(!format!("{first:?}").contains(first.expose()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(AccessToken::of_file(&path).unwrap_err(), TokenError::Open);
    }

    #[test]
    fn what_could_be_guessed_or_break_a_header_is_no_token() {
        for bad in ["", "short", "two words of a token", "line\nbreak-in-a-token", "ünïcödé-in-a-token"] {
            assert_eq!(AccessToken::new(bad.to_owned()).unwrap_err(), TokenError::Malformed, "{bad}");
        }
    }
}
