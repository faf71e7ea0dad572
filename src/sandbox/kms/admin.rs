//! The administration of key versions over REST: create, read, list, enable, disable, destroy, restore, make primary.
//!
//! A caller without a token is the administrator of the sandbox's project. Employees and workloads may not administrate.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::versions::{KeyVersion, VersionChange, VersionState, parse_version};
use crate::sandbox::status::{Code, Status};
use crate::sandbox::tokens::Principal;

/// Google's name of the one algorithm that there is.
const ALGORITHM: &str = "GOOGLE_SYMMETRIC_ENCRYPTION";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    state: Option<VersionState>,
    crypto_key_version_id: Option<String>,
}

/// `GET`, `PATCH` and `POST` of `/v1/{resource}` as far as they are about versions; `None` for anything else.
///
/// `resource` is `KEY`, `KEY/cryptoKeyVersions` or `KEY/cryptoKeyVersions/N`, with `:verb` behind it in some posts.
pub(in crate::sandbox) fn route(
    shared: &Shared,
    method: &Method,
    resource: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<Response> {
    let answer = answer(shared, method, resource, query, body)?;
    let answer = may_administrate(shared, headers).and_then(|()| answer());
    Some(answer.map_or_else(IntoResponse::into_response, |json| Json(json).into_response()))
}

/// What would be done, which is done once the caller may.
fn answer<'a>(
    shared: &'a Shared,
    method: &Method,
    resource: &'a str,
    query: Option<&'a str>,
    body: &'a [u8],
) -> Option<Box<dyn FnOnce() -> Result<Value, Status> + 'a>> {
    let (name, verb) = match resource.rsplit_once(':') {
        Some((name, verb)) if !verb.contains('/') => (name, Some(verb)),
        _ => (resource, None),
    };
    let keys = &shared.kms.keys;
    match (method.as_str(), verb, parse_version(name), name.strip_suffix("/cryptoKeyVersions")) {
        ("GET", None, Some((key, number)), _) => {
            Some(Box::new(move || keys.version(key, number).map(|version| written(&version))))
        }
        ("GET", None, None, Some(key)) => Some(Box::new(move || {
            let versions = keys.versions(key)?;
            let (all, count) = (versions.iter().map(written).collect::<Vec<_>>(), versions.len());
            Ok(json!({"cryptoKeyVersions": all, "totalSize": count}))
        })),
        ("GET", None, None, None) => Some(Box::new(move || written_key(shared, name))),
        ("POST", None, None, Some(key)) => {
            Some(Box::new(move || keys.add_version(key).map(|version| written(&version))))
        }
        ("PATCH", None, Some((key, number)), _) => Some(Box::new(move || {
            let change = wanted_state(query, &read(body)?)?;
            keys.change(key, number, change).map(|version| written(&version))
        })),
        ("POST", Some(verb @ ("destroy" | "restore")), Some((key, number)), _) => Some(Box::new(move || {
            let change = if verb == "destroy" { VersionChange::Destroy } else { VersionChange::Restore };
            keys.change(key, number, change).map(|version| written(&version))
        })),
        ("POST", Some("updatePrimaryVersion"), None, None) => Some(Box::new(move || {
            let number = read(body)?.crypto_key_version_id.and_then(|id| id.parse().ok());
            make_primary(shared, name, number)?;
            written_key(shared, name)
        })),
        _ => None,
    }
}

/// Makes a version the primary one.
pub(super) fn make_primary(shared: &Shared, key: &str, number: Option<u32>) -> Result<(), Status> {
    let number =
        number.ok_or_else(|| Status::new(Code::InvalidArgument, "crypto_key_version_id is required."))?;
    shared.kms.keys.change(key, number, VersionChange::MakePrimary).map(drop)
}

/// Whether the caller is the administrator.
pub(super) fn may_administrate(shared: &Shared, headers: &HeaderMap) -> Result<(), Status> {
    match shared.tokens.principal(headers)? {
        Principal::Anonymous => Ok(()),
        _ => Err(Status::new(
            Code::PermissionDenied,
            "Permission 'cloudkms.cryptoKeyVersions.update' denied on resource (or it may not exist).",
        )),
    }
}

/// What a patch of the member `state` is; a version is destroyed by its own method only.
pub(super) fn change_to(state: Option<VersionState>) -> Result<VersionChange, Status> {
    match state {
        Some(VersionState::Enabled) => Ok(VersionChange::Enable),
        Some(VersionState::Disabled) => Ok(VersionChange::Disable),
        _ => Err(Status::new(Code::InvalidArgument, "state must be ENABLED or DISABLED.")),
    }
}

fn wanted_state(query: Option<&str>, body: &Body) -> Result<VersionChange, Status> {
    let mut masks = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    if !masks.any(|(name, value)| name == "updateMask" && value == "state") {
        return Err(Status::new(Code::InvalidArgument, "update_mask must be state."));
    }
    change_to(body.state)
}

fn read(body: &[u8]) -> Result<Body, Status> {
    if body.is_empty() {
        return Ok(Body::default());
    }
    serde_json::from_slice(body)
        .map_err(|_| Status::new(Code::InvalidArgument, "Invalid JSON payload received."))
}

fn written(version: &KeyVersion) -> Value {
    json!({
        "name": version.name,
        "state": version.state.as_str(),
        "protectionLevel": "SOFTWARE",
        "algorithm": ALGORITHM,
    })
}

fn written_key(shared: &Shared, name: &str) -> Result<Value, Status> {
    let versions = shared.kms.keys.versions(name)?;
    let primary = versions.iter().find(|version| version.primary).map(written);
    Ok(json!({"name": name, "primary": primary, "purpose": "ENCRYPT_DECRYPT"}))
}
