//! `config.json` as Gemma models in the wild have it, checked before anything is sized by it.

mod members;

use serde::Deserialize;
use serde_json::{Map, Value};

use self::members::check_members;
use super::super::error::ModelError;
use crate::prompt;

/// What the activations of Gemma are called. All of them mean the tanh approximation: the first releases said
/// `gelu`, and the reference implementation has read that as a mistake ever since.
const TANH_GELU: [&str; 3] = ["gelu_pytorch_tanh", "gelu_new", "gelu"];

/// What the family is called.
const MODEL_TYPE: &str = "gemma";
/// Which classes of transformers have the weights that are read here: with the head, and without, which is the
/// embedding.
const CLASSES: [&str; 2] = ["GemmaForCausalLM", "GemmaModel"];
/// The ids that end an answer.
const EOS: &str = "eos_token_id";
const NO_END: &str =
    "has an id that does not end an answer here: use 1 (<eos>), 107 (<end_of_turn>), or both";
const SEVERAL_BASES: &str =
    "is not what `rope_parameters` or `rope_scaling` say: keep the one that the model was trained with";

/// The configuration of a Gemma model, within bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The vocabulary's size.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// The width of the feed-forward part.
    pub intermediate_size: usize,
    /// The number of layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// KV heads: 1 in CodeGemma 2B, as many as query heads in 7B.
    pub num_kv_heads: usize,
    /// The width of a head. All heads together need not be as wide as the residual stream.
    pub head_dim: usize,
    /// Whether the projections of the attention have biases.
    pub attention_bias: bool,
    /// Added to the mean square in norms, against division by zero.
    pub rms_norm_eps: f64,
    /// The base of the rotary embedding.
    pub rope_theta: f64,
    /// The longest sequence, in tokens.
    pub context_length: usize,
    /// Whether logits are made with the embedding. If not, the weights must hold a matrix for that, and it must equal
    /// the embedding.
    pub tied_embeddings: bool,
}

/// The members that matter here, as they are written.
#[derive(Deserialize)]
struct Raw {
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
    rope_scaling: Option<RopeParameters>,
    rope_parameters: Option<RopeParameters>,
    max_position_embeddings: Option<usize>,
    tie_word_embeddings: Option<bool>,
    query_pre_attn_scalar: Option<f64>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
}

/// How newer releases of the reference implementation write the rotary embedding. What else it has is checked by
/// [`check_members`].
#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
}

/// What matters here of a `generation_config.json`.
#[derive(Deserialize)]
struct RawGeneration {
    eos_token_id: Option<OneOrMany>,
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
    /// It is malformed, describes another architecture, has a member that is neither used nor known to change nothing,
    /// or a number in it is out of all proportion.
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        let members: Map<String, Value> =
            serde_json::from_slice(json).map_err(ModelError::MalformedConfig)?;
        // First of all, so that another architecture is named as such and not by what it has or lacks.
        check_architecture(&members)?;
        check_members(&members)?;
        let raw = Raw::deserialize(Value::Object(members)).map_err(ModelError::MalformedConfig)?;
        raw.check_kind()?;
        let num_kv_heads = raw.num_key_value_heads.unwrap_or(raw.num_attention_heads);
        let rope_theta = raw.rope_theta()?;
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
            tied_embeddings: raw.tie_word_embeddings.unwrap_or(true),
        };
        // Queries are scaled by the width of a head.
        if raw.query_pre_attn_scalar.is_some_and(|scalar| scalar != config.head_dim as f64) {
            return Err(ModelError::NotGemma("query_pre_attn_scalar"));
        }
        if !config.head_dim.is_multiple_of(2) {
            return Err(ModelError::OutOfBounds("head_dim"));
        }
        if !config.num_heads.is_multiple_of(config.num_kv_heads) {
            return Err(ModelError::OutOfBounds("num_key_value_heads"));
        }
        Ok(config)
    }

    /// The width of a token's queries, all heads together.
    pub(super) fn query_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// The width of a token's keys, all heads together, and of its values.
    pub(super) fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }
}

