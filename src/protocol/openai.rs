//! The part of OpenAI's completion API that travels under the seal.
//!
//! Requests hold their texts in [`Secret`]s; answers are generic over the text, which is a borrowed `&str` where
//! they are written and a [`Secret`] where they are read. Unknown members are ignored, as OpenAI's server does.

mod logprobs;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

pub use self::logprobs::{
    ChatLogprobs, ChatToken, CompletionLogprobs, LogprobsWanted, MAX_LIKELIEST, TokenLogprob,
};
use crate::secret::Secret;

/// The most stop strings that a request may name.
pub const MAX_STOPS: usize = 16;
/// The most answers that a request may ask for.
pub const MAX_CHOICES: usize = 16;

/// The body of `POST /v1/completions`.
#[derive(Debug, Deserialize)]
pub struct CompletionRequest {
    /// Text to continue, or what stands before the cursor if there is a `suffix`.
    pub prompt: Secret<String>,
    /// What stands after the cursor: asks for fill-in-the-middle.
    #[serde(default)]
    pub suffix: Option<Secret<String>>,
    /// Whether the answer begins with the prompt.
    #[serde(default)]
    pub echo: bool,
    /// How it is generated.
    #[serde(flatten)]
    pub options: Options,
}

/// The body of `POST /v1/chat/completions`.
#[derive(Debug, Deserialize)]
pub struct ChatRequest {
    /// The conversation so far, the last message from the user.
    pub messages: Vec<Message>,
    /// How it is generated.
    #[serde(flatten)]
    pub options: Options,
}

/// One message of a conversation.
#[derive(Debug, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: Secret<String>,
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The model.
    Assistant,
    /// Instructions; Gemma has no such role, so they are put before the first message.
    #[serde(alias = "developer")]
    System,
    /// The employee.
    User,
}

/// What both kinds of request share.
#[derive(Debug, Default, Deserialize)]
pub struct Options {
    /// New tokens at most.
    #[serde(default, alias = "max_completion_tokens")]
    pub max_tokens: Option<usize>,
    /// 0 (the default here) is greedy.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    #[serde(default)]
    pub top_p: Option<f64>,
    /// Sampling among the most likely tokens.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// Sampling among the tokens that are at least so likely, relative to the likeliest.
    #[serde(default)]
    pub min_p: Option<f64>,
    /// Makes tokens that the text has already less likely; 1 (the default) leaves them as they are, and for code
    /// that is best.
    #[serde(default, alias = "repeat_penalty")]
    pub repetition_penalty: Option<f64>,
    /// Makes sampling repeatable.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Texts that end the answer and are not part of it.
    #[serde(default, deserialize_with = "one_or_many")]
    pub stop: Vec<Secret<String>>,
    /// Whether the answer comes in pieces.
    #[serde(default)]
    pub stream: bool,
    /// How many answers; 1 unless asked for more. The seed of each is one more than that of the one before.
    #[serde(default)]
    pub n: Option<usize>,
    /// Whether the answer says how likely its tokens were.
    #[serde(default)]
    pub logprobs: Option<LogprobsWanted>,
    /// How many alternatives come with each token.
    #[serde(default)]
    pub top_logprobs: Option<usize>,
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
    /// As many as were asked for; in an event of a stream exactly one.
    pub choices: Vec<CompletionChoice<T, L>>,
    /// Counts; in a stream only in the last event.
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
    /// How likely its tokens were, if that was asked for.
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
    /// As many as were asked for; in an event of a stream exactly one.
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
    /// How likely its tokens were, if that was asked for.
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
    /// As many as were asked for; in an event of a stream exactly one.
    pub choices: Vec<ChatDelta<T>>,
    /// Counts; only in the last event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// The next piece of one of the answers.
#[derive(Serialize, Deserialize)]
pub struct ChatDelta<T> {
    /// Which answer, from 0.
    pub index: usize,
    /// The next piece.
    pub delta: ChatText<T>,
    /// Set at the end.
    pub finish_reason: Option<FinishReason>,
}

/// What the model says, or its next piece.
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
}

impl Usage {
    /// Counts of one request.
    pub fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

impl<'de> Deserialize<'de> for Secret<String> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(Secret<String>),
        Many(Vec<Secret<String>>),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => Vec::new(),
        Some(OneOrMany::One(stop)) => vec![stop],
        Some(OneOrMany::Many(stops)) => stops,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_is_a_text_or_a_list_or_nothing() {
        for (json, count) in [
            (r#"{"prompt":""}"#, 0),
            (r#"{"prompt":"","stop":null}"#, 0),
            (r#"{"prompt":"","stop":"a"}"#, 1),
            (r#"{"prompt":"","stop":["a","b"]}"#, 2),
        ] {
            let request: CompletionRequest = serde_json::from_str(json).unwrap();
            assert_eq!(request.options.stop.len(), count, "{json}");
        }
    }

    #[test]
    fn requests_do_not_print_their_texts() {
        let json = r#"{"prompt":"canary","suffix":"canary","stop":["canary"],"user":"canary"}"#;
        let request: CompletionRequest = serde_json::from_str(json).unwrap();
        assert!(!format!("{request:?}").contains("canary"));
    }
}
