//! Stock `candle-transformers` on the weights of a directory, bf16: DIR PROMPT NEW REPEATS THREADS → JSON.

#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used, missing_docs)]

#[path = "../stock/mod.rs"]
mod stock;

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::gemma;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [directory, numbers @ ..] = args.as_slice() else { panic!("DIR PROMPT NEW REPEATS THREADS") };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().unwrap()).collect();
    let [prompt, new, repeats, threads] = numbers[..] else { panic!("DIR PROMPT NEW REPEATS THREADS") };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();

    let mut model = stock::load(Path::new(directory), DType::BF16);
    let ids: Vec<u32> = (0..prompt as u32).map(|index| 108 + 7 * index).collect();
    let (mut prefills, mut steps) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        model.clear_kv_cache();
        let began = Instant::now();
        let mut token = step(&mut model, &ids, 0);
        prefills.push(began.elapsed());
        for position in prompt..prompt + new {
            let began = Instant::now();
            token = step(&mut model, &[token], position);
            steps.push(began.elapsed());
        }
    }
    let prefill = prompt as f64 / median(prefills).as_secs_f64();
    let decode = 1.0 / median(steps).as_secs_f64();
    println!(r#"{{"prefill_tokens_per_second": {prefill}, "decode_tokens_per_second": {decode}}}"#);
}

/// The likeliest token after `tokens`, which begin at `position`.
fn step(model: &mut gemma::Model, tokens: &[u32], position: usize) -> u32 {
    let input = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let logits = model.forward(&input, position).unwrap().flatten_all().unwrap();
    logits.to_dtype(DType::F32).unwrap().argmax(0).unwrap().to_scalar().unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
