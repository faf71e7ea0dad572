//! The token exchange: attestation token → federated token (STS) → access token (IAM, when impersonating).
//!
//! This is what `google-cloud-auth` calls an `external_account` credential, in our own words. Its own is not
//! used, because it ends for good at the first permanent error (an expired token file is one), has no timeout on
//! the STS call, cannot take the subject token from the launcher's socket and impersonate at a place of our
//! choice at the same time, and reports a refusal as text only. Wrapping it mends the first two at the price of a
//! background task that has to be killed and revived; these two calls are less than the wrapping would be.
//! Must not touch: when a token is fetched. That is [`super::credentials`].

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::config::{KmsConfig, SCOPE, Timeouts};
use super::error::KeyError;
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
pub(super) struct Exchange {
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

impl Exchange {
    /// # Errors
    /// [`KeyError::Setup`] if there are no CA certificates. Nothing is called yet.
    pub(super) fn new(config: &KmsConfig) -> Result<Self, KeyError> {
        let timeouts = config.timeouts;
        // Proxies come from the environment and redirects from whoever answers; the attestation token follows
        // neither of them.
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
        tokio::time::timeout(self.timeouts.exchange, self.exchange()).await.unwrap_or(Err(KeyError::Timeout))
    }

    async fn exchange(&self) -> Result<AccessToken, KeyError> {
        let federated = retry(self.timeouts.backoff, || self.federate()).await?;
        match &self.impersonation_url {
            None => Ok(federated),
            Some(url) => retry(self.timeouts.backoff, || self.impersonate(url, &federated)).await,
        }
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
        let answer: StsAnswer = call(request, KeyError::ExchangeRefused).await?;
        AccessToken::new(Secret::new(answer.access_token), answer.expires_in, since)
    }

    async fn impersonate(&self, url: &str, as_whom: &AccessToken) -> Result<AccessToken, Failure<KeyError>> {
        let lifetime = format!("{IMPERSONATED_SECS}s");
        let request = self
            .http
            .post(url)
            .header(header::AUTHORIZATION, as_whom.header.clone())
            .json(&serde_json::json!({"scope": [SCOPE], "lifetime": lifetime}));
        let since = Instant::now();
        let answer: IamAnswer = call(request, KeyError::ImpersonationRefused).await?;
        // IAM gives the lifetime that was asked for or refuses, so its `expireTime` need not be parsed.
        AccessToken::new(Secret::new(answer.access_token), IMPERSONATED_SECS, since)
    }
}

impl AccessToken {
    fn new(token: Secret<String>, lifetime_secs: u64, since: Instant) -> Result<Self, Failure<KeyError>> {
        let bearer = Secret::new(format!("Bearer {}", token.expose()));
        let header = HeaderValue::from_str(bearer.expose());
        let mut header = header.map_err(|_| Failure::Transient(KeyError::Unavailable))?;
        header.set_sensitive(true);
        // No token lives for a day; this only keeps a silly number from overflowing a clock.
        let lifetime = Duration::from_secs(lifetime_secs.min(86_400));
        Ok(Self { header, lifetime, since })
    }
}

/// Sends `request`; a 4xx means `refused`, unless it asks for patience.
async fn call<T: DeserializeOwned>(
    request: reqwest::RequestBuilder,
    refused: KeyError,
) -> Result<T, Failure<KeyError>> {
    let broken = |error: reqwest::Error| {
        Failure::Transient(if error.is_timeout() { KeyError::Timeout } else { KeyError::Unavailable })
    };
    let unavailable = Failure::Transient(KeyError::Unavailable);
    let mut response = request.send().await.map_err(broken)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => return Err(unavailable),
        status if status.is_client_error() => return Err(Failure::Final(refused)),
        _ => return Err(unavailable),
    }
    let mut body = Secret::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.expose().len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(unavailable);
        }
        body.expose_mut().extend_from_slice(&chunk);
    }
    serde_json::from_slice(body.expose()).map_err(|_| unavailable)
}
