//! Parses the APIs that editors use (OpenAI, llama.cpp, Ollama, Mistral, Tabby) into one kind of request.
//!
//! Pure.

mod body;
mod chat;
mod infill;
mod lax;
mod lines;
mod markers;
mod ollama;
mod openai;
mod stops;

use crate::protocol::openai::{MAX_CHOICES, Role};
use crate::secret::Secret;

pub(super) use self::stops::StopMatcher;

/// A request of an editor, parsed from any of the dialects.
#[derive(Debug)]
pub(super) struct EditorRequest {
    /// What to generate.
    pub(super) task: Task,
    /// How it is generated.
    pub(super) options: Options,
    /// How the answer is to look.
    pub(super) reply: ReplyForm,
}

/// What to generate.
#[derive(Debug)]
pub(super) enum Task {
    /// A conversation to answer.
    Chat(Vec<Turn>),
    /// A hole to fill.
    Hole(Hole),
    /// A text to continue.
    Text(Secret<String>),
    /// Nothing: Ollama's call that loads or unloads a model.
    Nothing,
}

/// A hole in a file.
#[derive(Debug)]
pub(super) struct Hole {
    /// What stands before the hole.
    pub(super) prefix: Secret<String>,
    /// What the hole begins with: text behind the middle marker that is no part of the answer. Often empty.
    pub(super) middle: Secret<String>,
    /// What stands after the hole.
    pub(super) suffix: Secret<String>,
    /// The name of the file that it is in, if the client says it.
    pub(super) path: Option<Secret<String>>,
    /// Other files, the least relevant first.
    pub(super) context: Vec<ContextFile>,
    /// The markers that the client wrote the hole with: control text to it, so no answer holds them.
    pub(super) markers: &'static [&'static str],
}

/// A file that goes with a hole.
#[derive(Debug)]
pub(super) struct ContextFile {
    /// Its name.
    pub(super) path: Secret<String>,
    /// What is in it.
    pub(super) text: Secret<String>,
}

/// One message of a conversation.
#[derive(Debug)]
pub(super) struct Turn {
    /// Its role.
    pub(super) role: Role,
    /// Its text.
    pub(super) content: Secret<String>,
}

/// How an answer is generated; `None` is the server's choice.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// New tokens at most. Zero asks to read the prompt only.
    pub(super) max_tokens: Option<usize>,
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) top_k: Option<usize>,
    pub(super) min_p: Option<f64>,
    pub(super) repetition_penalty: Option<f64>,
    pub(super) seed: Option<u64>,
    /// How many answers.
    pub(super) n: Option<usize>,
    /// Number of top log probabilities per token.
    pub(super) logprobs: Option<u64>,
    /// Texts that end the answer, as many as the client likes.
    pub(super) stop: Vec<Secret<String>>,
    /// Deadline in milliseconds, after which the client wants what there is.
    pub(super) deadline_ms: Option<u64>,
    /// What the shape of the sealed answer follows from if it is more than `max_tokens`. No client sets it.
    pub(super) pad_tokens: Option<usize>,
}

/// How the answer is to look.
#[derive(Debug, Default)]
pub(super) struct ReplyForm {
    /// In pieces.
    pub(super) stream: bool,
    /// With a chunk of counts at the end of a stream.
    pub(super) usage: bool,
    /// Beginning with the prompt.
    pub(super) echo: bool,
    /// The model's name as the client has it.
    pub(super) model: Option<String>,
    /// The members that llama.cpp's client wants; all if empty.
    pub(super) fields: Vec<String>,
}

/// The endpoints that take requests for completions, by what they take and give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Endpoint {
    /// OpenAI's `/v1/completions`, and Tabby's with `segments`.
    Completions,
    /// Mistral's `/v1/fim/completions`.
    FimCompletions,
    /// OpenAI's `/v1/chat/completions`.
    ChatCompletions,
    /// llama.cpp's `/completion`.
    LlamaCompletion,
    /// llama.cpp's `/infill`.
    Infill,
    /// Ollama's `/api/generate`.
    OllamaGenerate,
    /// Ollama's `/api/chat`.
    OllamaChat,
}

/// Why a body is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadBody {
    #[error("the body is no JSON object, or a member has a type that it cannot have")]
    Json,
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("several prompts in one request are not supported: send one request for each")]
    ManyPrompts,
    #[error("a prompt of token ids is not supported: send the text")]
    TokenIds,
    #[error("a message that is not text is not supported: this model reads text only")]
    NotText,
    #[error("the conversation has no message from the user")]
    NoUser,
}

/// Reads the body of a request to `endpoint`.
///
/// # Errors
/// [`BadBody`], without anything of the body in it.
pub(super) fn read(endpoint: Endpoint, body: &[u8]) -> Result<EditorRequest, BadBody> {
    let body = body::Body::parse(body)?;
    let mut request = match endpoint {
        Endpoint::Completions => openai::completion(body),
        Endpoint::LlamaCompletion => openai::llama_completion(body),
        Endpoint::FimCompletions => openai::fim(body),
        Endpoint::ChatCompletions => chat::openai(body),
        Endpoint::Infill => infill::infill(body),
        Endpoint::OllamaGenerate => ollama::generate(body),
        Endpoint::OllamaChat => ollama::chat(body),
    }?;
    if !matches!(endpoint, Endpoint::Completions | Endpoint::FimCompletions | Endpoint::ChatCompletions) {
        // The other shapes have room for one answer.
        request.options.n = None;
    }
    Ok(request)
}

impl Options {
    /// How many answers there can be: a server refuses a request for more.
    pub(super) fn choices(&self) -> usize {
        self.n.unwrap_or(1).min(MAX_CHOICES)
    }
}

impl ContextFile {
    /// The same again, for another request.
    pub(super) fn copy(&self) -> Self {
        let copy = |text: &Secret<String>| Secret::new(text.expose().clone());
        Self { path: copy(&self.path), text: copy(&self.text) }
    }
}

impl Hole {
    /// A hole between two texts.
    pub(super) fn new(prefix: Secret<String>, suffix: Secret<String>) -> Self {
        let middle = Secret::default();
        Self { prefix, middle, suffix, path: None, context: Vec::new(), markers: &[] }
    }
}

#[cfg(test)]
mod tests;
