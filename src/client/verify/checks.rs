//! Checks the claims of a verified token against the policy, one finding for each part.

use super::policy::Policy;
use super::report::{Finding, Found, IMAGE_DIGEST};
use super::untrusted::Untrusted;
use crate::attestation::Claims;
use crate::protocol::{Digest, Identity};

/// Checks the claims against all parts of the policy. The first mismatch is the reason; the report lists all.
pub(super) fn hold_against(
    policy: &Policy,
    claims: &Claims,
    identity: &Identity,
    nonces: &[String],
) -> Vec<Finding> {
    let container = &claims.submods.container;
    let mut findings = Vec::new();
    let mut ask = |what, found: Found| findings.push(Finding { what, found });

    ask(
        "freshness",
        match identity.is_bound_by(nonces, &claims.eat_nonce) {
            true => Found::Proven("made for this question, by the process that is named below".to_owned()),
            false => Found::Refused(Untrusted::Nonce),
        },
    );
    ask(
        "profile",
        match policy.profile.check(claims) {
            Ok(()) => Found::Proven(policy.profile.to_string()),
            Err(mismatch) => Found::Refused(mismatch.into()),
        },
    );
    let digest = container.image_digest.as_deref();
    ask(IMAGE_DIGEST, pinned(&texts(&policy.image_digests), digest, Untrusted::ImageDigest));
    let signers = container.image_signatures.iter().filter_map(|signature| signature.key_id.as_deref());
    ask("image signer", any_pinned(&policy.image_signers, signers, Untrusted::ImageSigner));
    let reference = container.image_reference.as_deref();
    ask("image reference", pinned(&policy.image_references, reference, Untrusted::ImageReference));
    let accounts = claims.google_service_accounts.iter().map(String::as_str);
    ask("service account", any_pinned(&policy.service_accounts, accounts, Untrusted::ServiceAccount));
    let project = claims.submods.gce.project_id.as_deref();
    ask("project", pinned(&policy.projects, project, Untrusted::Project));
    ask("build", pinned(&texts(&policy.builds), Some(&identity.build.to_string()), Untrusted::Build));
    ask("weights", pinned(&texts(&policy.weights), Some(&identity.weights.to_string()), Untrusted::Weights));
    let gpus = claims.submods.nvidia_gpu.iter().flat_map(|gpu| &gpu.gpus);
    let gpus = gpus.filter_map(|gpu| gpu.ueid.as_deref());
    ask("gpu", any_pinned(&policy.gpus, gpus, Untrusted::GpuIdentity));
    findings
}

fn texts(digests: &[Digest]) -> Vec<String> {
    digests.iter().map(Digest::to_string).collect()
}

/// `found` is one of those that are `allowed`.
fn pinned(allowed: &[String], found: Option<&str>, otherwise: Untrusted) -> Found {
    any_pinned(allowed, found.into_iter(), otherwise)
}

/// One of those that are `found` is `allowed`.
fn any_pinned<'a>(
    allowed: &[String],
    mut found: impl Iterator<Item = &'a str>,
    otherwise: Untrusted,
) -> Found {
    if allowed.is_empty() {
        return Found::NotAsked(found.next().map(str::to_owned));
    }
    match found.find(|found| allowed.iter().any(|allowed| allowed == found)) {
        Some(found) => Found::Proven(found.to_owned()),
        None => Found::Refused(otherwise),
    }
}
