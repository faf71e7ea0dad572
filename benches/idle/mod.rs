//! A model with next to nothing to do, for measuring what is around it.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

const VOCAB: usize = 4096;
const WIDTH: usize = 16;
const HEAD: usize = 2;

/// One layer of sixteen numbers a token, and the embedded model's tokenizer.
pub(crate) fn write(dir: &Path) {
    let config = json!({
        "model_type": "gemma", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": WIDTH,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": HEAD,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny/tokenizer.json");
    std::fs::copy(tokenizer, dir.join("tokenizer.json")).unwrap();

    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let shapes = [
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, WIDTH]),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
        (layer("input_layernorm"), vec![WIDTH]),
        (layer("post_attention_layernorm"), vec![WIDTH]),
        (layer("self_attn.q_proj"), vec![HEAD, WIDTH]),
        (layer("self_attn.k_proj"), vec![HEAD, WIDTH]),
        (layer("self_attn.v_proj"), vec![HEAD, WIDTH]),
        (layer("self_attn.o_proj"), vec![WIDTH, HEAD]),
        (layer("mlp.gate_proj"), vec![WIDTH, WIDTH]),
        (layer("mlp.up_proj"), vec![WIDTH, WIDTH]),
        (layer("mlp.down_proj"), vec![WIDTH, WIDTH]),
    ];
    // Any numbers, as long as they tell tokens apart.
    let numbers: Vec<u8> = (0..VOCAB * WIDTH)
        .flat_map(|n| half::bf16::from_f32(((n * 7919) % 1009) as f32 / 5045.0 - 0.1).to_le_bytes())
        .collect();
    let tensors = shapes.map(|(name, shape)| {
        let bytes = 2 * shape.iter().product::<usize>();
        (name, TensorView::new(Dtype::BF16, shape, &numbers[..bytes]).unwrap())
    });
    let none: Option<HashMap<String, String>> = None;
    safetensors::serialize_to_file(tensors, none, &dir.join("model.safetensors")).unwrap();
}
