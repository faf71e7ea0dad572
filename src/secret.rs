//! Values that must never be seen: redacted in `Debug`, zeroized on drop, not serializable, not cloneable.
//!
//! Every DEK, prompt, completion and bearer token lives in one of these, so that a careless `{:?}` or a
//! derived `Serialize` cannot leak it. Reading one is spelled `expose`, which is easy to search for.
//!
//! Allowed modules: none.
//! Forbidden: std::fs, tokio.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

/// A secret value, wiped when it is dropped.
pub struct Secret<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    /// Takes ownership of `value`; copies made before this call are the caller's to wipe.
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself. The borrow must not outlive the operation that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }

    /// The value itself, to be filled or moved out in place.
    pub fn expose_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: Zeroize + Default> Default for Secret<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Secret<String> {
    /// Appends `piece`. Where the text has to move to grow, the old copy is wiped.
    pub fn append(&mut self, piece: &str) {
        let length = self.0.len() + piece.len();
        if length > self.0.capacity() {
            let mut grown = String::with_capacity(length.next_power_of_two());
            grown.push_str(&self.0);
            // Assigning drops the old text, which wipes it.
            self.0 = Zeroizing::new(grown);
        }
        self.0.push_str(piece);
    }
}

impl Secret<Vec<u8>> {
    /// Appends `piece`. Where the bytes have to move to grow, the old copy is wiped.
    pub fn extend(&mut self, piece: &[u8]) {
        let length = self.0.len() + piece.len();
        if length > self.0.capacity() {
            let mut grown = Vec::with_capacity(length.next_power_of_two());
            grown.extend_from_slice(&self.0);
            // Assigning drops the old bytes, which wipes them.
            self.0 = Zeroizing::new(grown);
        }
        self.0.extend_from_slice(piece);
    }

    /// The bytes as text, moved rather than copied.
    ///
    /// # Errors
    /// Returns `None` if they are not UTF-8; the bytes are wiped.
    pub fn into_text(mut self) -> Option<Secret<String>> {
        match String::from_utf8(std::mem::take(self.expose_mut())) {
            Ok(text) => Some(Secret::new(text)),
            Err(error) => {
                error.into_bytes().zeroize();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_appended_text_is_the_whole_text() {
        let (mut secret, mut expected) = (Secret::new(String::new()), String::new());
        for length in [0, 1, 7, 8, 100, 3] {
            let piece = "\u{e9}".repeat(length);
            secret.append(&piece);
            expected.push_str(&piece);
            assert_eq!(secret.expose(), &expected);
        }
    }

    #[test]
    fn appended_bytes_are_all_bytes() {
        let (mut secret, mut expected) = (Secret::new(Vec::new()), Vec::new());
        for length in [0, 1, 7, 8, 100, 3] {
            let piece = vec![length as u8; length];
            secret.extend(&piece);
            expected.extend_from_slice(&piece);
            assert_eq!(secret.expose(), &expected);
        }
    }

    #[test]
    fn debug_shows_nothing_of_the_value() {
        let secret = Secret::new(String::from("hunter2"));
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "[redacted] Some(\n    [redacted],\n)");
    }

    #[test]
    fn text_is_moved_out_only_if_it_is_utf8() {
        assert_eq!(Secret::new(b"a\xc3\xa9".to_vec()).into_text().unwrap().expose(), "aé");
        assert!(Secret::new(b"\xff".to_vec()).into_text().is_none());
    }
}
