//! Verifies a server before anything is wrapped for it: asks for evidence, checks it, says what it proves.

mod checks;
mod issuer_keys;
mod policy;
mod recheck;
mod report;
mod saved;
pub(super) mod untrusted;

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

pub use self::policy::{Anchor, Policy, PolicyError};
pub use self::recheck::{RecheckError, recheck};
pub use self::report::{Finding, Found, Measurements, Verdict};
pub use self::untrusted::Untrusted;

use self::saved::{Keys, Saved};
use super::error::ClientError;
use super::retry::RetryBudget;
use super::session::NO_RANDOMNESS;
use super::transport::{Incoming, Origin, Recipient, Transport};
use crate::attestation::Claims;
use crate::attestation::verify::{Verified, VerifyError};
use crate::protocol::{ATTESTATION_PATH, AttestationRequest, Evidence, SessionTag};

/// What a server is held against.
#[derive(Clone, Debug)]
pub struct Verifier {
    policy: Policy,
}

impl Verifier {
    /// Holds servers against `policy`.
    pub fn new(policy: Policy) -> Self {
        Self { policy }
    }

    /// Asks the server at `origin` for evidence and checks it.
    ///
    /// # Errors
    /// [`ClientError`] if there is no evidence, or nothing to check it with. That it proves too little is a verdict.
    pub async fn verify_at(&self, origin: &Origin) -> Result<Verdict, ClientError> {
        self.verify(&Transport::new(origin.clone())?, None).await
    }

    /// `session` leads to the replica that is to be verified, where there are several.
    pub(super) async fn verify(
        &self,
        transport: &Transport,
        session: Option<SessionTag>,
    ) -> Result<Verdict, ClientError> {
        let request = AttestationRequest {
            audience: self.policy.audience.clone(),
            nonces: vec![nonce()?],
            token_type: self.policy.token_type(),
        };
        let evidence = self.request_evidence(transport, &request, session).await?;
        let saved = Saved {
            keys: self.keys(&evidence.token).await?,
            token: evidence.token.clone(),
            nonces: request.nonces,
            issuer: self.policy.issuer.clone(),
            audience: request.audience,
            at: unix_time(),
        };
        let verified = saved.verified();
        Ok(verdict(&self.policy, evidence, verified, saved))
    }

    async fn request_evidence(
        &self,
        transport: &Transport,
        request: &AttestationRequest,
        session: Option<SessionTag>,
    ) -> Result<Evidence, ClientError> {
        let body = serde_json::to_vec(request)
            .map_err(|_| ClientError::Internal("the request cannot be written"))?;
        let recipient = Recipient { server: None, session };
        let mut budget = RetryBudget::default();
        let answer = loop {
            match transport.post(ATTESTATION_PATH, body.clone(), false, recipient).await {
                Ok(answer) => break answer,
                Err(error) => tokio::time::sleep(budget.after(error)?).await,
            }
        };
        let Incoming::Whole(answer) = answer else { return Err(Untrusted::Malformed.into()) };
        serde_json::from_slice(&answer.whole().await?).map_err(|_| Untrusted::Malformed.into())
    }

    /// What the signature of `token` is verified with.
    async fn keys(&self, token: &str) -> Result<Keys, ClientError> {
        Ok(match &self.policy.anchor {
            Anchor::JwksUrl(url) => Keys::of_set(issuer_keys::fetch(url).await?, token),
            Anchor::JwksFile(path) => Keys::of_set(issuer_keys::read(path)?, token),
            Anchor::Root(root) => Keys::of_root(root),
        })
    }
}

/// What `evidence` proves of what `policy` asks.
fn verdict(
    policy: &Policy,
    evidence: Evidence,
    verified: Result<Verified, VerifyError>,
    saved: Saved,
) -> Verdict {
    let Evidence { identity, version, token } = evidence;
    let clock_ahead = match &verified {
        Err(VerifyError::Expired | VerifyError::NotYetValid) => clock_ahead(&token, saved.at),
        _ => None,
    };
    let (findings, expires) = match verified {
        Ok(Verified { claims, .. }) => {
            let how = match policy.anchor {
                Anchor::JwksUrl(_) | Anchor::JwksFile(_) => "with a key of the issuer's",
                Anchor::Root(_) => "by certificates that lead to the pinned root",
            };
            let signed = format!("{how}, for {}, until {}", policy.audience, claims.exp);
            let mut findings = vec![Finding { what: "signature", found: Found::Proven(signed) }];
            findings.extend(checks::hold_against(policy, &claims, &identity, &saved.nonces));
            (findings, claims.exp)
        }
        // Nothing of such a token may be used.
        Err(error) => (vec![Finding { what: "signature", found: Found::Refused(error.into()) }], 0),
    };
    Verdict {
        findings,
        profile: policy.profile,
        identity,
        version,
        expires,
        clock_ahead,
        saved,
        policy: policy.digest,
    }
}

/// How many seconds this machine's clock is ahead of the moment at which a token says that it was made: moments ago,
/// if it answers our question. Only a hint, because such a token is not trusted.
fn clock_ahead(token: &str, now: u64) -> Option<i128> {
    let made = Claims::peek(token).ok()?.iat?;
    Some(i128::from(now) - i128::from(made))
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// 32 random bytes: 43 characters.
fn nonce() -> Result<String, ClientError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| NO_RANDOMNESS)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}
