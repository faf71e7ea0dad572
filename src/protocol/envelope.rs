//! What travels in a request and its answer, before and after the seal is broken.

use std::fmt;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::attestation::ServerId;
use super::base64::{self as lenient, Alphabet};
use super::dek::Dek;
use super::error::{ErrorCode, Rejected};
use super::fernet::Token;
use super::padding;
use super::path_key::PathKey;
use crate::secret::Secret;

/// The longest KMS ciphertext of a 44-byte DEK that is passed on: Cloud KMS makes about 160 bytes.
const MAX_WRAPPED_BYTES: usize = 1024;

/// A DEK as Cloud KMS wrapped it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WrappedDek(Vec<u8>);

/// A request as it arrives on any path: a wrapped key and what was sealed under it.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The key, still wrapped.
    pub wrapped_dek: WrappedDek,
    /// The sealed prompt or call.
    pub token: Token,
    kind: Kind,
}

/// What an envelope holds, which decides by what key it opens.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A call of the `/v1` path that it came to.
    Call(&'static str),
    /// A prompt of `/generate`.
    Prompt,
}

/// `{"wrapped_dek", "ciphertext"}`: the body of every sealed request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SealedRequest {
    /// Standard base64 of the KMS ciphertext.
    pub wrapped_dek: String,
    /// A Fernet token; on `/generate` in standard base64 once more.
    pub ciphertext: String,
}

/// `{"ciphertext"}`: the body of every sealed answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SealedReply {
    /// A Fernet token.
    pub ciphertext: String,
}

/// The answer of `/generate`, as the codelab's client reads it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GenerateReply {
    /// Standard base64 of the Fernet token of prompt and continuation.
    pub generated_code_ciphertext: String,
}

/// 16 random bytes that tie an answer to its request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 16]);

/// The plaintext of a sealed request: an ordinary request with the path it is meant for.
#[derive(Serialize, Deserialize)]
pub struct Call<'a> {
    /// Chosen by the client, repeated in the answer.
    pub id: RequestId,
    /// Must equal the URL's path, as the key does that the call is sealed under.
    pub path: &'a str,
    /// The process that it is meant for, if the client knows which one it verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerId>,
    /// The ordinary request.
    #[serde(borrow)]
    pub body: &'a RawValue,
}

/// The plaintext of a sealed answer.
#[derive(Serialize, Deserialize)]
pub struct Reply<B> {
    /// The request's.
    pub id: RequestId,
    /// The HTTP status that the answer would have without the seal.
    pub status: u16,
    /// The ordinary answer.
    pub body: B,
}

impl Envelope {
    /// Reads the body of a request to the `/v1` path `path`.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`] if it is not such JSON, [`ErrorCode::EnvelopeRejected`] if what it holds
    /// cannot be a wrapped key and a token.
    pub fn parse(body: &[u8], path: &'static str) -> Result<Self, ErrorCode> {
        Self::read(body, Kind::Call(path), Token::parse)
    }

    /// Reads the body of `/generate`, whose token is in base64 twice.
    ///
    /// # Errors
    /// As [`Envelope::parse`].
    pub fn parse_generate(body: &[u8]) -> Result<Self, ErrorCode> {
        Self::read(body, Kind::Prompt, Token::parse_nested)
    }

    /// Opens it under the key of the path that it came to.
    ///
    /// # Errors
    /// [`Rejected`] if it was sealed under another key, for another path, or by the server.
    pub fn open(&self, dek: &Dek) -> Result<Secret<Vec<u8>>, Rejected> {
        match self.kind {
            Kind::Call(path) => dek.for_requests(path).open(&self.token),
            Kind::Prompt => {
                let plaintext = dek.open_prompt(&self.token)?;
                if is_of_v1(plaintext.expose()) { Err(Rejected) } else { Ok(plaintext) }
            }
        }
    }

    fn read(body: &[u8], kind: Kind, token: fn(&[u8]) -> Result<Token, Rejected>) -> Result<Self, ErrorCode> {
        let request = SealedRequest::parse(body)?;
        let read = || {
            let wrapped_dek = WrappedDek::parse(&request.wrapped_dek)?;
            Ok(Self { wrapped_dek, token: token(request.ciphertext.as_bytes())?, kind })
        };
        read().map_err(|Rejected| ErrorCode::EnvelopeRejected)
    }
}

/// Whether a plaintext is a call, a reply or a frame of `/v1`. Earlier versions sealed these under the DEK itself, so
/// what their clients and servers sealed would open as a prompt.
fn is_of_v1(plaintext: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Identified {
        #[serde(rename = "id")]
        _id: RequestId,
    }
    serde_json::from_slice::<Identified>(plaintext).is_ok()
}

impl SealedRequest {
    fn parse(body: &[u8]) -> Result<Self, ErrorCode> {
        serde_json::from_slice(body).map_err(|_| ErrorCode::InvalidRequest)
    }
}

impl WrappedDek {
    /// Takes a KMS ciphertext.
    ///
    /// # Errors
    /// [`Rejected`] if it is empty or longer than a wrapped DEK can be, so that junk never costs a KMS call.
    pub fn new(bytes: Vec<u8>) -> Result<Self, Rejected> {
        if (1..=MAX_WRAPPED_BYTES).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(Rejected) }
    }

    /// Reads the standard base64 form.
    ///
    /// # Errors
    /// [`Rejected`] as in [`WrappedDek::new`], or if it is not base64.
    pub fn parse(text: &str) -> Result<Self, Rejected> {
        Self::new(lenient::decode(text.as_bytes(), Alphabet::Standard)?)
    }

    /// The KMS ciphertext.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The standard base64 form.
    pub fn to_base64(&self) -> String {
        BASE64_STANDARD.encode(&self.0)
    }

    /// SHA-256 of the ciphertext: what the DEK cache is keyed by.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }
}

