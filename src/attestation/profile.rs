//! Policy profiles: what a token must say before a workload trusts itself, or a client trusts a workload.
//!
//! Fail closed: a claim that is missing or unknown is a mismatch. The one exception is written where it is made.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::claims::Claims;

/// A kind of confidential VM, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The local Confidential Space of `codeseal sandbox`. It proves nothing, so a build without the `sandbox`
    /// feature does not know its name.
    Sandbox,
    /// The GPU preview of the codelab: a hardened image on a shielded VM, memory **not** encrypted.
    ShieldedPreview,
    /// Confidential Space on AMD SEV or SEV-ES.
    Sev,
    /// Confidential Space on Intel TDX.
    Tdx,
    /// Confidential Space on Intel TDX with one H100 in confidential mode.
    TdxH100,
}

/// A claim is not what the profile asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the claim `{claim}` is not {expected}: run the image on a VM that fits the profile, or choose another"
)]
pub struct ProfileMismatch {
    /// The claim's path in the token.
    pub claim: &'static str,
    /// What it has to be. The claim's own value is not repeated: it is untrusted text.
    pub expected: &'static str,
}

/// No profile has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such profile: use sandbox, shielded-preview, sev, tdx or tdx-h100")]
pub struct UnknownProfile;

/// What the server does when the launcher's token has expired and there is no new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTokenExpiry {
    /// Stay ready; requests whose key is not in the cache are refused.
    Ignore,
    /// Not ready until there is a token again; requests whose key is in the cache are still served.
    Wait,
    /// Drain and end the process, for supervisors that then start a new VM.
    Exit,
}

/// No policy has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such policy on token expiry: use ignore, wait or exit")]
pub struct UnknownPolicy;

impl Profile {
    /// Those that can be asked for.
    pub const ALL: &[Self] = &[
        #[cfg(feature = "sandbox")]
        Self::Sandbox,
        Self::ShieldedPreview,
        Self::Sev,
        Self::Tdx,
        Self::TdxH100,
    ];

    /// The name that flags and reports use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::ShieldedPreview => "shielded-preview",
            Self::Sev => "sev",
            Self::Tdx => "tdx",
            Self::TdxH100 => "tdx-h100",
        }
    }

    /// Whether the operator is kept out of the VM's memory: what the word "confidential" promises.
    pub fn encrypts_memory(self) -> bool {
        matches!(self, Self::Sev | Self::Tdx | Self::TdxH100)
    }

    /// Holds `claims` against the profile.
    ///
    /// # Errors
    /// [`ProfileMismatch`] for the first claim that does not fit.
    pub fn check(self, claims: &Claims) -> Result<(), ProfileMismatch> {
        production_mode(claims)?;
        match self {
            // It plays any of the others.
            Self::Sandbox => {}
            Self::ShieldedPreview => {
                one_of(&claims.hwmodel, &["GCP_SHIELDED_VM"], "hwmodel", "GCP_SHIELDED_VM")?;
                one_of(&claims.swname, &["HARDENED_SHIELDED"], "swname", "HARDENED_SHIELDED")?;
                // Preview images make no statement about support; one that is made must still be right.
                if claims.submods.confidential_space.support_attributes.is_some() {
                    stable(claims)?;
                }
            }
            Self::Sev => {
                let models = ["GCP_AMD_SEV", "GCP_AMD_SEV_ES"];
                confidential_space(claims, &models, "GCP_AMD_SEV or GCP_AMD_SEV_ES")?;
            }
            Self::Tdx => intel_tdx(claims)?,
            Self::TdxH100 => {
                intel_tdx(claims)?;
                h100(claims)?;
            }
        }
        Ok(())
    }
}

/// The checks of every profile: no debug image, and no override of the container by the operator.
fn production_mode(claims: &Claims) -> Result<(), ProfileMismatch> {
    let container = &claims.submods.container;
    require(claims.secboot == Some(true), "secboot", "true")?;
    one_of(&claims.dbgstat, &["disabled-since-boot"], "dbgstat", "disabled-since-boot")?;
    require(container.cmd_override.is_none(), "submods.container.cmd_override", "absent")?;
    require(container.env_override.is_none(), "submods.container.env_override", "absent")
}

fn confidential_space(
    claims: &Claims,
    models: &[&str],
    expected: &'static str,
) -> Result<(), ProfileMismatch> {
    one_of(&claims.hwmodel, models, "hwmodel", expected)?;
    one_of(&claims.swname, &["CONFIDENTIAL_SPACE"], "swname", "CONFIDENTIAL_SPACE")?;
    stable(claims)
}

