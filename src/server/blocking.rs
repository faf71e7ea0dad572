//! Work that takes long goes to tokio's blocking threads.

use crate::protocol::ErrorCode;

/// The largest body, in bytes, that is parsed and opened on the runtime's own thread: handing it to a blocking thread costs two
/// wake-ups. A sealed request of the smallest bucket is shorter.
pub(super) const SHORT_BODY: usize = 48 * 1024;
/// The same of text that is tokenized: 2 KB of code take 0.3 ms with the embedded tokenizer.
pub(super) const SHORT_TEXT: usize = 8 * 1024;

/// Runs `work`: here if it is `short`, else on a blocking thread.
///
/// # Errors
/// [`ErrorCode::Internal`] if it panicked on a blocking thread.
pub(super) async fn run<T: Send + 'static>(
    short: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ErrorCode> {
    if short { Ok(work()) } else { blocking(work).await }
}

/// Runs `work` on a blocking thread: ciphers and tokenizers over a megabyte would hold up all other requests.
///
/// # Errors
/// [`ErrorCode::Internal`] if it panicked.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ErrorCode> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ErrorCode::Internal)
}
