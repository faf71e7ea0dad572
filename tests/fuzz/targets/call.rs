//! The plaintext of a sealed request: what is read is written back to the same, in a bucket's length.
#![no_main]

use codeseal::protocol::Call;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(call) = Call::decode(data) else { return };
    let plaintext = call.encode().expect("what was read can be written");
    assert_eq!(plaintext.expose().len() % (32 * 1024), 0);
    let again = Call::decode(plaintext.expose()).expect("what was written can be read");
    assert_eq!((again.id, again.path, again.body.get()), (call.id, call.path, call.body.get()));
});
