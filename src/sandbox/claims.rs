//! Claims of attestation tokens as real ones look, for the launcher to put into its own.
//!
//! The launcher sets `iss`, `aud`, `iat`, `nbf` and `exp` in each token.

use serde_json::Value;

use crate::policy::conditions;

/// The codelab's VM: Shielded, with a GPU that cannot do confidential computing.
pub fn shielded_preview() -> Value {
    parse(include_str!("../../tests/vectors/claims/shielded-preview.json"))
}

/// Confidential Space on AMD SEV.
pub fn sev() -> Value {
    parse(include_str!("../../tests/vectors/claims/sev.json"))
}

/// Confidential Space on Intel TDX.
pub fn tdx() -> Value {
    parse(include_str!("../../tests/vectors/claims/tdx.json"))
}

/// Confidential Space on Intel TDX with an H100 in confidential mode.
pub fn tdx_h100() -> Value {
    parse(include_str!("../../tests/vectors/claims/tdx-h100.json"))
}

/// `claims` of a workload that runs another image: `digest` is `sha256:` and 64 hexadecimal digits.
pub fn with_image_digest(mut claims: Value, digest: &str) -> Value {
    if let Some(found) = claims.pointer_mut("/submods/container/image_digest") {
        *found = digest.into();
    }
    claims
}

/// The codelab's attribute condition for the workload that `claims` describe: environment, image and account.
///
/// A claim that is not there becomes an empty text, which no token satisfies.
pub fn codelab_condition(claims: &Value) -> String {
    let text = |pointer| claims.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    conditions::codelab_of(
        text("/swname"),
        text("/hwmodel"),
        text("/submods/container/image_digest"),
        text("/submods/container/image_reference"),
        text("/google_service_accounts/0"),
    )
}

fn parse(fixture: &str) -> Value {
    // Compiled in, and each is parsed by a test below.
    #[allow(clippy::expect_used)]
    serde_json::from_str(fixture).expect("the fixtures are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixture_parses_and_is_of_its_kind() {
        for (claims, hwmodel) in [
            (shielded_preview(), "GCP_SHIELDED_VM"),
            (sev(), "GCP_AMD_SEV"),
            (tdx(), "GCP_INTEL_TDX"),
            (tdx_h100(), "GCP_INTEL_TDX"),
        ] {
            assert_eq!(claims["hwmodel"], hwmodel);
        }
        assert_eq!(tdx_h100()["submods"]["nvidia_gpu"]["cc_mode"], "ON");
    }

    #[test]
    fn the_default_condition_is_the_codelabs() {
        let condition = codelab_condition(&shielded_preview());
        assert!(condition.starts_with(
            "assertion.swname == 'HARDENED_SHIELDED' && assertion.hwmodel == 'GCP_SHIELDED_VM' &&\n\
             assertion.submods.container.image_digest == 'sha256:"
        ));
        assert!(condition.ends_with(
            "'operator-svc@acme-operator.iam.gserviceaccount.com' in assertion.google_service_accounts"
        ));
    }
}
