//! What makes the next key cheap: a window that stays put, predictions that are typed, and one request at a time.
//!
//! All in memory.

mod overlap;
mod predictions;
mod running;
mod window;

pub(super) use self::overlap::Trimmer;
pub(super) use self::predictions::{Fingerprint, Predictions};
pub(super) use self::running::{Guard, Running};
pub(super) use self::window::Windows;

/// Which client a request comes from, as far as its headers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClientId(pub(super) u64);

/// The last `bytes` of `text`, or some more, so that no character is cut.
fn tail(text: &str, bytes: usize) -> &str {
    let mut at = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.get(at..).unwrap_or(text)
}

/// The first `bytes` of `text`, or some fewer.
fn head(text: &str, bytes: usize) -> &str {
    let mut at = text.len().min(bytes);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    text.get(..at).unwrap_or(text)
}
