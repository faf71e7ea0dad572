//! Cloud KMS: symmetric keys, who may use them, checksums; over REST and over gRPC.

mod admin;
mod grpc;
mod proto;
mod rest;
mod versions;

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use http::HeaderMap;

pub(super) use self::admin::route as admin;
pub(super) use self::grpc::route as grpc;
pub(super) use self::rest::route as rest;
pub use self::versions::{KeyVersion, VersionChange, VersionState};
use self::versions::{Keys, version_name};
use super::faults::{Struck, Target};
use super::ledger::CallOutcome;
use super::status::{Code, Status};
use super::tokens::Principal;
use super::{SandboxError, Shared};
use crate::secret::Secret;

/// Google's bound on a plaintext and on additional data, in bytes.
const MAX_BYTES: usize = 64 * 1024;
/// The first byte of our ciphertexts. The number of the key's version follows, in four bytes.
const FORMAT: u8 = 2;
const VERSION_BYTES: usize = 4;
const TAG_BYTES: usize = 16;

/// Cloud KMS.
pub(super) struct Kms {
    /// The keys of the project.
    pub(super) keys: Keys,
}

struct EncryptCall {
    key: String,
    plaintext: Secret<Vec<u8>>,
    plaintext_crc32c: Option<i64>,
    aad: Vec<u8>,
    aad_crc32c: Option<i64>,
}

struct EncryptAnswer {
    key_version: String,
    ciphertext: Vec<u8>,
    ciphertext_crc32c: i64,
    verified_plaintext_crc32c: bool,
    verified_aad_crc32c: bool,
}

struct DecryptCall {
    key: String,
    ciphertext: Vec<u8>,
    ciphertext_crc32c: Option<i64>,
    aad: Vec<u8>,
    aad_crc32c: Option<i64>,
}

struct DecryptAnswer {
    plaintext: Secret<Vec<u8>>,
    plaintext_crc32c: i64,
    used_primary: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Encrypt,
    Decrypt,
}

impl Kms {
    pub(super) fn new() -> Self {
        Self { keys: Keys::new() }
    }

    /// Makes a key; one that is there already stays as it is.
    pub(super) fn add_key(&self, name: &str) -> Result<(), SandboxError> {
        self.keys.add(name)
    }

    /// Makes a new version of a key the primary one, as `gcloud kms keys versions create --primary` does.
    pub(super) fn rotate(&self, name: &str) -> Result<KeyVersion, Status> {
        let version = self.keys.add_version(name)?;
        let number = versions::parse_version(&version.name).map(|(_, number)| number);
        self.change(name, number, VersionChange::MakePrimary)
    }

    /// Changes a version, the primary one unless its number is given.
    pub(super) fn change(
        &self,
        name: &str,
        number: Option<u32>,
        change: VersionChange,
    ) -> Result<KeyVersion, Status> {
        let number = match number {
            Some(number) => number,
            None => self.keys.primary(name)?,
        };
        self.keys.change(name, number, change)
    }
}

/// Answers one request, from faults to the ledger.
async fn encrypt(shared: &Shared, headers: &HeaderMap, call: EncryptCall) -> Result<EncryptAnswer, Status> {
    perform(shared, headers, Operation::Encrypt, |struck| {
        check_crc32c(call.plaintext.expose(), call.plaintext_crc32c, "plaintext_crc32c")?;
        check_crc32c(&call.aad, call.aad_crc32c, "additional_authenticated_data_crc32c")?;
        check_length(call.plaintext.expose(), "plaintext")?;
        check_length(&call.aad, "additional_authenticated_data")?;
        let (version, ciphertext) = shared.kms.keys.with_primary(&call.key, |version, key| {
            (version, seal(key, version, &call.key, &call.aad, call.plaintext.expose()))
        })?;
        let ciphertext = ciphertext?;
        Ok(EncryptAnswer {
            key_version: version_name(&call.key, version),
            ciphertext_crc32c: crc32c_of(&ciphertext, struck),
            ciphertext,
            verified_plaintext_crc32c: call.plaintext_crc32c.is_some(),
            verified_aad_crc32c: call.aad_crc32c.is_some(),
        })
    })
    .await
}

