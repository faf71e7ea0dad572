//! `/livez` and `/readyz`: neither waits for anything.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::server::error::ApiError;
use crate::server::state::App;

/// 200 for as long as the process answers at all.
pub(crate) async fn livez() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// 200 while requests are served, else 503 with the reason.
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    match app.readiness() {
        Ok(()) => Json(json!({ "status": "ready" })).into_response(),
        Err(code) => ApiError::from(code).into_response(),
    }
}
