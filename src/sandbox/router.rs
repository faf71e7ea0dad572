//! Which path is which of Google's interfaces.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, Method};

use super::status::{Code, Status};
use super::{Shared, iam, issuer, kms, sts};

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/.well-known/openid-configuration", get(issuer::discovery))
        .route("/jwks", get(issuer::jwks))
        .route("/attestation-pki-root.pem", get(issuer::root))
        .route("/v1/token", post(sts::exchange))
        .route("/v1/{*resource}", get(resource).patch(resource).post(custom_method))
        .route("/google.cloud.kms.v1.KeyManagementService/{method}", post(kms::grpc))
        .with_state(shared)
}

/// `GET` and `PATCH` of `/v1/{resource}`: keys and their versions.
async fn resource(
    State(shared): State<Arc<Shared>>,
    method: Method,
    Path(resource): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    kms::admin(&shared, &method, &resource, query.as_deref(), &headers, &body)
        .unwrap_or_else(|| Status::new(Code::NotFound, "Method not found.").into_response())
}

/// `POST /v1/{name}:{verb}`, Google's form for what is neither create nor read nor delete.
async fn custom_method(
    State(shared): State<Arc<Shared>>,
    Path(resource): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let about_versions = kms::admin(&shared, &Method::POST, &resource, query.as_deref(), &headers, &body);
    if let Some(answer) = about_versions {
        return answer;
    }
    match resource.rsplit_once(':') {
        Some((name, "generateAccessToken")) => match name.strip_prefix("projects/-/serviceAccounts/") {
            Some(account) => iam::generate_access_token(&shared, account, &headers, &body).await,
            None => Status::new(Code::NotFound, "Method not found.").into_response(),
        },
        Some((key, verb)) => kms::rest(&shared, key, verb, query.as_deref(), &headers, &body).await,
        None => Status::new(Code::NotFound, "Method not found.").into_response(),
    }
}
