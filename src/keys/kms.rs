//! The two KMS calls, with checksums both ways.
//!
//! **Hazard:** `{:?}` of Google's `DecryptResponse` and `EncryptRequest` prints the plaintext DEK. Neither may ever
//! be formatted, nor may an error's payload.

use std::time::Duration;

use google_cloud_auth::credentials::Credentials;
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_kms::client::KeyManagementService;

use super::config::Endpoint;
use super::error::Fault;
use super::names::KeyName;
use super::retry::Failure;
use crate::protocol::{Dek, WrappedDek};

/// One key of Cloud KMS.
#[derive(Clone)]
pub(super) struct Kms {
    client: KeyManagementService,
    key: KeyName,
    attempt_timeout: Duration,
}

/// The client could not be made.
#[derive(Debug)]
pub(super) struct CannotStart;

impl Kms {
    /// Nothing is called yet.
    pub(super) async fn new(
        endpoint: &Endpoint,
        credentials: Credentials,
        key: KeyName,
        attempt_timeout: Duration,
    ) -> Result<Self, CannotStart> {
        let builder =
            KeyManagementService::builder().with_credentials(credentials).with_retry_policy(NeverRetry);
        let builder = match endpoint.kms() {
            Some(url) => builder.with_endpoint(url),
            None => builder,
        };
        let client = builder.build().await.map_err(|_| CannotStart)?;
        Ok(Self { client, key, attempt_timeout })
    }

    /// One attempt to unwrap a DEK.
    #[cfg(feature = "server")]
    pub(super) async fn decrypt(&self, wrapped: &WrappedDek) -> Result<Dek, Failure<Fault>> {
        let ciphertext = bytes::Bytes::copy_from_slice(wrapped.as_bytes());
        let call = self
            .client
            .decrypt()
            .set_name(self.key.as_str())
            .set_ciphertext_crc32c(checksum(&ciphertext))
            .set_ciphertext(ciphertext)
            .with_idempotency(true)
            .send();
        let mut response = bounded(self.attempt_timeout, call).await?;
        let plaintext = std::mem::take(&mut response.plaintext);
        // A missing sum is a wrong one: KMS always sends it.
        let intact = response.plaintext_crc32c == Some(checksum(&plaintext));
        let dek = if intact {
            Dek::parse(&plaintext).map_err(|_| Failure::Final(Fault::Rejected))
        } else {
            Err(Failure::Transient(Fault::Corrupted))
        };
        wipe(plaintext);
        dek
    }

    /// One attempt to wrap a DEK.
    #[cfg(feature = "client")]
    pub(super) async fn encrypt(&self, dek: &Dek) -> Result<WrappedDek, Failure<Fault>> {
        let plaintext = bytes::Bytes::from_owner(Owned(dek.to_fernet_key()));
        let call = self
            .client
            .encrypt()
            .set_name(self.key.as_str())
            .set_plaintext_crc32c(checksum(&plaintext))
            .set_plaintext(plaintext)
            .with_idempotency(true)
            .send();
        let response = bounded(self.attempt_timeout, call).await?;
        let intact = response.verified_plaintext_crc32c
            && response.ciphertext_crc32c == Some(checksum(&response.ciphertext));
        if !intact {
            return Err(Failure::Transient(Fault::Corrupted));
        }
        WrappedDek::new(response.ciphertext.to_vec()).map_err(|_| Failure::Final(Fault::Rejected))
    }
}

async fn bounded<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, google_cloud_gax::error::Error>>,
) -> Result<T, Failure<Fault>> {
    let fault = match tokio::time::timeout(timeout, call).await {
        Ok(Ok(response)) => return Ok(response),
        Ok(Err(error)) => Fault::from(&error),
        Err(_) => Fault::Timeout,
    };
    Err(if fault.is_transient() { Failure::Transient(fault) } else { Failure::Final(fault) })
}

/// Google's wire format has CRC32C as a signed 64-bit number.
fn checksum(bytes: &[u8]) -> i64 {
    i64::from(crc32c::crc32c(bytes))
}

/// Wipes what KMS sent. The HTTP client's and the JSON reader's buffers are out of reach.
#[cfg(feature = "server")]
fn wipe(bytes: bytes::Bytes) {
    if let Ok(mut bytes) = bytes.try_into_mut() {
        zeroize::Zeroize::zeroize(bytes.as_mut());
    }
}

/// A text that is wiped when the last buffer that shares it goes.
#[cfg(feature = "client")]
struct Owned(crate::secret::Secret<String>);

#[cfg(feature = "client")]
impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.0.expose().as_bytes()
    }
}
