//! The part of OpenAI's completion API that travels under the seal.
//!
//! Requests hold their texts in [`Secret`]s; answers are generic over the text, which is a borrowed `&str` where
//! they are written and a [`Secret`] where they are read. Unknown members are ignored, as OpenAI's server does.

mod logprobs;
mod members;
mod request;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

pub use self::logprobs::{
    ChatLogprobs, ChatToken, CompletionLogprobs, LogprobsOption, MAX_TOP_LOGPROBS, TokenLogprob,
};
pub use self::members::RequestError;
pub use self::request::{MAX_CONTEXT_FILES, MAX_DEADLINE_MS};
use crate::secret::Secret;

/// The most stop strings that a request may name.
pub const MAX_STOPS: usize = 64;
/// The most answers that a request may ask for.
pub const MAX_CHOICES: usize = 16;

/// The body of `POST /v1/completions`.
#[derive(Debug)]
pub struct CompletionRequest {
    /// Text to continue, or what stands before the cursor if there is a `suffix`.
    pub prompt: Secret<String>,
    /// What stands after the cursor: asks for fill-in-the-middle.
    pub suffix: Option<Secret<String>>,
    /// What the hole begins with: behind the middle marker, part of neither the answer nor the echo.
    pub middle: Option<Secret<String>>,
    /// Other files, in front of the prompt.
    pub context: Vec<ContextFile>,
    /// Whether, and how, texts are cut to what the model's context holds.
    pub truncate: Option<Truncate>,
    /// Whether the answer begins with the prompt.
    pub echo: bool,
    /// How it is generated.
    pub options: Options,
}

/// A file that the model sees in front of the one that it completes.
#[derive(Debug)]
pub struct ContextFile {
    /// What it is called: one line.
    pub path: Secret<String>,
    /// What is in it.
    pub text: Secret<String>,
}

/// How texts that are too long are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncate {
    /// At line ends, around the cursor.
    Lines,
}

/// The body of `POST /v1/chat/completions`.
#[derive(Debug)]
pub struct ChatRequest {
    /// The conversation so far, the last message from the user.
    pub messages: Vec<Message>,
    /// How it is generated.
    pub options: Options,
}

/// One message of a conversation.
#[derive(Debug)]
pub struct Message {
    /// Its role.
    pub role: Role,
    /// Its content.
    pub content: Secret<String>,
}

/// The role of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The model.
    Assistant,
    /// Instructions; Gemma has no such role, so they are put before the first message.
    System,
    /// The employee.
    User,
}

/// What both kinds of request share.
#[derive(Debug, Default)]
pub struct Options {
    /// New tokens at most; 0 reads the prompt and generates nothing.
    pub max_tokens: Option<usize>,
    /// 0 (the default here) is greedy.
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// Sampling among the most likely tokens.
    pub top_k: Option<usize>,
    /// Sampling among the tokens of at least this probability relative to the most likely one (`min_p`).
    pub min_p: Option<f64>,
    /// Divides the logits of tokens that occurred before; 1 (the default, and best for code) disables it.
    pub repetition_penalty: Option<f64>,
    /// Makes sampling repeatable.
    pub seed: Option<u64>,
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<Secret<String>>,
    /// Whether the answer comes in pieces.
    pub stream: bool,
    /// Whether a stream ends with an event that has the counts.
    pub include_usage: bool,
    /// How many answers; 1 unless asked for more. The seed of each is one more than that of the one before.
    pub n: Option<usize>,
    /// Whether the answer has log probabilities.
    pub logprobs: Option<LogprobsOption>,
    /// How many alternatives come with each token.
    pub top_logprobs: Option<usize>,
    /// Milliseconds from the receipt of the request after which the answer ends as it is.
    pub deadline_ms: Option<usize>,
    /// The number of frames and the size of the answer follow from this if it is more than the tokens that it may have.
    pub pad_tokens: Option<usize>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// As many tokens as were asked for.
    Length,
    /// A stop text, or the model's own end.
    Stop,
}

/// The answer, or one event of a stream, of `/v1/completions`.
#[derive(Serialize, Deserialize)]
pub struct Completion<T, L = IgnoredAny> {
    /// `cmpl-…`
    pub id: String,
    /// `text_completion`
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// As many as were asked for; in an event of a stream one, or none beside the counts.
    pub choices: Vec<CompletionChoice<T, L>>,
    /// Counts; in a stream only if asked for, in a last event without choices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One of the answers in a [`Completion`].
#[derive(Serialize, Deserialize)]
pub struct CompletionChoice<T, L = IgnoredAny> {
    /// Which answer, from 0.
    pub index: usize,
    /// The generated text, or its next piece.
    pub text: T,
    /// Log probabilities of its tokens, if requested.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<L>,
    /// Set at the end.
    pub finish_reason: Option<FinishReason>,
}

/// The answer of `/v1/chat/completions`.
#[derive(Serialize, Deserialize)]
pub struct ChatCompletion<T, L = IgnoredAny> {
    /// `chatcmpl-…`
    pub id: String,
    /// `chat.completion`
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// As many as were asked for; in an event of a stream one, or none beside the counts.
    pub choices: Vec<ChatChoice<T, L>>,
    /// Counts.
    pub usage: Usage,
}

/// One of the answers in a [`ChatCompletion`].
#[derive(Serialize, Deserialize)]
pub struct ChatChoice<T, L = IgnoredAny> {
    /// Which answer, from 0.
    pub index: usize,
    /// What the model says.
    pub message: ChatText<T>,
    /// Log probabilities of its tokens, if requested.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<L>,
    /// Set at the end.
    pub finish_reason: Option<FinishReason>,
}

/// One event of a chat stream, `chat.completion.chunk`.
#[derive(Serialize, Deserialize)]
pub struct ChatChunk<T> {
    /// `chatcmpl-…`
    pub id: String,
    /// `chat.completion.chunk`
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// As many as were asked for; in an event of a stream one, or none beside the counts.
    pub choices: Vec<ChatDelta<T>>,
    /// Counts; only if asked for, in a last event without choices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// The next piece of one of the answers.
#[derive(Serialize, Deserialize)]
pub struct ChatDelta<T> {
    /// Which answer, from 0.
    pub index: usize,
    /// The next piece.
    pub delta: Delta<T>,
    /// Set at the end.
    pub finish_reason: Option<FinishReason>,
}

/// What an event adds to a message: the role in the first event of an answer, text in the others, nothing at the end.
#[derive(Serialize, Deserialize)]
pub struct Delta<T> {
    /// The assistant, in the first event of an answer only: clients add up what events say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The next piece.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub content: Option<T>,
}

/// What the model says.
#[derive(Serialize, Deserialize)]
pub struct ChatText<T> {
    /// Always the assistant.
    pub role: Role,
    /// The text.
    pub content: T,
}

/// Token counts of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, control tokens included.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
    /// What is known of the prompt's tokens.
    #[serde(default)]
    pub prompt_tokens_details: PromptTokensDetails,
}

/// What is known of a prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Those that were found in the prefix cache.
    #[serde(default)]
    pub cached_tokens: usize,
}

impl Usage {
    /// Counts of one request, none of the prompt's tokens cached.
    pub fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails::default(),
        }
    }

    /// The same with `cached_tokens` of the prompt's tokens cached.
    #[must_use]
    pub fn with_cached(self, cached_tokens: usize) -> Self {
        Self { prompt_tokens_details: PromptTokensDetails { cached_tokens }, ..self }
    }
}

impl<'de> Deserialize<'de> for Secret<String> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}
