//! What each member of a `config.json` means to this forward pass. A member that is in no list here is refused: it may
//! change what the model computes.
//!
//! The lists are of what transformers 4 and 5 write for a Gemma, and of what trainers add.

use serde_json::{Map, Value};

use super::super::super::error::ModelError;

/// Members that are read.
const USED: &[&str] = &[
    "architectures",
    "attention_bias",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "query_pre_attn_scalar",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
];

/// Members that change nothing that is computed here: what wrote the file, how it is trained, what a classifier on top
/// would be called, what a caller of `transformers` gets, and defaults of sampling, which each request chooses.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation",
    "_from_model_config",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_max_length",
    "name_or_path",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "task_specific_params",
    "temperature",
    "tie_last_hidden_states",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
];

/// Members that would change what is computed, unless they have this value, are null or empty.
const FIXED: &[(&str, Fixed)] = &[
    ("add_cross_attention", Fixed::False),
    ("attn_logit_softcapping", Fixed::Absent),
    ("auto_map", Fixed::Absent),
    ("compression_config", Fixed::Absent),
    ("cross_attention_hidden_size", Fixed::Absent),
    ("final_logit_softcapping", Fixed::Absent),
    ("is_encoder_decoder", Fixed::False),
    ("layer_types", Fixed::AllLayersFull),
    ("mlp_bias", Fixed::False),
    ("partial_rotary_factor", Fixed::One),
    ("per_layer_config", Fixed::Absent),
    ("pruned_heads", Fixed::Absent),
    ("quantization_config", Fixed::Absent),
    ("rope_interleaved", Fixed::False),
    ("rope_local_base_freq", Fixed::Absent),
    ("rope_traditional", Fixed::False),
    ("sliding_window", Fixed::Absent),
    ("sparsity_config", Fixed::Absent),
    ("text_config", Fixed::Absent),
    ("tf_legacy_loss", Fixed::False),
    ("tie_encoder_decoder", Fixed::False),
    ("use_bidirectional_attention", Fixed::False),
    ("use_sliding_window", Fixed::False),
    ("vision_config", Fixed::Absent),
];

/// Members that would keep tokens out of an answer, or force them into it, for every request.
const CONSTRAINTS: &[(&str, Fixed)] = &[
    ("bad_words_ids", Fixed::Absent),
    ("begin_suppress_tokens", Fixed::Absent),
    ("encoder_no_repeat_ngram_size", Fixed::Zero),
    ("exponential_decay_length_penalty", Fixed::Absent),
    ("forced_bos_token_id", Fixed::Absent),
    ("forced_decoder_ids", Fixed::Absent),
    ("forced_eos_token_id", Fixed::Absent),
    ("guidance_scale", Fixed::One),
    ("no_repeat_ngram_size", Fixed::Zero),
    ("remove_invalid_values", Fixed::False),
    ("sequence_bias", Fixed::Absent),
    ("suppress_tokens", Fixed::Absent),
];

/// The only value that a member may have, besides null.
#[derive(Clone, Copy)]
enum Fixed {
    /// None, or an empty list or object.
    Absent,
    False,
    Zero,
    One,
    /// Every entry is `full_attention`.
    AllLayersFull,
}

impl Fixed {
    fn allows(self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null) => true,
            (Self::Absent, Value::Array(entries)) => entries.is_empty(),
            (Self::Absent, Value::Object(members)) => members.is_empty(),
            (Self::False, value) => value == &Value::Bool(false),
            (Self::Zero, value) => value.as_f64() == Some(0.0),
            (Self::One, value) => value.as_f64() == Some(1.0),
            (Self::AllLayersFull, Value::Array(layers)) => {
                layers.iter().all(|layer| layer.as_str() == Some("full_attention"))
            }
            _ => false,
        }
    }

    /// Why another value is refused.
    fn refusal(self, member: &str) -> &'static str {
        match (member, self) {
            ("quantization_config" | "compression_config" | "sparsity_config", _) => {
                "says that the weights are quantized or compressed (GPTQ, AWQ, bitsandbytes and the like), which is not \
                 read: take the model's bf16 or f16 repository and --quantize, or a GGUF file"
            }
            ("auto_map", _) => {
                "says that the model comes with code of its own, which is not run: take a plain Gemma"
            }
            ("text_config" | "vision_config", _) => {
                "says that this is a model for images and text, which is not supported: take CodeGemma"
            }
            ("use_bidirectional_attention", _) => {
                "is true: a model that attends to later tokens, as for embeddings, does not write text token by token"
            }
            (_, Self::Absent) => "is set, and is not supported: take a model without it",
            (_, Self::False) => "is not false, and nothing else is supported: take a model without it",
            (_, Self::Zero) => {
                "is not 0, and nothing else is supported: take it out and let each request choose"
            }
            (_, Self::One) => {
                "is not 1, and nothing else is supported: take it out, or take a model without it"
            }
            (_, Self::AllLayersFull) => {
                "has layers without full attention, which are not supported: take a model without"
            }
        }
    }
}

/// Checks that every member is used, or has a value that changes nothing.
///
/// # Errors
/// [`ModelError::Member`] names the first that is not.
pub(super) fn check_members(members: &Map<String, Value>) -> Result<(), ModelError> {
    check_fixed(members, FIXED)?;
    check_constraints(members)?;
    for (name, value) in members {
        let name = name.as_str();
        let fixed = FIXED.iter().chain(CONSTRAINTS).any(|(known, _)| *known == name);
        if !fixed && !USED.contains(&name) && !HARMLESS.contains(&name) && !value.is_null() {
            return Err(refuse(
                name,
                "is not known, and may change what the model computes: take it out if it does not, or take CodeGemma",
            ));
        }
    }
    for member in ["rope_parameters", "rope_scaling"] {
        if let Some(value) = members.get(member) {
            check_rope(member, value)?;
        }
    }
    Ok(())
}

/// Checks that no member constrains what is generated.
///
/// # Errors
/// [`ModelError::Member`]
pub(super) fn check_constraints(members: &Map<String, Value>) -> Result<(), ModelError> {
    check_fixed(members, CONSTRAINTS)
}

fn check_fixed(members: &Map<String, Value>, rules: &[(&str, Fixed)]) -> Result<(), ModelError> {
    for (member, fixed) in rules {
        if members.get(*member).is_some_and(|value| !fixed.allows(value)) {
            return Err(refuse(member, fixed.refusal(member)));
        }
    }
    Ok(())
}

/// Checks that the rotary embedding is the plain one. Its base is read elsewhere.
///
/// # Errors
/// [`ModelError::Member`]
fn check_rope(member: &str, value: &Value) -> Result<(), ModelError> {
    let parameters = match value {
        Value::Null => return Ok(()),
        Value::Object(parameters) => parameters,
        _ => return Err(refuse(member, "is not an object: download the file again")),
    };
    for (name, value) in parameters {
        let plain = match name.as_str() {
            "rope_type" | "type" => value.is_null() || value.as_str() == Some("default"),
            "rope_theta" => value.is_null() || value.is_number(),
            "partial_rotary_factor" => Fixed::One.allows(value),
            _ => value.is_null(),
        };
        if !plain {
            return Err(refuse(
                member,
                "asks for another rotary embedding than the plain one, which is not supported: take a model without",
            ));
        }
    }
    Ok(())
}

fn refuse(member: &str, problem: &'static str) -> ModelError {
    ModelError::Member { member: member.escape_debug().to_string(), problem }
}
