//! A Gemma's configuration from the metadata of its GGUF file, and what a `config.json` beside it adds.
//!
//! llama.cpp's converter leaves out members that the architecture has by default there, the base of the rotary embedding
//! among them. Where both files say something, they must agree.

use serde_json::{Map, Value, json};

use super::super::error::ModelError;
use super::super::format::gguf::Header;
use super::config::Config;
use crate::prompt;
use crate::prompt::control::{FILE_SEPARATOR, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX};
use crate::token::TokenId;

/// What llama.cpp calls the architecture: the first part of its metadata's names.
pub(super) const ARCHITECTURE: &str = "gemma";

/// Names of metadata, and what `config.json` calls the same.
const MEMBERS: [(&str, &str); 12] = [
    ("gemma.embedding_length", "hidden_size"),
    ("gemma.feed_forward_length", "intermediate_size"),
    ("gemma.block_count", "num_hidden_layers"),
    ("gemma.attention.head_count", "num_attention_heads"),
    ("gemma.attention.head_count_kv", "num_key_value_heads"),
    ("gemma.attention.key_length", "head_dim"),
    ("gemma.attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("gemma.rope.freq_base", ROPE_THETA),
    ("gemma.context_length", "max_position_embeddings"),
    ("tokenizer.ggml.padding_token_id", "pad_token_id"),
    ("tokenizer.ggml.bos_token_id", "bos_token_id"),
    ("tokenizer.ggml.eos_token_id", "eos_token_id"),
];
const ROPE_THETA: &str = "rope_theta";

/// Control tokens, by the names that they have and once had. `tokenizer.json` is checked for the same ids.
const CONTROL_TOKENS: [(&str, TokenId); 7] = [
    ("tokenizer.ggml.fim_pre_token_id", FIM_PREFIX),
    ("tokenizer.ggml.fim_mid_token_id", FIM_MIDDLE),
    ("tokenizer.ggml.fim_suf_token_id", FIM_SUFFIX),
    ("tokenizer.ggml.fim_sep_token_id", FILE_SEPARATOR),
    ("tokenizer.ggml.prefix_token_id", FIM_PREFIX),
    ("tokenizer.ggml.middle_token_id", FIM_MIDDLE),
    ("tokenizer.ggml.suffix_token_id", FIM_SUFFIX),
];
/// What ends an answer beside `<eos>`.
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// What Gemma does not do, and the value that says so. Another one would change what the model computes.
const UNUSED: [(&str, f64); 9] = [
    ("gemma.attn_logit_softcapping", 0.0),
    ("gemma.final_logit_softcapping", 0.0),
    ("gemma.attention.sliding_window", 0.0),
    ("gemma.attention.scale", 0.0),
    ("gemma.attention.clamp_kqv", 0.0),
    ("gemma.attention.max_alibi_bias", 0.0),
    ("gemma.expert_count", 0.0),
    ("gemma.rope.scale_linear", 1.0),
    ("gemma.rope.scaling.factor", 1.0),
];

/// The configuration of a model as its GGUF file has it.
#[derive(Clone, Debug)]
pub(super) struct GgufConfig {
    config: Config,
    /// What is in the file, by the names in `config.json`. The other members are Gemma's defaults.
    members: Vec<(&'static str, Value)>,
}

/// A member of the configuration that is in no file, so that Gemma's default is taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Assumption {
    /// The base of the rotary embedding: 10000.
    RopeTheta,
}

impl Assumption {
    /// The member, as `config.json` calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RopeTheta => ROPE_THETA,
        }
    }
}

