//! The keys of the project and their versions: made, disabled, enabled, destroyed and restored as in Cloud KMS.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use serde::{Deserialize, Serialize};

use super::super::SandboxError;
use super::super::status::{Code, Status};
use crate::secret::Secret;

/// The keys of the project.
pub(in crate::sandbox) struct Keys(Mutex<BTreeMap<String, Key>>);

struct Key {
    primary: u32,
    versions: BTreeMap<u32, Version>,
}

struct Version {
    /// None once it is destroyed.
    material: Option<RandomizedNonceKey>,
    state: VersionState,
}

/// The state of a key version, as Cloud KMS names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VersionState {
    /// It encrypts and decrypts.
    Enabled,
    /// It does neither until it is enabled.
    Disabled,
    /// It does neither, and will be destroyed; it can be restored.
    DestroyScheduled,
    /// Its key material is gone.
    Destroyed,
}

/// A version as the control interface lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyVersion {
    /// `projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N`.
    pub name: String,
    /// Whether it can be used.
    pub state: VersionState,
    /// Whether new DEKs are wrapped under it.
    pub primary: bool,
}

/// What is done to a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionChange {
    /// It can be used again.
    Enable,
    /// It cannot be used.
    Disable,
    /// It is scheduled for destruction, as `:destroy` does.
    Destroy,
    /// It is no longer scheduled for destruction, and disabled, as `:restore` does.
    Restore,
    /// Its key material is erased now. Cloud KMS does so 30 days after `:destroy`.
    Erase,
    /// New DEKs are wrapped under it.
    MakePrimary,
}

impl VersionState {
    /// The name in Cloud KMS's JSON.
    pub(in crate::sandbox) fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "ENABLED",
            Self::Disabled => "DISABLED",
            Self::DestroyScheduled => "DESTROY_SCHEDULED",
            Self::Destroyed => "DESTROYED",
        }
    }

    /// The number in Cloud KMS's protocol buffers.
    pub(super) fn number(self) -> i32 {
        match self {
            Self::Enabled => 1,
            Self::Disabled => 2,
            Self::Destroyed => 3,
            Self::DestroyScheduled => 4,
        }
    }
}

impl Keys {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Makes a key with one version; one that is there already stays as it is.
    pub(super) fn add(&self, name: &str) -> Result<(), SandboxError> {
        let version = Version::new()?;
        self.lock()
            .entry(name.to_owned())
            .or_insert_with(|| Key { primary: 1, versions: BTreeMap::from([(1, version)]) });
        Ok(())
    }

    /// Makes another version of a key, which is enabled, and not the primary one yet.
    pub(in crate::sandbox) fn add_version(&self, name: &str) -> Result<KeyVersion, Status> {
        let version = Version::new().map_err(|_| Status::new(Code::Internal, "no key could be made"))?;
        let mut keys = self.lock();
        let key = keys.get_mut(name).ok_or_else(|| key_not_found(name))?;
        let number = key.versions.keys().next_back().map_or(1, |last| last + 1);
        key.versions.insert(number, version);
        key.describe(name, number)
    }

    /// Changes a version as far as its state allows.
    pub(in crate::sandbox) fn change(
        &self,
        name: &str,
        number: u32,
        change: VersionChange,
    ) -> Result<KeyVersion, Status> {
        use VersionState::{DestroyScheduled, Destroyed, Disabled, Enabled};
        let mut keys = self.lock();
        let key = keys.get_mut(name).ok_or_else(|| key_not_found(name))?;
        let version = key.versions.get_mut(&number).ok_or_else(|| version_not_found(name, number))?;
        let next = match (change, version.state) {
            (VersionChange::Enable, Enabled | Disabled) => Enabled,
            (VersionChange::Disable, Enabled | Disabled) => Disabled,
            (VersionChange::Destroy, Enabled | Disabled) => DestroyScheduled,
            (VersionChange::Restore, DestroyScheduled) => Disabled,
            (VersionChange::Erase, _) => Destroyed,
            (VersionChange::MakePrimary, Enabled) => Enabled,
            (_, state) => return Err(wrong_state(name, number, state)),
        };
        version.state = next;
        if next == Destroyed {
            version.material = None;
        }
        if change == VersionChange::MakePrimary {
            key.primary = number;
        }
        key.describe(name, number)
    }

    /// The number of the primary version.
    pub(super) fn primary(&self, name: &str) -> Result<u32, Status> {
        Ok(self.lock().get(name).ok_or_else(|| key_not_found(name))?.primary)
    }

    /// One version.
    pub(super) fn version(&self, name: &str, number: u32) -> Result<KeyVersion, Status> {
        self.lock().get(name).ok_or_else(|| key_not_found(name))?.describe(name, number)
    }

    /// All versions of a key, the oldest first.
    pub(in crate::sandbox) fn versions(&self, name: &str) -> Result<Vec<KeyVersion>, Status> {
        let keys = self.lock();
        let key = keys.get(name).ok_or_else(|| key_not_found(name))?;
        key.versions.keys().map(|&number| key.describe(name, number)).collect()
    }

    /// Has `work` use the primary version, whose number it is given.
    pub(super) fn with_primary<T>(
        &self,
        name: &str,
        work: impl FnOnce(u32, &RandomizedNonceKey) -> T,
    ) -> Result<T, Status> {
        let keys = self.lock();
        let key = keys.get(name).ok_or_else(|| key_not_found(name))?;
        Ok(work(key.primary, key.usable(name, key.primary)?))
    }

