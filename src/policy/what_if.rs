//! What-if: the claims of workloads that must not get the key, made from those of one that may.

use serde::Serialize;
use serde_json::{Value, json};

use super::condition::Condition;
use super::decide::Verdict;
use super::paths::dotted;

/// A workload that differs in one respect, and whether it gets the key.
#[derive(Clone, Debug, Serialize)]
pub struct WhatIf {
    /// In which respect.
    pub what: &'static str,
    /// Whether it gets the key.
    pub released: bool,
    /// Whether it is not known if it does (no verdict).
    pub undecided: bool,
    /// The clauses that it fails.
    pub failed: Vec<String>,
}

/// A token without one of the claims that the condition reads, and whether it gets the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The claim, for example `submods.container.image_digest`.
    pub claim: String,
    /// Whether the token gets the key nevertheless.
    pub released: bool,
    /// Whether it is not known if it does (no verdict).
    pub undecided: bool,
}

/// A change to claims; `None` where it would change nothing.
struct Change {
    what: &'static str,
    to: fn(&Value) -> Option<Value>,
}

const CONTAINER: &str = "/submods/container";

const CHANGES: &[Change] = &[
    Change { what: "a debug image of the VM", to: debug_image },
    Change {
        what: "a VM image that is not supported",
        to: |claims| with(claims, "/submods/confidential_space", "support_attributes", json!(["USABLE"])),
    },
    Change { what: "secure boot disabled", to: |claims| with(claims, "", "secboot", json!(false)) },
    Change { what: "another kind of machine", to: another_machine },
    Change { what: "another operating system", to: |claims| with(claims, "", "swname", json!("GCE")) },
    Change { what: "another image digest", to: another_digest },
    Change {
        what: "the same image under another name",
        to: |claims| with(claims, CONTAINER, "image_reference", json!("docker.io/somebody/else:latest")),
    },
    Change {
        what: "another service account",
        to: |claims| {
            with(claims, "", "google_service_accounts", json!(["somebody@else.iam.gserviceaccount.com"]))
        },
    },
    Change {
        what: "an environment variable from the operator",
        to: |claims| with(claims, CONTAINER, "env_override", json!({"LD_PRELOAD": "/tmp/x.so"})),
    },
    Change {
        what: "arguments from the operator",
        to: |claims| with(claims, CONTAINER, "cmd_override", json!(["--log-level", "trace"])),
    },
    Change { what: "TDX firmware with known holes", to: old_firmware },
    Change {
        what: "a GPU that is not in confidential mode",
        to: |claims| replace(claims, "/submods/nvidia_gpu/cc_mode", json!("OFF")),
    },
    Change {
        what: "a GPU in developer mode",
        to: |claims| replace(claims, "/submods/nvidia_gpu/cc_mode", json!("DEVTOOLS")),
    },
    Change { what: "no statement about the GPU", to: |claims| without(claims, "/submods", "nvidia_gpu") },
    Change {
        what: "an image without a signature",
        to: |claims| without(claims, CONTAINER, "image_signatures"),
    },
];

/// Evaluates `condition` for each workload that can be derived from `claims`.
pub fn evaluate(condition: &Condition, claims: &Value) -> Vec<WhatIf> {
    let answer = |change: &Change| {
        let changed = (change.to)(claims).filter(|changed| changed != claims)?;
        let clauses = condition.clause_by_clause(&changed);
        let failed = clauses.into_iter().filter(|clause| clause.verdict != Verdict::True);
        let verdict = condition.decide(&changed).verdict;
        Some(WhatIf {
            what: change.what,
            released: verdict == Verdict::True,
            undecided: verdict == Verdict::Undecided,
            failed: failed.map(|clause| clause.clause).collect(),
        })
    };
    CHANGES.iter().filter_map(answer).collect()
}

