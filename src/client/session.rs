//! One session: a DEK made here, wrapped once, and kept in memory only.

use serde_json::value::RawValue;

use super::error::{ClientError, NotAuthentic};
use super::transport::Recipient;
use crate::keys::{WrapConfig, Wrapper};
use crate::protocol::{
    Call, Dek, PathKey, RequestId, SealedRequest, ServerId, SessionTag, Token, WrappedDek,
};
use crate::secret::Secret;

/// A DEK and its wrapped form. Every request of a session goes under it, so the server unwraps it once.
#[derive(Debug)]
pub struct Session {
    dek: Dek,
    wrapped: WrappedDek,
    recipient: Recipient,
}

/// A call that was sealed: what its answer must be sealed under, and repeat.
#[derive(Debug)]
pub(super) struct PendingCall {
    /// The call's.
    pub(super) id: RequestId,
    key: PathKey,
}

impl Session {
    /// Makes a fresh DEK and has it wrapped.
    ///
    /// # Errors
    /// [`ClientError::Wrap`] if the key service cannot be reached or refuses.
    pub async fn start(keys: WrapConfig) -> Result<Self, ClientError> {
        let dek = Dek::generate().map_err(|_| NO_RANDOMNESS)?;
        let wrapped = Wrapper::connect(keys).await?.wrap(&dek).await?;
        Ok(Self::new(dek, wrapped))
    }

    /// A session of a DEK that is wrapped already.
    pub fn new(dek: Dek, wrapped: WrappedDek) -> Self {
        let recipient = Recipient { server: None, session: Some(SessionTag::of(&wrapped)) };
        Self { dek, wrapped, recipient }
    }

    /// The same for one server only, which `tag` leads to: any other refuses what is sealed here.
    #[must_use]
    pub fn bound_to(self, server: ServerId, tag: SessionTag) -> Self {
        Self { recipient: Recipient { server: Some(server), session: Some(tag) }, ..self }
    }

    /// Whom requests are meant for.
    pub(super) fn recipient(&self) -> Recipient {
        self.recipient
    }

    /// Seals a call of the `/v1` path `path` under a fresh id and the current time: what is sent twice is sealed
    /// twice, or the server would take it for a replay.
    pub(super) fn seal(&self, path: &str, body: &str) -> Result<(PendingCall, Vec<u8>), ClientError> {
        let unwritable = |_| ClientError::Internal("the request cannot be written");
        let id = RequestId::generate().map_err(|_| NO_RANDOMNESS)?;
        let body: &RawValue = serde_json::from_str(body).map_err(unwritable)?;
        let plaintext =
            Call { id, path, server: self.recipient.server, body }.encode().map_err(unwritable)?;
        let request = SealedRequest {
            wrapped_dek: self.wrapped.to_base64(),
            ciphertext: self.dek.for_requests(path).seal(plaintext.expose()),
        };
        let pending = PendingCall { id, key: self.dek.for_answers(path) };
        Ok((pending, serde_json::to_vec(&request).map_err(unwritable)?))
    }
}

impl PendingCall {
    /// Opens what the server sealed.
    pub(super) fn open(&self, token: &str) -> Result<Secret<Vec<u8>>, NotAuthentic> {
        Ok(self.key.open(&Token::parse(token.as_bytes())?)?)
    }
}

pub(super) const NO_RANDOMNESS: ClientError = ClientError::Internal("the OS random number generator failed");
