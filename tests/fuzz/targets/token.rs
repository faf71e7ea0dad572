//! Fernet tokens, whole and as text that a key opens: refused or read, never a panic.
#![no_main]

use codeseal::protocol::{Dek, Token};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let dek = Dek::parse(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").expect("32 bytes");
    for token in [Token::parse(data), Token::parse_nested(data)].into_iter().flatten() {
        // The canonical text is a fixed point, or one token could be replayed as two.
        let again = Token::parse(token.as_str().as_bytes()).expect("the canonical text is a token");
        assert_eq!(again, token);
        assert!(!token.is_fresh(token.timestamp().wrapping_add(1 << 63), 300));
        // Whatever opens was sealed under this key, which no input can be.
        let opened = dek.open(&token);
        assert!(opened.is_err() || data.len() > 100);
    }
    let sealed = dek.seal(data);
    let token = Token::parse(sealed.as_bytes()).expect("what was sealed is a token");
    assert_eq!(dek.open(&token).expect("and opens").expose(), data);
});
