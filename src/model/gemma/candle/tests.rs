//! Steps of any shape give bitwise the same logits, and nearly those of the CPU kernels.

use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};

use super::linear::Kinds;
use super::{Cache, CandleModel, Place};
use crate::model::gemma::{Model, Slice};
use crate::model::{ModelFiles, Quantize};
use crate::token::TokenId;

const VOCABULARY: usize = 4096;
/// More than one chunk of attention, and more inputs than gemm sums at a time.
const LENGTH: usize = 300;

fn model(quantize: Quantize) -> CandleModel {
    CandleModel::from_files(&ModelFiles::tiny(), "tiny", quantize, Place::cpu().unwrap(), |_, _| {}).unwrap()
}

/// The tokens of the text with this number: `<bos>` and ordinary ones.
fn text(number: usize, length: usize) -> Vec<TokenId> {
    let token =
        |index: usize| TokenId(if index == 0 { 2 } else { (120 + (index * 31 + number * 7) % 3900) as u32 });
    (0..length).map(token).collect()
}

/// The blocks of the sequence with this number, not in order.
fn table(number: usize, blocks: usize) -> Vec<BlockId> {
    (0..blocks).rev().map(|block| BlockId((number * blocks + block) as u32)).collect()
}

/// The logits after each token of `tokens`, which are read in steps of `sizes`, the last one as often as needed.
fn read(
    model: &CandleModel,
    cache: &mut Cache,
    tokens: &[TokenId],
    blocks: &[BlockId],
    sizes: &[usize],
) -> Vec<f32> {
    let mut sizes = sizes.iter().chain(std::iter::repeat(sizes.last().unwrap()));
    let (mut logits, mut left) = (Vec::new(), tokens);
    while !left.is_empty() {
        let position = tokens.len() - left.len();
        let (now, later) = left.split_at(left.len().min(*sizes.next().unwrap()));
        let slice = Slice { tokens: now, position, blocks, num_logits: now.len(), prompt: tokens.len() };
        logits.extend(model.step(cache, &[slice]).unwrap());
        left = later;
    }
    logits
}

#[test]
fn chunks_and_a_cached_prefix_change_no_bit() {
    for quantize in [Quantize::None, Quantize::Q8_0, Quantize::Q4K] {
        let model = model(quantize);
        let (tokens, blocks) = (text(0, LENGTH), table(0, LENGTH.div_ceil(BLOCK_TOKENS)));
        let mut whole = model.cache(blocks.len()).unwrap();
        let expected = read(&model, &mut whole, &tokens, &blocks, &[LENGTH]);
        assert_eq!(expected.len(), LENGTH * VOCABULARY);
        for sizes in [&[1][..], &[7], &[64], &[255, 1], &[256, 2], &[299, 1]] {
            let mut cache = model.cache(blocks.len()).unwrap();
            let found = read(&model, &mut cache, &tokens, &blocks, sizes);
            assert!(found == expected, "{quantize:?}, {sizes:?}");
        }
    }
}

#[test]
fn a_batch_changes_no_bit() {
    const TEXTS: usize = 33;
    for quantize in [Quantize::None, Quantize::Q8_0, Quantize::Q4K] {
        let model = model(quantize);
        let texts: Vec<_> = (0..TEXTS).map(|number| text(number, 1 + number * 9)).collect();
        let tables: Vec<_> = (0..TEXTS).map(|number| table(number, 10)).collect();
        let slices: Vec<_> = texts.iter().zip(&tables).map(|(text, table)| whole(text, table)).collect();
        let mut together = model.cache(TEXTS * 10).unwrap();
        let prompts = model.step(&mut together, &slices).unwrap();
        let next = TokenId(777);
        let decode: Vec<_> =
            texts.iter().zip(&tables).map(|(text, table)| one(&next, text.len(), table)).collect();
        let decoded = model.step(&mut together, &decode).unwrap();
        for number in 0..TEXTS {
            let mut alone = model.cache(TEXTS * 10).unwrap();
            let own = number * VOCABULARY..(number + 1) * VOCABULARY;
            assert!(model.step(&mut alone, &slices[number..=number]).unwrap() == prompts[own.clone()]);
            assert!(
                model.step(&mut alone, &decode[number..=number]).unwrap() == decoded[own],
                "{quantize:?}, {number}"
            );
        }
        // Prompts and generated tokens in one step.
        let mixed = [decode[3], slices[1], decode[0], slices[2]];
        let found = model.step(&mut together, &mixed).unwrap();
        let expected = [(&decoded, 3), (&prompts, 1), (&decoded, 0), (&prompts, 2)];
        for ((logits, number), found) in expected.into_iter().zip(found.chunks(VOCABULARY)) {
            assert!(
                found == &logits[number * VOCABULARY..(number + 1) * VOCABULARY],
                "{quantize:?}, {number}"
            );
        }
    }
}

