//! Gemma over a ragged batch. A row is a token. Rows of all sequences go through the matrices together; each sequence
//! attends to its own keys and values. Everything between the weights is f32.

use candle_core::{D, Result, Tensor};

use super::cache::{Cache, Extent};
use super::linear::{Kinds, Matrix, multiply};
use super::place::Place;
use crate::model::gemma::batch::Slice;
use crate::model::gemma::config::Config;
use crate::model::gemma::weights::{LayerWeights, Weights};

/// Sums over a sequence are taken over this number of tokens at a time, and the sums then added in order. A longer sequence, whose
/// further weights are zero for a row, thus gives that row bitwise the same. A multiple of the block size.
const CHUNK: usize = 256;

type Layer = LayerWeights<Matrix, Tensor>;

/// A model.
pub(super) struct Network {
    pub(super) config: Config,
    pub(super) place: Place,
    pub(super) weights: Weights<Matrix, Tensor>,
    /// Cosines and sines of the angles, `[context_length, head_dim / 2]`, in f32: bf16 has no whole numbers between 256 and
    /// 258, so that positions would coincide.
    angles: [Tensor; 2],
}

/// A step's input on the device.
struct Batch {
    sequences: Vec<Sequence>,
    /// Cosines and sines of each row, `[rows, 1, head_dim / 2]`.
    angles: [Tensor; 2],
    kinds: Kinds,
    /// The rows that get logits.
    logit_rows: Vec<u32>,
    /// Their kinds.
    logit_kinds: Kinds,
}

/// A slice's part of a [`Batch`].
struct Sequence {
    /// Its first row, and how many it has.
    rows: (usize, usize),
    extent: Extent,
    /// `[1, rows, 1, length]`: 0 up to the row's own position, and minus infinity behind it.
    mask: Tensor,
}

impl Network {
    /// # Errors
    /// The device has too little memory.
    pub(super) fn new(config: Config, weights: Weights<Matrix, Tensor>, place: Place) -> Result<Self> {
        let (half, base) = (config.head_dim / 2, config.rope_theta as f32);
        let frequency = |pair| base.powf(2.0 * pair as f32 / config.head_dim as f32).recip();
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let table = |function: fn(f32) -> f32| {
            let row =
                |position| frequencies.iter().map(move |frequency| function(position as f32 * frequency));
            let numbers: Vec<f32> = (0..config.context_length).flat_map(row).collect();
            Tensor::from_vec(numbers, (config.context_length, half), place.device())
        };
        Ok(Self { angles: [table(f32::cos)?, table(f32::sin)?], config, place, weights })
    }