fn stable(claims: &Claims) -> Result<(), ProfileMismatch> {
    let attributes = claims.submods.confidential_space.support_attributes.as_deref().unwrap_or_default();
    let is_stable = attributes.iter().any(|attribute| attribute == "STABLE");
    require(is_stable, "submods.confidential_space.support_attributes", "a list that has STABLE in it")
}

fn intel_tdx(claims: &Claims) -> Result<(), ProfileMismatch> {
    confidential_space(claims, &["GCP_INTEL_TDX"], "GCP_INTEL_TDX")?;
    require(!claims.tdx.is_empty(), "tdx", "present")?;
    claims.tdx.iter().try_for_each(|tdx| {
        let claim = "tdx.gcp_attester_tcb_status";
        one_of(&tdx.gcp_attester_tcb_status, &["UpToDate"], claim, "UpToDate")
    })
}

fn h100(claims: &Claims) -> Result<(), ProfileMismatch> {
    let gpu = claims.submods.nvidia_gpu.as_ref();
    let gpu = gpu.ok_or(ProfileMismatch { claim: "submods.nvidia_gpu", expected: "present" })?;
    one_of(&gpu.cc_mode, &["ON"], "submods.nvidia_gpu.cc_mode", "ON")?;
    one_of(&gpu.cc_feature, &["SPT"], "submods.nvidia_gpu.cc_feature", "SPT")?;
    let [gpu] = gpu.gpus.as_slice() else {
        return Err(ProfileMismatch { claim: "submods.nvidia_gpu.gpus", expected: "a list of one GPU" });
    };
    one_of(&gpu.hwmodel, &["GCP_NVIDIA_H100"], "submods.nvidia_gpu.gpus.hwmodel", "GCP_NVIDIA_H100")
}

fn one_of(
    found: &Option<String>,
    allowed: &[&str],
    claim: &'static str,
    expected: &'static str,
) -> Result<(), ProfileMismatch> {
    require(found.as_deref().is_some_and(|found| allowed.contains(&found)), claim, expected)
}

fn require(holds: bool, claim: &'static str, expected: &'static str) -> Result<(), ProfileMismatch> {
    if holds { Ok(()) } else { Err(ProfileMismatch { claim, expected }) }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|profile| profile.as_str() == name).ok_or(UnknownProfile)
    }
}

impl FromStr for OnTokenExpiry {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "ignore" => Ok(Self::Ignore),
            "wait" => Ok(Self::Wait),
            "exit" => Ok(Self::Exit),
            _ => Err(UnknownPolicy),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn base(hwmodel: &str, swname: &str) -> Value {
        json!({
            "iss": "i", "aud": "a", "exp": 7, "secboot": true, "dbgstat": "disabled-since-boot",
            "hwmodel": hwmodel, "swname": swname,
            "submods": {"container": {"env_override": null, "cmd_override": null, "args": ["/server"]}},
        })
    }

    fn example(profile: Profile) -> Value {
        let tdx = || {
            let mut claims = base("GCP_INTEL_TDX", "CONFIDENTIAL_SPACE");
            claims["submods"]["confidential_space"] = json!({"support_attributes": ["LATEST", "STABLE"]});
            claims["tdx"] = json!([{"gcp_attester_tcb_status": "UpToDate"}]);
            claims
        };
        match profile {
            Profile::Sandbox | Profile::ShieldedPreview => base("GCP_SHIELDED_VM", "HARDENED_SHIELDED"),
            Profile::Sev => {
                let mut claims = base("GCP_AMD_SEV", "CONFIDENTIAL_SPACE");
                claims["submods"]["confidential_space"] = json!({"support_attributes": ["STABLE"]});
                claims
            }
            Profile::Tdx => tdx(),
            Profile::TdxH100 => {
                let mut claims = tdx();
                claims["submods"]["nvidia_gpu"] = json!({
                    "cc_mode": "ON", "cc_feature": "SPT", "gpus": [{"hwmodel": "GCP_NVIDIA_H100"}],
                });
                claims
            }
        }
    }

