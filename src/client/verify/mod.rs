//! Verifies a server before anything is wrapped for it: asks for evidence, checks it, says what it proves.

mod checks;
mod issuer_keys;
mod policy;
mod report;
pub(super) mod untrusted;

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

pub use self::policy::{Anchor, Policy, PolicyError};
pub use self::report::{Finding, Found, Verdict};
pub use self::untrusted::Untrusted;

use super::error::ClientError;
use super::retry::RetryBudget;
use super::transport::{Incoming, Origin, Recipient, Transport};
use crate::attestation::Claims;
use crate::attestation::pki::verify_pki;
use crate::attestation::verify::{Expected, Verified, VerifyError, verify};
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
        let evidence = self.ask(transport, &request, session).await?;
        let verified = self.verified(&evidence.token).await?;
        Ok(self.verdict(evidence, verified, &request.nonces))
    }

    async fn ask(
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

    async fn verified(&self, token: &str) -> Result<Result<Verified, VerifyError>, ClientError> {
        let expected = Expected::new(self.policy.issuer.as_str(), self.policy.audience.as_str());
        Ok(match &self.policy.anchor {
            Anchor::JwksUrl(url) => verify(token, &issuer_keys::fetch(url).await?, &expected),
            Anchor::JwksFile(path) => verify(token, &issuer_keys::read(path)?, &expected),
            Anchor::Root(root) => verify_pki(token, root, &expected),
        })
    }

    fn verdict(
        &self,
        evidence: Evidence,
        verified: Result<Verified, VerifyError>,
        nonces: &[String],
    ) -> Verdict {
        let Evidence { identity, version, token } = evidence;
        let clock_ahead = match &verified {
            Err(VerifyError::Expired | VerifyError::NotYetValid) => clock_ahead(&token, unix_time()),
            _ => None,
        };
        let (findings, expires) = match verified {
            Ok(Verified { claims, .. }) => {
                let how = match self.policy.anchor {
                    Anchor::JwksUrl(_) | Anchor::JwksFile(_) => "with a key of the issuer's",
                    Anchor::Root(_) => "by certificates that lead to the pinned root",
                };
                let signed = format!("{how}, for {}, until {}", self.policy.audience, claims.exp);
                let mut findings = vec![Finding { what: "signature", found: Found::Proven(signed) }];
                findings.extend(checks::hold_against(&self.policy, &claims, &identity, nonces));
                (findings, claims.exp)
            }
            // Nothing of such a token may be used.
            Err(error) => (vec![Finding { what: "signature", found: Found::Refused(error.into()) }], 0),
        };
        Verdict { findings, profile: self.policy.profile, identity, version, expires, clock_ahead }
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
    getrandom::fill(&mut bytes).map_err(|_| ClientError::Internal("the system has no randomness to give"))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}