/// Checks what ends an answer, as `generation_config.json` has it. What else is in it is for requests to choose.
///
/// # Errors
/// It is malformed, or asks for what is not done.
pub(super) fn check_generation(json: &[u8]) -> Result<(), ModelError> {
    let members: Map<String, Value> = serde_json::from_slice(json).map_err(ModelError::MalformedConfig)?;
    members::check_constraints(&members)?;
    let raw = RawGeneration::deserialize(Value::Object(members)).map_err(ModelError::MalformedConfig)?;
    check_end(raw.eos_token_id.as_ref())
}

/// Refuses models that are called by another name than Gemma.
fn check_architecture(members: &Map<String, Value>) -> Result<(), ModelError> {
    let other = |name: &str| ModelError::OtherArchitecture(name.escape_debug().to_string());
    match members.get("model_type") {
        None | Some(Value::Null) => {}
        Some(Value::String(kind)) if kind == MODEL_TYPE => {}
        Some(Value::String(kind)) => return Err(other(kind)),
        Some(_) => return Err(ModelError::NotGemma("model_type")),
    }
    match members.get("architectures") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(names)) => {
            let unknown =
                names.iter().find(|name| !name.as_str().is_some_and(|name| CLASSES.contains(&name)));
            unknown.map_or(Ok(()), |name| {
                Err(name.as_str().map_or(ModelError::NotGemma("architectures"), other))
            })
        }
        Some(_) => Err(ModelError::NotGemma("architectures")),
    }
}

/// Each of these must end an answer here too.
fn check_end(ids: Option<&OneOrMany>) -> Result<(), ModelError> {
    let ids = match ids {
        None => &[],
        Some(OneOrMany::One(id)) => std::slice::from_ref(id),
        Some(OneOrMany::Many(ids)) => ids.as_slice(),
    };
    let ends = |id: &u32| prompt::stop_ids().iter().any(|stop| stop.0 == *id);
    if ids.iter().all(ends) {
        Ok(())
    } else {
        Err(ModelError::Member { member: EOS.to_owned(), problem: NO_END })
    }
}

impl Raw {
    /// Refuses configurations that would load and then generate meaningless text.
    fn check_kind(&self) -> Result<(), ModelError> {
        for (member, value) in
            [("hidden_act", &self.hidden_act), ("hidden_activation", &self.hidden_activation)]
        {
            if value.as_deref().is_some_and(|name| !TANH_GELU.contains(&name)) {
                return Err(ModelError::NotGemma(member));
            }
        }
        // The templates are made of fixed ids, so a model that means something else by them is not supported. What
        // pads batches is never given to the model, and trainers change it.
        if self.bos_token_id.is_some_and(|id| id != 2) {
            return Err(ModelError::NotGemma("bos_token_id"));
        }
        check_end(self.eos_token_id.as_ref())
    }

    /// The base of the rotary embedding, wherever it is written; in all places the same.
    fn rope_theta(&self) -> Result<Option<f64>, ModelError> {
        let inner =
            |parameters: &Option<RopeParameters>| parameters.as_ref().and_then(|rope| rope.rope_theta);
        let all = [inner(&self.rope_scaling), inner(&self.rope_parameters), self.rope_theta];
        let mut written = all.into_iter().flatten();
        let theta = written.next();
        if written.any(|other| Some(other) != theta) {
            return Err(ModelError::Member { member: String::from("rope_theta"), problem: SEVERAL_BASES });
        }
        Ok(theta)
    }
}

/// `value`, if it lies between `least` and `most`. A NaN lies nowhere.
fn within<T: PartialOrd>(member: &'static str, value: T, least: T, most: T) -> Result<T, ModelError> {
    if value >= least && value <= most { Ok(value) } else { Err(ModelError::OutOfBounds(member)) }
}

#[cfg(test)]
mod tests;
