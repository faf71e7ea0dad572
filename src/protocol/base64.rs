//! Base64 as Python's `base64` module reads it, which the codelab's client and Fernet rely on.
//!
//! `binascii.a2b_base64` in its default mode skips characters outside the alphabet, stops at the first
//! complete padding, ignores what follows, and insists on whole quads. The wire contract inherits that.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE as URL_SAFE;

use super::error::Rejected;

/// The alphabet that a text is read in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// `+` and `/`, as `base64.b64decode`.
    Standard,
    /// `-` and `_` beside `+` and `/`, as `base64.urlsafe_b64decode`.
    UrlSafe,
}

/// Decodes `text` exactly as Python would.
///
/// # Errors
/// [`Rejected`] where Python raises `binascii.Error`.
pub(super) fn decode(text: &[u8], alphabet: Alphabet) -> Result<Vec<u8>, Rejected> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut quad, mut filled, mut pads) = (0u32, 0u8, 0u8);
    for &character in text {
        if character == b'=' {
            pads = pads.saturating_add(1);
            if filled >= 2 && filled + pads >= 4 {
                return Ok(bytes);
            }
            if filled < 2 {
                pads = 0;
            }
            continue;
        }
        let Some(value) = alphabet.value(character) else { continue };
        pads = 0;
        quad = quad << 6 | u32::from(value);
        filled = (filled + 1) % 4;
        // Each character after the first completes one byte of the quad.
        match filled {
            2 => bytes.push((quad >> 4) as u8),
            3 => bytes.push((quad >> 2) as u8),
            0 => bytes.push(quad as u8),
            _ => {}
        }
    }
    if filled == 0 { Ok(bytes) } else { Err(Rejected) }
}

/// Encodes with the URL-safe alphabet and padding, the canonical form of Fernet.
pub(super) fn encode_url_safe(bytes: &[u8]) -> String {
    URL_SAFE.encode(bytes)
}

impl Alphabet {
    fn value(self, character: u8) -> Option<u8> {
        Some(match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'-' if self == Self::UrlSafe => 62,
            b'_' if self == Self::UrlSafe => 63,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_python_reads() {
        // Each expectation is the printed result of CPython 3.11's `base64.b64decode`.
        for (text, expected) in [
            ("", Some(&b""[..])),
            ("YWJj", Some(b"abc")),
            ("YWI=", Some(b"ab")),
            ("YQ==", Some(b"a")),
            ("YQ=", None),
            ("YQ", None),
            ("Y", None),
            (" Y\nW J-j", Some(b"abc")),
            ("YQ==YWJj", Some(b"a")),
            ("YWJj====", Some(b"abc")),
            ("=YWJj", Some(b"abc")),
            ("YR==", Some(b"a")),
            ("Y=Q=", None),
            ("Y=Q==", Some(b"a")),
            ("YW=IJ", Some(b"ab\t")),
            ("YQ=Q=", Some(b"a\x04")),
            ("==YWJj", Some(b"abc")),
            ("Y==WJj", Some(b"abc")),
            ("YW==Jj", Some(b"a")),
        ] {
            assert_eq!(decode(text.as_bytes(), Alphabet::Standard).ok().as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn the_url_safe_alphabet_takes_both() {
        assert_eq!(decode(b"-_+/", Alphabet::UrlSafe).unwrap(), [0xfb, 0xff, 0xbf]);
    }
}
