//! `teeserver.sock`: tokens for the audience and with the nonces that the workload asks for.
//!
//! Statuses, texts and the `text/html` of the answers are the real launcher's.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::faults::Target;
use super::launcher::{Build, Inner};
use super::ledger::CallOutcome;
use crate::protocol::TokenType;

const MAX_AUDIENCE_BYTES: usize = 512;
const MAX_NONCES: usize = 6;
const NONCE_BYTES: std::ops::RangeInclusive<usize> = 10..=74;

/// The body of `POST /v1/token`; the names of the members it may have are the real ones.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenOptions {
    #[serde(default)]
    audience: String,
    #[serde(default)]
    nonces: Vec<String>,
    #[serde(default)]
    token_type: String,
    #[serde(default, rename = "aws_principal_tag_options")]
    _aws_principal_tag_options: Option<Value>,
}

type TokenReply = Result<Vec<u8>, (StatusCode, String)>;

pub(super) fn router(launcher: Arc<Inner>) -> Router {
    Router::new()
        .route("/v1/token", any(token))
        .route("/v1/intel/token", any(no_intel_token))
        .with_state(launcher)
}

async fn token(State(launcher): State<Arc<Inner>>, method: Method, body: Bytes) -> Response {
    let struck = launcher.shared.strike(Target::Launcher).await;
    let answer = match (struck.status, method) {
        (None, Method::GET) => default_token(&launcher).await,
        (None, Method::POST) => custom_token(&launcher, &body),
        (Some(_), Method::POST) if launcher.build == Build::Preview => {
            Err((StatusCode::BAD_REQUEST, "a fault that was asked for".to_owned()))
        }
        (Some(status), _) => Err((status, "failed to retrieve attestation service token: fault".to_owned())),
        (None, method) => bad_request(format!("TEE server received an invalid HTTP method: {method}")),
    };
    let outcome = if answer.is_ok() { CallOutcome::Granted } else { CallOutcome::Failed };
    launcher.shared.ledger.count(|counts| counts.launcher.add(outcome));
    text_html(answer)
}

async fn no_intel_token() -> Response {
    let message = "no ITA verifier client present - ensure ITA Region and Key are defined in metadata";
    text_html(Err((StatusCode::PRECONDITION_FAILED, message.to_owned())))
}

async fn default_token(launcher: &Inner) -> TokenReply {
    match launcher.build {
        Build::Preview => launcher
            .token_bytes()
            .await
            .map_err(|_| (StatusCode::NOT_FOUND, "failed to get the token".to_owned())),
        Build::Current => sign(launcher, TokenType::Oidc, &launcher.default_claims()),
    }
}

fn custom_token(launcher: &Inner, body: &[u8]) -> TokenReply {
    let options: TokenOptions = match serde_json::from_slice(body) {
        Ok(options) => options,
        Err(error) => return bad_request(format!("failed to parse POST body as TokenOptions: {error}")),
    };
    if options.audience.is_empty() {
        return bad_request("use GET request for the default identity token");
    }
    if options.token_type.is_empty() {
        return bad_request("token_type is a required parameter");
    }
    let kind = match options.token_type.as_str() {
        "OIDC" => TokenType::Oidc,
        "PKI" => TokenType::Pki,
        _ => return bad_request("only token_type OIDC and PKI are supported by the sandbox"),
    };
    if options.audience.len() > MAX_AUDIENCE_BYTES {
        return bad_request("rpc error: code = InvalidArgument desc = audience must be at most 512 bytes");
    }
    let nonces = &options.nonces;
    if nonces.len() > MAX_NONCES || nonces.iter().any(|nonce| !NONCE_BYTES.contains(&nonce.len())) {
        return bad_request("rpc error: code = InvalidArgument desc = at most 6 nonces of 10 to 74 bytes");
    }
    sign(launcher, kind, &launcher.claims_for(&options.audience, nonces))
}

fn sign(launcher: &Inner, kind: TokenType, claims: &Value) -> TokenReply {
    let token = launcher
        .sign(kind, claims)
        .map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "failed to sign the token".to_owned()))?;
    Ok(token.expose().clone().into_bytes())
}

fn bad_request(message: impl Into<String>) -> TokenReply {
    Err((StatusCode::BAD_REQUEST, message.into()))
}

fn text_html(answer: TokenReply) -> Response {
    let (status, body) = match answer {
        Ok(token) => (StatusCode::OK, token),
        Err((status, message)) => (status, message.into_bytes()),
    };
    (status, [(CONTENT_TYPE, "text/html")], body).into_response()
}
