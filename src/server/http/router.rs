//! Which path leads where. Everything else, a panic included, gets an error in the API's own shape.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::HeaderValue;
use http::header::CACHE_CONTROL;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use super::{admin, framing, health};
use crate::protocol::{ATTESTATION_PATH, ErrorCode};
use crate::server::answer::chat::Chat;
use crate::server::answer::completions::Completions;
use crate::server::answer::dialect::Dialect;
use crate::server::answer::{attestation, generate, sealed};
use crate::server::error::ApiError;
use crate::server::observation::Observation;
use crate::server::state::App;
use crate::telemetry::Endpoint;

/// What employees' clients reach.
pub(crate) fn public(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route("/generate", post(generate::handle))
        .route(Completions::PATH, post(sealed::handle::<Completions>))
        .route(Chat::PATH, post(sealed::handle::<Chat>))
        .route(ATTESTATION_PATH, post(attestation::handle))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz));
    finish(routes, app)
}

/// What the operator reaches.
pub(crate) fn admin(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route("/metrics", get(admin::metrics))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz));
    finish(routes, app)
}

fn finish(routes: Router<Arc<App>>, app: Arc<App>) -> Router {
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&app), framing::check))
        .with_state(app)
        .layer(SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .layer(CatchPanicLayer::custom(panicked))
}

async fn not_found(State(app): State<Arc<App>>) -> Response {
    refuse(&app, ErrorCode::NotFound)
}

async fn method_not_allowed(State(app): State<Arc<App>>) -> Response {
    refuse(&app, ErrorCode::MethodNotAllowed)
}

fn refuse(app: &Arc<App>, code: ErrorCode) -> Response {
    Observation::start(app, Endpoint::Other).failed(code);
    ApiError::from(code).into_response()
}

/// The panic's message may quote what it was working on: it is dropped unread.
#[allow(clippy::needless_pass_by_value)]
fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::from(ErrorCode::Internal).into_response()
}
