//! Repeats a verification later and offline, from its record.
//!
//! The first verification goes through the same record, so both ask the same questions.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::policy::{Anchor, Policy};
use super::report::Verdict;
use super::saved::{Keys, Saved};
use super::untrusted::Untrusted;
use super::verdict;
use crate::attestation::pki::PinnedRoot;
use crate::protocol::{Digest, Evidence, Identity, ServerId};

/// Why a record of a verification does not stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecheckError {
    /// It lacks a part.
    #[error("the record has no token, or lacks what it was checked with")]
    Incomplete,
    /// The token does not prove it.
    #[error("the saved token does not pass: {0}")]
    Refused(#[from] Untrusted),
    /// The token proves something else.
    #[error("the saved token does not say what the record does: `{0}` differs")]
    Differs(&'static str),
}

impl Verdict {
    /// For a log: what [`Verdict::to_json`] says, and what [`recheck`] needs to repeat the verification.
    pub fn record(&self) -> Value {
        let mut record = self.to_json();
        record["saved"] = json!(self.saved);
        record["token_sha256"] = json!(Digest::of(self.saved.token.as_bytes()));
        record["policy_sha256"] = json!(self.policy);
        record
    }
}

/// Repeats the verification that [`Verdict::record`] describes, with the saved token, keys and time. Returns the name of
/// the key: its id at the issuer, or the SHA-256 of the root certificate.
///
/// The result proves that the record is what the token says. Whether the saved keys are the issuer's is not part of
/// it: compare them with the issuer's own publication.
///
/// # Errors
/// [`RecheckError`].
pub fn recheck(record: &Value) -> Result<String, RecheckError> {
    let saved: Saved = part(record, "/saved")?;
    let identity = Identity {
        build: part(record, "/server/build")?,
        weights: part(record, "/server/weights")?,
        server: part::<ServerId>(record, "/server/id")?,
    };
    if record.get("token_sha256") != Some(&json!(Digest::of(saved.token.as_bytes()))) {
        return Err(RecheckError::Differs("token_sha256"));
    }
    let version = part(record, "/server/version")?;
    let policy = recorded_policy(record, &saved)?;
    let evidence = Evidence { token: saved.token.clone(), version, identity };
    let verified = saved.verified();
    let key = saved.keys.name();
    let again = verdict(&policy, evidence, verified, saved);
    again.trusted()?;
    let again = again.to_json();
    for member in ["trusted", "proven", "profile", "expires"] {
        if again.get(member) != record.get(member) {
            return Err(RecheckError::Differs(member));
        }
    }
    Ok(key)
}

/// The policy that asks for exactly what the record says was proven.
fn recorded_policy(record: &Value, saved: &Saved) -> Result<Policy, RecheckError> {
    let proven =
        |what: &str| -> Option<String> { Some(record.get("proven")?.get(what)?.as_str()?.to_owned()) };
    let texts = |what: &str| proven(what).into_iter().collect::<Vec<_>>();
    let digests = |what: &str| {
        let digest = proven(what).map(|text| text.parse().map_err(|_| RecheckError::Incomplete));
        digest.transpose().map(|digest| digest.into_iter().collect::<Vec<Digest>>())
    };
    let profile = record.get("profile").and_then(Value::as_str).ok_or(RecheckError::Incomplete)?;
    Ok(Policy {
        profile: profile.parse().map_err(|_| RecheckError::Incomplete)?,
        issuer: saved.issuer.clone(),
        audience: saved.audience.clone(),
        anchor: match &saved.keys {
            Keys::Jwks(_) => Anchor::JwksUrl(String::new()),
            Keys::Root(root) => {
                let der = BASE64_STANDARD.decode(root).map_err(|_| RecheckError::Incomplete)?;
                Anchor::Root(Box::new(PinnedRoot::from_der(der).map_err(|_| RecheckError::Incomplete)?))
            }
        },
        image_digests: digests("image digest")?,
        image_signers: texts("image signer"),
        image_references: texts("image reference"),
        service_accounts: texts("service account"),
        projects: texts("project"),
        builds: digests("build")?,
        weights: digests("weights")?,
        gpus: texts("gpu"),
        digest: part(record, "/policy_sha256")?,
    })
}

fn part<T: serde::de::DeserializeOwned>(record: &Value, pointer: &str) -> Result<T, RecheckError> {
    let part = record.pointer(pointer).cloned().ok_or(RecheckError::Incomplete)?;
    serde_json::from_value(part).map_err(|_| RecheckError::Incomplete)
}
