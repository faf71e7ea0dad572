//! `POST /attestation`: a token of the launcher for the client's nonces and this server's identity.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use crate::protocol::{AttestationRequest, ErrorCode, Evidence, MAX_ATTESTATION_REQUEST_BYTES};
use crate::server::admit::body;
use crate::server::error::ApiError;
use crate::server::observation::Observation;
use crate::server::state::App;
use crate::telemetry::Endpoint;

/// The handler.
pub(crate) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut observation = Observation::start(&app, Endpoint::Attestation);
    let evidence = answer(&app, request);
    let evidence = tokio::time::timeout_at(observation.deadline(), evidence).await;
    match evidence.unwrap_or(Err(ErrorCode::DeadlineExceeded.into())) {
        Ok(evidence) => {
            observation.succeeded();
            Json(evidence).into_response()
        }
        Err(error) => {
            observation.failed(error.code());
            error.into_response()
        }
    }
}

async fn answer(app: &App, request: Request) -> Result<Evidence, ApiError> {
    app.loaded()?;
    let body = body::read(request, MAX_ATTESTATION_REQUEST_BYTES, app.limits.body_timeout).await?;
    let request: AttestationRequest = serde_json::from_slice(&body).map_err(|_| ErrorCode::InvalidRequest)?;
    app.attestor.evidence(request).await
}
