//! The security token service: an attestation token in, an access token out, if the condition is met.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use super::Shared;
use super::faults::Target;
use super::issuer::STS_AUDIENCE;
use super::ledger::{CallOutcome, Exchange, Verdict};
use super::tokens::Principal;
use crate::attestation::verify::{Expected, GOOGLE_ISSUER, VerifyError, verify};
use crate::secret::Secret;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
const SUBJECT_TOKEN_TYPES: [&str; 2] =
    ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"];

/// What STS says of a provider that it does not have, in its words.
const UNKNOWN_PROVIDER: &str = "The target service indicated by the \"audience\" parameters is invalid. This might either \
    be because the pool or provider is disabled or deleted or because it doesn't exist.";

/// The form of RFC 8693, as far as it matters here.
#[derive(Default)]
struct Form {
    grant_type: String,
    audience: String,
    scope: String,
    requested_token_type: String,
    subject_token: Option<Secret<String>>,
    subject_token_type: String,
}

/// `POST /v1/token`
pub(super) async fn exchange(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let struck = shared.strike(Target::Sts).await;
    if let Some(status) = struck.status {
        shared.ledger.count(|counts| counts.sts.add(CallOutcome::Failed));
        return refusal(status, "temporarily_unavailable", "a fault that was asked for");
    }
    if struck.garbage {
        shared.ledger.count(|counts| counts.sts.add(CallOutcome::Failed));
        return Json(json!({"access_token": ""})).into_response();
    }
    let form = Form::read(&body);
    let token = match form.check(&shared) {
        Ok(token) => token,
        Err((error, description)) => {
            shared.ledger.exchange(Exchange { verdict: Verdict::Malformed, claims: Vec::new() });
            return refusal(StatusCode::BAD_REQUEST, error, description);
        }
    };
    let expected = Expected::new(GOOGLE_ISSUER, STS_AUDIENCE);
    let verified = match verify(token.expose(), shared.issuer.keys(), &expected) {
        Ok(verified) => verified,
        Err(why) => {
            shared.ledger.exchange(Exchange { verdict: Verdict::BadToken { why }, claims: Vec::new() });
            return refusal(StatusCode::BAD_REQUEST, "invalid_grant", in_googles_words(why));
        }
    };
    let claims = shared.condition.looked_at(&verified.raw);
    if let Err(unmet) = shared.condition.check(&verified.raw) {
        shared.ledger.exchange(Exchange { verdict: Verdict::ConditionNotMet(unmet), claims });
        let description = "The given credential is rejected by the attribute condition.";
        return refusal(StatusCode::BAD_REQUEST, "unauthorized_client", description);
    }
    let lifetime = shared.access_token_lifetime;
    let Ok(token) = shared.tokens.issue(Principal::Federated, lifetime) else {
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal_failure", "no token to give");
    };
    shared.ledger.exchange(Exchange { verdict: Verdict::Granted, claims });
    Json(json!({
        "access_token": token.expose(),
        "issued_token_type": ACCESS_TOKEN_TYPE,
        "token_type": "Bearer",
        "expires_in": lifetime.as_secs(),
    }))
    .into_response()
}

impl Form {
    fn read(body: &[u8]) -> Self {
        let mut form = Self::default();
        for (name, value) in form_urlencoded::parse(body) {
            let value = value.into_owned();
            match name.as_ref() {
                "grant_type" => form.grant_type = value,
                "audience" => form.audience = value,
                "scope" => form.scope = value,
                "requested_token_type" => form.requested_token_type = value,
                "subject_token" => form.subject_token = Some(Secret::new(value)),
                "subject_token_type" => form.subject_token_type = value,
                _ => {}
            }
        }
        form
    }

    /// The token, if everything around it is as it should be; else OAuth's code and a description.
    fn check(&self, shared: &Shared) -> Result<&Secret<String>, (&'static str, &'static str)> {
        if self.grant_type != GRANT_TYPE {
            return Err(("unsupported_grant_type", "Only token exchange is supported."));
        }
        if self.audience != shared.wip_audience {
            return Err(("invalid_target", UNKNOWN_PROVIDER));
        }
        if self.requested_token_type != ACCESS_TOKEN_TYPE {
            return Err(("invalid_request", "requested_token_type must be an access token."));
        }
        if !SUBJECT_TOKEN_TYPES.contains(&self.subject_token_type.as_str()) {
            return Err(("invalid_request", "subject_token_type must be a JWT or an ID token."));
        }
        if self.scope.is_empty() {
            return Err(("invalid_scope", "scope is required."));
        }
        self.subject_token.as_ref().ok_or(("invalid_request", "subject_token is required."))
    }
}

fn in_googles_words(why: VerifyError) -> &'static str {
    match why {
        VerifyError::Expired => "ID Token is stale to sign-in.",
        VerifyError::NotYetValid => "ID Token is issued in the future.",
        VerifyError::Audience => "The audience in ID Token does not match the expected audience.",
        VerifyError::Issuer => "The issuer in ID Token does not match the expected ones.",
        VerifyError::Signature | VerifyError::UnknownKey | VerifyError::Algorithm | VerifyError::Chain => {
            "Error connecting to the given credential's issuer, or its signature is invalid."
        }
        VerifyError::Malformed | VerifyError::MissingClaim => "Unable to parse the ID Token.",
    }
}

fn refusal(status: StatusCode, error: &str, description: &str) -> Response {
    (status, Json(json!({"error": error, "error_description": description}))).into_response()
}
