//! `POST /attestation`: what a client asks for, what comes back, and how the server's identity goes into a token.
//!
//! The server appends three nonces of its own to the client's, so a token speaks for one process with one build and
//! one set of weights. A client must find exactly its own nonces and these three: with one more, an attacker could
//! have an honest server make a token that looks like another server's.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The path of the endpoint.
pub const ATTESTATION_PATH: &str = "/attestation";

/// What every audience begins with. A token for another audience, Google's STS above all, would let the
/// client that asked for it act as the workload.
pub const AUDIENCE_PREFIX: &str = "codeseal:";

/// The launcher takes six nonces; three are the server's.
pub const MAX_CLIENT_NONCES: usize = 3;

/// The header that names the server a sealed request is meant for.
pub const SERVER_HEADER: &str = "x-codeseal-server";

/// The largest request body, in bytes: more than the longest audience and nonces.
pub const MAX_ATTESTATION_REQUEST_BYTES: usize = 4096;

const DOMAIN: &[u8] = b"codeseal attestation v1";

/// The body of the request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationRequest {
    /// Whom the token is for; begins with [`AUDIENCE_PREFIX`].
    pub audience: String,
    /// 1 to [`MAX_CLIENT_NONCES`], fresh and random, 10 to 74 characters of base64 or hexadecimal digits each.
    pub nonces: Vec<String>,
    /// How it is signed.
    #[serde(default)]
    pub token_type: TokenType,
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TokenType {
    /// With a key of the issuer's JWKS.
    #[default]
    Oidc,
    /// With a key whose certificates come along in the header.
    Pki,
}

/// The body of the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// The attestation token.
    pub token: String,
    /// The server's version.
    pub version: String,
    /// What the token's last nonces stand for.
    #[serde(flatten)]
    pub identity: Identity,
}

/// Which process answers, and what it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The hash of the executable.
    pub build: Digest,
    /// The hash over the model's files.
    pub weights: Digest,
    /// The process.
    pub server: ServerId,
}

/// A SHA-256, written as `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// 16 random bytes that a server makes when it starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerId([u8; 16]);

/// A text is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be sha256: and 64 hexadecimal digits in lower case")]
pub struct NotADigest;

/// A text is no server's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 16 bytes in URL-safe base64")]
pub struct NotAServerId;

impl Identity {
    /// The nonces that stand for it in a token.
    pub fn nonces(&self) -> [String; 3] {
        [nonce("build", &self.build.0), nonce("weights", &self.weights.0), nonce("server", &self.server.0)]
    }

    /// Whether the nonces of a token are exactly `client`'s and this identity's, in any order.
    pub fn is_bound_by(&self, client: &[String], token: &[String]) -> bool {
        let mut expected: Vec<&str> = client.iter().map(String::as_str).collect();
        let own = self.nonces();
        expected.extend(own.iter().map(String::as_str));
        let mut found: Vec<&str> = token.iter().map(String::as_str).collect();
        expected.sort_unstable();
        found.sort_unstable();
        expected == found
    }
}

/// 43 characters: a hash, because a nonce has 74 at the most, and because no value can then pass for another.
fn nonce(label: &str, value: &[u8]) -> String {
    let mut hash = Sha256::new();
    for part in [DOMAIN, b"\0", label.as_bytes(), b"\0", value] {
        hash.update(part);
    }
    BASE64_URL_SAFE_NO_PAD.encode(hash.finalize())
}

impl Digest {
    /// Of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits = text.strip_prefix("sha256:").ok_or(NotADigest)?.as_bytes();
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotADigest),
        };
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(NotADigest);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else { return Err(NotADigest) };
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(bytes))
    }
}

impl ServerId {
    /// A fresh one.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerId({self})")
    }
}

impl FromStr for ServerId {
    type Err = NotAServerId;

    fn from_str(text: &str) -> Result<Self, NotAServerId> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(NotAServerId)
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

as_text!(Digest, ServerId);

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { build: Digest([1; 32]), weights: Digest([2; 32]), server: ServerId([3; 16]) }
    }

    #[test]
    fn a_nonce_is_what_the_launcher_takes_and_tells_what_it_is_for() {
        let mut same = identity();
        same.weights = same.build;
        let [build, weights, server] = same.nonces();
        assert!([&build, &weights, &server].iter().all(|nonce| nonce.len() == 43));
        assert_ne!(build, weights, "one value under two labels");
        // Python: base64url(sha256(b"codeseal attestation v1\0build\0" + b"\x01" * 32))
        assert_eq!(build, "od5Av1_geunCyA5B2QI4Jckhk-AaPJFB5aajhoejkqg");
    }

    #[test]
    fn a_token_must_have_exactly_the_nonces_that_are_expected() {
        let client = vec!["client".to_owned()];
        let good = [&client[..], &identity().nonces()].concat();
        assert!(identity().is_bound_by(&client, &good));
        let reversed: Vec<_> = good.iter().rev().cloned().collect();
        assert!(identity().is_bound_by(&client, &reversed));
        let more = [&good[..], &["more".to_owned()]].concat();
        assert!(!identity().is_bound_by(&client, &more));
        assert!(!identity().is_bound_by(&client, good.get(1..).unwrap()));
        assert!(!identity().is_bound_by(&["replayed".to_owned()], &good));
        let other = Identity { server: ServerId([4; 16]), ..identity() };
        assert!(!other.is_bound_by(&client, &good));
    }

    #[test]
    fn evidence_is_flat_and_round_trips() {
        let evidence = Evidence { token: "t".into(), version: "1".into(), identity: identity() };
        let json = serde_json::to_value(&evidence).unwrap();
        assert_eq!(json["build"], format!("sha256:{}", "01".repeat(32)));
        assert_eq!(json["server"], "AwMDAwMDAwMDAwMDAwMDAw");
        let read: Evidence = serde_json::from_value(json).unwrap();
        assert_eq!(read.identity, identity());
    }

    #[test]
    fn junk_is_no_digest_and_no_id() {
        for junk in ["", "sha256:", &format!("sha256:{}", "A".repeat(64)), &"0".repeat(64)] {
            assert_eq!(junk.parse::<Digest>(), Err(NotADigest), "{junk}");
        }
        for junk in ["", "AwMDAwMDAwMDAwMDAwMDAw==", "AwMD"] {
            assert_eq!(junk.parse::<ServerId>(), Err(NotAServerId), "{junk}");
        }
    }

    #[test]
    fn an_unknown_member_is_refused() {
        let request = r#"{"audience":"codeseal:a","nonces":["0123456789"],"token_type":"PKI"}"#;
        let request: AttestationRequest = serde_json::from_str(request).unwrap();
        assert_eq!(request.token_type, TokenType::Pki);
        let unknown = r#"{"audience":"codeseal:a","nonces":[],"aud":"x"}"#;
        assert!(serde_json::from_str::<AttestationRequest>(unknown).is_err());
    }
}
