//! The whole forward pass of a small model, launch by launch, against the CPU's.

use codeseal::model::device::{Activations, Input, Room, Runner, RunnerRoom};
use codeseal::model::{Model, Quantize, Slice};
use codeseal::tokenizer::TokenId;
use codeseal_kernels::cuda::{NO_TOKEN, Narrow, Places, Prompts};
use codeseal_kernels::kv::BlockId;
use half::{bf16, f16};

use crate::toy::{LAYOUT, TABLE_WIDTH, VOCABULARY, Weights};
use codeseal_emulator::device::Emulator;
use codeseal_emulator::numbers::Numbers;
use codeseal_emulator::pages::From32;

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
pub(crate) fn assert_near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let size = (expected.iter().map(|logit| logit * logit).sum::<f32>() / expected.len() as f32).sqrt();
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= tolerance * size, "{index}: {found} instead of {expected}, of a size of {size}");
    }
}

/// Block tables of these texts in a pool that is just large enough, its pages in reverse order.
fn tables(texts: usize) -> Vec<i32> {
    (0..(texts * TABLE_WIDTH) as i32).rev().collect()
}

/// Reads two prompts at once, then a token of each, and holds all logits against the CPU's.
fn check<T: Narrow + From32>(device: &Emulator, quantize: Quantize, tolerance: f32) {
    let weights = Weights::random(1);
    let (model, network) = (weights.on_cpu(quantize), weights.on::<T>(device, quantize));
    let mut numbers = Numbers::new(6);
    let prompts = [tokens(&mut numbers, 33), tokens(&mut numbers, 5)];
    let next = tokens(&mut numbers, 2);
    let mut pool = device.room::<T>(2 * TABLE_WIDTH * LAYOUT.block_numbers());
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
    let reading = Some(Prompts { starts: starts.view(), longest: 33 });
    let mut rows =
        Activations::new(device, &network, Room { rows: 38, decode_rows: 2, logit_rows: 2 }).unwrap();
    let scored = device.put(&[32, 37]);
    let logit_rows = Some(scored.view());
    let input = Input { ids: ids.view(), places, prompts: reading, prompt_rows: 38, logit_rows };
    network.forward(device, &input, &mut pool, &mut rows).unwrap();
    let after_prompts = rows.logits().read(device).unwrap();

    let (ids, slots, positions) = (device.put(&next), device.put(&[0, 1]), device.put(&[33, 5]));
    let places = Places { slots: slots.view(), positions: positions.view(), ..places };
    let mut rows =
        Activations::new(device, &network, Room { rows: 2, decode_rows: 2, logit_rows: 2 }).unwrap();
    let input = Input { ids: ids.view(), places, prompts: None, prompt_rows: 0, logit_rows: None };
    network.forward(device, &input, &mut pool, &mut rows).unwrap();
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
    codeseal_emulator::schedule(codeseal_emulator::Schedule::WarpPriority(1), 0);
    // Keys, values and what a prompt is multiplied with are rounded to 8 and 11 bits here, and to 24 there.
    check::<f16>(&Emulator, Quantize::None, 1e-2);
    check::<bf16>(&Emulator, Quantize::None, 6e-2);
    // And there, eight-bit weights meet activations of eight bits.
    check::<f16>(&Emulator, Quantize::Q8_0, 5e-2);
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
    let network = weights.on::<f16>(device, Quantize::None);
    let room = RunnerRoom { blocks: 1, table_width: 1, rows: 1, logit_rows: 1, batch: 1 };
    let mut runner = Runner::new(Emulator, network, room).unwrap();
    let (tokens, blocks) = ([TokenId(7)], [BlockId(0)]);
    let text = Slice { tokens: &tokens, position: 0, blocks: &blocks, num_logits: 1, prompt: 0 };
    let output = runner.step(&[text], &[None]).unwrap();
    assert_eq!(output.logits.len(), VOCABULARY);
    assert!(output.logits.iter().all(|logit| logit.is_finite()));
    assert_ne!(output.chosen, [NO_TOKEN]);
}
