//! Steps that feed themselves: what is copied, recorded and launched, and that it changes nothing.

use codeseal::kernels::cuda::{NO_TOKEN, Narrow, Runner, RunnerRoom, Text};
use codeseal::kernels::sampling::{Choice, SamplingParams, sample};
use codeseal::model::Quantize;
use codeseal::tokenizer::TokenId;
use half::{bf16, f16};

use crate::device::{Done, Emulator, Traits};
use crate::forward::assert_near;
use crate::pages::From32;
use crate::toy::{TABLE_WIDTH, VOCABULARY, Weights};

const WARM: SamplingParams = SamplingParams { temperature: 1.0, top_k: 20, top_p: 0.9, min_p: 0.02 };

/// A text that goes on by itself, in pages of its own.
#[derive(Clone)]
struct Going {
    ids: Vec<u32>,
    pages: Vec<u32>,
    choice: Choice,
}

impl Going {
    fn new(first: u32, number: usize, params: &SamplingParams) -> Self {
        let pages = (0..TABLE_WIDTH).rev().map(|page| (number * TABLE_WIDTH + page) as u32);
        Self { ids: vec![first], pages: pages.collect(), choice: Choice::new(params, u64::from(first)) }
    }

    /// Its last token.
    fn text(&self) -> Text<'_> {
        let position = self.ids.len() - 1;
        Text { ids: &self.ids[position..], position, generated: 1, pages: &self.pages, wanted: 1 }
    }
}

fn runner<T: Narrow + From32>(weights: &Weights, traits: Traits) -> Runner<Emulator, T> {
    let network = weights.on(&Emulator, Quantize::None);
    let room = RunnerRoom { pages: 5 * TABLE_WIDTH, table_width: TABLE_WIDTH, rows: 40, scored: 5, batch: 5 };
    Runner::new(Emulator::with(traits), network, room).unwrap()
}

/// A step of all `texts`.
fn step<T: Narrow>(runner: &mut Runner<Emulator, T>, texts: &mut [Going]) {
    let choices: Vec<_> = texts.iter().map(|text| Some(text.choice)).collect();
    let views: Vec<_> = texts.iter().map(Going::text).collect();
    let chosen = runner.step(&views, &choices).unwrap().chosen.to_vec();
    for (text, token) in texts.iter_mut().zip(chosen) {
        assert_ne!(token, NO_TOKEN);
        text.ids.push(token);
    }
}

/// What `work` does on the device.
fn done(work: impl FnOnce()) -> Done {
    let before = Emulator::done();
    work();
    let after = Emulator::done();
    Done {
        launches: after.launches - before.launches,
        replays: after.replays - before.replays,
        writes: after.writes - before.writes,
        recordings: after.recordings - before.recordings,
    }
}

#[test]
fn a_batch_chooses_what_its_members_would_and_what_the_cpu_does() {
    kernels_emu::schedule(kernels_emu::Schedule::Reverse, 0);
    let weights = Weights::random(2);
    let model = weights.on_cpu(Quantize::None);
    let all = [(7, SamplingParams::GREEDY), (12, WARM), (99, WARM)];
    let all: Vec<_> =
        all.iter().enumerate().map(|(number, (first, params))| Going::new(*first, number, params)).collect();
    let mut together = all.clone();
    let mut batch = runner::<f16>(&weights, Traits::SOUND);
    (0..4).for_each(|_| step(&mut batch, &mut together));
    for (alone, expected) in all.into_iter().zip(&together) {
        let mut runner = runner::<f16>(&weights, Traits::SOUND);
        let params = if alone.ids[0] == 7 { SamplingParams::GREEDY } else { WARM };
        let mut sequence = model.sequence();
        let mut alone = [alone];
        for position in 0..4 {
            let token = alone[0].ids[position];
            let logits = runner.step(&[alone[0].text()], &[None]).unwrap().logits.to_vec();
            assert_near(&logits, &sequence.forward(&[TokenId(token)]).unwrap(), 4e-3);
            // The same step once more, chosen on the device.
            step(&mut runner, &mut alone);
            let chosen = sample(&logits, &params, u64::from(expected.ids[0]), position as u64);
            assert_eq!(chosen, alone[0].ids.last().copied());
        }
        assert_eq!(alone[0].ids, expected.ids);
    }
}

#[test]
fn a_batch_that_goes_on_is_not_copied_and_its_next_step_is_launched_ahead() {
    let weights = Weights::random(3);
    let mut runner = runner::<bf16>(&weights, Traits::SOUND);
    let recorded = done(|| runner.record().unwrap());
    // Batches of one to five rows.
    assert_eq!((recorded.recordings, recorded.replays), (5, 0));
    assert!(runner.is_recorded());
    let mut texts: Vec<_> = (0..3).map(|number| Going::new(20, number, &WARM)).collect();
    let nothing = Done::default();
    let first = done(|| step(&mut runner, &mut texts));
    assert_eq!(first, Done { replays: 1, writes: 1, ..nothing });
    // The first that is launched ahead comes beside the one that is read.
    for replays in [1, 2, 1, 1, 1] {
        assert_eq!(done(|| step(&mut runner, &mut texts)), Done { replays, ..nothing });
    }
    // One leaves: the step that was launched ahead is not wanted.
    texts.pop();
    assert_eq!(done(|| step(&mut runner, &mut texts)), Done { replays: 1, writes: 1, ..nothing });
    // A prompt comes: nothing of it is a batch's.
    let prompt: Vec<u32> = (30..50).collect();
    let reads = Text { ids: &prompt, position: 0, generated: 0, pages: &[19], wanted: 1 };
    let choices = [None, Some(texts[0].choice), Some(texts[1].choice)];
    let mixed = done(|| {
        let outcome = runner.step(&[reads, texts[0].text(), texts[1].text()], &choices).unwrap();
        assert_eq!((outcome.chosen.len(), outcome.logits.len()), (3, VOCABULARY));
    });
    assert_eq!((mixed.replays, mixed.writes, mixed.recordings), (0, 1, 0));
}

