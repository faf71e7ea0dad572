//! Attribute conditions: the codelab's, and one that leaves the operator nothing to choose.
//!
//! The hardened condition asks for what [`Profile::check`] asks for, plus image and service account. A claim that is
//! missing denies. Google's service evaluates what is written here; it has not been tried there from this repository.

use std::fmt;
use std::str::FromStr;

use crate::attestation::Profile;

/// The workload that the key is released to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Which images.
    pub images: Images,
    /// The name that the image is pulled by, if it has to be a certain one.
    pub image_reference: Option<ImageReference>,
    /// The service account that the VM runs as: the operator's.
    pub service_account: ServiceAccount,
}

/// Which images the key is released to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Images {
    /// Exactly these; two while an upgrade is under way.
    Digests(Vec<ImageDigest>),
    /// Any image that one of these keys has signed.
    SignedBy(Vec<SigningKey>),
}

/// `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDigest(String);

/// An image's name with its registry, such as `us-docker.pkg.dev/p/r/image:tag`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference(String);

/// A service account's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount(String);

/// A signature algorithm and the SHA-256 of a public key: `ECDSA_P256_SHA256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey(String);

/// A part of a condition is not of the shape that the claim has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {0}")]
pub struct NotOfThatShape(&'static str);

/// Why there is no such condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCondition {
    /// It would name nothing.
    #[error("a condition that names no image lets any image have the key: give at least one")]
    NoImage,
    /// A sandbox's tokens prove nothing.
    #[error("the sandbox proves nothing: choose shielded-preview, sev, tdx or tdx-h100")]
    Sandbox,
    /// The codelab knows one image, by its digest and name.
    #[error("the codelab's condition has exactly one image digest, and an image reference")]
    NotTheCodelabs,
}

/// The codelab's condition: platform, image, name, account. It lets debug images and overrides pass.
///
/// # Errors
/// [`NoCondition`].
pub fn codelab(profile: Profile, workload: &Workload) -> Result<String, NoCondition> {
    let (swname, hwmodel) = match profile {
        Profile::Sandbox => return Err(NoCondition::Sandbox),
        Profile::ShieldedPreview => ("HARDENED_SHIELDED", "GCP_SHIELDED_VM"),
        Profile::Sev => ("CONFIDENTIAL_SPACE", "GCP_AMD_SEV"),
        Profile::Tdx | Profile::TdxH100 => ("CONFIDENTIAL_SPACE", "GCP_INTEL_TDX"),
    };
    let (Images::Digests(digests), Some(reference)) = (&workload.images, &workload.image_reference) else {
        return Err(NoCondition::NotTheCodelabs);
    };
    let [digest] = digests.as_slice() else { return Err(NoCondition::NotTheCodelabs) };
    Ok(codelab_of(swname, hwmodel, &digest.0, &reference.0, &workload.service_account.0))
}

/// The codelab's condition in its own words and lines.
pub(crate) fn codelab_of(
    swname: &str,
    hwmodel: &str,
    digest: &str,
    reference: &str,
    account: &str,
) -> String {
    format!(
        "assertion.swname == {} && assertion.hwmodel == {} &&\n\
         assertion.submods.container.image_digest == {} &&\n\
         assertion.submods.container.image_reference == {} &&\n\
         {} in assertion.google_service_accounts",
        quote(swname),
        quote(hwmodel),
        quote(digest),
        quote(reference),
        quote(account),
    )
}

/// A condition that a debug image, an override, another image and another kind of VM do not meet.
///
/// # Errors
/// [`NoCondition`].
pub fn hardened(profile: Profile, workload: &Workload) -> Result<String, NoCondition> {
    let mut clauses = platform(profile)?;
    clauses.push("assertion.secboot == true".to_owned());
    clauses.push("assertion.dbgstat == 'disabled-since-boot'".to_owned());
    clauses.push(support(profile));
    clauses.extend(gpu(profile));
    clauses.extend(workload.clauses()?);
    // Some tokens have null where there is no override; an empty list is an override.
    for claim in ["cmd_override", "env_override"] {
        let claim = format!("assertion.submods.container.{claim}");
        clauses.push(format!("(!has({claim}) || {claim} == null)"));
    }
    Ok(clauses.join(" &&\n"))
}