/// Answers one request, from faults to the ledger.
async fn decrypt(shared: &Shared, headers: &HeaderMap, call: DecryptCall) -> Result<DecryptAnswer, Status> {
    perform(shared, headers, Operation::Decrypt, |struck| {
        check_crc32c(&call.ciphertext, call.ciphertext_crc32c, "ciphertext_crc32c")?;
        check_crc32c(&call.aad, call.aad_crc32c, "additional_authenticated_data_crc32c")?;
        check_length(&call.aad, "additional_authenticated_data")?;
        // A key is looked up before the ciphertext is read: a key that is not there is said first.
        let version = version_of(&call.ciphertext);
        let opened = shared.kms.keys.with_version(&call.key, version.unwrap_or(0), |key| {
            open(key, &call.key, &call.aad, &call.ciphertext)
        })?;
        let (plaintext, used_primary) = opened.ok_or_else(invalid_ciphertext)?;
        let plaintext = plaintext?;
        let plaintext_crc32c = crc32c_of(plaintext.expose(), struck);
        Ok(DecryptAnswer { plaintext_crc32c, plaintext, used_primary })
    })
    .await
}

async fn perform<T>(
    shared: &Shared,
    headers: &HeaderMap,
    operation: Operation,
    work: impl FnOnce(Struck) -> Result<T, Status>,
) -> Result<T, Status> {
    let struck = shared.strike(Target::Kms).await;
    let principal = shared.tokens.principal(headers);
    let result = admit(&principal, operation, struck).and_then(|()| work(struck));
    let outcome = match &result {
        Ok(_) => CallOutcome::Granted,
        Err(status) if matches!(status.code, Code::PermissionDenied | Code::Unauthenticated) => {
            CallOutcome::Denied
        }
        Err(_) => CallOutcome::Failed,
    };
    shared.ledger.count(|counts| {
        let tallies = match operation {
            Operation::Encrypt => &mut counts.encrypt,
            Operation::Decrypt => &mut counts.decrypt,
        };
        // An unknown token counts as anonymous.
        tallies.entry(principal.unwrap_or(Principal::Anonymous)).or_default().add(outcome);
    });
    result
}

/// Checks permissions, and applies the faults that come before any work.
fn admit(principal: &Result<Principal, Status>, operation: Operation, struck: Struck) -> Result<(), Status> {
    if let Some(status) = struck.status {
        return Err(Status::of_http(status));
    }
    let granted = match principal.as_ref().map_err(Status::clone)? {
        Principal::Anonymous | Principal::Employee => operation == Operation::Encrypt,
        Principal::Federated | Principal::ServiceAccount => operation == Operation::Decrypt,
    };
    if !granted || struck.permission_denied {
        let permission = match operation {
            Operation::Encrypt => "useToEncrypt",
            Operation::Decrypt => "useToDecrypt",
        };
        let message = format!(
            "Permission 'cloudkms.cryptoKeyVersions.{permission}' denied on resource (or it may not exist)."
        );
        return Err(Status::new(Code::PermissionDenied, message));
    }
    if struck.key_disabled {
        return Err(Status::new(
            Code::FailedPrecondition,
            "The CryptoKey is not enabled, current state is: DISABLED.",
        ));
    }
    Ok(())
}

fn check_crc32c(data: &[u8], said: Option<i64>, field: &str) -> Result<(), Status> {
    match said {
        Some(said) if said != i64::from(crc32c::crc32c(data)) => Err(Status::new(
            Code::InvalidArgument,
            format!("The checksum in field {field} did not match the data."),
        )),
        _ => Ok(()),
    }
}

fn check_length(data: &[u8], field: &str) -> Result<(), Status> {
    if data.len() > MAX_BYTES {
        return Err(Status::new(
            Code::InvalidArgument,
            format!("{field} must be at most {MAX_BYTES} bytes."),
        ));
    }
    Ok(())
}

fn crc32c_of(data: &[u8], struck: Struck) -> i64 {
    i64::from(crc32c::crc32c(data) ^ u32::from(struck.corrupt_crc))
}

