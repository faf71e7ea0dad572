//! Work that takes long goes to tokio's blocking threads.

use crate::protocol::ErrorCode;

/// Requests of up to this many bytes are parsed, opened and tokenised on the runtime's own thread: 2 KB of code take 0.3 ms
/// with the embedded tokenizer, and waking another thread and being woken by it takes time as well.
const SHORT: usize = 8 * 1024;

/// Runs `work`, which is over `bytes` bytes of a request: here if they are few, else on a blocking thread.
///
/// # Errors
/// [`ErrorCode::Internal`] if it panicked on a blocking thread.
pub(super) async fn run<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ErrorCode> {
    if bytes <= SHORT { Ok(work()) } else { blocking(work).await }
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