fn platform(profile: Profile) -> Result<Vec<String>, NoCondition> {
    let is = |swname: &str, hwmodel: &str| {
        vec![format!("assertion.swname == {}", quote(swname)), format!("assertion.hwmodel {hwmodel}")]
    };
    let up_to_date = "gcp_attester_tcb_status == 'UpToDate'";
    Ok(match profile {
        Profile::Sandbox => return Err(NoCondition::Sandbox),
        Profile::ShieldedPreview => is("HARDENED_SHIELDED", "== 'GCP_SHIELDED_VM'"),
        Profile::Sev => is("CONFIDENTIAL_SPACE", "in ['GCP_AMD_SEV', 'GCP_AMD_SEV_ES']"),
        Profile::Tdx | Profile::TdxH100 => {
            let mut clauses = is("CONFIDENTIAL_SPACE", "== 'GCP_INTEL_TDX'");
            // An object in the tokens that were seen, a list in the documentation.
            clauses.push(format!(
                "(assertion.tdx.{up_to_date} || (size(assertion.tdx) > 0 && assertion.tdx.all(tdx, tdx.{up_to_date})))"
            ));
            clauses
        }
    })
}

/// Debug images have no support attributes; the preview's production image has none either.
fn support(profile: Profile) -> String {
    let claim = "assertion.submods.confidential_space.support_attributes";
    if profile == Profile::ShieldedPreview {
        format!("(!has({claim}) || {claim} == null || 'STABLE' in {claim})")
    } else {
        format!("'STABLE' in {claim}")
    }
}

fn gpu(profile: Profile) -> Vec<String> {
    if profile != Profile::TdxH100 {
        return Vec::new();
    }
    let gpu = "assertion.submods.nvidia_gpu";
    vec![
        format!("{gpu}.cc_mode == 'ON'"),
        format!("{gpu}.cc_feature == 'SPT'"),
        format!("(size({gpu}.gpus) == 1 && {gpu}.gpus[0].hwmodel == 'GCP_NVIDIA_H100')"),
    ]
}

impl Workload {
    fn clauses(&self) -> Result<Vec<String>, NoCondition> {
        let container = "assertion.submods.container";
        let list = |texts: &[&str]| texts.iter().map(|text| quote(text)).collect::<Vec<_>>().join(", ");
        let mut clauses = match &self.images {
            Images::Digests(digests) => match digests.as_slice() {
                [] => return Err(NoCondition::NoImage),
                [digest] => vec![format!("{container}.image_digest == {}", quote(&digest.0))],
                several => {
                    let texts: Vec<&str> = several.iter().map(|digest| digest.0.as_str()).collect();
                    vec![format!("{container}.image_digest in [{}]", list(&texts))]
                }
            },
            Images::SignedBy(keys) if keys.is_empty() => return Err(NoCondition::NoImage),
            Images::SignedBy(keys) => {
                let texts: Vec<&str> = keys.iter().map(|key| key.0.as_str()).collect();
                vec![format!(
                    "{container}.image_signatures.exists(made, made.signature_algorithm + ':' + made.key_id in [{}])",
                    list(&texts)
                )]
            }
        };
        if let Some(reference) = &self.image_reference {
            clauses.push(format!("{container}.image_reference == {}", quote(&reference.0)));
        }
        clauses.push(format!("{} in assertion.google_service_accounts", quote(&self.service_account.0)));
        Ok(clauses)
    }
}

/// A CEL string literal.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n"))
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}

fn checked(text: &str, holds: bool, shape: &'static str) -> Result<String, NotOfThatShape> {
    if holds { Ok(text.to_owned()) } else { Err(NotOfThatShape(shape)) }
}

impl FromStr for ImageDigest {
    type Err = NotOfThatShape;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let holds = text.strip_prefix("sha256:").is_some_and(is_hex);
        checked(text, holds, "`sha256:` and 64 hexadecimal digits in lower case").map(Self)
    }
}

impl FromStr for ImageReference {
    type Err = NotOfThatShape;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
        let holds =
            text.split_once('/').is_some_and(|(registry, name)| registry.contains('.') && !name.is_empty())
                && text.len() <= 512
                && text.chars().all(allowed);
        checked(text, holds, "an image's full name: REGISTRY/PROJECT/REPOSITORY/IMAGE:TAG").map(Self)
    }
}

impl FromStr for ServiceAccount {
    type Err = NotOfThatShape;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let holds = text.split_once('@').is_some_and(|(name, domain)| {
            let full = !name.is_empty() && domain.ends_with("gserviceaccount.com");
            full && name.chars().chain(domain.chars()).all(allowed)
        });
        checked(text, holds, "a service account's address: NAME@PROJECT.iam.gserviceaccount.com").map(Self)
    }
}

