//! Devices with a fault, which the checks of `tests/device/runner.rs` must find: a check that passes with any fault checks nothing.

use std::panic::catch_unwind;

use crate::runner::{
    a_step_ahead_that_is_not_used_changes_nothing, batches_are_their_members, cleared_pages_hold_nothing,
    draft_rows_get_the_bits_of_single_rows, prompts_may_be_cut, replays_are_launches, steps_feed_themselves,
};
use codeseal_emulator::device::{Fault, Traits};

/// Fails by a panic if a device is not as it should be.
type Check = fn(Traits);

/// What `check` says of a device, if it finds something.
fn found(check: Check, traits: Traits) -> Option<String> {
    let panic = catch_unwind(|| check(traits)).err()?;
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    Some(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default())
}

#[test]
fn what_is_broken_is_found() {
    let with = Traits::with;
    let idle = |kernel| Traits { idle: Some(kernel), ..Traits::SOUND };
    let found_by: [(Traits, Check, &str); 13] = [
        // The number of the first step, the input of a step, that of a part of a prompt, that of draft rows.
        (with(Fault::LosesWrite(0)), a_step_ahead_that_is_not_used_changes_nothing, "a step chooses nothing"),
        (with(Fault::LosesWrite(1)), a_step_ahead_that_is_not_used_changes_nothing, "a step chooses nothing"),
        (with(Fault::LosesWrite(10)), prompts_may_be_cut, "a prompt is not the same in pieces"),
        (with(Fault::LosesWrite(2)), draft_rows_get_the_bits_of_single_rows, "draft rows are not"),
        (with(Fault::ReplaysTwice), batches_are_their_members, "the device does not choose by its logits"),
        (with(Fault::ReplaysTwice), replays_are_launches, "what is replayed is not what is launched"),
        (with(Fault::LosesReplay(0)), batches_are_their_members, "a step chooses nothing"),
        // The next one, launched ahead, does its work: only a batch that changes then shows it.
        (
            with(Fault::LosesReplay(2)),
            a_step_ahead_that_is_not_used_changes_nothing,
            "what others do changes a text",
        ),
        (with(Fault::RunsWhatItRecords), draft_rows_get_the_bits_of_single_rows, "draft rows are not"),
        (with(Fault::StopsZeroing(0)), cleared_pages_hold_nothing, "pages do not begin with zeros"),
        (with(Fault::StopsZeroing(1)), cleared_pages_hold_nothing, "something is left of a page"),
        (with(Fault::ReadsLastStep), batches_are_their_members, "the device does not choose by its logits"),
        (idle("feed_back"), steps_feed_themselves, "a step chooses nothing"),
    ];
    for (traits, check, said) in found_by {
        let message = found(check, traits);
        assert!(message.as_ref().is_some_and(|text| text.contains(said)), "{traits:?}: {message:?}");
    }
}
