//! The steps on which two backends are compared before one of them serves.
//!
//! They have the model's own shapes and the weights of its first layers: prompts of 1, 33 and 700 tokens, read alone and
//! with others, whole and after a cached prefix; and decode steps of 1, 8 and 33 sequences. One is shorter than a KV block,
//! one just longer, one takes several splits of the attention and several tiles of the products.

use super::backend::Backend;
use super::warmup::logits;
use crate::model::{Config, ModelError, Slice, StepRoom};
use crate::token::TokenId;
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};

/// The layers that are compared. Two: the second reads what the first has made.
pub(super) const LAYERS: usize = 2;
/// The largest difference of a logit between sound backends, in root mean squares of the logits of its row.
///
/// Each product of the kernels has inputs that are rounded to bf16 (by up to 2^-9 of a number), or weights in blocks of 8 or
/// 4 bits; candle rounds the inputs of quantized products to 8 bits (by up to 2^-8 of the largest of 32 or 256 numbers). With
/// two layers such errors are estimated at 0.01 of the logits' root mean square, and the largest of a few million logits is
/// five or six times as far off. What a wrong kernel computes has nothing to do with the right logits, so that some differ
/// by more than their root mean square. Measured: up to 0.08 for sound kernels on the emulated device (`tests/device/witness.rs`),
/// 0.16 for those of the CPU and a narrow model of mixed types that is quantized again to q4k, and from 4 on for kernels that leave
/// out their part. The bound is twice the largest of the sound ones.
pub(super) const TOLERANCE: f32 = 0.3;

/// Prompts that are read alone, in tokens.
const PROMPTS: [usize; 3] = [700, 33, 1];
/// Sequences of the decode steps.
const BATCHES: [usize; 3] = [1, 8, 33];
/// The first token that is neither a control token nor unused in CodeGemma.
const FIRST_TOKEN: usize = 108;

/// The steps for one model.
pub(super) struct Plan {
    texts: Vec<Text>,
    steps: Vec<Vec<Piece>>,
    blocks: usize,
    vocabulary: usize,
}

struct Text {
    tokens: Vec<TokenId>,
    blocks: Vec<BlockId>,
    /// How many of the tokens are the prompt.
    prompt: usize,
}

/// Tokens of a text that are read in a step.
#[derive(Clone, Copy)]
struct Piece {
    text: usize,
    from: usize,
    to: usize,
}

impl Plan {
    /// The steps for a model of `config`. Prompts that do not fit its context are shortened.
    pub(super) fn new(config: &Config) -> Self {
        let (most, vocabulary) = (BATCHES.iter().max().copied().unwrap_or(1), config.vocab_size);
        let longest = config.context_length.saturating_sub(BATCHES.len()).max(1);
        let mut plan = Self { texts: Vec::new(), steps: Vec::new(), blocks: 0, vocabulary };
        for number in 0..most {
            let prompt = PROMPTS.get(number).copied().unwrap_or(1 + number * 5 % 33).min(longest);
            plan.add_text(number, prompt, &[]);
        }
        let prompts: Vec<_> = (0..most).map(|text| Piece { text, from: 0, to: plan.prompt(text) }).collect();
        let (alone, together) = prompts.split_at(PROMPTS.len());
        plan.steps.extend(alone.iter().map(|piece| vec![*piece]));
        plan.steps.push(together.to_vec());
        let mut decoded = vec![0; most];
        for batch in BATCHES {
            let next = (0..batch).zip(&mut decoded).map(|(text, decoded)| {
                let from = plan.prompt(text) + *decoded;
                *decoded += 1;
                Piece { text, from, to: from + 1 }
            });
            let next = next.collect();
            plan.steps.push(next);
        }
        // The longest prompt again, its first half from the cache.
        let cached = plan.prompt(0) / BLOCK_TOKENS / 2;
        let prefix: Vec<_> =
            plan.texts.first().into_iter().flat_map(|text| &text.blocks).copied().take(cached).collect();
        plan.add_text(0, plan.prompt(0), &prefix);
        plan.steps.push(vec![Piece { text: most, from: cached * BLOCK_TOKENS, to: plan.prompt(0) }]);
        plan
    }

    /// Adds the text with this number, whose first blocks are `prefix`.
    fn add_text(&mut self, number: usize, prompt: usize, prefix: &[BlockId]) {
        let ordinary = self.vocabulary.saturating_sub(FIRST_TOKEN).max(1);
        let token = |index: usize| {
            FIRST_TOKEN.min(self.vocabulary - 1) + (index * 7919 + number * 104_729) % ordinary
        };
        let tokens = (0..prompt + BATCHES.len())
            .map(|index| TokenId(if index == 0 { 2 } else { token(index) as u32 }));
        let tokens: Vec<_> = tokens.collect();
        let first = self.blocks;
        self.blocks += tokens.len().div_ceil(BLOCK_TOKENS).saturating_sub(prefix.len());
        // Backwards: a block's number must not stand for its place.
        let own = (first..self.blocks).rev().map(|block| BlockId(block as u32));
        let blocks = prefix.iter().copied().chain(own).collect();
        self.texts.push(Text { tokens, blocks, prompt });
    }

    fn prompt(&self, text: usize) -> usize {
        self.texts.get(text).map_or(0, |text| text.prompt)
    }

