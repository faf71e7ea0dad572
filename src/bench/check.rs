//! Checks that a device computes what the CPU does, and the same in any batch and in chunks of any size.
//!
//! Small models in the shapes of the kernels, with random weights, go through the very steps that the engine takes.

use std::io::Write;
use std::ops::Range;

use serde::Serialize;

use super::BenchError;
use crate::model::{DeviceModel, DeviceSession, Model, ModelError, ModelFiles, Quantize, Slice, StepRoom};
use crate::token::TokenId;
use codeseal_kernels::cuda::{Device, DeviceError, NO_TOKEN};
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};
use codeseal_kernels::sampling::{RowSampler, SamplingParams, sample};

/// How large the models and how long the texts are.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// The width of the residual stream.
    pub width: usize,
    /// The width of the feed-forward part.
    pub inner: usize,
    /// Heads of the models: how many there are, and how many of them ask the same key.
    pub heads: &'static [(usize, usize)],
    /// The lengths of the prompts, in tokens, which are read together.
    pub prompts: &'static [usize],
}

impl Extent {
    /// Lengths at the edges of pages, several splits of attention, and enough rows for the kernels of large batches.
    pub const DEVICE: Self = Self {
        vocabulary: 32_768,
        width: 512,
        inner: 16_384,
        heads: &[(8, 8), (4, 4), (2, 2), (2, 1)],
        prompts: &[1, 31, 32, 33, 64, 257, 700, 1500],
    };
    /// As little as shows something, for the emulator.
    pub const EMULATOR: Self =
        Self { vocabulary: 120, width: 64, inner: 64, heads: &[(4, 4), (2, 1)], prompts: &[1, 33, 40] };
}

/// What was checked.
#[derive(Debug, Serialize)]
pub struct Checks {
    /// What the device is called.
    pub device: String,
    /// All of them, in their order.
    pub checks: Vec<Check>,
}

/// One thing that was checked.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The model and what was looked at.
    pub name: String,
    /// The largest difference of a logit, in root mean squares of the logits of its row, if that was measured and is finite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<f32>,
    /// The largest difference that passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<f32>,
    /// What is wrong; nothing if all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Checks {
    /// Whether all is well.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.failure.is_none())
    }

    /// Writes them as lines or as JSON.
    ///
    /// # Errors
    /// Nobody reads it.
    pub fn write(&self, json: bool, out: &mut impl Write) -> Result<(), BenchError> {
        if json {
            writeln!(out, "{}", serde_json::to_string_pretty(self)?)?;
            return Ok(());
        }
        writeln!(out, "{}", self.device)?;
        for Check { name, difference, bound, failure } in &self.checks {
            match failure {
                None => write!(out, "ok      {name}")?,
                Some(failure) => write!(out, "FAILED  {name}: {failure}")?,
            }
            if let Some(difference) = difference {
                write!(out, ", largest difference {difference:.4}")?;
            }
            writeln!(out, "{}", bound.map(|bound| format!(", bound {bound}")).unwrap_or_default())?;
        }
        Ok(())
    }
}

/// How far a logit may be from the CPU's, in root mean squares of all: keys, values and activations are rounded to
/// eight bits on either side.
const TOLERANCE: f32 = 0.08;
/// New tokens after each prompt: with eight texts enough rows for the widest kernel.
const FOLLOW: usize = 5;

/// Checks the device that `open` opens, once for every model.
///
/// # Errors
/// The device cannot be opened, or the CPU's model cannot be made. What is wrong with the device's is in the result.
pub fn check<D: Device + 'static>(
    open: impl Fn() -> Result<D, DeviceError>,
    extent: &Extent,
) -> Result<Checks, BenchError> {
    let mut all = Checks { device: open().map_err(ModelError::from)?.name(), checks: Vec::new() };
    for &(heads, sharing) in extent.heads {
        for quantize in [Quantize::None, Quantize::Q8_0, Quantize::Q4K] {
            let name = format!("{heads} heads, {sharing} for a key, weights {}", quantize.as_str());
            let files = ModelFiles::random(config(extent, heads, heads / sharing).into_bytes())?;
            let cpu = Model::from_files(&files, "check", quantize, |_, _| {})?;
            let device = open().map_err(ModelError::from)?;
            let rig = DeviceModel::load(device, &files, "check", quantize, |_, _| {})
                .and_then(|model| Rig::new(model, extent));
            let mut note = |what: &str, result: Result<Option<String>, ModelError>| {
                let failure = result.unwrap_or_else(|error| Some(error.to_string()));
                let name = format!("{name}: {what}");
                all.checks.push(Check { name, difference: None, bound: None, failure });
            };
            match rig {
                Err(error) => note("loads", Err(error)),
                Ok(mut rig) => {
                    note("logits equal the CPU's", rig.logits(&cpu));
                    note("a prompt is the same in pieces", rig.pieces());
                    note("tokens together are the same as one by one", rig.batch());
                    note("a replayed step is the same as one that is launched", rig.replay());
                    note("tokens are chosen as on the CPU", rig.sampling());
                }
            }
        }
    }
    Ok(all)
}

