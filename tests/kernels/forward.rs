//! The whole forward pass of a small model, launch by launch, against the CPU's; and steps that feed themselves.

use std::collections::BTreeMap;
use std::fs;

use codeseal::kernels::cuda::{
    Activations, Batch, HEAD, Input, KvElement, KvLayout, LayerWeights, Matrix, NO_TOKEN, Network,
    PAGE_TOKENS, Places, PrefillOutput, Texts, angles, quantise,
};
use codeseal::kernels::sampling::{Choice, SamplingParams, sample};
use codeseal::model::{Model, ModelFiles, Quantize};
use codeseal::tokenizer::TokenId;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use crate::device::Emulator;
use crate::numbers::Numbers;

const VOCABULARY: usize = 160;
const WIDTH: usize = 256;
const INNER: usize = 320;
const LAYOUT: KvLayout = KvLayout { layers: 2, heads: 4, kv_heads: 1 };
const CONTEXT: usize = 128;
const TABLE_WIDTH: usize = CONTEXT / PAGE_TOKENS;

/// A model's weights as its file has them.
struct Weights(BTreeMap<String, (Vec<usize>, Vec<bf16>)>);

impl Weights {
    fn random(seed: u64) -> Self {
        let queries = LAYOUT.heads * HEAD;
        let mut shapes = vec![
            ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, WIDTH], 0.06),
            ("model.norm.weight".to_owned(), vec![WIDTH], 0.2),
        ];
        for layer in 0..LAYOUT.layers {
            for (name, shape, scale) in [
                ("self_attn.q_proj", vec![queries, WIDTH], 0.08),
                ("self_attn.k_proj", vec![HEAD, WIDTH], 0.08),
                ("self_attn.v_proj", vec![HEAD, WIDTH], 0.06),
                ("self_attn.o_proj", vec![WIDTH, queries], 0.04),
                ("mlp.gate_proj", vec![INNER, WIDTH], 0.06),
                ("mlp.up_proj", vec![INNER, WIDTH], 0.06),
                ("mlp.down_proj", vec![WIDTH, INNER], 0.06),
                ("input_layernorm", vec![WIDTH], 0.2),
                ("post_attention_layernorm", vec![WIDTH], 0.2),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), shape, scale));
            }
        }
        let mut numbers = Numbers::new(seed);
        let mut draw = |(name, shape, scale): (String, Vec<usize>, f32)| {
            let weights = numbers.normals(shape.iter().product(), scale);
            (name, (shape, weights.into_iter().map(bf16::from_f32).collect()))
        };
        Self(shapes.into_iter().map(&mut draw).collect())
    }

    /// The CPU's model of them, in f32, where it rounds nothing.
    fn on_cpu(&self, quantize: Quantize) -> Model {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "model_type": "gemma", "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": INNER,
            "num_hidden_layers": LAYOUT.layers, "num_attention_heads": LAYOUT.heads,
            "num_key_value_heads": LAYOUT.kv_heads, "head_dim": HEAD, "max_position_embeddings": CONTEXT,
        });
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let bytes: BTreeMap<&str, Vec<u8>> = self
            .0
            .iter()
            .map(|(name, (_, weights))| {
                (name.as_str(), weights.iter().flat_map(|w| w.to_f32().to_le_bytes()).collect())
            })
            .collect();
        let views = self.0.iter().map(|(name, (shape, _))| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), &bytes[name.as_str()]).unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
        Model::from_files(&ModelFiles::directory(dir.path()), "toy", quantize, |_, _| {}).unwrap()
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        self.0[name].1.iter().map(|weight| weight.to_f32()).collect()
    }

    /// The device's model of them; bf16 unless they are to be quantised.
    fn on(&self, device: &Emulator, quantize: Quantize) -> Network<Emulator> {
        let matrix = |names: &[String], columns| {
            let weights: Vec<f32> = names.iter().flat_map(|name| self.numbers(name)).collect();
            if quantize == Quantize::Q8_0 {
                let (quants, scales) = quantise(&weights);
                Matrix::q8_0(device.put(&quants), device.put(&scales), columns).unwrap()
            } else {
                let weights: Vec<bf16> = weights.into_iter().map(bf16::from_f32).collect();
                Matrix::bf16(device.put(&weights), columns).unwrap()
            }
        };
        let layers = (0..LAYOUT.layers).map(|layer| {
            let name = |name: &str| format!("model.layers.{layer}.{name}.weight");
            let vector = |part: &str| device.put(&self.numbers(&name(part)));
            LayerWeights {
                input_norm: vector("input_layernorm"),
                queries_keys_values: matrix(
                    &[name("self_attn.q_proj"), name("self_attn.k_proj"), name("self_attn.v_proj")],
                    WIDTH,
                ),
                output: matrix(&[name("self_attn.o_proj")], LAYOUT.heads * HEAD),
                feed_forward_norm: vector("post_attention_layernorm"),
                gate_up: matrix(&[name("mlp.gate_proj"), name("mlp.up_proj")], WIDTH),
                down: matrix(&[name("mlp.down_proj")], INNER),
            }
        });
        Network {
            layout: LAYOUT,
            epsilon: 1e-6,
            embedding: matrix(&["model.embed_tokens.weight".to_owned()], WIDTH),
            layers: layers.collect(),
            norm: device.put(&self.numbers("model.norm.weight")),
            angles: device.put(&angles(10_000.0, CONTEXT)),
        }
    }
}