fn whole<'a>(tokens: &'a [TokenId], blocks: &'a [BlockId]) -> Slice<'a> {
    Slice { tokens, position: 0, blocks, num_logits: 1, prompt: tokens.len() }
}

fn one<'a>(token: &'a TokenId, position: usize, blocks: &'a [BlockId]) -> Slice<'a> {
    Slice { tokens: std::slice::from_ref(token), position, blocks, num_logits: 1, prompt: position }
}

/// The largest difference, in root mean squares of `expected`.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    let size = (expected.iter().map(|logit| logit * logit).sum::<f32>() / expected.len() as f32).sqrt();
    found.iter().zip(expected).fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs() / size))
}

#[test]
fn quantized_weights_give_nearly_the_logits_of_the_kernels() {
    // The kernels round activations to bf16, or to 8 bits with one scale for 32 numbers; candle takes one for 256.
    for (quantize, tolerance) in [(Quantize::None, 0.05), (Quantize::Q8_0, 0.1), (Quantize::Q4K, 0.1)] {
        let tokens = text(3, 70);
        let kernels = Model::from_files(&ModelFiles::tiny(), "tiny", quantize, |_, _| {}).unwrap();
        let expected = kernels.sequence().forward(&tokens).unwrap();
        let found = model(quantize).sequence(70).unwrap().forward(&tokens).unwrap();
        let worst = difference(&found, &expected);
        assert!(worst < tolerance, "{quantize:?}: {worst}");
    }
}

#[test]
fn f16_weights_overflow_nowhere() {
    let tokens = text(5, 40);
    let f16 =
        CandleModel::from_files(&ModelFiles::tiny(), "tiny", Quantize::None, Place::cpu_f16(), |_, _| {});
    let f16 = f16.unwrap();
    assert_eq!(f16.weights_types(), "f16");
    let expected = model(Quantize::None).sequence(40).unwrap().forward(&tokens).unwrap();
    let worst = difference(&f16.sequence(40).unwrap().forward(&tokens).unwrap(), &expected);
    assert!(worst < 0.02, "{worst}");
    // Numbers that f16 does not have.
    let large = candle_core::Tensor::full(3e6f32, (3, 256), &candle_core::Device::Cpu).unwrap();
    let weight = candle_core::Tensor::full(half::f16::ONE, (100, 256), &candle_core::Device::Cpu).unwrap();
    let product = super::Matrix::Dense(weight).forward(&large, &Kinds::Decode, None).unwrap();
    let product = product.to_vec2::<f32>().unwrap();
    assert!(product.iter().flatten().all(|number| *number == 256.0 * 3e6), "{product:?}");
}

#[test]
fn a_cleared_block_holds_nothing() {
    let model = model(Quantize::None);
    let (tokens, blocks) = (text(1, 40), table(0, 2));
    let mut cache = model.cache(2).unwrap();
    model.step(&mut cache, &[whole(&tokens, &blocks)]).unwrap();
    model.clear(&mut cache, BlockId(0)).unwrap();
    assert!(cache.magnitude() > 0.0);
    model.clear(&mut cache, BlockId(1)).unwrap();
    assert_eq!(cache.magnitude(), 0.0);
}