    /// Has `work` use a version, and says whether that is the primary one. A key without this version is `None`.
    pub(super) fn with_version<T>(
        &self,
        name: &str,
        number: u32,
        work: impl FnOnce(&RandomizedNonceKey) -> T,
    ) -> Result<Option<(T, bool)>, Status> {
        let keys = self.lock();
        let key = keys.get(name).ok_or_else(|| key_not_found(name))?;
        if !key.versions.contains_key(&number) {
            return Ok(None);
        }
        Ok(Some((work(key.usable(name, number)?), number == key.primary)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    fn usable(&self, name: &str, number: u32) -> Result<&RandomizedNonceKey, Status> {
        let version = self.versions.get(&number).ok_or_else(|| version_not_found(name, number))?;
        match (&version.material, version.state) {
            (Some(material), VersionState::Enabled) => Ok(material),
            (_, state) => Err(wrong_state(name, number, state)),
        }
    }

    fn describe(&self, name: &str, number: u32) -> Result<KeyVersion, Status> {
        let version = self.versions.get(&number).ok_or_else(|| version_not_found(name, number))?;
        let primary = number == self.primary;
        Ok(KeyVersion { name: version_name(name, number), state: version.state, primary })
    }
}

impl Version {
    fn new() -> Result<Self, SandboxError> {
        let mut bytes = Secret::new([0; 32]);
        getrandom::fill(bytes.expose_mut()).map_err(|_| SandboxError::Key)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes.expose()).map_err(|_| SandboxError::Key)?;
        Ok(Self { material: Some(key), state: VersionState::Enabled })
    }
}

/// `KEY/cryptoKeyVersions/N`
pub(super) fn version_name(key: &str, number: u32) -> String {
    format!("{key}/cryptoKeyVersions/{number}")
}

/// The key and the number of a version's name.
pub(super) fn parse_version(name: &str) -> Option<(&str, u32)> {
    let (key, number) = name.rsplit_once("/cryptoKeyVersions/")?;
    Some((key, number.parse().ok()?))
}

fn key_not_found(name: &str) -> Status {
    Status::new(Code::NotFound, format!("CryptoKey {name} not found."))
}

fn version_not_found(key: &str, number: u32) -> Status {
    Status::new(Code::NotFound, format!("CryptoKeyVersion {} not found.", version_name(key, number)))
}

fn wrong_state(key: &str, number: u32, state: VersionState) -> Status {
    let (name, state) = (version_name(key, number), state.as_str());
    let required = if state == "ENABLED" { "in the required state" } else { "enabled" };
    Status::new(Code::FailedPrecondition, format!("{name} is not {required}, current state is: {state}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_goes_only_where_its_state_allows() {
        use VersionChange::{Destroy, Disable, Enable, Erase, MakePrimary, Restore};
        use VersionState::{DestroyScheduled, Destroyed, Disabled, Enabled};
        let keys = Keys::new();
        keys.add("k").unwrap();
        assert_eq!(keys.add_version("k").unwrap().name, "k/cryptoKeyVersions/2");
        for (change, expected) in [
            (Restore, None),
            (MakePrimary, Some(Enabled)),
            (Disable, Some(Disabled)),
            (MakePrimary, None),
            (Enable, Some(Enabled)),
            (Destroy, Some(DestroyScheduled)),
            (Enable, None),
            (Destroy, None),
            (Restore, Some(Disabled)),
            (Destroy, Some(DestroyScheduled)),
            (Erase, Some(Destroyed)),
            (Restore, None),
            (Enable, None),
        ] {
            let changed = keys.change("k", 2, change);
            match expected {
                Some(state) => assert_eq!(changed.unwrap().state, state, "{change:?}"),
                None => {
                    let refused = changed.unwrap_err();
                    assert_eq!(refused.code, Code::FailedPrecondition, "{change:?}");
                    assert!(refused.message.contains("k/cryptoKeyVersions/2 is not "), "{}", refused.message);
                }
            }
        }
        let states: Vec<_> = keys.versions("k").unwrap().into_iter().map(|v| (v.state, v.primary)).collect();
        assert_eq!(states, [(Enabled, false), (Destroyed, true)]);
        assert_eq!(keys.change("k", 3, Enable).unwrap_err().code, Code::NotFound);
        assert_eq!(keys.add_version("l").unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn only_an_enabled_version_is_used() {
        let keys = Keys::new();
        keys.add("k").unwrap();
        assert!(keys.with_primary("k", |number, _| assert_eq!(number, 1)).is_ok());
        assert!(keys.with_version("k", 2, |_| ()).unwrap().is_none());
        keys.change("k", 1, VersionChange::Disable).unwrap();
        let refused = keys.with_version("k", 1, |_| ()).unwrap_err();
        assert_eq!(refused.message, "k/cryptoKeyVersions/1 is not enabled, current state is: DISABLED.");
        assert!(keys.with_primary("k", |_, _| ()).is_err());
    }

    #[test]
    fn a_versions_name_is_taken_apart() {
        assert_eq!(parse_version("a/b/cryptoKeyVersions/12"), Some(("a/b", 12)));
        for bad in ["a/b", "a/cryptoKeyVersions/", "a/cryptoKeyVersions/x", "a/cryptoKeyVersions/-1"] {
            assert_eq!(parse_version(bad), None, "{bad}");
        }
    }
}
