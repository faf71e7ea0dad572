//! Access tokens: random, in memory, each with a principal and an expiry.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::status::{Code, Status};
use crate::secret::Secret;

/// The most tokens that are kept. Expired ones are removed first; when all are valid, no new one is given.
const MAX_TOKENS: usize = 10_000;

/// Who a token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// A request without credentials, as Google's sample client sends it.
    Anonymous,
    /// An employee, with [`super::Sandbox::employee_token`].
    Employee,
    /// An attested workload, with what the token exchange gave it.
    Federated,
    /// An attested workload that acts as the service account.
    ServiceAccount,
}

/// The tokens that were given out. Only their hashes are kept.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<[u8; 32], (Principal, Instant)>>);

impl Tokens {
    /// Gives `principal` a token for `lifetime`.
    pub(super) fn issue(&self, principal: Principal, lifetime: Duration) -> Result<Secret<String>, Status> {
        let internal = |message: &str| Status::new(Code::Internal, message);
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|_| internal("the OS random number generator failed"))?;
        let token = format!("ya29.{}", BASE64_URL_SAFE_NO_PAD.encode(random));
        let now = Instant::now();
        let mut tokens = self.lock();
        if tokens.len() >= MAX_TOKENS {
            tokens.retain(|_, (_, expiry)| *expiry > now);
        }
        if tokens.len() >= MAX_TOKENS {
            return Err(internal("too many access tokens are alive"));
        }
        tokens.insert(digest(&token), (principal, now + lifetime));
        Ok(Secret::new(token))
    }

    /// Whose token `headers` carry.
    ///
    /// # Errors
    /// Unauthenticated for a token that is unknown or has expired.
    pub(super) fn principal(&self, headers: &HeaderMap) -> Result<Principal, Status> {
        let Some(header) = headers.get(AUTHORIZATION) else { return Ok(Principal::Anonymous) };
        let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
        let known = token.and_then(|token| self.lock().get(&digest(token)).copied());
        match known {
            Some((principal, expiry)) if expiry > Instant::now() => Ok(principal),
            _ => Err(Status::unauthenticated()),
        }
    }

    /// Forgets every token, as if all had been revoked.
    pub(super) fn revoke_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], (Principal, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(token: &Secret<String>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {}", token.expose()).parse().unwrap());
        headers
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_until_it_expires() {
        let tokens = Tokens::default();
        let token = tokens.issue(Principal::Federated, Duration::from_secs(60)).unwrap();
        assert_eq!(tokens.principal(&headers(&token)), Ok(Principal::Federated));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(tokens.principal(&headers(&token)), Err(Status::unauthenticated()));
    }

    #[tokio::test]
    async fn no_token_is_anonymous_and_a_wrong_one_is_refused() {
        let tokens = Tokens::default();
        assert_eq!(tokens.principal(&HeaderMap::new()), Ok(Principal::Anonymous));
        let made_up = Secret::new("ya29.made-up".to_owned());
        assert!(tokens.principal(&headers(&made_up)).is_err());
        let token = tokens.issue(Principal::Employee, Duration::from_secs(60)).unwrap();
        tokens.revoke_all();
        assert!(tokens.principal(&headers(&token)).is_err());
    }
}