impl GgufConfig {
    /// The configuration, checked as a `config.json` is. Of several files the first has the metadata.
    ///
    /// # Errors
    /// The model is not a Gemma, or a number is out of bounds.
    pub(super) fn read(headers: &[&Header]) -> Result<Self, ModelError> {
        let get = |name: &str| headers.first().and_then(|header| header.get(name));
        if get("general.architecture").and_then(Value::as_str) != Some(ARCHITECTURE) {
            return Err(ModelError::NotGemma("general.architecture"));
        }
        let scaling = get("gemma.rope.scaling.type").and_then(Value::as_str);
        if scaling.is_some_and(|kind| kind != "none") {
            return Err(ModelError::NotGemma("gemma.rope.scaling.type"));
        }
        for (name, neutral) in UNUSED {
            if get(name).is_some_and(|value| value.as_f64() != Some(neutral)) {
                return Err(ModelError::NotGemma(name));
            }
        }
        if get("gemma.attention.causal").is_some_and(|value| *value != json!(true)) {
            return Err(ModelError::NotGemma("gemma.attention.causal"));
        }
        for (name, id) in CONTROL_TOKENS {
            if get(name).is_some_and(|value| value.as_u64() != Some(id.0.into())) {
                return Err(ModelError::NotGemma(name));
            }
        }
        for name in ENDS {
            let ends =
                |value: &Value| prompt::stop_ids().iter().any(|id| value.as_u64() == Some(id.0.into()));
            if get(name).is_some_and(|value| !ends(value)) {
                return Err(ModelError::NotGemma(name));
            }
        }
        let embedding = headers.iter().find_map(|header| header.shape("token_embd.weight"));
        let vocabulary = embedding.and_then(|shape| shape.first().copied());
        let mut members = vec![("vocab_size", json!(vocabulary.unwrap_or(0)))];
        members.extend(MEMBERS.iter().filter_map(|(from, to)| get(from).map(|value| (*to, value.clone()))));
        let named = members.iter().map(|(member, value)| ((*member).to_owned(), value.clone()));
        let config = parse(named.chain([(String::from("model_type"), json!(ARCHITECTURE))]).collect())?;
        // Values are as wide as keys, and all of a head is rotated.
        for name in ["gemma.attention.value_length", "gemma.rope.dimension_count"] {
            let head_dim = Some(config.head_dim as u64);
            if get(name).is_some_and(|value| value.as_u64() != head_dim) {
                return Err(ModelError::NotGemma(name));
            }
        }
        Ok(Self { config, members })
    }

    /// The configuration of the file, completed by `beside`, the `config.json` in the same directory.
    ///
    /// # Errors
    /// [`ModelError::Disagree`], and as [`Config::parse`].
    pub(super) fn merge(self, beside: Option<&[u8]>) -> Result<Config, ModelError> {
        let Some(beside) = beside else { return Ok(self.config) };
        let mut merged: Map<String, Value> =
            serde_json::from_slice(beside).map_err(ModelError::MalformedConfig)?;
        for (member, value) in &self.members {
            let elsewhere = *member == ROPE_THETA
                && ["rope_parameters", "rope_scaling"].iter().any(|rope| {
                    merged
                        .get(*rope)
                        .and_then(|rope| rope.get(ROPE_THETA))
                        .is_some_and(|theta| !theta.is_null())
                });
            if !elsewhere && merged.get(*member).is_none_or(Value::is_null) {
                merged.insert((*member).to_owned(), value.clone());
            }
        }
        let (here, beside) = (&self.config, parse(merged)?);
        for (member, _) in self.members {
            let same = match member {
                "vocab_size" => here.vocab_size == beside.vocab_size,
                "hidden_size" => here.hidden_size == beside.hidden_size,
                "intermediate_size" => here.intermediate_size == beside.intermediate_size,
                "num_hidden_layers" => here.num_layers == beside.num_layers,
                "num_attention_heads" => here.num_heads == beside.num_heads,
                "num_key_value_heads" => here.num_kv_heads == beside.num_kv_heads,
                "head_dim" => here.head_dim == beside.head_dim,
                // Numbers of a GGUF file are f32.
                "rms_norm_eps" => here.rms_norm_eps as f32 == beside.rms_norm_eps as f32,
                ROPE_THETA => here.rope_theta as f32 == beside.rope_theta as f32,
                "max_position_embeddings" => here.context_length == beside.context_length,
                // Control tokens: both were checked for the same ids.
                _ => true,
            };
            if !same {
                return Err(ModelError::Disagree(member));
            }
        }
        Ok(beside)
    }

    /// What must be assumed if there is no `config.json`.
    pub(super) fn assumption(&self) -> Option<Assumption> {
        (!self.members.iter().any(|(member, _)| *member == ROPE_THETA)).then_some(Assumption::RopeTheta)
    }
}

fn parse(members: Map<String, Value>) -> Result<Config, ModelError> {
    Config::parse(&serde_json::to_vec(&members).map_err(ModelError::MalformedConfig)?)
}

impl Config {
    /// The configuration of the model whose GGUF file begins with `header`.
    ///
    /// # Errors
    /// It is not the header of a Gemma's GGUF file.
    pub fn of_gguf(header: &[u8]) -> Result<Self, ModelError> {
        GgufConfig::read(&[&Header::read(header)?])?.merge(None)
    }
}
