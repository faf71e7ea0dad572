//! Why a model cannot be loaded.

use std::io;

use codeseal_kernels::cuda::DeviceError;

use super::files::FilesError;

/// Why a model cannot be loaded, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file is missing, not readable, or not what its name says.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// What is wrong is in this file.
    #[error("{file}: {error}")]
    InFile {
        /// Its name.
        file: String,
        /// What is wrong.
        error: Box<ModelError>,
    },
    /// The configuration is not JSON, or a member is of another type.
    #[error("the configuration is malformed ({0}): download it again")]
    MalformedConfig(#[source] serde_json::Error),
    /// The model is of another architecture.
    #[error(
        "this is a model of the architecture `{0}`, and only `gemma` is read: take CodeGemma or another model of the \
         first Gemma generation"
    )]
    OtherArchitecture(String),
    /// A member of the configuration is not as in any Gemma.
    #[error(
        "`{0}` is of another architecture than Gemma's: take CodeGemma or another model of the first generation"
    )]
    NotGemma(&'static str),
    /// A member of the configuration has a value that the forward pass does not compute.
    #[error("`{member}` {problem}")]
    Member {
        /// Its name.
        member: String,
        /// Why it is refused, and what to do.
        problem: &'static str,
    },
    /// A number of the configuration cannot be right.
    #[error("`{0}` is not a number that a Gemma has there: download the file again")]
    OutOfBounds(&'static str),
    /// The thread pool could not be started.
    #[error("cannot start the threads that pack the weights: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A GGUF file and the `config.json` beside it describe two models.
    #[error(
        "the gguf file and the config.json beside it say different things of `{0}`: take both from the same model"
    )]
    Disagree(&'static str),
    /// The weights cannot be loaded.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// There are no tokens, or one is outside the vocabulary.
    #[error("the tokens are not of this model's vocabulary")]
    Tokens,
    /// The sequence is as long as the model or its blocks allow.
    #[error("the context is full")]
    ContextFull,
    /// The device has no kernels for this.
    #[error("the device has no kernels for {0}: use another one, or --device cpu")]
    NotOnDevice(&'static str),
    /// The device failed, or has too little memory.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// An operation of candle failed on the CPU.
    #[error("candle failed: {0}")]
    Candle(String),
}

impl ModelError {
    /// What is wrong, without the file that it is in.
    pub fn root(&self) -> &Self {
        if let Self::InFile { error, .. } = self { error.root() } else { self }
    }

    /// Says in which file something is wrong.
    pub(super) fn in_file<E: Into<Self>>(file: &str) -> impl Fn(E) -> Self {
        move |error| match error.into() {
            // These name it themselves.
            error @ (Self::InFile { .. } | Self::Files(_) | Self::Device(_)) => error,
            error => Self::InFile { file: file.to_owned(), error: Box::new(error) },
        }
    }
}

/// Why weights cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file cannot be read.
    #[error("the weights cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The header of a safetensors file, or an index, is malformed.
    #[error("the file is malformed ({0}): download it again")]
    Malformed(#[source] serde_json::Error),
    /// A GGUF file is malformed, or of a version that is not known.
    #[error(
        "this is not in the GGUF format, version 2 or 3: download the file again, or convert the model again"
    )]
    NotGguf,
    /// A GGUF file is of another architecture.
    #[error(
        "this is a model of the architecture `{0}`, and only `gemma` is read: take CodeGemma or another model of the \
         first Gemma generation"
    )]
    Architecture(String),
    /// A GGUF file is one of several, and the others are not known.
    #[error(
        "this is part {number} of {count}: give all parts the names NAME-{number:05}-of-{count:05}.gguf and so on, or \
         join them with `llama-gguf-split --merge`"
    )]
    OnePart {
        /// From 1 on.
        number: u64,
        /// How many there are.
        count: u64,
    },
    /// A GGUF file is another part than its name says.
    #[error("this is not part {number} of {count}, as its name says: download it again")]
    WrongPart {
        /// From 1 on.
        number: u64,
        /// How many there are.
        count: u64,
    },
    /// Parts of a GGUF model have more or fewer tensors together than the first says.
    #[error("the parts do not have as many tensors as the first says: download all of them again")]
    PartsDisagree,
    /// An index names a file that is no shard of the model.
    #[error(
        "the index says that `{tensor}` is in `{file}`, which is not a shard of this model: shards are called \
         model-00001-of-00002.safetensors and so on; save the model again with transformers"
    )]
    IndexEntry {
        /// The tensor.
        tensor: String,
        /// The file.
        file: String,
    },
    /// A tensor of a GGUF file is of a type that is not supported.
    #[error(
        "the tensor `{tensor}` is of the type {found}, which is not read: take {instead} of the same model"
    )]
    Quantization {
        /// The tensor's name.
        tensor: String,
        /// What ggml calls its type.
        found: String,
        /// Which downloads have types that are read.
        instead: &'static str,
    },
    /// A file is longer or shorter than its header says.
    #[error("the file is longer or shorter than its header says: download it again")]
    Incomplete,
    /// Two tensors of a GGUF file have bytes in common.
    #[error("the tensor `{0}` begins before the one that precedes it ends: download the file again")]
    Overlap(String),
    /// A tensor is in none of the files.
    #[error("the weights lack the tensor `{0}`: download the model again, with all of its files")]
    Missing(String),
    /// A tensor is not of the shape that `config.json` implies.
    #[error(
        "the tensor `{0}` is not of the shape that the configuration implies: take both from the same model"
    )]
    Shape(String),
    /// A tensor is of a type that is not supported.
    #[error("the tensor `{0}` is neither f32, f16 nor bf16: take the model that was not quantized")]
    Type(String),
    /// A tensor is there twice.
    #[error("the tensor `{0}` is there twice: keep one of them")]
    Twice(String),
    /// A tensor is of no use to a Gemma of this configuration.
    #[error(
        "the tensor `{0}` has no place in the model that the configuration describes, and would be ignored: take both \
         from the same model; merge adapters into it with `merge_and_unload()` of peft"
    )]
    Unused(String),
    /// The matrix that makes logits is another than the embedding.
    #[error(
        "the tensor `{0}` differs from the embedding, and only models that share one matrix for both are supported"
    )]
    OtherHead(String),
    /// The configuration says that the matrix that makes logits is another than the embedding, and it is not there.
    #[error(
        "`tie_word_embeddings` is false, and there is no `lm_head.weight`: download the model again, or take out that \
         member if the model shares one matrix for both"
    )]
    NoHead,
}
