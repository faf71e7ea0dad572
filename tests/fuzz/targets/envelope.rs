//! The body of a request, as anyone on the network can send it.
#![no_main]

use codeseal::protocol::{Envelope, ErrorCode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for parsed in [Envelope::parse(data, "/v1/completions"), Envelope::parse_generate(data)] {
        match parsed {
            Ok(envelope) => assert!(!envelope.token.as_str().is_empty()),
            Err(code) => {
                assert!(matches!(code, ErrorCode::InvalidRequest | ErrorCode::EnvelopeRejected));
            }
        }
    }
});
