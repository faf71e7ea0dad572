//! `config.json` as Gemma models in the wild have it, checked before anything is sized by it.

use candle_nn::Activation;
use candle_transformers::models::gemma;
use serde::Deserialize;
use serde_json::Value;

use super::ModelError;

/// What the activations of Gemma are called. All of them mean the tanh approximation: the first releases said
/// `gelu`, and the reference implementation has read that as a mistake ever since.
const TANH_GELU: [&str; 3] = ["gelu_pytorch_tanh", "gelu_new", "gelu"];

/// The shape of a Gemma model, within bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The vocabulary's size.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// The width of the feed-forward part.
    pub intermediate_size: usize,
    /// How many layers there are.
    pub num_layers: usize,
    /// How many heads ask.
    pub num_heads: usize,
    /// How many heads are asked: 1 in CodeGemma 2B, as many as ask in 7B.
    pub num_kv_heads: usize,
    /// The width of a head. All heads together need not be as wide as the residual stream.
    pub head_dim: usize,
    /// Whether the projections of the attention have biases.
    pub attention_bias: bool,
    /// What keeps the norm from dividing by zero.
    pub rms_norm_eps: f64,
    /// The base of the rotary embedding.
    pub rope_theta: f64,
    /// The longest text, in tokens.
    pub context_length: usize,
}

/// The members that matter here, as they are written.
#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    attention_bias: Option<bool>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<RopeParameters>,
    max_position_embeddings: Option<usize>,
    tie_word_embeddings: Option<bool>,
    pad_token_id: Option<u32>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
}

/// How newer releases of the reference implementation write the rotary embedding.
#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl Config {
    /// Reads the content of a `config.json`.
    ///
    /// # Errors
    /// It is malformed, describes another architecture, or a number in it is out of all proportion.
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        let raw: Raw = serde_json::from_slice(json).map_err(ModelError::MalformedConfig)?;
        raw.check_kind()?;
        let num_kv_heads = raw.num_key_value_heads.unwrap_or(raw.num_attention_heads);
        let rope_theta = raw.rope_parameters.as_ref().and_then(|rope| rope.rope_theta).or(raw.rope_theta);
        let config = Self {
            vocab_size: within("vocab_size", raw.vocab_size, 108, 1 << 20)?,
            hidden_size: within("hidden_size", raw.hidden_size, 1, 1 << 16)?,
            intermediate_size: within("intermediate_size", raw.intermediate_size, 1, 1 << 20)?,
            num_layers: within("num_hidden_layers", raw.num_hidden_layers, 1, 512)?,
            num_heads: within("num_attention_heads", raw.num_attention_heads, 1, 1024)?,
            num_kv_heads: within("num_key_value_heads", num_kv_heads, 1, 1024)?,
            head_dim: within("head_dim", raw.head_dim.unwrap_or(256), 2, 1024)?,
            attention_bias: raw.attention_bias.unwrap_or(false),
            rms_norm_eps: within("rms_norm_eps", raw.rms_norm_eps.unwrap_or(1e-6), 1e-12, 1e-2)?,
            rope_theta: within("rope_theta", rope_theta.unwrap_or(10_000.0), 1.0, 1e9)?,
            context_length: within(
                "max_position_embeddings",
                raw.max_position_embeddings.unwrap_or(8192),
                16,
                1 << 17,
            )?,
        };
        if !config.head_dim.is_multiple_of(2) {
            return Err(ModelError::OutOfBounds("head_dim"));
        }
        if !config.num_heads.is_multiple_of(config.num_kv_heads) {
            return Err(ModelError::OutOfBounds("num_key_value_heads"));
        }
        Ok(config)
    }

    /// The names and shapes of all weights there must be.
    pub(super) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (queries, keys) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let mut tensors = vec![
            (String::from("model.embed_tokens.weight"), vec![self.vocab_size, hidden]),
            (String::from("model.norm.weight"), vec![hidden]),
        ];
        for layer in 0..self.num_layers {
            let mut add = |name: &str, shape| tensors.push((format!("model.layers.{layer}.{name}"), shape));
            for (name, rows, columns) in [
                ("self_attn.q_proj", queries, hidden),
                ("self_attn.k_proj", keys, hidden),
                ("self_attn.v_proj", keys, hidden),
                ("self_attn.o_proj", hidden, queries),
                ("mlp.gate_proj", inner, hidden),
                ("mlp.up_proj", inner, hidden),
                ("mlp.down_proj", hidden, inner),
            ] {
                add(&format!("{name}.weight"), vec![rows, columns]);
                if self.attention_bias && name.starts_with("self_attn") {
                    add(&format!("{name}.bias"), vec![rows]);
                }
            }
            add("input_layernorm.weight", vec![hidden]);
            add("post_attention_layernorm.weight", vec![hidden]);
        }
        tensors
    }

    /// The same for candle, which wants exactly one activation.
    pub(super) fn to_candle(&self) -> gemma::Config {
        gemma::Config {
            attention_bias: self.attention_bias,
            head_dim: self.head_dim,
            hidden_act: None,
            hidden_activation: Some(Activation::GeluPytorchTanh),
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_heads,
            num_hidden_layers: self.num_layers,
            num_key_value_heads: self.num_kv_heads,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta,
            vocab_size: self.vocab_size,
            max_position_embeddings: self.context_length,
        }
    }
}

impl Raw {
    /// Refuses what would load and then answer in gibberish.
    fn check_kind(&self) -> Result<(), ModelError> {
        if self.model_type.as_deref().is_some_and(|kind| kind != "gemma") {
            return Err(ModelError::NotGemma("model_type"));
        }
        for (member, value) in
            [("hidden_act", &self.hidden_act), ("hidden_activation", &self.hidden_activation)]
        {
            if value.as_deref().is_some_and(|name| !TANH_GELU.contains(&name)) {
                return Err(ModelError::NotGemma(member));
            }
        }
        if self.rope_scaling.as_ref().is_some_and(|scaling| !scaling.is_null()) {
            return Err(ModelError::NotGemma("rope_scaling"));
        }
        let rope_type = self.rope_parameters.as_ref().and_then(|rope| rope.rope_type.as_deref());
        if rope_type.is_some_and(|kind| kind != "default") {
            return Err(ModelError::NotGemma("rope_parameters"));
        }
        if self.tie_word_embeddings == Some(false) {
            return Err(ModelError::NotGemma("tie_word_embeddings"));
        }
        self.check_control_tokens()
    }

    /// The templates are made of fixed ids, so a model that means something else by them is not for us.
    fn check_control_tokens(&self) -> Result<(), ModelError> {
        if self.pad_token_id.is_some_and(|id| id != 0) {
            return Err(ModelError::NotGemma("pad_token_id"));
        }
        if self.bos_token_id.is_some_and(|id| id != 2) {
            return Err(ModelError::NotGemma("bos_token_id"));
        }
        match &self.eos_token_id {
            None | Some(OneOrMany::One(1)) => Ok(()),
            Some(OneOrMany::Many(ids)) if ids.contains(&1) => Ok(()),
            Some(_) => Err(ModelError::NotGemma("eos_token_id")),
        }
    }
}

/// `value`, if it lies between `least` and `most`. A NaN lies nowhere.
fn within<T: PartialOrd>(member: &'static str, value: T, least: T, most: T) -> Result<T, ModelError> {
    if value >= least && value <= most { Ok(value) } else { Err(ModelError::OutOfBounds(member)) }
}

#[cfg(test)]
mod tests;
