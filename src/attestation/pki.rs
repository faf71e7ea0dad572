//! Attestation tokens of the type PKI: signed with a key whose certificates come along and lead to a pinned root.
//!
//! Nothing of the chain is trusted but that: the root in the token is never used as one.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::Header;
use pki_types::pem::PemObject as _;
use pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use serde_json::Value;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs as algorithms};

use super::verify::{Expected, Verified, VerifyError, header};

/// The root certificate of Google's attestation service, good until 2034. Its SHA-1 fingerprint, which Google's
/// codelab on PKI tokens names, is B9:51:20:74:2C:24:E3:AA:34:04:2E:1C:3B:A3:AA:D2:8B:21:23:21.
const GOOGLE_ROOT: &[u8] = include_bytes!("google_root.pem");

/// What Google's intermediate certificate is for, 2.23.133.8.1; the leaf does not say.
const PURPOSE: KeyUsage = KeyUsage::required_if_present(&[0x67, 0x81, 0x05, 0x08, 0x01]);

/// A leaf, some intermediates and the root are three; more than this is no chain of Google's.
const MAX_CERTIFICATES: usize = 6;

/// What certificates may be signed with: Google's are with RSA, and a root of one's own may be of either kind.
const ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 5] = [
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
];

/// The one certificate that chains may lead to.
#[derive(Clone, Debug)]
pub struct PinnedRoot(CertificateDer<'static>);

/// A file holds no root certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must hold exactly one root certificate in PEM")]
pub struct NotARoot;

impl PinnedRoot {
    /// Google's.
    ///
    /// # Errors
    /// None in practice: it is compiled in.
    pub fn google() -> Result<Self, NotARoot> {
        Self::from_pem(GOOGLE_ROOT)
    }

    /// The one certificate in `pem`.
    ///
    /// # Errors
    /// [`NotARoot`]
    pub fn from_pem(pem: &[u8]) -> Result<Self, NotARoot> {
        let mut certificates = CertificateDer::pem_slice_iter(pem);
        let root = certificates.next().and_then(Result::ok).ok_or(NotARoot)?;
        if certificates.next().is_some() || anchor_from_trusted_cert(&root).is_err() {
            return Err(NotARoot);
        }
        Ok(Self(root))
    }

    /// The root certificate `der`.
    ///
    /// # Errors
    /// [`NotARoot`]
    pub fn from_der(der: Vec<u8>) -> Result<Self, NotARoot> {
        let root = CertificateDer::from(der);
        if anchor_from_trusted_cert(&root).is_err() {
            return Err(NotARoot);
        }
        Ok(Self(root))
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.0
    }
}

/// Verifies `token` with the certificates in its header.
///
/// # Errors
/// [`VerifyError`]; nothing of the token may be used then.
pub fn verify_pki(token: &str, root: &PinnedRoot, expected: &Expected) -> Result<Verified, VerifyError> {
    let chain = certificates(&header(token)?)?;
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::UnknownKey)?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| VerifyError::Chain)?;
    let anchor = anchor_from_trusted_cert(&root.0).map_err(|_| VerifyError::Chain)?;
    let at = expected.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let at = UnixTime::since_unix_epoch(at);
    leaf.verify_for_usage(&ALGORITHMS, &[anchor], intermediates, at, PURPOSE, None, None)
        .map_err(|_| VerifyError::Chain)?;
    let (message, signature) = token.rsplit_once('.').ok_or(VerifyError::Malformed)?;
    let (_, payload) = message.split_once('.').ok_or(VerifyError::Malformed)?;
    let decoded = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| VerifyError::Malformed);
    leaf.verify_signature(algorithms::RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &decoded(signature)?)
        .map_err(|_| VerifyError::Signature)?;
    let raw: Value = serde_json::from_slice(&decoded(payload)?).map_err(|_| VerifyError::Malformed)?;
    expected.hold_against(raw)
}