    /// Takes a step: `[num_logits, vocab_size]` logits of the rows that `slices` ask for.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn forward(&self, cache: &mut Cache, slices: &[Slice<'_>]) -> Result<Vec<f32>> {
        let batch = self.batch(cache, slices)?;
        let tokens: Vec<u32> = slices.iter().flat_map(|slice| slice.tokens).map(|token| token.0).collect();
        let tokens = Tensor::new(tokens.as_slice(), self.place.device())?;
        let factor = f64::from((self.config.hidden_size as f32).sqrt());
        let mut stream = (self.weights.embedding.rows(&tokens)? * factor)?;
        let mut kinds = &batch.kinds;
        for (number, layer) in self.weights.layers.iter().enumerate() {
            let normed = self.norm(&stream, &layer.input_norm)?;
            let attended = self.attention(cache, number, layer, &batch, &normed)?;
            let mut delta = layer.output.forward(&attended, kinds, layer.output_bias.as_ref())?;
            if number + 1 == self.weights.layers.len() {
                // Nothing reads the other rows of the last layer.
                if batch.logit_rows.is_empty() {
                    return Ok(Vec::new());
                }
                let logit_rows = Tensor::new(batch.logit_rows.as_slice(), self.place.device())?;
                [stream, delta] = [stream.index_select(&logit_rows, 0)?, delta.index_select(&logit_rows, 0)?];
                kinds = &batch.logit_kinds;
            }
            stream = (stream + delta)?;
            let normed = self.norm(&stream, &layer.feed_forward_norm)?;
            stream = (stream + self.feed_forward(layer, kinds, &normed)?)?;
        }
        let normed = self.norm(&stream, &self.weights.norm)?;
        // Few rows get logits, so all of them take the way of decoding.
        self.weights.embedding.forward(&normed, &Kinds::Decode, None)?.flatten_all()?.to_vec1()
    }

    fn batch(&self, cache: &Cache, slices: &[Slice<'_>]) -> Result<Batch> {
        let device = self.place.device();
        let (mut positions, mut of_prompt) = (Vec::new(), Vec::new());
        let (mut logit_rows, mut sequences) = (Vec::new(), Vec::new());
        for slice in slices {
            let (first, count) = (positions.len(), slice.tokens.len());
            positions.extend((slice.position..slice.position + count).map(|position| position as u32));
            of_prompt
                .extend((slice.position..slice.position + count).map(|position| position < slice.prompt));
            let kept = slice.num_logits.min(count);
            logit_rows.extend((first + count - kept..first + count).map(|row| row as u32));
            let length = (slice.position + count).next_multiple_of(CHUNK);
            let masked = |row| {
                let seen = slice.position + row + 1;
                (0..length).map(move |place| if place < seen { 0.0 } else { f32::NEG_INFINITY })
            };
            let mask: Vec<f32> = (0..count).flat_map(masked).collect();
            sequences.push(Sequence {
                rows: (first, count),
                extent: cache.extent(slice, CHUNK, &self.place)?,
                mask: Tensor::from_vec(mask, (1, count, 1, length), device)?,
            });
        }
        let positions = Tensor::new(positions.as_slice(), device)?;
        let rows = |table: &Tensor| table.index_select(&positions, 0)?.unsqueeze(1);
        let [cosines, sines] = &self.angles;
        let kept = logit_rows.iter().map(|&row| of_prompt.get(row as usize).copied().unwrap_or(true));
        Ok(Batch {
            sequences,
            angles: [rows(cosines)?, rows(sines)?],
            kinds: Kinds::new(&of_prompt, device)?,
            logit_kinds: Kinds::new(&kept.collect::<Vec<_>>(), device)?,
            logit_rows,
        })
    }

    /// `[rows, num_heads * head_dim]`: what each row's queries find in its sequence, to which the rows' keys and values are
    /// appended first.
    fn attention(
        &self,
        cache: &mut Cache,
        number: usize,
        layer: &Layer,
        batch: &Batch,
        normed: &Tensor,
    ) -> Result<Tensor> {
        let Config { num_heads, num_kv_heads, head_dim, .. } = self.config;
        let bias = layer.queries_keys_values_bias.as_ref();
        let projected = layer.queries_keys_values.forward(normed, &batch.kinds, bias)?;
        let heads = projected.reshape(((), num_heads + 2 * num_kv_heads, head_dim))?;
        let turned = rotate(&heads.narrow(1, 0, num_heads + num_kv_heads)?, &batch.angles)?;
        let queries = turned.narrow(1, 0, num_heads)?;
        let keys = turned.narrow(1, num_heads, num_kv_heads)?;
        let values = heads.narrow(1, num_heads + num_kv_heads, num_kv_heads)?;
        let mut found = Vec::with_capacity(batch.sequences.len());
        for Sequence { rows: (first, count), extent, mask } in &batch.sequences {
            let own = |all: &Tensor| all.narrow(0, *first, *count);
            cache.write(number, extent, &own(&keys)?, &own(&values)?)?;
            let [keys, values] = cache.read(number, extent)?;
            found.push(self.attend(&own(&queries)?, &keys, &values, mask)?);
        }
        Tensor::cat(&found, 0)
    }

    /// Attention of `queries`, `[rows, num_heads, head_dim]`, over `keys` and `values`, `[num_kv_heads, length, head_dim]`.
    /// Query heads that share a KV head are rows of the same products.
    fn attend(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let Config { num_heads, num_kv_heads, head_dim, .. } = self.config;
        let (rows, length, group) = (queries.dim(0)?, keys.dim(1)?, num_heads / num_kv_heads);
        let (together, chunks) = (rows * group, length / CHUNK);
        let scaled = (queries * f64::from((head_dim as f32).sqrt().recip()))?;
        let by_head = scaled.reshape((rows, num_kv_heads, group, head_dim))?.transpose(0, 1)?;
        let scores = multiply(&by_head.reshape((num_kv_heads, together, head_dim))?, &keys.t()?)?;
        let scores = scores.reshape((num_kv_heads, rows, group, length))?.broadcast_add(mask)?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = weights.reshape((num_kv_heads, together, chunks, CHUNK))?.transpose(1, 2)?;
        let weights = weights.reshape((num_kv_heads * chunks, together, CHUNK))?;
        let sums = multiply(&weights, &values.reshape((num_kv_heads * chunks, CHUNK, head_dim))?)?;
        let sums = in_order(&sums.reshape((num_kv_heads, chunks, together, head_dim))?)?;
        let total = weights.sum_keepdim(D::Minus1)?.reshape((num_kv_heads, chunks, together, 1))?;
        let seen = sums.broadcast_div(&in_order(&total)?)?;
        let by_row = seen.reshape((num_kv_heads, rows, group, head_dim))?.transpose(0, 1)?;
        by_row.reshape((rows, num_heads * head_dim))
    }

    /// `down(gelu(gate(x)) * up(x))`.
    fn feed_forward(&self, layer: &Layer, kinds: &Kinds, normed: &Tensor) -> Result<Tensor> {
        let gate_up = layer.gate_up.forward(normed, kinds, None)?;
        let inner = self.config.intermediate_size;
        // candle's `gelu` is the tanh approximation.
        let gate = gate_up.narrow(1, 0, inner)?.gelu()?;
        layer.down.forward(&(gate * gate_up.narrow(1, inner, inner)?)?, kinds, None)
    }

    /// `x / rms(x) * scale`. The 1 that Gemma adds to its scales is in them already.
    fn norm(&self, x: &Tensor, scale: &Tensor) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        x.broadcast_div(&(mean + self.config.rms_norm_eps)?.sqrt()?)?.broadcast_mul(scale)
    }
}

/// Rotary embedding of `[rows, heads, head_dim]`: each number of a head's first half is paired with one of its second.
fn rotate(heads: &Tensor, [cosines, sines]: &[Tensor; 2]) -> Result<Tensor> {
    let half = heads.dim(2)? / 2;
    let (left, right) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let first = (left.broadcast_mul(cosines)? - right.broadcast_mul(sines)?)?;
    let second = (right.broadcast_mul(cosines)? + left.broadcast_mul(sines)?)?;
    Tensor::cat(&[first, second], 2)
}

/// The sum of `parts`, `[_, chunks, ..]`, over the chunks from the first to the last.
fn in_order(parts: &Tensor) -> Result<Tensor> {
    let mut sum = parts.narrow(1, 0, 1)?;
    for chunk in 1..parts.dim(1)? {
        sum = (sum + parts.narrow(1, chunk, 1)?)?;
    }
    sum.squeeze(1)
}
