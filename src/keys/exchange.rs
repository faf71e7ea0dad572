//! The token exchange: attestation token → federated token (STS) → access token (IAM, when impersonating).
//!
//! This is what `google-cloud-auth` calls an `external_account` credential, in our own words. Its own is not
//! used, because it stops for good at the first permanent error (an expired token file is one), has no timeout on
//! the STS call, cannot take the subject token from the launcher's socket and impersonate at a place of our
//! choice at the same time, and reports a refusal as text only. Wrapping it mends the first two at the price of a
//! background task that has to be killed and revived; these two calls are less than the wrapping would be.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::config::{KmsConfig, SCOPE, Timeouts};
use super::error::{KeyError, KeyService};
use super::names::WipAudience;
use super::retry::{Failure, retry};
use crate::attestation::{LauncherSocket, TokenSource};
use crate::secret::Secret;

/// The lifetime that is asked for when impersonating: the longest that needs no extra policy.
const IMPERSONATED_SECS: u64 = 3600;

/// What the federated token is good for when it only serves to impersonate.
const IAM_SCOPE: &str = "https://www.googleapis.com/auth/iam";

/// Longer answers than this are not STS's or IAM's.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Exchanges the launcher's token for access tokens.
pub(super) struct TokenExchange {
    http: reqwest::Client,
    source: TokenSource,
    audience: WipAudience,
    sts_url: String,
    impersonation_url: Option<String>,
    timeouts: Timeouts,
}

/// A bearer token for KMS.
pub(super) struct AccessToken {
    /// The value of the `authorization` header; marked as sensitive, so that `Debug` hides it.
    pub(super) header: HeaderValue,
    /// How long it is valid, counted from `since`.
    pub(super) lifetime: Duration,
    /// Just before it was asked for.
    pub(super) since: Instant,
}

#[derive(Deserialize)]
struct StsAnswer {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IamAnswer {
    access_token: String,
}

impl TokenExchange {
    /// # Errors
    /// [`KeyError::Setup`] if there are no CA certificates. Nothing is called yet.
    pub(super) fn new(config: &KmsConfig) -> Result<Self, KeyError> {
        let timeouts = config.timeouts;
        // The attestation token must not follow a proxy from the environment, or a redirect.
        let http = reqwest::Client::builder()
            .timeout(timeouts.exchange_attempt)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .https_only(config.endpoint.kms().is_none())
            .build()
            .map_err(|_| KeyError::Setup)?;
        let socket = config.token_socket.as_ref().map(|path| LauncherSocket::new(path, timeouts.launcher));
        Ok(Self {
            http,
            source: TokenSource::new(&config.token_file, socket),
            audience: config.wip_audience.clone(),
            sts_url: config.endpoint.sts_url(),
            impersonation_url: config
                .impersonate
                .as_ref()
                .map(|account| config.endpoint.impersonation_url(account)),
            timeouts,
        })
    }

    /// Fetches a new access token.
    ///
    /// # Errors
    /// [`KeyError`]; what a repetition can heal has been repeated.
    pub(super) async fn access_token(&self) -> Result<AccessToken, KeyError> {
        let deadline = Instant::now() + self.timeouts.exchange;
        let federating = retry(self.timeouts.backoff, || self.federate());
        let federated = within(deadline, KeyService::Sts, federating).await?;
        let Some(url) = &self.impersonation_url else { return Ok(federated) };
        let impersonating = retry(self.timeouts.backoff, || self.impersonate(url, &federated));
        within(deadline, KeyService::Iam, impersonating).await
    }

    async fn federate(&self) -> Result<AccessToken, Failure<KeyError>> {
        // Read for each attempt, since the launcher may have renewed it. An expired one is not sent: STS would
        // answer as it does for a workload that its condition refuses, and the blame would be on the policy.
        let subject = self.source.token().await.map_err(|error| Failure::Final(error.into()))?;
        let scope = if self.impersonation_url.is_some() { IAM_SCOPE } else { SCOPE };
        let request = self.http.post(&self.sts_url).form(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("subject_token", subject.expose()),
            ("audience", self.audience.as_str()),
            ("scope", scope),
        ]);
        let since = Instant::now();
        let answer: StsAnswer = call(request, KeyService::Sts).await?;
        AccessToken::new(Secret::new(answer.access_token), answer.expires_in, since, KeyService::Sts)
    }

    async fn impersonate(&self, url: &str, as_whom: &AccessToken) -> Result<AccessToken, Failure<KeyError>> {
        let lifetime = format!("{IMPERSONATED_SECS}s");
        let request = self
            .http
            .post(url)
            .header(header::AUTHORIZATION, as_whom.header.clone())
            .json(&serde_json::json!({"scope": [SCOPE], "lifetime": lifetime}));
        let since = Instant::now();
        let answer: IamAnswer = call(request, KeyService::Iam).await?;
        // IAM gives the lifetime that was asked for or refuses, so its `expireTime` need not be parsed.
        AccessToken::new(Secret::new(answer.access_token), IMPERSONATED_SECS, since, KeyService::Iam)
    }
}