/// The certificates of a header, the signer's first.
fn certificates(header: &Header) -> Result<Vec<CertificateDer<'static>>, VerifyError> {
    let chain = header.x5c_der().map_err(|_| VerifyError::Malformed)?.ok_or(VerifyError::UnknownKey)?;
    if chain.len() > MAX_CERTIFICATES {
        return Err(VerifyError::Malformed);
    }
    Ok(chain.into_iter().map(CertificateDer::from).collect())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::verify::GOOGLE_ISSUER;
    use super::*;

    /// A token that Google's attestation service made in 2025 for another project's public example.
    const TOKEN: &str = include_str!("../../tests/vectors/pki/tdx.jwt");
    const AUDIENCE: &str = "z08381475938604996746";
    const MADE_AT: u64 = 1_757_060_250;

    fn check(token: &str, seconds_later: u64) -> Result<Verified, VerifyError> {
        let at = UNIX_EPOCH + Duration::from_secs(MADE_AT + seconds_later);
        let expected = Expected { at, ..Expected::new(GOOGLE_ISSUER, AUDIENCE) };
        verify_pki(token.trim(), &PinnedRoot::google().unwrap(), &expected)
    }

    /// `TOKEN` with its part `index` (header, payload, signature) changed as JSON or as bytes.
    fn with(index: usize, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut parts: Vec<String> = TOKEN.trim().split('.').map(String::from).collect();
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(&parts[index]).unwrap();
        change(&mut bytes);
        parts[index] = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        parts.join(".")
    }

    fn with_chain(change: impl FnOnce(&mut Vec<Value>)) -> String {
        with(0, |bytes| {
            let mut header: Value = serde_json::from_slice(bytes).unwrap();
            change(header["x5c"].as_array_mut().unwrap());
            *bytes = serde_json::to_vec(&header).unwrap();
        })
    }

    #[test]
    fn a_real_token_of_googles_is_verified_by_the_built_in_root() {
        let claims = check(TOKEN, 60).unwrap().claims;
        assert_eq!(claims.hwmodel.as_deref(), Some("GCP_INTEL_TDX"));
        assert_eq!(super::super::Profile::Tdx.check(&claims), Ok(()));
    }

    #[test]
    fn it_is_verified_for_as_long_as_it_lives() {
        assert_eq!(check(TOKEN, 3700).unwrap_err(), VerifyError::Expired);
        // By then the leaf's certificate is over, too.
        assert_eq!(check(TOKEN, 100 * 86_400).unwrap_err(), VerifyError::Chain);
    }

    #[test]
    fn a_changed_token_is_refused() {
        let raised = with(1, |payload| {
            *payload = String::from_utf8(payload.clone()).unwrap().replace("TDX", "SEV").into_bytes();
        });
        assert_eq!(check(&raised, 60).unwrap_err(), VerifyError::Signature);
        assert_eq!(check(&with(2, |signature| signature[7] ^= 1), 60).unwrap_err(), VerifyError::Signature);
    }

    #[test]
    fn a_chain_must_be_whole_and_lead_to_the_pinned_root() {
        let chain = |change: fn(&mut Vec<Value>)| check(&with_chain(change), 60).unwrap_err();
        assert_eq!(chain(Vec::clear), VerifyError::UnknownKey);
        assert_eq!(chain(|chain| chain.swap(0, 1)), VerifyError::Chain);
        assert_eq!(chain(|chain| drop(chain.remove(1))), VerifyError::Chain);
        assert_eq!(
            chain(|chain| {
                let root = chain[2].clone();
                chain.resize(7, root);
            }),
            VerifyError::Malformed
        );
        // The root need not come along; the header is signed, so only the chain is looked at here.
        assert_eq!(chain(|chain| drop(chain.pop())), VerifyError::Signature);
        assert_eq!(
            check(&with(0, |header| *header = br#"{"alg":"RS256","kid":"k"}"#.to_vec()), 60).unwrap_err(),
            VerifyError::UnknownKey
        );
    }

    #[test]
    fn a_root_is_one_certificate() {
        assert_eq!(PinnedRoot::from_pem(b"").unwrap_err(), NotARoot);
        assert_eq!(PinnedRoot::from_pem(&[GOOGLE_ROOT, b"\n", GOOGLE_ROOT].concat()).unwrap_err(), NotARoot);
    }
}
