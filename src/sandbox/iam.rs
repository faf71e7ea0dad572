//! IAM credentials: an attested workload becomes the service account.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::json;

use super::Shared;
use super::faults::Target;
use super::ledger::CallOutcome;
use super::status::{Code, Status};
use super::tokens::Principal;

/// Google's bound on the life of such a token, unless an organisation says otherwise.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    scope: Vec<String>,
    lifetime: Option<String>,
}

/// `POST /v1/projects/-/serviceAccounts/{account}:generateAccessToken`
pub(super) async fn generate_access_token(
    shared: &Arc<Shared>,
    account: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    let struck = shared.strike(Target::Iam).await;
    let result = match struck.status {
        Some(status) => Err(Status::of_http(status)),
        None => impersonate(shared, account, headers, body),
    };
    let outcome = match &result {
        Ok(_) => CallOutcome::Granted,
        Err(status) if matches!(status.code, Code::PermissionDenied | Code::Unauthenticated) => {
            CallOutcome::Denied
        }
        Err(_) => CallOutcome::Failed,
    };
    shared.ledger.count(|counts| counts.iam.add(outcome));
    result.unwrap_or_else(IntoResponse::into_response)
}

fn impersonate(shared: &Shared, account: &str, headers: &HeaderMap, body: &[u8]) -> Result<Response, Status> {
    let denied = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).";
    match shared.tokens.principal(headers)? {
        Principal::Anonymous => return Err(Status::unauthenticated()),
        Principal::Federated if account == shared.service_account => {}
        _ => return Err(Status::new(Code::PermissionDenied, denied)),
    }
    let invalid = |message: &str| Status::new(Code::InvalidArgument, message);
    let body: Body = serde_json::from_slice(body).map_err(|_| invalid("Invalid JSON payload received."))?;
    if body.scope.is_empty() {
        return Err(invalid("Scope is required."));
    }
    let asked = match &body.lifetime {
        None => MAX_LIFETIME,
        Some(text) => {
            let seconds = text.strip_suffix('s').and_then(|seconds| seconds.parse().ok());
            Duration::from_secs(seconds.ok_or_else(|| invalid("lifetime must be a duration in seconds."))?)
        }
    };
    if asked > MAX_LIFETIME {
        return Err(invalid("The token lifetime must be at most 3600 seconds."));
    }
    let lifetime = asked.min(shared.access_token_lifetime);
    let token = shared.tokens.issue(Principal::ServiceAccount, lifetime)?;
    let expiry = rfc3339(SystemTime::now() + lifetime);
    Ok(Json(json!({"accessToken": token.expose(), "expireTime": expiry})).into_response())
}

/// `2026-01-31T23:59:59Z`, from the days since 1970 by the civil-calendar arithmetic.
fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Eras of 400 years, with years that begin in March: a leap day is then the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_760_003_600, "2025-10-09T09:53:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
