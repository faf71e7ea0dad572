//! Steps that feed themselves: what is copied, recorded and launched, and that it changes nothing.
//!
//! Whether it does is looked at by checks of a device; a test holds them against devices with faults, too.

use codeseal::model::device::{Runner, RunnerRoom};
use codeseal::model::{Quantize, Slice};
use codeseal::tokenizer::TokenId;
use codeseal_kernels::cuda::{NO_TOKEN, Narrow};
use codeseal_kernels::kv::BlockId;
use codeseal_kernels::sampling::{RowSampler, SamplingParams, sample};
use half::{bf16, f16};

use crate::forward::assert_near;
use crate::toy::{TABLE_WIDTH, VOCABULARY, Weights};
use codeseal_emulator::device::{Done, Emulator, Traits};
use codeseal_emulator::pages::From32;

const WARM: SamplingParams = SamplingParams { temperature: 1.0, top_k: 20, top_p: 0.9, min_p: 0.02 };

/// A sequence that is decoded, in KV blocks of its own.
#[derive(Clone)]
struct Going {
    ids: Vec<TokenId>,
    blocks: Vec<BlockId>,
    sampler: RowSampler,
}

impl Going {
    fn new(first: u32, number: usize, params: &SamplingParams) -> Self {
        let blocks = (0..TABLE_WIDTH).rev().map(|block| BlockId((number * TABLE_WIDTH + block) as u32));
        let sampler = RowSampler::new(params, u64::from(first));
        Self { ids: vec![TokenId(first)], blocks: blocks.collect(), sampler }
    }

    /// Its last token.
    fn text(&self) -> Slice<'_> {
        let position = self.ids.len() - 1;
        decoded(&self.ids[position..], position, &self.blocks, 1)
    }
}

/// A slice of generated tokens.
fn decoded<'a>(
    tokens: &'a [TokenId],
    position: usize,
    blocks: &'a [BlockId],
    num_logits: usize,
) -> Slice<'a> {
    Slice { tokens, position, blocks, num_logits, prompt: position }
}

/// A slice of a prompt.
fn prompt<'a>(tokens: &'a [TokenId], position: usize, blocks: &'a [BlockId], num_logits: usize) -> Slice<'a> {
    Slice { tokens, position, blocks, num_logits, prompt: position + tokens.len() }
}

fn tokens<const N: usize>(ids: [u32; N]) -> [TokenId; N] {
    ids.map(TokenId)
}

fn runner<T: Narrow + From32>(weights: &Weights, traits: Traits) -> Runner<Emulator, T> {
    let network = weights.on(&Emulator, Quantize::None);
    let room =
        RunnerRoom { blocks: 5 * TABLE_WIDTH, table_width: TABLE_WIDTH, rows: 40, logit_rows: 5, batch: 5 };
    Runner::new(Emulator::with(traits), network, room).unwrap()
}