impl AccessToken {
    fn new(
        token: Secret<String>,
        lifetime_secs: u64,
        since: Instant,
        service: KeyService,
    ) -> Result<Self, Failure<KeyError>> {
        let bearer = Secret::new(format!("Bearer {}", token.expose()));
        let header = HeaderValue::from_str(bearer.expose());
        let mut header = header.map_err(|_| Failure::Transient(KeyError::Unavailable(service)))?;
        header.set_sensitive(true);
        // No token lives for a day; this only keeps a silly number from overflowing a clock.
        let lifetime = Duration::from_secs(lifetime_secs.min(86_400));
        Ok(Self { header, lifetime, since })
    }
}

/// Bounds `work`, which calls `service`, by `deadline`.
async fn within<T>(
    deadline: Instant,
    service: KeyService,
    work: impl Future<Output = Result<T, KeyError>>,
) -> Result<T, KeyError> {
    tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(KeyError::Timeout(service)))
}

/// Sends `request` to `service`.
async fn call<T: DeserializeOwned>(
    request: reqwest::RequestBuilder,
    service: KeyService,
) -> Result<T, Failure<KeyError>> {
    let broken = |error: reqwest::Error| {
        let timeout = error.is_timeout();
        Failure::Transient(if timeout { KeyError::Timeout(service) } else { KeyError::Unavailable(service) })
    };
    let mut response = request.send().await.map_err(broken)?;
    let status = response.status();
    let mut body = Secret::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.expose().len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(refusal(service, status, b""));
        }
        body.expose_mut().extend_from_slice(&chunk);
    }
    if status != StatusCode::OK {
        return Err(refusal(service, status, body.expose()));
    }
    serde_json::from_slice(body.expose()).map_err(|_| Failure::Transient(KeyError::Unavailable(service)))
}

/// OAuth's error (RFC 6749, 5.2), as STS writes it. Google's own form has an object in `error`, and is none.
#[derive(Deserialize)]
struct OAuthError {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// What an answer of `service` means that is not a 200 with a token.
fn refusal(service: KeyService, status: StatusCode, body: &[u8]) -> Failure<KeyError> {
    match status {
        StatusCode::TOO_MANY_REQUESTS => return Failure::Transient(KeyError::QuotaSpent(service)),
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => {
            return Failure::Transient(KeyError::Timeout(service));
        }
        status if status.is_client_error() => {}
        _ => return Failure::Transient(KeyError::Unavailable(service)),
    }
    if service == KeyService::Iam {
        return Failure::Final(KeyError::ImpersonationRefused);
    }
    let Ok(OAuthError { error, error_description }) = serde_json::from_slice(body) else {
        return Failure::Final(KeyError::ExchangeRefused);
    };
    Failure::Final(match error.as_str() {
        "invalid_target" => KeyError::ProviderUnknown,
        "unauthorized_client" => KeyError::ConditionNotMet,
        // The condition has been reported under other codes too; its sentence has not changed.
        _ if error_description.contains("attribute condition") => KeyError::ConditionNotMet,
        "invalid_grant" => KeyError::TokenRefused,
        _ => KeyError::ExchangeRefused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sts(status: u16, body: &str) -> Failure<KeyError> {
        refusal(KeyService::Sts, StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn each_refusal_of_sts_has_a_reason_of_its_own() {
        let oauth = |error: &str, description: &str| {
            sts(400, &serde_json::json!({"error": error, "error_description": description}).to_string())
        };
        for (error, description, reason) in [
            (
                "invalid_target",
                "The target service indicated by the \"audience\" parameters is invalid. This might either be \
                 because the pool or provider is disabled or deleted or because it doesn't exist.",
                KeyError::ProviderUnknown,
            ),
            (
                "unauthorized_client",
                "The given credential is rejected by the attribute condition.",
                KeyError::ConditionNotMet,
            ),
            (
                "invalid_grant",
                "The given credential is rejected by the attribute condition.",
                KeyError::ConditionNotMet,
            ),
            ("invalid_grant", "ID Token issued at 1700000000 is stale to sign-in.", KeyError::TokenRefused),
            ("invalid_request", "Invalid value for \"audience\".", KeyError::ExchangeRefused),
            ("unsupported_grant_type", "", KeyError::ExchangeRefused),
        ] {
            assert_eq!(oauth(error, description), Failure::Final(reason), "{error}");
        }
        // Google's own form: the API is not enabled, or the project is suspended.
        let google = r#"{"error":{"code":403,"message":"m","status":"PERMISSION_DENIED"}}"#;
        assert_eq!(sts(403, google), Failure::Final(KeyError::ExchangeRefused));
        for body in ["<html>", "", "[]", "{}", r#"{"error":null}"#] {
            assert_eq!(sts(400, body), Failure::Final(KeyError::ExchangeRefused), "{body}");
        }
    }

    #[test]
    fn what_passes_is_named_by_its_service() {
        for service in [KeyService::Sts, KeyService::Iam] {
            for (status, error) in [
                (429, KeyError::QuotaSpent(service)),
                (408, KeyError::Timeout(service)),
                (504, KeyError::Timeout(service)),
                (500, KeyError::Unavailable(service)),
                (503, KeyError::Unavailable(service)),
                (302, KeyError::Unavailable(service)),
            ] {
                let status = StatusCode::from_u16(status).unwrap();
                assert_eq!(refusal(service, status, b"<html>"), Failure::Transient(error));
            }
        }
        let denied = refusal(KeyService::Iam, StatusCode::FORBIDDEN, b"{}");
        assert_eq!(denied, Failure::Final(KeyError::ImpersonationRefused));
    }
}
