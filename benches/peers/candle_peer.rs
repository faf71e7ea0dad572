//! Stock `candle-transformers` on the weights of a directory, bf16: DIR PROMPT NEW REPEATS THREADS → JSON.

#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::gemma;
use codeseal::model::Config;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [directory, numbers @ ..] = args.as_slice() else { panic!("DIR PROMPT NEW REPEATS THREADS") };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().unwrap()).collect();
    let [prompt, new, repeats, threads] = numbers[..] else { panic!("DIR PROMPT NEW REPEATS THREADS") };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();

    let mut model = load(Path::new(directory));
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

fn load(directory: &Path) -> gemma::Model {
    let config = Config::parse(&std::fs::read(directory.join("config.json")).unwrap()).unwrap();
    let tensors = candle_core::safetensors::load(directory.join("model.safetensors"), &Device::Cpu).unwrap();
    let config = gemma::Config {
        attention_bias: config.attention_bias,
        head_dim: config.head_dim,
        hidden_act: None,
        hidden_activation: Some(Activation::GeluPytorchTanh),
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_attention_heads: config.num_heads,
        num_hidden_layers: config.num_layers,
        num_key_value_heads: config.num_kv_heads,
        rms_norm_eps: config.rms_norm_eps,
        rope_theta: config.rope_theta,
        vocab_size: config.vocab_size,
        max_position_embeddings: config.context_length,
    };
    let weights = VarBuilder::from_tensors(tensors, DType::BF16, &Device::Cpu);
    gemma::Model::new(false, &config, weights).unwrap()
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