/// A step of all `texts`.
fn step<T: Narrow>(runner: &mut Runner<Emulator, T>, texts: &mut [Going]) {
    let samplers: Vec<_> = texts.iter().map(|text| Some(text.sampler)).collect();
    let views: Vec<_> = texts.iter().map(Going::text).collect();
    let chosen = runner.step(&views, &samplers).unwrap().chosen.to_vec();
    for (text, token) in texts.iter_mut().zip(chosen) {
        assert!(token != NO_TOKEN, "a step chooses nothing");
        text.ids.push(TokenId(token));
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

/// A batch chooses what its members would by themselves, and what the CPU chooses.
pub(crate) fn batches_are_their_members(traits: Traits) {
    codeseal_emulator::schedule(codeseal_emulator::Schedule::Reverse, 0);
    let weights = Weights::random(2);
    let model = weights.on_cpu(Quantize::None);
    let all = [(7, SamplingParams::GREEDY), (12, WARM), (99, WARM)];
    let all: Vec<_> =
        all.iter().enumerate().map(|(number, (first, params))| Going::new(*first, number, params)).collect();
    let mut together = all.clone();
    let mut batch = runner::<f16>(&weights, traits);
    (0..4).for_each(|_| step(&mut batch, &mut together));
    for (alone, expected) in all.into_iter().zip(&together) {
        let mut runner = runner::<f16>(&weights, traits);
        let params = if alone.ids[0] == TokenId(7) { SamplingParams::GREEDY } else { WARM };
        let mut sequence = model.sequence();
        let mut alone = [alone];
        for position in 0..4 {
            let token = alone[0].ids[position];
            let logits = runner.step(&[alone[0].text()], &[None]).unwrap().logits.to_vec();
            assert_near(&logits, &sequence.forward(&[token]).unwrap(), 4e-3);
            // The same step once more, chosen on the device.
            step(&mut runner, &mut alone);
            let chosen = sample(&logits, &params, u64::from(expected.ids[0].0), position as u64);
            assert!(
                chosen.map(TokenId) == alone[0].ids.last().copied(),
                "the device does not choose by its logits"
            );
        }
        assert!(alone[0].ids == expected.ids, "a batch is not what its members are");
    }
}

/// A batch that goes on is not copied, and its next step is launched ahead.
pub(crate) fn steps_feed_themselves(traits: Traits) {
    let weights = Weights::random(3);
    let mut runner = runner::<bf16>(&weights, traits);
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
        let found = done(|| step(&mut runner, &mut texts));
        assert!(found == Done { replays, ..nothing }, "a step does not feed the next: {found:?}");
    }
    // One leaves: the step that was launched ahead is not used.
    texts.pop();
    assert_eq!(done(|| step(&mut runner, &mut texts)), Done { replays: 1, writes: 1, ..nothing });
    // A prompt comes: nothing of it is a batch's.
    let ids: Vec<_> = (30..50).map(TokenId).collect();
    let reads = prompt(&ids, 0, &[BlockId(19)], 1);
    let samplers = [None, Some(texts[0].sampler), Some(texts[1].sampler)];
    let mixed = done(|| {
        let output = runner.step(&[reads, texts[0].text(), texts[1].text()], &samplers).unwrap();
        assert_eq!((output.chosen.len(), output.logits.len()), (3, VOCABULARY));
    });
    assert_eq!((mixed.replays, mixed.writes, mixed.recordings), (0, 1, 0));
}

/// A step that was launched ahead and is not used changes nothing.
pub(crate) fn a_step_ahead_that_is_not_used_changes_nothing(traits: Traits) {
    let weights = Weights::random(4);
    let run = |disturb: bool| {
        let mut runner = runner::<bf16>(&weights, traits);
        let mut texts: Vec<_> = (0..2).map(|number| Going::new(40, number, &WARM)).collect();
        let mut other = [Going::new(41, 2, &WARM)];
        for round in 0..12 {
            step(&mut runner, &mut texts);
            if disturb && round % 5 == 4 {
                step(&mut runner, &mut other);
            }
            if disturb && round == 8 {
                // A page that no sequence has is cleared meanwhile.
                runner.clear(BlockId(4 * TABLE_WIDTH as u32)).unwrap();
            }
        }
        texts.into_iter().map(|text| text.ids).collect::<Vec<_>>()
    };
    assert!(run(true) == run(false), "what others do changes a text");
}

/// Draft rows get the bits of single rows.
pub(crate) fn draft_rows_get_the_bits_of_single_rows(traits: Traits) {
    let weights = Weights::random(5);
    let mut runner = runner::<bf16>(&weights, traits);
    let ids = tokens([3, 8, 21, 34]);
    // Each time in pages that do not hold it already.
    let blocks = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]].map(|table: [u32; 4]| table.map(BlockId));
    let one_by_one: Vec<Vec<f32>> = (0..4)
        .map(|position| {
            let text = decoded(&ids[position..=position], position, &blocks[0], 1);
            runner.step(&[text], &[None]).unwrap().logits.to_vec()
        })
        .collect();
    let text = decoded(&ids, 0, &blocks[1], 4);
    let mut same = runner.step(&[text], &[None; 4]).unwrap().logits == one_by_one.concat();
    // And beside a prompt that is read in the same step.
    let ids = tokens([5, 6, 7]);
    let reads = prompt(&ids, 0, &[BlockId(12)], 0);
    let text = Slice { blocks: &blocks[2], ..text };
    same &= runner.step(&[reads, text], &[None; 4]).unwrap().logits == one_by_one.concat();
    assert!(same, "draft rows are not what comes one by one");
}

/// A prompt gives the same bits however it is cut.
pub(crate) fn prompts_may_be_cut(traits: Traits) {
    let weights = Weights::random(6);
    let mut runner = runner::<bf16>(&weights, traits);
    let ids: Vec<_> = (0..39).map(|number| TokenId(number * 3 + 1)).collect();
    let mut read = |pieces: &[usize], blocks: [u32; 2]| {
        let blocks = blocks.map(BlockId);
        let (mut position, mut last) = (0, Vec::new());
        for piece in pieces {
            let text = prompt(&ids[position..position + piece], position, &blocks, 1);
            last = runner.step(&[text], &[None]).unwrap().logits.to_vec();
            position += piece;
        }
        assert_eq!(position, 39);
        last
    };
    let whole = read(&[39], [0, 1]);
    let cuts = [&[38, 1][..], &[1, 38], &[32, 7], &[7, 7, 7, 7, 7, 4]];
    for (number, pieces) in (1..).zip(cuts) {
        // In pages that do not hold it already.
        assert!(
            read(pieces, [2 * number, 2 * number + 1]) == whole,
            "a prompt is not the same in pieces of {pieces:?}"
        );
    }
}

