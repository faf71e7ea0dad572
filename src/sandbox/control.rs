//! The sandbox's own interface: faults on demand, and the ledger.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Shared;
use super::faults::Fault;
use super::kms::VersionChange;
use super::launcher::Launcher;

/// What scripts can reach: the sandbox's parts, and the launcher of its own workload.
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    pub(super) launcher: Arc<Launcher>,
    /// The key that the sandbox was started with.
    pub(super) kms_key: String,
}

/// What the token file can be made to be.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TokenFile {
    Fresh,
    Expired,
    Missing,
}

/// The members of an order; any of them may be left out.
#[derive(Default)]
struct Order {
    clear: bool,
    token_file: Option<TokenFile>,
    fault: Option<Fault>,
    times: Option<u32>,
}

pub(super) fn router(control: Arc<Control>) -> Router {
    Router::new()
        .route("/sandbox/faults", get(faults).post(order))
        .route("/sandbox/keys", get(keys).post(change_keys))
        .route("/sandbox/ledger", get(ledger))
        .with_state(control)
}

/// `GET /sandbox/faults`: what is waiting to strike.
async fn faults(State(control): State<Arc<Control>>) -> Json<Value> {
    Json(json!({"active": control.shared.faults.active()}))
}

/// An order about the versions of a key: either of the last two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyOrder {
    /// Without it, the key that the sandbox was started with.
    key: Option<String>,
    /// Makes a new version, which becomes the primary one.
    #[serde(default)]
    rotate: bool,
    /// Changes a version, the primary one unless `version` says otherwise.
    change: Option<VersionChange>,
    version: Option<u32>,
}

/// `GET /sandbox/keys`: the versions of the key that the sandbox was started with.
async fn keys(State(control): State<Arc<Control>>) -> Response {
    listed(&control, &control.kms_key)
}

/// `POST /sandbox/keys`: `{"rotate": true}`, or `{"change": "disable", "version": 1}` with a change of `enable`, `disable`,
/// `destroy`, `restore`, `erase` or `make_primary`.
async fn change_keys(State(control): State<Arc<Control>>, body: Bytes) -> Response {
    let Some(order) = serde_json::from_slice::<KeyOrder>(&body)
        .ok()
        .filter(|order| order.rotate != order.change.is_some() && !(order.rotate && order.version.is_some()))
    else {
        let message = "say rotate, or a change of enable, disable, destroy, restore, erase or make_primary \
             with the number of a version";
        return (StatusCode::BAD_REQUEST, Json(json!({"error": message}))).into_response();
    };
    let key = order.key.as_deref().unwrap_or(&control.kms_key);
    let kms = &control.shared.kms;
    let done = match order.change {
        None => kms.rotate(key).map(drop),
        Some(change) => kms.change(key, order.version, change).map(drop),
    };
    match done {
        Ok(()) => listed(&control, key),
        Err(status) => status.into_response(),
    }
}

fn listed(control: &Control, key: &str) -> Response {
    match control.shared.kms.keys.versions(key) {
        Ok(versions) => Json(json!({"versions": versions})).into_response(),
        Err(status) => status.into_response(),
    }
}

/// `GET /sandbox/ledger`: the counts and the last token exchange.
async fn ledger(State(control): State<Arc<Control>>) -> Json<Value> {
    let ledger = &control.shared.ledger;
    Json(json!({"counts": ledger.counts(), "last_exchange": ledger.last_exchange()}))
}

/// `POST /sandbox/faults`: `{"clear": true}`, `{"token_file": "expired"}` or
/// `{"fault": "kms_status", "status": 503, "times": 2}`, or several of these in one, in this order.
async fn order(State(control): State<Arc<Control>>, body: Bytes) -> Response {
    let Some(order) = serde_json::from_slice(&body).ok().and_then(Order::read) else {
        let message =
            "name a known fault with its members, a token_file of fresh, expired or missing, or clear";
        return (StatusCode::BAD_REQUEST, Json(json!({"error": message}))).into_response();
    };
    if order.clear {
        control.shared.faults.clear();
    }
    let done = match order.token_file {
        Some(TokenFile::Expired) => control.launcher.expire(),
        Some(TokenFile::Missing) => control.launcher.remove(),
        Some(TokenFile::Fresh) => control.launcher.refresh(),
        None if order.clear => control.launcher.refresh(),
        None => Ok(()),
    };
    if let Err(error) = done {
        let message = error.to_string();
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"error": message}))).into_response();
    }
    match (order.fault, order.times) {
        (Some(fault), Some(times)) => control.shared.faults.inject_next(times, fault),
        (Some(fault), None) => control.shared.faults.inject(fault),
        (None, _) => {}
    }
    faults(State(control)).await.into_response()
}

impl Order {
    /// `None` if anything is unknown, out of range, or if nothing is asked for.
    fn read(mut members: Map<String, Value>) -> Option<Self> {
        let mut order = Self::default();
        if let Some(clear) = members.remove("clear") {
            order.clear = clear.as_bool()?;
        }
        if let Some(token_file) = members.remove("token_file") {
            order.token_file = Some(serde_json::from_value(token_file).ok()?);
        }
        if let Some(times) = members.remove("times") {
            order.times = Some(serde_json::from_value(times).ok()?);
        }
        if !members.is_empty() {
            let members = Value::from(members);
            let fault: Fault = serde_json::from_value(members.clone()).ok()?;
            // Reading alone would let a fault without members have any.
            if !fault.is_valid() || serde_json::to_value(fault).ok()? != members {
                return None;
            }
            order.fault = Some(fault);
        }
        let asked = order.clear || order.token_file.is_some() || order.fault.is_some();
        let sensible = order.times.is_none_or(|times| times > 0 && order.fault.is_some());
        (asked && sensible).then_some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(order: Value) -> Option<Order> {
        Order::read(order.as_object().unwrap().clone())
    }

    #[test]
    fn an_order_is_understood_wholly_or_refused() {
        let order = read(json!({"fault": "kms_status", "status": 429, "times": 2, "clear": true})).unwrap();
        assert_eq!((order.fault, order.times), (Some(Fault::KmsStatus { status: 429 }), Some(2)));
        assert!(order.clear);
        assert!(read(json!({"token_file": "missing"})).is_some());
        for bad in [
            json!({}),
            json!({"fault": "unknown"}),
            json!({"fault": "kms_status", "status": 200}),
            json!({"fault": "kms_status"}),
            json!({"fault": "kms_hang", "tmies": 2}),
            json!({"fault": "kms_hang", "times": 0}),
            json!({"times": 2}),
            json!({"clear": false}),
            json!({"token_file": "stale"}),
        ] {
            assert!(read(bad.clone()).is_none(), "{bad}");
        }
    }
}