    fn check(profile: Profile, claims: &Value) -> Result<(), &'static str> {
        let claims: Claims = serde_json::from_value(claims.clone()).unwrap();
        profile.check(&claims).map_err(|mismatch| mismatch.claim)
    }

    /// Sets or, with `null`, removes the claim at `path`.
    fn with(profile: Profile, path: &str, value: Value) -> Result<(), &'static str> {
        let mut claims = example(profile);
        let (parent, name) = path.rsplit_once('/').unwrap();
        let parent = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Value::Null => parent.remove(name),
            value => parent.insert(name.to_owned(), value),
        };
        check(profile, &claims)
    }

    #[test]
    fn each_profile_accepts_its_own_kind_of_vm_only() {
        for &profile in Profile::ALL {
            assert_eq!(check(profile, &example(profile)), Ok(()), "{profile}");
            assert_eq!(profile.as_str().parse(), Ok(profile));
        }
        assert_eq!(check(Profile::Sev, &example(Profile::Tdx)), Err("hwmodel"));
        assert_eq!(check(Profile::Tdx, &example(Profile::ShieldedPreview)), Err("hwmodel"));
        assert_eq!(check(Profile::TdxH100, &example(Profile::Tdx)), Err("submods.nvidia_gpu"));
        assert_eq!("tdx_h100".parse::<Profile>(), Err(UnknownProfile));
    }

    #[test]
    fn no_profile_accepts_a_debug_image_or_an_override() {
        for &profile in Profile::ALL {
            assert_eq!(with(profile, "/dbgstat", json!("enabled")), Err("dbgstat"));
            assert_eq!(with(profile, "/dbgstat", Value::Null), Err("dbgstat"));
            assert_eq!(with(profile, "/secboot", json!(false)), Err("secboot"));
            assert_eq!(with(profile, "/secboot", Value::Null), Err("secboot"));
            for (name, path) in [
                ("submods.container.cmd_override", "/submods/container/cmd_override"),
                ("submods.container.env_override", "/submods/container/env_override"),
            ] {
                assert_eq!(with(profile, path, json!(["x"])), Err(name));
                assert_eq!(with(profile, path, json!({})), Err(name), "an empty one is not an absent one");
            }
        }
    }

    #[test]
    fn production_images_must_be_stable_and_a_preview_may_be_silent() {
        let (path, name) = ("/submods/confidential_space", "submods.confidential_space.support_attributes");
        let usable = || json!({"support_attributes": ["USABLE"]});
        for profile in [Profile::Sev, Profile::Tdx, Profile::TdxH100] {
            assert_eq!(with(profile, path, usable()), Err(name));
            assert_eq!(with(profile, path, Value::Null), Err(name));
        }
        assert_eq!(with(Profile::ShieldedPreview, path, usable()), Err(name));
        assert_eq!(with(Profile::ShieldedPreview, path, json!({})), Ok(()));
    }

    #[test]
    fn tdx_must_be_up_to_date_and_say_so() {
        for profile in [Profile::Tdx, Profile::TdxH100] {
            let old =
                json!([{"gcp_attester_tcb_status": "UpToDate"}, {"gcp_attester_tcb_status": "OutOfDate"}]);
            assert_eq!(with(profile, "/tdx", old), Err("tdx.gcp_attester_tcb_status"));
            assert_eq!(with(profile, "/tdx", json!({})), Err("tdx.gcp_attester_tcb_status"));
            assert_eq!(with(profile, "/tdx", Value::Null), Err("tdx"));
        }
    }

    #[test]
    fn a_gpu_must_be_one_h100_in_confidential_mode() {
        let gpu = "/submods/nvidia_gpu";
        for mode in [json!("DEVTOOLS"), json!("OFF"), Value::Null] {
            let mismatch = with(Profile::TdxH100, &format!("{gpu}/cc_mode"), mode);
            assert_eq!(mismatch, Err("submods.nvidia_gpu.cc_mode"));
        }
        let two = json!([{"hwmodel": "GCP_NVIDIA_H100"}, {"hwmodel": "GCP_NVIDIA_H100"}]);
        assert_eq!(with(Profile::TdxH100, &format!("{gpu}/gpus"), two), Err("submods.nvidia_gpu.gpus"));
        let other = json!([{"hwmodel": "GCP_NVIDIA_L4"}]);
        assert_eq!(
            with(Profile::TdxH100, &format!("{gpu}/gpus"), other),
            Err("submods.nvidia_gpu.gpus.hwmodel")
        );
    }

    #[test]
    fn a_mismatch_names_the_claim_and_nothing_of_what_was_found() {
        let mut claims = example(Profile::Tdx);
        claims["hwmodel"] = json!("SOMETHING_ELSE");
        let claims: Claims = serde_json::from_value(claims).unwrap();
        let message = Profile::Tdx.check(&claims).unwrap_err().to_string();
        assert!(
            message.contains("`hwmodel` is not GCP_INTEL_TDX") && !message.contains("SOMETHING"),
            "{message}"
        );
    }
}
