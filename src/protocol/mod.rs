//! The wire protocol of `docs/protocol.md`: pure, shared by client and server.
//!
//! Envelope encryption: the client seals with a fresh [`Dek`] (Fernet) and sends it wrapped by Cloud KMS.
//!
//! Allowed modules: secret.
//! Forbidden: axum, google_cloud_*, reqwest, tokio.

mod attestation;
mod base64;
mod codelab;
mod dek;
mod envelope;
mod error;
mod fernet;
mod frames;
mod hole;
pub mod openai;
mod padding;
mod path_key;
mod session;

pub use self::attestation::{
    ATTESTATION_PATH, AUDIENCE_PREFIX, AttestationRequest, Digest, Evidence, Identity,
    MAX_ATTESTATION_REQUEST_BYTES, MAX_CLIENT_NONCES, NotADigest, NotAServerId, SERVER_HEADER, ServerId,
    TokenType,
};
pub use self::dek::{Dek, Namespace};
pub use self::envelope::{
    Call, Envelope, GenerateReply, Reply, RequestId, SealedReply, SealedRequest, WrappedDek,
};
pub use self::error::{ErrorBody, ErrorCode, ErrorDetail, Rejected};
pub use self::fernet::Token;
pub use self::frames::{Frame, FrameError, FrameReader, FrameWriter, MAX_EVENT_BYTES};
pub use self::hole::{HoleStart, MAX_MIDDLE_BYTES, MAX_MIDDLE_LINES, line_start};
pub use self::padding::SMALLEST_BUCKET_BODY;
pub use self::path_key::PathKey;
pub use self::session::{SESSION_HEADER, SessionTag};

/// New tokens that `/generate` makes unless configured otherwise: the codelab's `max_new_tokens`.
pub const DEFAULT_NEW_TOKENS: usize = 128;

/// How far a token's timestamp may lie from the server's clock, in seconds, both ways.
pub const REPLAY_WINDOW_SECS: u64 = 300;
