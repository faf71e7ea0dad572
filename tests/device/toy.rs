//! A small model: as files, on the CPU, and on the emulator.

use std::collections::BTreeMap;
use std::fs;

use codeseal::model::device::Network;
use codeseal::model::{self, LayerWeights, Model, ModelFiles, Quantize};
use codeseal_kernels::cuda::{HEAD, KvLayout, Narrow, angles, quantize_q8_0};
use codeseal_kernels::kv::BLOCK_TOKENS;
use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use codeseal_emulator::device::Emulator;
use codeseal_emulator::matrices::{plain, q8_0};
use codeseal_emulator::numbers::Numbers;
use codeseal_emulator::pages::From32;

pub(crate) const VOCABULARY: usize = 120;
pub(crate) const WIDTH: usize = 64;
pub(crate) const INNER: usize = 96;
pub(crate) const LAYOUT: KvLayout = KvLayout { layers: 2, heads: 2, kv_heads: 1 };
pub(crate) const CONTEXT: usize = 128;
pub(crate) const TABLE_WIDTH: usize = CONTEXT / BLOCK_TOKENS;

/// A model's weights as its file has them.
pub(crate) struct Weights(pub(crate) BTreeMap<String, (Vec<usize>, Vec<bf16>)>);

impl Weights {
    pub(crate) fn random(seed: u64) -> Self {
        let queries = LAYOUT.heads * HEAD;
        let mut shapes = vec![
            ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, WIDTH], 0.12),
            ("model.norm.weight".to_owned(), vec![WIDTH], 0.2),
        ];
        for layer in 0..LAYOUT.layers {
            for (name, shape, scale) in [
                ("self_attn.q_proj", vec![queries, WIDTH], 0.16),
                ("self_attn.k_proj", vec![HEAD, WIDTH], 0.16),
                ("self_attn.v_proj", vec![HEAD, WIDTH], 0.12),
                ("self_attn.o_proj", vec![WIDTH, queries], 0.06),
                ("mlp.gate_proj", vec![INNER, WIDTH], 0.12),
                ("mlp.up_proj", vec![INNER, WIDTH], 0.12),
                ("mlp.down_proj", vec![WIDTH, INNER], 0.11),
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

    /// Their files, in f32, where the CPU rounds nothing. The directory goes when the first is dropped.
    pub(crate) fn files(&self) -> (tempfile::TempDir, ModelFiles) {
        let dir = tempfile::tempdir().unwrap();
        let layers = self.0.keys().filter(|name| name.ends_with("input_layernorm.weight")).count();
        let config = json!({
            "model_type": "gemma", "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": INNER,
            "num_hidden_layers": layers, "num_attention_heads": LAYOUT.heads,
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
        let files = ModelFiles::directory(dir.path());
        (dir, files)
    }

    /// The CPU's model of them.
    pub(crate) fn on_cpu(&self, quantize: Quantize) -> Model {
        let (_dir, files) = self.files();
        Model::from_files(&files, "toy", quantize, |_, _| {}).unwrap()
    }

    pub(crate) fn numbers(&self, name: &str) -> Vec<f32> {
        self.0[name].1.iter().map(|weight| weight.to_f32()).collect()
    }

    /// The device's model of them; as they are unless they are to be quantized.
    pub(crate) fn on<T: Narrow + From32>(
        &self,
        device: &Emulator,
        quantize: Quantize,
    ) -> Network<Emulator, T> {
        let matrix = |names: &[String], columns| {
            let weights: Vec<f32> = names.iter().flat_map(|name| self.numbers(name)).collect();
            match quantize {
                Quantize::Q8_0 => q8_0(device, &quantize_q8_0(&weights), columns),
                _ => plain(device, &weights, columns),
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
                queries_keys_values_bias: None,
                output: matrix(&[name("self_attn.o_proj")], LAYOUT.heads * HEAD),
                output_bias: None,
                feed_forward_norm: vector("post_attention_layernorm"),
                gate_up: matrix(&[name("mlp.gate_proj"), name("mlp.up_proj")], WIDTH),
                down: matrix(&[name("mlp.down_proj")], INNER),
            }
        });
        Network {
            layout: LAYOUT,
            epsilon: 1e-6,
            weights: model::Weights {
                embedding: matrix(&["model.embed_tokens.weight".to_owned()], WIDTH),
                layers: layers.collect(),
                norm: device.put(&self.numbers("model.norm.weight")),
            },
            angles: device.put(&angles(10_000.0, CONTEXT)),
        }
    }
}