impl fmt::Debug for WrappedDek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedDek({} bytes)", self.0.len())
    }
}

impl GenerateReply {
    /// Seals prompt and continuation as the codelab's server does.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub fn seal(dek: &Dek, text: &Secret<String>) -> Result<Self, getrandom::Error> {
        let token = dek.seal_generated(text.expose().as_bytes())?;
        Ok(Self { generated_code_ciphertext: BASE64_STANDARD.encode(token) })
    }
}

impl RequestId {
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

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

impl Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.as_bytes()).ok();
        let id = bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        id.map(Self).ok_or_else(|| serde::de::Error::custom("an id is 16 bytes in URL-safe base64"))
    }
}

impl<'a> Call<'a> {
    /// Reads the plaintext of a sealed request.
    ///
    /// # Errors
    /// [`Rejected`] if it is not such JSON.
    pub fn decode(plaintext: &'a [u8]) -> Result<Self, Rejected> {
        serde_json::from_slice(plaintext).map_err(|_| Rejected)
    }

    /// The padded plaintext, ready to be sealed.
    ///
    /// # Errors
    /// JSON that cannot be written.
    pub fn encode(&self) -> Result<Secret<Vec<u8>>, serde_json::Error> {
        padding::to_padded_json(self, padding::request_bucket)
    }
}

impl<B: Serialize> Reply<B> {
    /// Pads the answer to a bucket of `least` bytes or more and seals it; `key` is that of the path's answers.
    ///
    /// # Errors
    /// JSON that cannot be written.
    pub fn seal(&self, key: &PathKey, least: usize) -> Result<SealedReply, serde_json::Error> {
        let plaintext = padding::to_padded_json(self, |len| padding::answer_bucket(len.max(least)))?;
        Ok(SealedReply { ciphertext: key.seal(plaintext.expose()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/v1/completions";

    #[test]
    fn a_call_round_trips_and_its_length_is_a_bucket() {
        let id = RequestId::generate().unwrap();
        let body = RawValue::from_string(r#"{"prompt":"x"}"#.into()).unwrap();
        let plaintext = Call { id, path: "/v1/completions", server: None, body: &body }.encode().unwrap();
        assert_eq!(plaintext.expose().len(), 32 * 1024);
        let call = Call::decode(plaintext.expose()).unwrap();
        assert_eq!((call.id, call.path, call.body.get()), (id, "/v1/completions", r#"{"prompt":"x"}"#));
    }

    #[test]
    fn a_body_of_the_stated_length_falls_into_the_smallest_bucket() {
        let server = Some(ServerId::generate().unwrap());
        for (length, expected) in [
            (padding::SMALLEST_BUCKET_BODY, 32 * 1024),
            // More than all that is around a body.
            (32 * 1024, 128 * 1024),
        ] {
            let body = RawValue::from_string(format!("\"{}\"", "x".repeat(length - 2))).unwrap();
            let id = RequestId::generate().unwrap();
            let call = Call { id, path: "/v1/chat/completions", server, body: &body };
            assert_eq!(call.encode().unwrap().expose().len(), expected, "{length}");
        }
    }

    #[test]
    fn a_prompt_may_be_any_text_but_what_v1_seals() {
        let id = RequestId::generate().unwrap();
        let body = RawValue::from_string("{}".into()).unwrap();
        let call = Call { id, path: PATH, server: None, body: &body }.encode().unwrap();
        let reply =
            padding::to_padded_json(&Reply { id, status: 200, body: "x" }, padding::answer_bucket).unwrap();
        let frame = super::super::FrameWriter::new(id).next_frame(&mut Vec::new(), true).unwrap();
        for plaintext in [call, reply, frame] {
            assert!(is_of_v1(plaintext.expose()));
        }
        let texts = [
            "",
            "def f():",
            "{",
            "{}",
            r#"{"id": 7, "path": "/v1", "body": {}}"#,
            r#"{"id": "x", "path": "/v1", "body": {}}"#,
            r#"[{"id": "AAAAAAAAAAAAAAAAAAAAAA"}]"#,
            r#"x = {"id": "AAAAAAAAAAAAAAAAAAAAAA"}"#,
        ];
        assert!(texts.iter().all(|text| !is_of_v1(text.as_bytes())));
    }

    #[test]
    fn malformed_json_is_told_apart_from_a_bad_envelope() {
        assert_eq!(Envelope::parse(b"{", PATH).unwrap_err(), ErrorCode::InvalidRequest);
        assert_eq!(Envelope::parse(br#"{"ciphertext":"x"}"#, PATH).unwrap_err(), ErrorCode::InvalidRequest);
        let body = br#"{"ciphertext":"!","wrapped_dek":"AAAA"}"#;
        assert_eq!(Envelope::parse(body, PATH).unwrap_err(), ErrorCode::EnvelopeRejected);
    }

    #[test]
    fn a_wrapped_key_of_absurd_length_is_rejected() {
        assert!(WrappedDek::new(vec![]).is_err());
        assert!(WrappedDek::new(vec![0; MAX_WRAPPED_BYTES + 1]).is_err());
    }
}
