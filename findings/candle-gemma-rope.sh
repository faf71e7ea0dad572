#!/usr/bin/env bash
# Gemma in bf16 cannot tell neighbouring positions apart above 256.
#
# Package:  candle-transformers 0.11.1 (Rust), models::gemma
# Expected: another logit for another position, in bf16 as in f32: transformers and llama.cpp compute the angles of the rotary
#           embedding in f32, whatever type the weights have.
# Seen:     RotaryEmbedding::new turns positions into the model's type before it multiplies. bf16 has 8 significant bits, so
#           257 becomes 256, and 8191 becomes 8192: the logits at positions 256 and 257 are equal in every bit.
#           f16 begins at 2048. Loading the weights in f32 avoids it.
# Last run: 2026-11-28, Rust 1.95. Needs Rust and a C compiler; compiling takes most of the time.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
candle-core = "=0.11.1"
candle-nn = "=0.11.1"
candle-transformers = "=0.11.1"
serde_json = "1"

[profile.dev]
debug = false
incremental = false
EOF
cat >"$folder/src/main.rs" <<'EOF'
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::gemma::{Config, Model};

/// The logits of a token at `position`, after one at position 0.
fn logits(model: &mut Model, position: usize) -> Result<Vec<f32>> {
    model.clear_kv_cache();
    model.forward(&Tensor::new(&[[3u32]], &Device::Cpu)?, 0)?;
    let logits = model.forward(&Tensor::new(&[[5u32]], &Device::Cpu)?, position)?;
    logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

fn main() -> Result<()> {
    let config: Config = serde_json::from_value(serde_json::json!({
        "attention_bias": false, "head_dim": 32, "hidden_act": "gelu", "hidden_size": 64, "intermediate_size": 64,
        "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "vocab_size": 64, "max_position_embeddings": 512
    }))
    .unwrap();
    println!("expected: positions 256 and 257 have different logits in f32 and in bf16");
    let mut equal = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        let weights = VarMap::new();
        let mut model = Model::new(false, &config, VarBuilder::from_varmap(&weights, dtype, &Device::Cpu))?;
        let [before, at, after] = [logits(&mut model, 255)?, logits(&mut model, 256)?, logits(&mut model, 257)?];
        println!("seen:     {dtype:?}: 255 and 256 equal: {}; 256 and 257 equal: {}", before == at, at == after);
        equal.push((before == at, at == after));
    }
    std::process::exit(i32::from(equal != [(false, false), (false, true)]));
}
EOF
(cd "$folder" && cargo fetch --quiet) || exit 69
# Beside the packages, and not in a target directory of the caller's.
CARGO_TARGET_DIR=$folder/target cargo run --quiet --manifest-path "$folder/Cargo.toml"
