//! Cloud KMS: symmetric keys, who may use them, checksums; over REST and over gRPC.
//!
//! Must not touch: how a caller became who it is.

mod grpc;
mod proto;
mod rest;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use http::HeaderMap;

pub(super) use self::grpc::route as grpc;
pub(super) use self::rest::route as rest;
use super::faults::{Struck, Target};
use super::ledger::Outcome;
use super::status::{Code, Status};
use super::tokens::Principal;
use super::{SandboxError, Shared};
use crate::secret::Secret;

/// Google's bound on a plaintext and on additional data, in bytes.
const MAX_BYTES: usize = 64 * 1024;
/// The first byte of our ciphertexts.
const FORMAT: u8 = 1;
const TAG_BYTES: usize = 16;

/// The keys of the project.
pub(super) struct Kms(Mutex<BTreeMap<String, RandomizedNonceKey>>);

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
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Encrypt,
    Decrypt,
}

impl Kms {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Makes a key; one that is there already stays as it is.
    pub(super) fn add_key(&self, name: &str) -> Result<(), SandboxError> {
        let mut bytes = Secret::new([0; 32]);
        getrandom::fill(bytes.expose_mut()).map_err(|_| SandboxError::Key)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes.expose()).map_err(|_| SandboxError::Key)?;
        self.lock().entry(name.to_owned()).or_insert(key);
        Ok(())
    }

    fn with_key<T>(&self, name: &str, use_it: impl FnOnce(&RandomizedNonceKey) -> T) -> Result<T, Status> {
        let keys = self.lock();
        let key = keys
            .get(name)
            .ok_or_else(|| Status::new(Code::NotFound, format!("CryptoKey {name} not found.")))?;
        Ok(use_it(key))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, RandomizedNonceKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers one request, from faults to the ledger.
async fn encrypt(shared: &Shared, headers: &HeaderMap, call: EncryptCall) -> Result<EncryptAnswer, Status> {
    perform(shared, headers, Operation::Encrypt, |struck| {
        check_crc32c(call.plaintext.expose(), call.plaintext_crc32c, "plaintext_crc32c")?;
        check_crc32c(&call.aad, call.aad_crc32c, "additional_authenticated_data_crc32c")?;
        check_length(call.plaintext.expose(), "plaintext")?;
        check_length(&call.aad, "additional_authenticated_data")?;
        let ciphertext = shared
            .kms
            .with_key(&call.key, |key| seal(key, &call.key, &call.aad, call.plaintext.expose()))??;
        Ok(EncryptAnswer {
            key_version: format!("{}/cryptoKeyVersions/1", call.key),
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
        let plaintext =
            shared.kms.with_key(&call.key, |key| open(key, &call.key, &call.aad, &call.ciphertext))??;
        Ok(DecryptAnswer { plaintext_crc32c: crc32c_of(plaintext.expose(), struck), plaintext })
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
        Ok(_) => Outcome::Granted,
        Err(status) if matches!(status.code, Code::PermissionDenied | Code::Unauthenticated) => {
            Outcome::Denied
        }
        Err(_) => Outcome::Failed,
    };
    shared.ledger.count(|counts| {
        let tallies = match operation {
            Operation::Encrypt => &mut counts.encrypt,
            Operation::Decrypt => &mut counts.decrypt,
        };
        // Whoever has a token that is not known is nobody.
        tallies.entry(principal.unwrap_or(Principal::Anonymous)).or_default().add(outcome);
    });
    result
}

/// Who may do what, and the faults that come before any work.
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

/// Format, nonce, ciphertext, tag.
fn seal(key: &RandomizedNonceKey, name: &str, aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Status> {
    let mut sealed = Secret::new(plaintext.to_vec());
    let nonce = key
        .seal_in_place_append_tag(bound(name, aad), sealed.expose_mut())
        .map_err(|_| Status::new(Code::Internal, "the plaintext could not be encrypted"))?;
    Ok([&[FORMAT], nonce.as_ref().as_slice(), sealed.expose()].concat())
}

fn open(
    key: &RandomizedNonceKey,
    name: &str,
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<Secret<Vec<u8>>, Status> {
    let invalid = || Status::new(Code::InvalidArgument, "Decryption failed: the ciphertext is invalid.");
    let (&format, rest) = ciphertext.split_first().ok_or_else(invalid)?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(invalid)?;
    if format != FORMAT || sealed.len() < TAG_BYTES {
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
        let sealed = kms.with_key("a", |key| seal(key, "a", b"aad", b"plain")).unwrap().unwrap();
        let try_open = |key: &str, name: &str, aad: &[u8], sealed: &[u8]| {
            kms.with_key(key, |key| open(key, name, aad, sealed)).unwrap().map(|plain| plain.expose().clone())
        };
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
        let sealed = kms.with_key("a", |key| seal(key, "a", b"", b"plain")).unwrap().unwrap();
        kms.add_key("a").unwrap();
        assert!(kms.with_key("a", |key| open(key, "a", b"", &sealed)).unwrap().is_ok());
        assert_eq!(kms.with_key("c", |_| ()).unwrap_err().code, Code::NotFound);
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
