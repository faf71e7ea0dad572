//! Names of Google's resources, checked when they are read: each becomes part of a URL.

use std::fmt;
use std::str::FromStr;

/// `projects/P/locations/L/keyRings/R/cryptoKeys/K`: the KMS key that wraps DEKs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyName(String);

/// `//iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/P/providers/V`: who is asked to trust
/// the attestation token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WipAudience(String);

/// The e-mail address of a service account that the workload acts as.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccount(String);

/// A name has not the shape that it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not a key.
    #[error("a KMS key is named projects/P/locations/L/keyRings/R/cryptoKeys/K, without a version")]
    Key,
    /// Not a provider of a workload identity pool.
    #[error(
        "a pool's provider is named //iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/P/providers/V"
    )]
    Audience,
    /// Not a service account.
    #[error("a service account is named by its e-mail address")]
    ServiceAccount,
}

impl FromStr for KeyName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let collections = ["projects", "locations", "keyRings", "cryptoKeys"];
        if is_path(name, &collections) { Ok(Self(name.to_owned())) } else { Err(InvalidName::Key) }
    }
}

impl FromStr for WipAudience {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let collections = ["projects", "locations", "workloadIdentityPools", "providers"];
        match name.strip_prefix("//iam.googleapis.com/") {
            Some(path) if is_path(path, &collections) => Ok(Self(name.to_owned())),
            _ => Err(InvalidName::Audience),
        }
    }
}

impl FromStr for ServiceAccount {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        match name.split_once('@') {
            Some((user, domain)) if is_segment(user) && is_segment(domain) => Ok(Self(name.to_owned())),
            _ => Err(InvalidName::ServiceAccount),
        }
    }
}

/// Whether `path` is `collection/id` for each of `collections` in turn.
fn is_path(path: &str, collections: &[&str]) -> bool {
    let mut segments = path.split('/');
    let all = collections
        .iter()
        .all(|collection| segments.next() == Some(collection) && segments.next().is_some_and(is_segment));
    all && segments.next().is_none()
}

/// Nothing that could end a path segment or start a query; domain-scoped projects have a colon.
fn is_segment(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (1..=128).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".."
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl $name {
            /// The name as Google spells it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

as_text!(KeyName, WipAudience, ServiceAccount);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_names_are_kept_as_they_are() {
        let key = "projects/acme.com:primus/locations/global/keyRings/r-1/cryptoKeys/k_2";
        assert_eq!(key.parse::<KeyName>().unwrap().as_str(), key);
        let audience =
            "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool/providers/attest";
        assert_eq!(audience.parse::<WipAudience>().unwrap().to_string(), audience);
        let account = "operator-svc@acme.iam.gserviceaccount.com";
        assert_eq!(account.parse::<ServiceAccount>().unwrap().as_str(), account);
    }

    #[test]
    fn what_would_change_a_url_is_refused() {
        for key in [
            "",
            "k",
            "projects/p/locations/l/keyRings/r/cryptoKeys/",
            "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
            "projects/p/locations/l/keyRings/r/cryptoKeys/k?x",
            "projects/p/locations/l/keyRings/../cryptoKeys/k",
            "/projects/p/locations/l/keyRings/r/cryptoKeys/k",
            "projects/p/keyRings/r/locations/l/cryptoKeys/k",
        ] {
            assert_eq!(key.parse::<KeyName>(), Err(InvalidName::Key), "{key}");
        }
        for account in ["", "a", "a@", "@b", "a/b@c", "a@b@c", "a@b/c", "a b@c"] {
            assert_eq!(account.parse::<ServiceAccount>(), Err(InvalidName::ServiceAccount), "{account}");
        }
        let audience = "projects/1/locations/global/workloadIdentityPools/p/providers/v";
        assert_eq!(audience.parse::<WipAudience>(), Err(InvalidName::Audience));
    }
}