fn tokens(numbers: &mut Numbers, count: usize) -> Vec<u32> {
    (0..count).map(|_| numbers.between(0, VOCABULARY - 1) as u32).collect()
}

/// The CPU's logits after each of `pieces`.
fn cpu_logits(model: &Model, pieces: &[&[u32]]) -> Vec<Vec<f32>> {
    let mut sequence = model.sequence();
    let ids = |piece: &[u32]| piece.iter().map(|&id| TokenId(id)).collect::<Vec<_>>();
    pieces.iter().map(|piece| sequence.forward(&ids(piece)).unwrap()).collect()
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let size = (expected.iter().map(|logit| logit * logit).sum::<f32>() / expected.len() as f32).sqrt();
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= tolerance * size, "{index}: {found} instead of {expected}, of a size of {size}");
    }
}

/// Tables of so many texts in a pool that is just large enough, its pages in reverse order.
fn tables(texts: usize) -> Vec<i32> {
    (0..(texts * TABLE_WIDTH) as i32).rev().collect()
}

/// Reads two prompts at once, then a token of each, and holds all logits against the CPU's.
fn check<T: KvElement>(device: &Emulator, quantize: Quantize, tolerance: f32)
where
    f32: PrefillOutput<T>,
{
    let weights = Weights::random(1);
    let (model, network) = (weights.on_cpu(quantize), weights.on(device, quantize));
    let mut numbers = Numbers::new(6);
    let prompts = [tokens(&mut numbers, 33), tokens(&mut numbers, 5)];
    let next = tokens(&mut numbers, 2);
    let mut pool = device.room::<T>(2 * TABLE_WIDTH * LAYOUT.page_numbers());
    let tables = device.put(&tables(2));

    let ids = device.put(&prompts.concat());
    let slots = device.put(&[vec![0; 33], vec![1; 5]].concat());
    let positions: Vec<i32> = (0..33).chain(0..5).collect();
    let (positions, starts) = (device.put(&positions), device.put(&[0, 33, 38]));
    let places = Places {
        slots: slots.view(),
        positions: positions.view(),
        tables: tables.view(),
        table_width: TABLE_WIDTH,
    };
    let texts = Some(Texts { starts: starts.view(), longest: 33 });
    let mut rows = Activations::new(device, &network, 38, 2).unwrap();
    let input = Input { ids: ids.view(), places, texts };
    network.forward(device, &input, &[32, 37], &mut pool, &mut rows).unwrap();
    let after_prompts = rows.logits().read(device).unwrap();

    let (ids, slots, positions) = (device.put(&next), device.put(&[0, 1]), device.put(&[33, 5]));
    let places = Places { slots: slots.view(), positions: positions.view(), ..places };
    let mut rows = Activations::new(device, &network, 2, 2).unwrap();
    let input = Input { ids: ids.view(), places, texts: None };
    network.forward(device, &input, &[0, 1], &mut pool, &mut rows).unwrap();
    let after_next = rows.logits().read(device).unwrap();

    for text in 0..2 {
        let expected = cpu_logits(&model, &[&prompts[text], &[next[text]]]);
        let of = |logits: &[f32]| logits[text * VOCABULARY..(text + 1) * VOCABULARY].to_vec();
        assert_near(&of(&after_prompts), &expected[0], tolerance);
        assert_near(&of(&after_next), &expected[1], tolerance);
    }
}

#[test]
fn logits_are_those_of_the_cpu() {
    kernels_emu::schedule(kernels_emu::Schedule::WarpPriority(1), 0);
    // Keys and values are rounded to 8 and 11 bits here, and to 24 there.
    check::<f16>(&Emulator, Quantize::None, 4e-3);
    check::<bf16>(&Emulator, Quantize::None, 3e-2);
    // And there, eight-bit weights meet activations of eight bits.
    check::<f16>(&Emulator, Quantize::Q8_0, 5e-2);
}