    /// The KV blocks that the steps take.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// The largest step.
    pub(super) fn room(&self) -> StepRoom {
        let rows = |step: &Vec<Piece>| step.iter().map(|piece| piece.to - piece.from).sum();
        let rows = self.steps.iter().map(rows).max().unwrap_or(1);
        let batch = self.steps.iter().map(Vec::len).max().unwrap_or(1);
        StepRoom { rows, num_logits: batch, batch }
    }

    /// Takes all steps, and returns the logits after each piece, `[pieces, vocabulary]`.
    ///
    /// # Errors
    /// The backend failed.
    pub(super) fn run(&self, backend: &mut dyn Backend) -> Result<Vec<f32>, ModelError> {
        (0..self.blocks).try_for_each(|block| backend.clear(BlockId(block as u32)))?;
        let mut all = Vec::new();
        for step in &self.steps {
            let slices: Vec<_> = step.iter().filter_map(|piece| self.slice(*piece)).collect();
            all.extend(logits(backend, &slices)?);
        }
        Ok(all)
    }

    fn slice(&self, Piece { text, from, to }: Piece) -> Option<Slice<'_>> {
        let Text { tokens, blocks, prompt } = self.texts.get(text)?;
        Some(Slice { tokens: tokens.get(from..to)?, position: from, blocks, num_logits: 1, prompt: *prompt })
    }

    /// The largest difference between the logits of two runs, in root mean squares of a row; infinite if one is not a
    /// number, or if there are not as many.
    pub(super) fn difference(&self, found: &[f32], expected: &[f32]) -> f32 {
        if found.len() != expected.len() || expected.is_empty() {
            return f32::INFINITY;
        }
        let rows = found.chunks(self.vocabulary).zip(expected.chunks(self.vocabulary));
        let worst = |(found, expected): (&[f32], &[f32])| {
            let squares: f32 = expected.iter().map(|logit| logit * logit).sum();
            let size = (squares / expected.len() as f32).sqrt();
            found.iter().zip(expected).fold(0.0f32, |worst, (a, b)| larger(worst, (a - b).abs() / size))
        };
        rows.map(worst).fold(0.0, larger)
    }
}

/// The larger one; infinite if one is not a number.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::INFINITY } else { a.max(b) }
}

#[cfg(test)]
mod tests {
    use super::super::backend::Cpu;
    use super::super::backend::candle::OnCandle;
    use super::*;
    use crate::model::{CandleModel, Checkpoint, Model, ModelFiles, Place, Quantize};

    fn first_layers() -> Checkpoint {
        Checkpoint::open(&ModelFiles::tiny()).unwrap().first_layers(LAYERS).unwrap()
    }

    fn runs(quantize: Quantize) -> (Plan, [Vec<f32>; 2]) {
        let mut checkpoint = first_layers();
        let plan = Plan::new(checkpoint.config());
        let kernels = Model::from_checkpoint(&mut checkpoint, "tiny", quantize, |_, _| {}).unwrap();
        let place = Place::cpu().unwrap();
        let candle =
            CandleModel::from_checkpoint(&mut checkpoint, "tiny", quantize, place, |_, _| {}).unwrap();
        assert_eq!((kernels.config().num_layers, candle.config().num_layers), (LAYERS, LAYERS));
        let kernels = plan.run(&mut Cpu::new(kernels, plan.blocks(), plan.room())).unwrap();
        let candle = plan.run(&mut OnCandle::new(candle, plan.blocks(), None).unwrap()).unwrap();
        (plan, [kernels, candle])
    }

    #[test]
    fn the_kernels_of_the_cpu_and_candle_agree() {
        for quantize in [Quantize::None, Quantize::Q8_0, Quantize::Q4K] {
            let (plan, [kernels, candle]) = runs(quantize);
            let difference = plan.difference(&kernels, &candle);
            assert!(difference > 0.0 && difference < TOLERANCE, "{quantize:?}: {difference}");
        }
    }

    #[test]
    fn a_logit_that_is_wrong_or_no_number_is_told() {
        let (plan, [sound, _]) = runs(Quantize::None);
        assert_eq!(plan.difference(&sound, &sound), 0.0);
        assert_eq!(plan.difference(&sound[1..], &sound), f32::INFINITY);
        for number in [0, sound.len() / 2, sound.len() - 1] {
            let mut wrong = sound.clone();
            wrong[number] = f32::NAN;
            assert_eq!(plan.difference(&wrong, &sound), f32::INFINITY);
            assert_eq!(plan.difference(&sound, &wrong), f32::INFINITY);
            wrong[number] = sound[number] + 100.0;
            assert!(plan.difference(&wrong, &sound) > TOLERANCE);
        }
    }

    #[test]
    fn prompts_and_batches_are_as_documented_or_fit_the_context() {
        let config = first_layers().config().clone();
        let plan = Plan::new(&config);
        let sizes = |step: &Vec<Piece>| step.iter().map(|piece| piece.to - piece.from).collect::<Vec<_>>();
        let steps: Vec<_> = plan.steps.iter().map(sizes).collect();
        assert_eq!(steps[..3], [vec![700], vec![33], vec![1]]);
        assert_eq!(steps[3].len(), 30);
        assert_eq!(steps[4..7], [vec![1], vec![1; 8], vec![1; 33]]);
        assert_eq!(steps[7], [700 - 320]);
        assert_eq!(plan.room().batch, 33);
        let short = Plan::new(&crate::model::Config { context_length: 40, ..config });
        assert!(short.texts.iter().all(|text| text.tokens.len() <= 40));
    }
}
