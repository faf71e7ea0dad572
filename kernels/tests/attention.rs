//! Attention of one token and of many, over pages, against a plain implementation.

use codeseal_kernels::cuda::{HEAD, KvLayout, Narrow, Partial, Prompts, attend_decode, attend_prefill};
use codeseal_kernels::kv::BLOCK_TOKENS;
use half::{bf16, f16};

use codeseal_emulator::device::Emulator;
use codeseal_emulator::numbers::{Numbers, assert_close};
use codeseal_emulator::pages::{From32, Rows, Texts};

/// A length up to `longest`, often at the edge of a page.
fn length(numbers: &mut Numbers, longest: usize) -> usize {
    let edge = BLOCK_TOKENS * numbers.between(1, longest.div_ceil(BLOCK_TOKENS)) + numbers.between(0, 2) - 1;
    let any = numbers.between(1, longest);
    numbers.pick(&[edge.min(longest), any])
}

fn decode<T: Narrow + From32>(
    device: &Emulator,
    numbers: &mut Numbers,
    layout: KvLayout,
    lengths: &[usize],
    tolerance: f64,
) {
    let layer = numbers.between(0, layout.layers - 1);
    let texts = Texts::<T>::new(layout, layer, lengths, numbers);
    // Each text is a row, in another order than its slot; one more row is not in use.
    let batch = lengths.len();
    let slots: Vec<i32> = (0..batch as i32).rev().chain([0]).collect();
    let positions: Vec<i32> = lengths.iter().rev().map(|&length| length as i32 - 1).chain([-1]).collect();
    let queries = numbers.normals((batch + 1) * layout.row_numbers(), 1.0);
    let rows = Rows::new(device, &texts, &slots, &positions);
    let (activations, pool) = (device.put(&queries), device.put(&texts.pool));
    let [sums, weights] = Partial::numbers(layout, batch + 1);
    let (mut sums, mut weights) = (device.room(sums), device.room(weights));
    let mut partial = Partial { sums: sums.view_mut(), weights: weights.view_mut() };
    let mut out = device.room::<T>((batch + 1) * layout.heads * HEAD);
    let (activations, pool) = (activations.view(), pool.view());
    attend_decode(device, &rows.layer(layer), activations, pool, &mut partial, &mut out.view_mut()).unwrap();

    let out: Vec<f32> = out.read(device).unwrap().into_iter().map(T::to32).collect();
    let (seen, unused) = out.split_at(batch * layout.heads * HEAD);
    assert!(unused.iter().all(|&number| number == 0.0));
    for (index, seen) in seen.chunks(HEAD).enumerate() {
        let (row, head) = (index / layout.heads, index % layout.heads);
        let query = &queries[row * layout.row_numbers() + head * HEAD..][..HEAD];
        let last = positions[row] as usize;
        let kv_head = head / (layout.heads / layout.kv_heads);
        assert_close(
            seen,
            &texts.attended(layer, slots[row] as usize, last, kv_head, query),
            tolerance,
            0.05,
        );
    }
}

#[test]
fn one_token_sees_its_text() {
    for round in 0..2 {
        Emulator::under_each_schedule(round, |device| {
            let mut numbers = Numbers::new(round);
            let batch = numbers.between(1, 33);
            let lengths: Vec<usize> = (0..batch).map(|_| length(&mut numbers, 200)).collect();
            let mqa = KvLayout { layers: 2, heads: 8, kv_heads: 1 };
            decode::<bf16>(device, &mut numbers, mqa, &lengths, 5e-3);
            let mha = KvLayout { layers: 1, heads: 3, kv_heads: 3 };
            decode::<f16>(device, &mut numbers, mha, &lengths[..1], 1e-3);
            let grouped = KvLayout { layers: 2, heads: 4, kv_heads: 2 };
            decode::<f16>(device, &mut numbers, grouped, &lengths[..batch.min(3)], 1e-3);
            let fours = KvLayout { layers: 1, heads: 8, kv_heads: 2 };
            decode::<bf16>(device, &mut numbers, fours, &lengths[..1], 5e-3);
        });
    }
}

#[test]
fn a_text_longer_than_all_least_splits_is_split_further() {
    // 32 splits of two pages hold 2,048 tokens.
    let mut numbers = Numbers::new(5);
    for tokens in [2048, 2049, 2500] {
        let layout = KvLayout { layers: 1, heads: 2, kv_heads: 1 };
        decode::<f16>(&Emulator, &mut numbers, layout, &[tokens], 1e-3);
    }
}

