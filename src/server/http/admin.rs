//! What the operator may ask: `/metrics`, on a listener of its own.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use crate::protocol::ErrorCode;
use crate::server::error::ApiError;
use crate::server::state::App;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Every metric in the OpenMetrics text format.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    match app.render_metrics() {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => ApiError::from(ErrorCode::Internal).into_response(),
    }
}