#[test]
fn steps_feed_themselves_and_a_batch_chooses_what_its_members_would() {
    let device = &Emulator;
    kernels_emu::schedule(kernels_emu::Schedule::Reverse, 0);
    let weights = Weights::random(2);
    let (model, network) = (weights.on_cpu(Quantize::None), weights.on(device, Quantize::None));
    let warm = SamplingParams { temperature: 1.0, top_k: 20, top_p: 0.9, min_p: 0.02 };
    let all = [(7, SamplingParams::GREEDY), (12, warm), (99, warm)];
    let steps = 4;
    // Three texts in a batch of four, or each in a batch of its own.
    let run = |texts: &[(u32, SamplingParams)], batch_rows: usize| {
        let mut batch = Batch::new(device, batch_rows, TABLE_WIDTH, steps).unwrap();
        let mut pool = device.room::<f16>(batch_rows * TABLE_WIDTH * LAYOUT.page_numbers());
        batch.tables.write(device, 0, &tables(batch_rows)).unwrap();
        for (row, (first, params)) in texts.iter().enumerate() {
            batch.ids.write(device, row, &[*first]).unwrap();
            batch.positions.write(device, row, &[0]).unwrap();
            let words = Choice::new(params, u64::from(*first)).words();
            batch.choices.write(device, row * words.len(), &words).unwrap();
        }
        let mut rows = Activations::new(device, &network, batch_rows, batch_rows).unwrap();
        let mut logits = Vec::new();
        for _ in 0..steps {
            network.step(device, &mut batch, &mut pool, &mut rows).unwrap();
            logits.push(rows.logits().read(device).unwrap());
        }
        assert_eq!(batch.step.read(device).unwrap(), [steps as u32]);
        let history = batch.history.read(device).unwrap();
        let chosen: Vec<Vec<u32>> = (0..batch_rows)
            .map(|row| history.iter().copied().skip(row).step_by(batch_rows).collect())
            .collect();
        (chosen, logits)
    };
    let (together, logits) = run(&all, 4);
    assert_eq!(together[3], vec![NO_TOKEN; steps]);
    for (row, text) in all.iter().enumerate() {
        let (alone, _) = run(&[*text], 1);
        assert_eq!(alone[0], together[row]);
        let mut sequence = model.sequence();
        let mut token = text.0;
        for step in 0..steps {
            let found = &logits[step][row * VOCABULARY..(row + 1) * VOCABULARY];
            assert_near(found, &sequence.forward(&[TokenId(token)]).unwrap(), 4e-3);
            token = together[row][step];
            assert_eq!(sample(found, &text.1, u64::from(text.0), step as u64), Some(token));
        }
    }
}

#[test]
fn f16_weights_that_make_large_activations_make_no_nan() {
    let device = &Emulator;
    let mut weights = Weights::random(3);
    for (name, (_, numbers)) in &mut weights.0 {
        if name.contains("gate_proj") || name.contains("up_proj") {
            for number in numbers {
                *number = bf16::from_f32(number.to_f32() * 3e3);
            }
        }
    }
    let network = weights.on(device, Quantize::None);
    let narrow = |name: &str, columns| {
        let numbers: Vec<f16> = weights.numbers(name).into_iter().map(f16::from_f32).collect();
        Matrix::f16(device.put(&numbers), columns).unwrap()
    };
    let mut network = network;
    network.embedding = narrow("model.embed_tokens.weight", WIDTH);
    for (layer, weights) in network.layers.iter_mut().enumerate() {
        weights.down = narrow(&format!("model.layers.{layer}.mlp.down_proj.weight"), INNER);
    }
    let mut batch = Batch::new(device, 1, TABLE_WIDTH, 1).unwrap();
    batch.tables.write(device, 0, &tables(1)).unwrap();
    batch.positions.write(device, 0, &[0]).unwrap();
    let mut pool = device.room::<f16>(TABLE_WIDTH * LAYOUT.page_numbers());
    let mut rows = Activations::new(device, &network, 1, 1).unwrap();
    network.step(device, &mut batch, &mut pool, &mut rows).unwrap();
    assert!(rows.logits().read(device).unwrap().iter().all(|logit| logit.is_finite()));
    assert_ne!(batch.history.read(device).unwrap(), [NO_TOKEN]);
}