/// Evaluates `condition` for tokens without one of the claims that it reads.
pub fn evaluate_without(condition: &Condition, claims: &Value) -> Vec<Missing> {
    let without = |path: &[String]| {
        let (name, parents) = path.split_last()?;
        let mut changed = claims.clone();
        let parent = parents.iter().try_fold(&mut changed, |value, name| value.get_mut(name))?;
        parent.as_object_mut()?.remove(name)?;
        let verdict = condition.decide(&changed).verdict;
        Some(Missing {
            claim: dotted(path),
            released: verdict == Verdict::True,
            undecided: verdict == Verdict::Undecided,
        })
    };
    condition.paths().iter().filter_map(|path| without(path)).collect()
}

/// Debug images say so, and Google makes no statement about their support.
fn debug_image(claims: &Value) -> Option<Value> {
    let debug = with(claims, "", "dbgstat", json!("enabled"))?;
    Some(without(&debug, "/submods/confidential_space", "support_attributes").unwrap_or(debug))
}

fn another_machine(claims: &Value) -> Option<Value> {
    let other = match claims.get("hwmodel")?.as_str()? {
        "GCP_SHIELDED_VM" => "GCP_AMD_SEV",
        _ => "GCP_SHIELDED_VM",
    };
    with(claims, "", "hwmodel", json!(other))
}

fn another_digest(claims: &Value) -> Option<Value> {
    let digit =
        if claims.pointer("/submods/container/image_digest")?.as_str()?.ends_with('0') { "1" } else { "0" };
    with(claims, CONTAINER, "image_digest", json!(format!("sha256:{}", digit.repeat(64))))
}

fn old_firmware(claims: &Value) -> Option<Value> {
    ["/tdx", "/tdx/0"]
        .iter()
        .find_map(|tdx| replace(claims, &format!("{tdx}/gcp_attester_tcb_status"), json!("OutOfDate")))
}

/// `claims` with the member `name` of the object at `parent`.
fn with(claims: &Value, parent: &str, name: &str, value: Value) -> Option<Value> {
    let mut changed = claims.clone();
    changed.pointer_mut(parent)?.as_object_mut()?.insert(name.to_owned(), value);
    Some(changed)
}

/// As [`with`], if there is such a member.
fn replace(claims: &Value, pointer: &str, value: Value) -> Option<Value> {
    let mut changed = claims.clone();
    *changed.pointer_mut(pointer)? = value;
    Some(changed)
}

fn without(claims: &Value, parent: &str, name: &str) -> Option<Value> {
    let mut changed = claims.clone();
    changed.pointer_mut(parent)?.as_object_mut()?.remove(name)?;
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_lets_everything_in_is_shown_to_do_so() {
        let claims = json!({
            "hwmodel": "GCP_INTEL_TDX", "tdx": [{"gcp_attester_tcb_status": "UpToDate"}],
            "submods": {"confidential_space": {"support_attributes": ["STABLE"]},
                "container": {"image_digest": "sha256:0", "image_signatures": []},
                "nvidia_gpu": {"cc_mode": "ON"}},
        });
        let answers = evaluate(&Condition::parse("true").unwrap(), &claims);
        assert_eq!(answers.len(), CHANGES.len(), "each change applies to such a token");
        assert!(answers.iter().all(|answer| answer.released && answer.failed.is_empty()));
        let answers = evaluate(&Condition::parse("assertion.dbgstat != 'enabled'").unwrap(), &claims);
        assert!(!answers[0].released);
        assert_eq!(answers[0].failed, ["assertion.dbgstat != 'enabled'"]);
    }

    #[test]
    fn a_missing_claim_is_asked_about_if_it_is_read() {
        let claims = json!({"a": {"b": true}, "c": 1, "d": 2});
        let condition = Condition::parse("assertion.a.b && (!has(assertion.c) || assertion.c == 1)").unwrap();
        let missing = evaluate_without(&condition, &claims);
        let found: Vec<_> =
            missing.iter().map(|missing| (missing.claim.as_str(), missing.released)).collect();
        assert_eq!(found, [("a.b", false), ("c", true)]);
    }

    #[test]
    fn what_a_token_does_not_have_is_not_asked_about() {
        let bare = json!({"submods": {}});
        let asked = evaluate(&Condition::parse("true").unwrap(), &bare);
        assert!(asked.iter().all(|answer| !answer.what.contains("GPU") && !answer.what.contains("TDX")));
    }
}