/// Format, version, nonce, ciphertext, tag.
fn seal(
    key: &RandomizedNonceKey,
    version: u32,
    name: &str,
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, Status> {
    let mut sealed = Secret::new(plaintext.to_vec());
    let nonce = key
        .seal_in_place_append_tag(bound(name, aad), sealed.expose_mut())
        .map_err(|_| Status::new(Code::Internal, "the plaintext could not be encrypted"))?;
    Ok([&[FORMAT], &version.to_be_bytes()[..], nonce.as_ref().as_slice(), sealed.expose()].concat())
}

/// Under which version a ciphertext was made, as far as it says so.
fn version_of(ciphertext: &[u8]) -> Option<u32> {
    let (&format, rest) = ciphertext.split_first()?;
    let version = rest.first_chunk::<VERSION_BYTES>()?;
    (format == FORMAT).then(|| u32::from_be_bytes(*version))
}

fn invalid_ciphertext() -> Status {
    Status::new(Code::InvalidArgument, "Decryption failed: the ciphertext is invalid.")
}

fn open(
    key: &RandomizedNonceKey,
    name: &str,
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<Secret<Vec<u8>>, Status> {
    let invalid = invalid_ciphertext;
    let rest = ciphertext.get(1 + VERSION_BYTES..).ok_or_else(invalid)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(invalid)?;
    if sealed.len() < TAG_BYTES {
        return Err(invalid());
    }
    let mut plaintext = Secret::new(sealed.to_vec());
    let length = key
        .open_in_place(Nonce::from(nonce), bound(name, aad), plaintext.expose_mut())
        .map_err(|_| invalid())?
        .len();
    plaintext.expose_mut().truncate(length);
    Ok(plaintext)
}

/// What a ciphertext is bound to: the key's name, with its length before it, and the caller's additional data.
fn bound(name: &str, aad: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([&(name.len() as u64).to_be_bytes(), name.as_bytes(), aad].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kms() -> Kms {
        let kms = Kms::new();
        kms.add_key("a").unwrap();
        kms.add_key("b").unwrap();
        kms
    }

    #[test]
    fn a_ciphertext_opens_with_its_key_its_name_and_its_additional_data_only() {
        let kms = kms();
        let sealed = kms.keys.with_primary("a", |version, key| seal(key, version, "a", b"aad", b"plain"));
        let sealed = sealed.unwrap().unwrap();
        let try_open = |key: &str, name: &str, aad: &[u8], sealed: &[u8]| {
            let opened = kms.keys.with_version(key, 1, |key| open(key, name, aad, sealed)).unwrap().unwrap();
            opened.0.map(|plain| plain.expose().clone())
        };
        assert_eq!(version_of(&sealed), Some(1));
        assert_eq!(try_open("a", "a", b"aad", &sealed).unwrap(), b"plain");
        for (key, name, aad) in [("b", "a", &b"aad"[..]), ("a", "b", b"aad"), ("a", "a", b"other")] {
            assert_eq!(try_open(key, name, aad, &sealed).unwrap_err().code, Code::InvalidArgument);
        }
        for length in 0..sealed.len() {
            assert!(try_open("a", "a", b"aad", &sealed[..length]).is_err());
        }
    }

    #[test]
    fn a_key_is_made_once() {
        let kms = kms();
        let seal = |version: u32, key: &RandomizedNonceKey| seal(key, version, "a", b"", b"plain");
        let sealed = kms.keys.with_primary("a", seal).unwrap().unwrap();
        kms.add_key("a").unwrap();
        let opened = kms.keys.with_version("a", 1, |key| open(key, "a", b"", &sealed)).unwrap().unwrap();
        assert!(opened.0.is_ok());
        assert_eq!(kms.keys.with_primary("c", |_, _| ()).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn who_may_do_what() {
        use Operation::{Decrypt, Encrypt};
        use Principal::{Anonymous, Employee, Federated, ServiceAccount};
        for (principal, operation) in
            [(Anonymous, Encrypt), (Employee, Encrypt), (Federated, Decrypt), (ServiceAccount, Decrypt)]
        {
            let other = if operation == Encrypt { Decrypt } else { Encrypt };
            assert!(admit(&Ok(principal), operation, Struck::default()).is_ok());
            let denied = admit(&Ok(principal), other, Struck::default()).unwrap_err();
            assert_eq!(denied.code, Code::PermissionDenied);
        }
    }
}
