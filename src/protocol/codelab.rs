//! Tells the answers of `/generate` from its prompts.
//!
//! The codelab's client seals prompts and opens answers under the DEK itself, so an answer would open as a prompt. The
//! server therefore chooses the IV of its answers: 8 random bytes, and a MAC of them and of the timestamp under a key
//! derived from the DEK. Every holder of the DEK recognizes such a token, without state and on every replica; without the
//! DEK the IV is as unpredictable as AES-CBC needs it. A prompt, whose IV is random, has such a MAC with a probability
//! of 2^-64.

use std::time::{SystemTime, UNIX_EPOCH};

use aes::Aes128;
use cbc::Encryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockEncryptMut as _, KeyIvInit as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::base64;
use super::dek::Dek;
use super::error::Rejected;
use super::fernet::{IV_BYTES, Token, VERSION};
use crate::secret::Secret;

const BLOCK_BYTES: usize = 16;

/// Half of the IV is random, the other half is the MAC.
const HALF: usize = IV_BYTES / 2;

impl Dek {
    /// Opens a prompt of `/generate`.
    ///
    /// # Errors
    /// [`Rejected`] as in [`Dek::open`], and for a token that [`Dek::seal_generated`] made.
    pub fn open_prompt(&self, token: &Token) -> Result<Secret<Vec<u8>>, Rejected> {
        let plaintext = self.open(token)?;
        if is_answer(self, token) { Err(Rejected) } else { Ok(plaintext) }
    }

    /// Seals an answer of `/generate`: [`Dek::open`] opens it, [`Dek::open_prompt`] does not.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub fn seal_generated(&self, text: &[u8]) -> Result<String, getrandom::Error> {
        seal_answer(self, text)
    }
}

/// A Fernet token of `text` under the current time, with the IV of an answer.
///
/// # Errors
/// The OS random number generator failed.
fn seal_answer(dek: &Dek, text: &[u8]) -> Result<String, getrandom::Error> {
    let mut nonce = [0; HALF];
    getrandom::fill(&mut nonce)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(seal(dek, text, now, nonce))
}

/// Whether `token`, which must have been authenticated, has the IV of an answer.
fn is_answer(dek: &Dek, token: &Token) -> bool {
    let mut nonce = [0; HALF];
    nonce.copy_from_slice(token.iv().split_at(HALF).0);
    *token.iv() == iv(dek, token.timestamp(), nonce)
}

fn iv(dek: &Dek, timestamp: u64, nonce: [u8; HALF]) -> [u8; IV_BYTES] {
    let mac = dek.derive::<HALF>(&[b"codeseal generate answer", &timestamp.to_be_bytes(), &nonce]);
    let mut iv = [0; IV_BYTES];
    let (first, second) = iv.split_at_mut(HALF);
    first.copy_from_slice(&nonce);
    second.copy_from_slice(mac.as_ref());
    iv
}

/// The Fernet specification's encryption: the library chooses the IV itself, so it cannot be used here.
fn seal(dek: &Dek, text: &[u8], timestamp: u64, nonce: [u8; HALF]) -> String {
    let iv = iv(dek, timestamp, nonce);
    let (signing_key, encryption_key) = dek.halves();
    let mut token = Vec::with_capacity(1 + 8 + IV_BYTES + text.len() + BLOCK_BYTES + 32);
    token.push(VERSION);
    token.extend_from_slice(&timestamp.to_be_bytes());
    token.extend_from_slice(&iv);
    let head = token.len();
    token.extend_from_slice(text);
    // PKCS #7 adds at least one byte.
    token.resize(head + (text.len() / BLOCK_BYTES + 1) * BLOCK_BYTES, 0);
    let (_, body) = token.split_at_mut(head);
    // Both halves of the key have 16 bytes, and the buffer has room for the padding.
    #[allow(clippy::expect_used)]
    Encryptor::<Aes128>::new_from_slices(encryption_key, &iv)
        .expect("16 bytes each")
        .encrypt_padded_mut::<Pkcs7>(body, text.len())
        .expect("room for the padding");
    #[allow(clippy::expect_used)]
    let mut hmac = Hmac::<Sha256>::new_from_slice(signing_key).expect("HMAC takes keys of any length");
    hmac.update(&token);
    token.extend_from_slice(&hmac.finalize().into_bytes());
    base64::encode_url_safe(&token)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key, the time and the IV's random half of `tests/vectors/paths.py`.
    fn fixed(text: &[u8]) -> String {
        let dek = Dek::parse(b"dUxOXxEkUNb16ZidB9vw7ZJR-GHBkC4QxpfC475IC7Y=").unwrap();
        seal(&dek, text, 1_760_000_000, [0, 1, 2, 3, 4, 5, 6, 7])
    }

    #[test]
    fn an_answer_is_the_token_that_python_makes() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/paths.json")).unwrap();
        let cases = vectors["generated"].as_array().unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let text = case["plaintext"].as_str().unwrap();
            assert_eq!(fixed(text.as_bytes()), case["token"], "{text:?}");
        }
    }

    #[test]
    fn an_answer_opens_as_an_answer_and_not_as_a_prompt() {
        let dek = Dek::generate().unwrap();
        for length in [0, 1, 15, 16, 17, 4096] {
            let text = vec![b'x'; length];
            let answer = Token::parse(dek.seal_generated(&text).unwrap().as_bytes()).unwrap();
            assert_eq!(dek.open(&answer).unwrap().expose(), &text);
            assert!(dek.open_prompt(&answer).is_err());
            let prompt = Token::parse(dek.seal(&text).as_bytes()).unwrap();
            assert_eq!(dek.open_prompt(&prompt).unwrap().expose(), &text);
        }
    }

    #[test]
    fn two_answers_to_one_prompt_differ() {
        let dek = Dek::generate().unwrap();
        assert_ne!(dek.seal_generated(b"x").unwrap(), dek.seal_generated(b"x").unwrap());
    }
}
