//! The name that a load balancer keeps a session on one replica by.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::envelope::WrappedDek;

/// The header with a [`SessionTag`]. The server does not read it.
pub const SESSION_HEADER: &str = "x-codeseal-session";

/// 16 bytes, written as 32 hexadecimal digits: the same for every request of a session, and another for every session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTag([u8; 16]);

impl SessionTag {
    /// That of a session under a wrapped DEK: the beginning of its SHA-256. It reveals nothing: the request has the
    /// wrapped DEK in the clear.
    pub fn of(wrapped: &WrappedDek) -> Self {
        let digest: [u8; 32] = Sha256::digest(wrapped.as_bytes()).into();
        let mut tag = [0; 16];
        tag.copy_from_slice(digest.split_at(16).0);
        Self(tag)
    }

    /// One for a session whose DEK is not made before its server is known.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut tag = [0; 16];
        getrandom::fill(&mut tag)?;
        Ok(Self(tag))
    }
}

impl fmt::Display for SessionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_one_tag_and_another_session_another() {
        let wrapped = |bytes: &[u8]| WrappedDek::new(bytes.to_vec()).unwrap();
        // The first half of the SHA-256 of "abc".
        let tag = SessionTag::of(&wrapped(b"abc"));
        assert_eq!(tag.to_string(), "ba7816bf8f01cfea414140de5dae2223");
        assert_ne!(tag, SessionTag::of(&wrapped(b"abd")));
        assert_ne!(SessionTag::random().unwrap(), SessionTag::random().unwrap());
    }
}