fn config(extent: &Extent, heads: usize, kv_heads: usize) -> String {
    let Extent { vocabulary, width, inner, prompts, .. } = extent;
    let context = prompts.iter().max().unwrap_or(&0) + 32;
    format!(
        r#"{{"model_type": "gemma", "vocab_size": {vocabulary}, "hidden_size": {width}, "intermediate_size": {inner},
        "num_hidden_layers": 2, "num_attention_heads": {heads}, "num_key_value_heads": {kv_heads}, "head_dim": 256,
        "max_position_embeddings": {context}}}"#
    )
}

/// A model on a device, and texts for it.
struct Rig {
    session: DeviceSession,
    texts: Vec<Vec<TokenId>>,
    tables: Vec<Vec<BlockId>>,
}

type Found = Result<Option<String>, ModelError>;

impl Rig {
    fn new<D: Device + 'static>(model: DeviceModel<D>, extent: &Extent) -> Result<Self, ModelError> {
        let count = extent.prompts.len();
        let texts = extent.prompts.iter().enumerate().map(|(number, length)| {
            let token = |index: usize| TokenId(((index * 31 + number * 17 + 5) % extent.vocabulary) as u32);
            (0..length + FOLLOW).map(token).collect::<Vec<_>>()
        });
        let texts: Vec<_> = texts.collect();
        let mut block = 0;
        let tables = texts.iter().map(|text| {
            let first = block;
            block += text.len().div_ceil(BLOCK_TOKENS) + 1;
            // Backwards: a block's number must not stand for its place.
            (first..block).rev().map(|block| BlockId(block as u32)).collect::<Vec<_>>()
        });
        let tables: Vec<_> = tables.collect();
        let rows = texts.iter().map(Vec::len).sum();
        let together = count * FOLLOW;
        let room = StepRoom { rows, num_logits: together, batch: together };
        Ok(Self { session: model.session(block, room)?, texts, tables })
    }

    /// The tokens of a text's prompt.
    fn prompt(&self, text: usize) -> usize {
        self.texts[text].len() - FOLLOW
    }

    /// Reads tokens of texts, and returns the logits after as many of the last tokens of each.
    fn read(&mut self, pieces: &[(usize, Range<usize>, usize)]) -> Result<Vec<f32>, ModelError> {
        let slices: Vec<_> = pieces
            .iter()
            .map(|(text, range, num_logits)| Slice {
                tokens: &self.texts[*text][range.clone()],
                position: range.start,
                blocks: &self.tables[*text],
                num_logits: *num_logits,
                prompt: self.texts[*text].len() - FOLLOW,
            })
            .collect();
        let num_logits = pieces.iter().map(|(_, _, num_logits)| num_logits).sum();
        Ok(self.session.step(&slices, &vec![None; num_logits])?.logits.to_vec())
    }

    /// Reads other tokens in these places, so that nothing right is there before a step is looked at.
    fn scribble(&mut self, places: &[(usize, Range<usize>)]) -> Result<(), ModelError> {
        let other = |(text, range): &(usize, Range<usize>)| {
            self.texts[*text][range.clone()].iter().map(|token| TokenId(token.0 ^ 1)).collect::<Vec<_>>()
        };
        let others: Vec<_> = places.iter().map(other).collect();
        let slices = places.iter().zip(&others).map(|((text, range), tokens)| Slice {
            tokens,
            position: range.start,
            blocks: &self.tables[*text],
            num_logits: 0,
            prompt: range.end,
        });
        let slices: Vec<_> = slices.collect();
        self.session.step(&slices, &[])?;
        Ok(())
    }

    /// All prompts at once, then the tokens after them, against the CPU's logits.
    fn logits(&mut self, cpu: &Model) -> Found {
        let texts = 0..self.texts.len();
        let pieces: Vec<_> = texts.clone().map(|text| (text, 0..self.prompt(text), 1)).collect();
        let mut found = vec![self.read(&pieces)?];
        for step in 0..FOLLOW {
            let place = |text| self.prompt(text) + step;
            let pieces: Vec<_> = texts.clone().map(|text| (text, place(text)..place(text) + 1, 1)).collect();
            found.push(self.read(&pieces)?);
        }
        let vocabulary = cpu.config().vocab_size;
        for text in texts {
            let mut sequence = cpu.sequence();
            let prompt = self.prompt(text);
            for (step, found) in found.iter().enumerate() {
                let tokens = match step {
                    0 => &self.texts[text][..prompt],
                    _ => &self.texts[text][prompt + step - 1..prompt + step],
                };
                let expected = sequence.forward(tokens)?;
                let found = found.get(text * vocabulary..(text + 1) * vocabulary).unwrap_or_default();
                if let Some(failure) = far(found, &expected) {
                    return Ok(Some(format!("{failure}, {step} after a prompt of {prompt}")));
                }
            }
        }
        Ok(None)
    }

    /// The longest prompt whole, and cut.
    fn pieces(&mut self) -> Found {
        let text = self.longest();
        let length = self.prompt(text);
        let whole = self.read(&[(text, 0..length, 1)])?;
        for piece in [BLOCK_TOKENS, 7, length - 1] {
            // What is right there already must not make up for what is not written.
            for block in &self.tables[text] {
                self.session.clear(*block)?;
            }
            let (mut start, mut last) = (0, Vec::new());
            while start < length {
                let end = length.min(start + piece);
                last = self.read(&[(text, start..end, 1)])?;
                start = end;
            }
            if last != whole {
                return Ok(Some(format!("pieces of {piece} change the logits")));
            }
        }
        Ok(None)
    }

    /// What follows each prompt token by token, and of several texts and all tokens together.
    fn batch(&mut self) -> Found {
        let mut alone = Vec::new();
        for text in 0..self.texts.len() {
            for place in self.prompt(text)..self.prompt(text) + FOLLOW {
                alone.extend(self.read(&[(text, place..place + 1, 1)])?);
            }
        }
        for texts in [1, 2, 4, self.texts.len()] {
            let texts = 0..texts.min(self.texts.len());
            let pieces = texts.map(|text| (text, self.prompt(text)..self.prompt(text) + FOLLOW, FOLLOW));
            let pieces: Vec<_> = pieces.collect();
            let places: Vec<_> = pieces.iter().map(|(text, range, _)| (*text, range.clone())).collect();
            self.scribble(&places)?;
            let together = self.read(&pieces)?;
            if alone.get(..together.len()) != Some(&together) {
                return Ok(Some(format!("{} tokens together change the logits", pieces.len() * FOLLOW)));
            }
        }
        Ok(None)
    }

    /// A step of a size that has not been there is launched, and recorded then.
    fn replay(&mut self) -> Found {
        let next = |rig: &Self, text| (text, rig.prompt(text)..rig.prompt(text) + 1, 1);
        let pieces = [next(self, 0), next(self, self.longest())];
        let first = self.read(&pieces)?;
        let again = self.read(&pieces)?;
        self.session.record()?;
        if !self.session.is_recorded() {
            return Ok(Some("the device does not record: steps will be slower".to_owned()));
        }
        Ok((first != again).then(|| "the logits differ".to_owned()))
    }

    /// The likeliest token, and tokens by chance.
    fn sampling(&mut self) -> Found {
        let text = self.longest();
        let prompt = self.prompt(text);
        let warm = SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY };
        for (seed, params) in [
            SamplingParams::GREEDY,
            warm,
            SamplingParams { top_k: 40, ..warm },
            SamplingParams { top_p: 0.9, ..warm },
            SamplingParams { temperature: 0.6, top_k: 50, top_p: 0.95, min_p: 0.02 },
        ]
        .into_iter()
        .enumerate()
        {
            let seed = seed as u64;
            let logits = self.read(&[(text, prompt..prompt + 1, 1)])?;
            let slice = Slice {
                tokens: &self.texts[text][prompt..prompt + 1],
                position: prompt,
                blocks: &self.tables[text],
                num_logits: 1,
                prompt,
            };
            let output = self.session.step(&[slice], &[Some(RowSampler::new(&params, seed))])?;
            let chosen = output.chosen.first().copied().filter(|token| *token != NO_TOKEN);
            if chosen.is_none() || chosen != sample(&logits, &params, seed, prompt as u64) {
                return Ok(Some(format!("another token is chosen with {params:?}")));
            }
        }
        Ok(None)
    }

    /// The longest text.
    fn longest(&self) -> usize {
        (0..self.texts.len()).max_by_key(|text| self.texts[*text].len()).unwrap_or(0)
    }
}

/// How logits are too far from what they should be, if they are.
fn far(found: &[f32], expected: &[f32]) -> Option<String> {
    if found.len() != expected.len() {
        return Some(format!("{} logits instead of {}", found.len(), expected.len()));
    }
    let size = (expected.iter().map(|logit| logit * logit).sum::<f32>() / expected.len() as f32).sqrt();
    let off = |(found, expected): (&f32, &f32)| (found - expected).abs() / size;
    let worst = found.iter().zip(expected).map(off).fold(0.0f32, |worst, off| {
        // A NaN is as far as can be.
        if off.is_nan() { f32::INFINITY } else { worst.max(off) }
    });
    (worst > TOLERANCE).then(|| format!("a logit is off by {worst:.3} of their size"))
}
