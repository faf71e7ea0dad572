//! Frames of a stream: nothing but an unbroken sequence with a last frame is ever accepted.
#![no_main]

use codeseal::protocol::{FrameReader, RequestId};
use libfuzzer_sys::fuzz_target;

/// The length that frames have; a zero byte in the input stands for the rest of the padding.
const FRAME_BYTES: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let id: RequestId = serde_json::from_str(r#""AAAAAAAAAAAAAAAAAAAAAA""#).expect("16 bytes");
    let mut reader = FrameReader::new(id);
    let mut last = false;
    for text in data.split(|&byte| byte == 0) {
        let mut plaintext = text.to_vec();
        plaintext.resize(plaintext.len().max(FRAME_BYTES), b' ');
        let Ok(frame) = reader.accept(&plaintext) else { return };
        assert!(!last, "a frame was accepted after the last one");
        last = frame.last;
        assert_eq!(reader.finish().is_ok(), last);
    }
});