#[test]
fn what_was_launched_ahead_and_not_wanted_changes_nothing() {
    let weights = Weights::random(4);
    let run = |disturb: bool| {
        let mut runner = runner::<bf16>(&weights, Traits::SOUND);
        let mut texts: Vec<_> = (0..2).map(|number| Going::new(40, number, &WARM)).collect();
        let mut other = [Going::new(41, 2, &WARM)];
        for round in 0..12 {
            step(&mut runner, &mut texts);
            if disturb && round % 5 == 4 {
                step(&mut runner, &mut other);
            }
            if disturb && round == 8 {
                // A page that nobody has is cleared meanwhile.
                runner.clear(4 * TABLE_WIDTH).unwrap();
            }
        }
        texts.into_iter().map(|text| text.ids).collect::<Vec<_>>()
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn guessed_rows_get_the_bits_of_rows_that_come_one_by_one() {
    let weights = Weights::random(5);
    let mut runner = runner::<bf16>(&weights, Traits::SOUND);
    let ids = [3, 8, 21, 34];
    let pages = [0, 1, 2, 3];
    let one_by_one: Vec<Vec<f32>> = (0..4)
        .map(|position| {
            let ids = &ids[position..=position];
            let text = Text { ids, position, generated: 1, pages: &pages, wanted: 1 };
            runner.step(&[text], &[None]).unwrap().logits.to_vec()
        })
        .collect();
    let text = Text { ids: &ids, position: 0, generated: 4, pages: &pages, wanted: 4 };
    assert!(runner.step(&[text], &[None; 4]).unwrap().logits == one_by_one.concat());
    // And beside a prompt that is read in the same step.
    let prompt = Text { ids: &[5, 6, 7], position: 0, generated: 0, pages: &[4], wanted: 0 };
    assert!(runner.step(&[prompt, text], &[None; 4]).unwrap().logits == one_by_one.concat());
}

#[test]
fn a_prompt_gives_the_same_bits_however_it_is_cut() {
    let weights = Weights::random(6);
    let mut runner = runner::<bf16>(&weights, Traits::SOUND);
    let ids: Vec<u32> = (0..39).map(|number| number * 3 + 1).collect();
    let mut read = |pieces: &[usize], pages: &[u32]| {
        let (mut position, mut last) = (0, Vec::new());
        for piece in pieces {
            let ids = &ids[position..position + piece];
            let text = Text { ids, position, generated: 0, pages, wanted: 1 };
            last = runner.step(&[text], &[None]).unwrap().logits.to_vec();
            position += piece;
        }
        assert_eq!(position, 39);
        last
    };
    let whole = read(&[39], &[0, 1]);
    for pieces in [&[38, 1][..], &[1, 38], &[32, 7], &[7, 7, 7, 7, 7, 4]] {
        assert!(read(pieces, &[2, 3]) == whole, "{pieces:?}");
    }
}

#[test]
fn a_device_that_cannot_record_does_the_same_launch_by_launch() {
    let weights = Weights::random(7);
    let run = |records| {
        let mut runner = runner::<bf16>(&weights, Traits { records, ..Traits::SOUND });
        runner.record().unwrap();
        assert_eq!(runner.is_recorded(), records);
        let mut texts: Vec<_> =
            (0..3).map(|number| Going::new(50 + number, number as usize, &WARM)).collect();
        (0..6).for_each(|_| step(&mut runner, &mut texts));
        texts.into_iter().map(|text| text.ids).collect::<Vec<_>>()
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn steps_that_do_not_fit_are_refused() {
    let mut runner = runner::<bf16>(&Weights::random(8), Traits::SOUND);
    let text = Text { ids: &[5, 6], position: 31, generated: 0, pages: &[0, 1], wanted: 1 };
    assert!(runner.step(&[text], &[None]).is_ok());
    for bad in [
        Text { pages: &[0], ..text },
        Text { wanted: 3, ..text },
        Text { position: TABLE_WIDTH * 32 - 1, ..text },
        Text { ids: &[5; 41], position: 0, pages: &[0, 1, 2, 3], ..text },
    ] {
        let choices = vec![None; bad.wanted];
        assert!(runner.step(&[bad], &choices).is_err(), "{} tokens at {}", bad.ids.len(), bad.position);
    }
    assert!(runner.step(&[text], &[]).is_err(), "nothing is chosen for the wanted row");
    assert!(runner.step(&[text; 6], &[None; 6]).is_err());
    assert!(runner.clear(5 * TABLE_WIDTH).is_err());
}
