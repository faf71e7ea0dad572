//! The issuer's public keys: fetched from its address for each verification, or read from a file.

use std::path::Path;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;

use super::super::error::ClientError;
use crate::files::{self, ReadError};

/// For a whole key set.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Far more than the keys of any issuer.
const MAX_BYTES: usize = 256 * 1024;

const MALFORMED: ClientError = ClientError::IssuerKeys("what is there is no key set");
const UNREACHABLE: ClientError =
    ClientError::IssuerKeys("their address cannot be reached, check the network");

/// The key set at `url`.
///
/// # Errors
/// [`ClientError::IssuerKeys`]
pub(super) async fn fetch(url: &str) -> Result<JwkSet, ClientError> {
    let is_local = url.starts_with("http://127.0.0.1");
    let mut builder = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
    if is_local {
        builder = builder.no_proxy().tls_certs_only([]);
    }
    let http = builder
        .build()
        .map_err(|_| ClientError::Internal("cannot set up TLS: install the system's CA certificates"))?;
    let mut answer = http.get(url).send().await.map_err(|_| UNREACHABLE)?;
    if answer.status().as_u16() != 200 {
        return Err(ClientError::IssuerKeys("their address answers with an error"));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|_| UNREACHABLE)? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(MALFORMED);
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|_| MALFORMED)
}

/// The key set in the file at `path`.
///
/// # Errors
/// [`ClientError::IssuerKeys`]
pub(super) fn read(path: &Path) -> Result<JwkSet, ClientError> {
    let read = files::read_argument(path, MAX_BYTES as u64);
    let read = read.map_err(|error| match error {
        ReadError::NotAFile(_) => ClientError::IssuerKeys("`jwks` of the policy is not a regular file"),
        ReadError::TooLong { .. } => MALFORMED,
        _ => ClientError::IssuerKeys("the file that `jwks` of the policy names cannot be read"),
    })?;
    serde_json::from_slice(&read).map_err(|_| MALFORMED)
}
