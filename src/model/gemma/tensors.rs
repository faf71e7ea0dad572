//! The tensors of a Gemma: their names in both formats, their shapes, and the parameter that each is part of.
//!
//! This table is the only one. The checkpoint finds tensors by it, the weights are allocated and filled by it, memory is
//! estimated and random weights are made by it.

use super::config::Config;

/// A matrix or vector of the forward pass. Matrices that are multiplied with the same activations are one parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Parameter {
    /// One row per token; also multiplied with the last hidden states to make logits.
    Embedding,
    /// The scale of the last norm.
    Norm,
    /// A parameter of the layer with this number.
    Layer(usize, LayerParameter),
}

/// A [`Parameter`] of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum LayerParameter {
    InputNorm,
    QueriesKeysValues,
    QueriesKeysValuesBias,
    Output,
    OutputBias,
    FeedForwardNorm,
    GateUp,
    Down,
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub(in crate::model) struct Tensor {
    /// Its name in safetensors, as transformers writes it.
    pub(in crate::model) name: String,
    /// Its name in GGUF, as llama.cpp writes it.
    pub(in crate::model) gguf_name: String,
    /// Rows and columns, or the length of a vector.
    pub(in crate::model) shape: Vec<usize>,
    pub(in crate::model) parameter: Parameter,
    /// The row of the parameter that its first row is.
    pub(in crate::model) first_row: usize,
}

/// A dimension of the configuration.
#[derive(Clone, Copy)]
enum Dimension {
    Hidden,
    Intermediate,
    /// All query heads.
    Queries,
    /// All KV heads.
    KeysValues,
}

/// A tensor that every layer has.
struct Row {
    /// After `model.layers.N.` in safetensors.
    name: &'static str,
    /// After `blk.N.` in GGUF.
    gguf_name: &'static str,
    /// Several tensors of one parameter are stacked in the order of the table.
    parameter: LayerParameter,
    rows: Dimension,
}

const fn row(name: &'static str, gguf_name: &'static str, parameter: LayerParameter, rows: Dimension) -> Row {
    Row { name, gguf_name, parameter, rows }
}

/// The tensors of a layer.
const LAYER: [Row; 13] = {
    use Dimension::{Hidden, Intermediate, KeysValues, Queries};
    use LayerParameter::{
        Down, FeedForwardNorm, GateUp, InputNorm, Output, OutputBias, QueriesKeysValues,
        QueriesKeysValuesBias,
    };
    [
        row("self_attn.q_proj.weight", "attn_q.weight", QueriesKeysValues, Queries),
        row("self_attn.q_proj.bias", "attn_q.bias", QueriesKeysValuesBias, Queries),
        row("self_attn.k_proj.weight", "attn_k.weight", QueriesKeysValues, KeysValues),
        row("self_attn.k_proj.bias", "attn_k.bias", QueriesKeysValuesBias, KeysValues),
        row("self_attn.v_proj.weight", "attn_v.weight", QueriesKeysValues, KeysValues),
        row("self_attn.v_proj.bias", "attn_v.bias", QueriesKeysValuesBias, KeysValues),
        row("self_attn.o_proj.weight", "attn_output.weight", Output, Hidden),
        row("self_attn.o_proj.bias", "attn_output.bias", OutputBias, Hidden),
        row("mlp.gate_proj.weight", "ffn_gate.weight", GateUp, Intermediate),
        row("mlp.up_proj.weight", "ffn_up.weight", GateUp, Intermediate),
        row("mlp.down_proj.weight", "ffn_down.weight", Down, Hidden),
        row("input_layernorm.weight", "attn_norm.weight", InputNorm, Hidden),
        row("post_attention_layernorm.weight", "ffn_norm.weight", FeedForwardNorm, Hidden),
    ]
};

impl LayerParameter {
    /// The dimension of a matrix's columns; none for vectors.
    fn columns(self) -> Option<Dimension> {
        match self {
            Self::QueriesKeysValues | Self::GateUp => Some(Dimension::Hidden),
            Self::Output => Some(Dimension::Queries),
            Self::Down => Some(Dimension::Intermediate),
            Self::InputNorm | Self::FeedForwardNorm | Self::QueriesKeysValuesBias | Self::OutputBias => None,
        }
    }

    fn is_bias(self) -> bool {
        matches!(self, Self::QueriesKeysValuesBias | Self::OutputBias)
    }
}

impl Config {
    fn size(&self, dimension: Dimension) -> usize {
        match dimension {
            Dimension::Hidden => self.hidden_size,
            Dimension::Intermediate => self.intermediate_size,
            Dimension::Queries => self.query_width(),
            Dimension::KeysValues => self.kv_width(),
        }
    }

    /// The rows of the table that a model of this configuration has.
    fn layer_rows(&self) -> impl Iterator<Item = &'static Row> + Clone {
        let biases = self.attention_bias;
        LAYER.iter().filter(move |row| biases || !row.parameter.is_bias())
    }

    /// All tensors that there must be.
    pub(in crate::model) fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = vec![self.embedding()];
        tensors.push(Tensor {
            name: "model.norm.weight".to_owned(),
            gguf_name: "output_norm.weight".to_owned(),
            shape: vec![self.hidden_size],
            parameter: Parameter::Norm,
            first_row: 0,
        });
        for layer in 0..self.num_layers {
            for (index, row) in self.layer_rows().enumerate() {
                let before = self.layer_rows().take(index).filter(|other| other.parameter == row.parameter);
                let columns = row.parameter.columns().map(|columns| self.size(columns));
                tensors.push(Tensor {
                    name: format!("model.layers.{layer}.{}", row.name),
                    gguf_name: format!("blk.{layer}.{}", row.gguf_name),
                    shape: [self.size(row.rows)].into_iter().chain(columns).collect(),
                    parameter: Parameter::Layer(layer, row.parameter),
                    first_row: before.map(|other| self.size(other.rows)).sum(),
                });
            }
        }
        tensors
    }

    fn embedding(&self) -> Tensor {
        Tensor {
            name: "model.embed_tokens.weight".to_owned(),
            gguf_name: "token_embd.weight".to_owned(),
            shape: vec![self.vocab_size, self.hidden_size],
            parameter: Parameter::Embedding,
            first_row: 0,
        }
    }

    /// The matrix that makes logits, where a file has it beside the embedding.
    pub(in crate::model) fn head(&self) -> Tensor {
        Tensor {
            name: "lm_head.weight".to_owned(),
            gguf_name: "output.weight".to_owned(),
            ..self.embedding()
        }
    }

    /// Rows and columns of a parameter of every layer; a vector has one column.
    pub(in crate::model) fn layer_shape(&self, parameter: LayerParameter) -> [usize; 2] {
        let rows = self.layer_rows().filter(|row| row.parameter == parameter);
        [
            rows.map(|row| self.size(row.rows)).sum(),
            parameter.columns().map_or(1, |columns| self.size(columns)),
        ]
    }
}

impl Tensor {
    /// The number of rows; each number of a vector is one.
    pub(in crate::model) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }
}