#[test]
fn a_table_that_is_wrong_stops_the_device() {
    let layout = KvLayout { layers: 1, heads: 1, kv_heads: 1 };
    let device = &Emulator;
    let mut texts = Texts::<bf16>::new(layout, 0, &[40], &mut Numbers::new(1));
    let attend = |texts: &Texts<bf16>, slot: i32, position: i32| {
        let rows = Rows::new(device, texts, &[slot], &[position]);
        let (queries, pool) = (device.put(&vec![0.0; layout.row_numbers()]), device.put(&texts.pool));
        let [sums, weights] = Partial::numbers(layout, 1).map(|numbers| device.room(numbers));
        let (mut sums, mut weights) = (sums, weights);
        let mut partial = Partial { sums: sums.view_mut(), weights: weights.view_mut() };
        let mut out = device.room::<bf16>(HEAD);
        let (queries, pool) = (queries.view(), pool.view());
        attend_decode(device, &rows.layer(0), queries, pool, &mut partial, &mut out.view_mut())
    };
    assert!(attend(&texts, 0, 39).is_ok());
    for (slot, position) in [(1, 39), (-1, 39), (0, 64)] {
        assert!(attend(&texts, slot, position).unwrap_err().to_string().contains("__trap"));
    }
    texts.tables[1] = 4;
    assert!(attend(&texts, 0, 31).is_ok());
    assert!(attend(&texts, 0, 32).unwrap_err().to_string().contains("__trap"));
}

fn prefill<T: Narrow + From32>(
    device: &Emulator,
    numbers: &mut Numbers,
    layout: KvLayout,
    texts_of: &[(usize, usize)],
    tolerance: f64,
) -> Vec<f32> {
    let lengths: Vec<usize> = texts_of.iter().map(|(before, tokens)| before + tokens).collect();
    let texts = Texts::<T>::new(layout, 0, &lengths, numbers);
    let (mut slots, mut positions, mut starts) = (Vec::new(), Vec::new(), vec![0]);
    for (slot, &(before, tokens)) in texts_of.iter().enumerate() {
        slots.extend(vec![slot as i32; tokens]);
        positions.extend((before..before + tokens).map(|position| position as i32));
        starts.push(slots.len() as i32);
    }
    let longest = texts_of.iter().map(|(_, tokens)| *tokens).max().unwrap();
    // As exact as the tensor cores see them.
    let queries: Vec<f32> = numbers
        .normals(slots.len() * layout.row_numbers(), 1.0)
        .into_iter()
        .map(|number| T::from32(number).to32())
        .collect();
    let rows = Rows::new(device, &texts, &slots, &positions);
    let (activations, pool, begin) = (device.put(&queries), device.put(&texts.pool), device.put(&starts));
    let mut out = device.room::<T>(slots.len() * layout.heads * HEAD);
    let (activations, pool) = (activations.view(), pool.view());
    attend_prefill(
        device,
        &rows.layer(0),
        &Prompts { starts: begin.view(), longest },
        activations,
        pool,
        &mut out.view_mut(),
    )
    .unwrap();

    let out: Vec<f32> = out.read(device).unwrap().into_iter().map(T::to32).collect();
    for (index, seen) in out.chunks(HEAD).enumerate() {
        let (row, head) = (index / layout.heads, index % layout.heads);
        let query = &queries[row * layout.row_numbers() + head * HEAD..][..HEAD];
        let (slot, last) = (slots[row] as usize, positions[row] as usize);
        let kv_head = head / (layout.heads / layout.kv_heads);
        assert_close(seen, &texts.attended(0, slot, last, kv_head, query), tolerance, 0.5);
    }
    out
}

#[test]
fn many_tokens_see_their_texts_as_far_as_themselves() {
    Emulator::under_each_schedule(3, |device| {
        let mut numbers = Numbers::new(3);
        let mqa = KvLayout { layers: 2, heads: 8, kv_heads: 1 };
        prefill::<bf16>(device, &mut numbers, mqa, &[(0, 1), (33, 9), (0, 33)], 1e-2);
        let mha = KvLayout { layers: 1, heads: 2, kv_heads: 2 };
        prefill::<f16>(device, &mut numbers, mha, &[(0, 70), (31, 1)], 2e-3);
        let grouped = KvLayout { layers: 1, heads: 3, kv_heads: 1 };
        prefill::<f16>(device, &mut numbers, grouped, &[(5, 22), (64, 10)], 2e-3);
        prefill::<bf16>(device, &mut numbers, grouped, &[(0, 2)], 2e-2);
    });
}

#[test]
fn a_prompt_in_pieces_gives_the_bits_of_the_whole() {
    let (device, layout) = (&Emulator, KvLayout { layers: 1, heads: 2, kv_heads: 1 });
    let (tokens, width) = (75, layout.row_numbers());
    let mut numbers = Numbers::new(9);
    let texts = Texts::<bf16>::new(layout, 0, &[tokens], &mut numbers);
    let queries = numbers.normals(tokens * width, 1.0);
    let pool = device.put(&texts.pool);
    let attend = |from: usize, to: usize| {
        let positions: Vec<i32> = (from as i32..to as i32).collect();
        let rows = Rows::new(device, &texts, &vec![0; to - from], &positions);
        let (starts, part) =
            (device.put(&[0, (to - from) as i32]), device.put(&queries[from * width..to * width]));
        let mut out = device.room::<bf16>((to - from) * layout.heads * HEAD);
        let texts = Prompts { starts: starts.view(), longest: to - from };
        attend_prefill(device, &rows.layer(0), &texts, part.view(), pool.view(), &mut out.view_mut())
            .unwrap();
        out.read(device).unwrap()
    };
    let pieces = [attend(0, 7), attend(7, 40), attend(40, 41), attend(41, tokens)].concat();
    assert!(attend(0, tokens) == pieces);
}