impl FromStr for SigningKey {
    type Err = NotOfThatShape;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let algorithms = ["ECDSA_P256_SHA256", "RSASSA_PSS_SHA256", "RSASSA_PKCS1V15_SHA256"];
        let holds =
            text.split_once(':').is_some_and(|(algorithm, id)| algorithms.contains(&algorithm) && is_hex(id));
        checked(
            text,
            holds,
            "ECDSA_P256_SHA256, RSASSA_PSS_SHA256 or RSASSA_PKCS1V15_SHA256, `:`, and the key's SHA-256",
        )
        .map(Self)
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Condition;

    const DIGEST: &str = "sha256:fa126b4bf1014fb4c1b6786039e483eca21d51ed960083dc8439c1d8539559ae";

    fn workload() -> Workload {
        Workload {
            images: Images::Digests(vec![DIGEST.parse().unwrap()]),
            image_reference: Some("us-docker.pkg.dev/p/r/image:latest".parse().unwrap()),
            service_account: "sa@p.iam.gserviceaccount.com".parse().unwrap(),
        }
    }

    #[test]
    fn a_text_cannot_end_its_literal() {
        assert_eq!(quote(r"a' || 'b\"), r"'a\' || \'b\\'");
        assert!("sa'||'a@p.iam.gserviceaccount.com".parse::<ServiceAccount>().is_err());
        assert!("us-docker.pkg.dev/a'b".parse::<ImageReference>().is_err());
    }

    #[test]
    fn parts_of_another_shape_are_refused() {
        for wrong in [
            "",
            "sha256:",
            &DIGEST.to_uppercase(),
            &DIGEST.replace("sha256:", "sha512:"),
            DIGEST.trim_start_matches('s'),
        ] {
            assert!(wrong.parse::<ImageDigest>().is_err(), "{wrong}");
        }
        for wrong in ["image", "image:latest", "/x", "localhost/x y"] {
            assert!(wrong.parse::<ImageReference>().is_err(), "{wrong}");
        }
        for wrong in
            ["a@b", "@p.iam.gserviceaccount.com", "a@b@p.iam.gserviceaccount.com", "user@example.com"]
        {
            assert!(wrong.parse::<ServiceAccount>().is_err(), "{wrong}");
        }
        let key = DIGEST.replace("sha256", "ECDSA_P256_SHA256");
        assert!(key.parse::<SigningKey>().is_ok());
        assert!(DIGEST.parse::<SigningKey>().is_err());
    }

    #[test]
    fn the_codelabs_condition_is_in_its_own_words() {
        let condition = codelab(Profile::ShieldedPreview, &workload()).unwrap();
        assert!(condition.starts_with(
            "assertion.swname == 'HARDENED_SHIELDED' && assertion.hwmodel == 'GCP_SHIELDED_VM' &&\n\
             assertion.submods.container.image_digest == 'sha256:"
        ));
        assert!(condition.ends_with("'sa@p.iam.gserviceaccount.com' in assertion.google_service_accounts"));
        let two = Images::Digests(vec![DIGEST.parse().unwrap(), DIGEST.parse().unwrap()]);
        let several = Workload { images: two, ..workload() };
        assert_eq!(codelab(Profile::Sev, &several), Err(NoCondition::NotTheCodelabs));
    }

    #[test]
    fn every_condition_is_within_googles_bounds() {
        let long = format!("us-docker.pkg.dev/{}/image:latest", "a.b-c".repeat(12));
        let workload = Workload { image_reference: Some(long.parse().unwrap()), ..workload() };
        for profile in [Profile::ShieldedPreview, Profile::Sev, Profile::Tdx, Profile::TdxH100] {
            for condition in [codelab(profile, &workload), hardened(profile, &workload)] {
                assert!(Condition::parse(&condition.unwrap()).is_ok(), "{profile}");
            }
        }
    }

    #[test]
    fn a_condition_that_would_let_anything_in_is_not_written() {
        let none = Workload { images: Images::Digests(Vec::new()), ..workload() };
        assert_eq!(hardened(Profile::Tdx, &none), Err(NoCondition::NoImage));
        let none = Workload { images: Images::SignedBy(Vec::new()), ..workload() };
        assert_eq!(hardened(Profile::Tdx, &none), Err(NoCondition::NoImage));
        assert_eq!(hardened(Profile::Sandbox, &workload()), Err(NoCondition::Sandbox));
        assert_eq!(codelab(Profile::Sandbox, &workload()), Err(NoCondition::Sandbox));
    }
}
