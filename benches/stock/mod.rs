//! The forward pass of `candle-transformers`, which ours is measured against.

// Each bench uses a part of it.
#![allow(dead_code)]

use std::path::Path;

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Activation, Init, VarBuilder};
use candle_transformers::models::gemma;
use codeseal::model::Config;

/// The model in `dir`, its weights turned into `dtype`.
pub(crate) fn load(dir: &Path, dtype: DType) -> gemma::Model {
    let config = Config::parse(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let weights = VarBuilder::from_tensors(tensors, dtype, &Device::Cpu);
    gemma::Model::new(false, &theirs(&config), weights).unwrap()
}

/// A model of this shape with random weights of `dtype`, which are made on `device`.
pub(crate) fn random(config: &Config, dtype: DType, device: &Device) -> Result<gemma::Model> {
    let weights = VarBuilder::from_backend(Box::new(Random), dtype, device.clone());
    gemma::Model::new(false, &theirs(config), weights)
}

/// Has any tensor, with random numbers as small as those of a trained model.
struct Random;

impl SimpleBackend for Random {
    fn get(&self, shape: Shape, _: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::rand(-0.04_f32, 0.04, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name} has no shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn theirs(config: &Config) -> gemma::Config {
    gemma::Config {
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
    }
}
