//! The forward pass of `candle-transformers`, which ours is measured against.

use std::path::Path;

use candle_core::{DType, Device};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::gemma;
use codeseal::model::Config;

/// The model in `dir`, its weights turned into `dtype`.
pub(crate) fn load(dir: &Path, dtype: DType) -> gemma::Model {
    let config = Config::parse(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
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
    let weights = VarBuilder::from_tensors(tensors, dtype, &Device::Cpu);
    gemma::Model::new(false, &config, weights).unwrap()
}