/// What is replayed is what would be launched one by one.
pub(crate) fn replays_are_launches(traits: Traits) {
    let weights = Weights::random(7);
    let run = |records| {
        let mut runner = runner::<bf16>(&weights, Traits { records, ..traits });
        runner.record().unwrap();
        assert_eq!(runner.is_recorded(), records);
        let launches = runner.launches_per_step(3);
        let mut texts: Vec<_> =
            (0..3).map(|number| Going::new(50 + number, number as usize, &WARM)).collect();
        let first = done(|| step(&mut runner, &mut texts));
        (0..5).for_each(|_| step(&mut runner, &mut texts));
        let texts = texts.into_iter().map(|text| text.ids).collect::<Vec<_>>();
        (texts, if records { launches } else { Some(first.launches as usize) })
    };
    assert!(run(true) == run(false), "what is replayed is not what is launched");
}

/// Of a page that was cleared nothing is left, and pages begin that way.
pub(crate) fn cleared_pages_hold_nothing(traits: Traits) {
    let mut runner = runner::<bf16>(&Weights::random(9), traits);
    // Attends to all of its page, of which it writes the last place only.
    let look = |runner: &mut Runner<Emulator, bf16>, block: u32| {
        let (ids, blocks) = (tokens([17]), [BlockId(block)]);
        runner.step(&[decoded(&ids, 31, &blocks, 1)], &[None]).unwrap().logits.to_vec()
    };
    let ids: Vec<_> = (50..81).map(TokenId).collect();
    runner.step(&[prompt(&ids, 0, &[BlockId(2)], 0)], &[]).unwrap();
    let (new, read) = (look(&mut runner, 3), look(&mut runner, 2));
    assert!(new.iter().all(|logit| logit.is_finite()), "pages do not begin with zeros");
    assert!(new != read, "nothing was read");
    runner.clear(BlockId(2)).unwrap();
    assert!(look(&mut runner, 2) == new, "something is left of a page");
}

#[test]
fn a_batch_chooses_what_its_members_would_and_what_the_cpu_does() {
    batches_are_their_members(Traits::SOUND);
}

#[test]
fn a_batch_that_goes_on_is_not_copied_and_its_next_step_is_launched_ahead() {
    steps_feed_themselves(Traits::SOUND);
}

#[test]
fn what_was_launched_ahead_and_not_wanted_changes_nothing() {
    a_step_ahead_that_is_not_used_changes_nothing(Traits::SOUND);
}

#[test]
fn draft_rows_get_the_bits_of_rows_that_come_one_by_one() {
    draft_rows_get_the_bits_of_single_rows(Traits::SOUND);
}

#[test]
fn a_prompt_gives_the_same_bits_however_it_is_cut() {
    prompts_may_be_cut(Traits::SOUND);
}

#[test]
fn a_device_that_cannot_record_does_the_same_launch_by_launch() {
    replays_are_launches(Traits::SOUND);
}

#[test]
fn nothing_is_left_of_a_cleared_page() {
    cleared_pages_hold_nothing(Traits::SOUND);
}

#[test]
fn steps_that_do_not_fit_are_refused() {
    let mut runner = runner::<bf16>(&Weights::random(8), Traits::SOUND);
    let (ids, many, blocks) = (tokens([5, 6]), tokens([5; 41]), [0, 1, 2, 3].map(BlockId));
    let text = prompt(&ids, 31, &blocks[..2], 1);
    assert!(runner.step(&[text], &[None]).is_ok());
    for bad in [
        Slice { blocks: &blocks[..1], ..text },
        Slice { num_logits: 3, ..text },
        prompt(&ids, TABLE_WIDTH * 32 - 1, &blocks[..2], 1),
        prompt(&many, 0, &blocks, 1),
    ] {
        let samplers = vec![None; bad.num_logits];
        assert!(runner.step(&[bad], &samplers).is_err(), "{} tokens at {}", bad.tokens.len(), bad.position);
    }
    assert!(runner.step(&[text], &[]).is_err(), "nothing is chosen for the wanted row");
    assert!(runner.step(&[text; 6], &[None; 6]).is_err());
    assert!(runner.clear(BlockId(5 * TABLE_WIDTH as u32)).is_err());
}
