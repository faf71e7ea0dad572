//! Recorded launches, and the memory that they name.

use codeseal_emulator::device::Emulator;
use codeseal_kernels::cuda::{Recorded, repeat_words};

#[test]
fn a_replay_writes_to_memory_that_was_dropped_after_it_was_recorded() {
    let device = Emulator;
    let mut buffer = device.room::<u32>(64);
    let words = [1, 2, 3, 4];
    let recorded =
        Recorded::new(&device, &mut || repeat_words(&device, words, &mut buffer.view_mut())).unwrap();
    assert_eq!(recorded.launches(), 1);
    recorded.replay(&device).unwrap();
    assert_eq!(buffer.read(&device).unwrap()[60..], words);
    drop(buffer);
    // The build with AddressSanitizer reports a write to freed memory.
    recorded.replay(&device).unwrap();
}
