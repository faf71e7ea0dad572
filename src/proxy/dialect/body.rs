//! The members that any of the endpoints reads. Unknown ones are ignored, and null is as if absent.

use serde::Deserialize;

use super::lax::{Flag, List, Name, Number, Prompt, Texts};
use super::{BadBody, Options, ReplyForm};
use crate::secret::Secret;

/// A body, as sent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Body {
    pub(super) model: Name,
    /// Ollama's older name for `model`.
    pub(super) name: Name,
    pub(super) prompt: Prompt,
    pub(super) suffix: Option<Secret<String>>,
    pub(super) segments: Option<Segments>,
    pub(super) messages: Option<List<Message>>,
    pub(super) input_prefix: Option<Secret<String>>,
    pub(super) input_suffix: Option<Secret<String>>,
    pub(super) input_extra: List<Extra>,
    pub(super) system: Option<Secret<String>>,
    /// Ollama's own place for what others have at the top.
    pub(super) options: Option<OllamaOptions>,
    #[serde(flatten)]
    pub(super) sampling: SamplingOptions,
    pub(super) stream: Flag,
    pub(super) stream_options: Option<StreamOptions>,
    pub(super) echo: Flag,
    pub(super) t_max_prompt_ms: Number,
    pub(super) t_max_predict_ms: Number,
    pub(super) response_fields: List<String>,
}

/// Sampling options, by all names that clients use.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SamplingOptions {
    max_tokens: Number,
    max_completion_tokens: Number,
    n_predict: Number,
    num_predict: Number,
    temperature: Number,
    top_p: Number,
    top_k: Number,
    min_p: Number,
    repetition_penalty: Number,
    repeat_penalty: Number,
    seed: Number,
    random_seed: Number,
    n: Number,
    logprobs: Number,
    stop: Texts,
}

/// What Ollama's clients send in `options`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct OllamaOptions {
    /// litellm sends the suffix here, where Ollama's API has none (`findings/litellm-ollama-suffix.sh`).
    pub(super) suffix: Option<Secret<String>>,
    #[serde(flatten)]
    sampling: SamplingOptions,
}

/// The text before and after the cursor, as Tabby sends them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Segments {
    pub(super) prefix: Option<Secret<String>>,
    pub(super) suffix: Option<Secret<String>>,
    pub(super) filepath: Option<Secret<String>>,
    /// Snippets of other files (Tabby).
    pub(super) declarations: List<Snippet>,
    pub(super) relevant_snippets_from_changed_files: List<Snippet>,
    pub(super) relevant_snippets_from_recently_opened_files: List<Snippet>,
}

/// A piece of another file in Tabby's request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Snippet {
    pub(super) filepath: Option<Secret<String>>,
    pub(super) body: Option<Secret<String>>,
}

/// A piece of another file in llama.cpp's request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Extra {
    pub(super) filename: Option<Secret<String>>,
    pub(super) text: Option<Secret<String>>,
}

/// A message of a conversation, as sent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Message {
    pub(super) role: Name,
    pub(super) content: Content,
}

/// What a message holds.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(Secret<String>),
    Parts(Vec<Part>),
    #[default]
    Nothing,
}

/// A part of a message that has several.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Part {
    pub(super) text: Option<Secret<String>>,
}

/// Options of a stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamOptions {
    include_usage: Flag,
}

impl Body {
    /// Reads a body. Of nothing it is an empty one, so that what is missing is named.
    pub(super) fn parse(body: &[u8]) -> Result<Self, BadBody> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        // A byte order mark is no JSON, and yet some clients on Windows send one.
        let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
        serde_json::from_slice(body).map_err(|_| BadBody::Json)
    }

    /// How the answer is to be generated: the members at the top, then those in `options`.
    pub(super) fn options(&mut self) -> Options {
        let mut top = std::mem::take(&mut self.sampling);
        let mut inner = self.options.take().unwrap_or_default().sampling;
        let first =
            |pick: fn(&SamplingOptions) -> Number| pick(&top).0.or(pick(&inner).0).map(Some).map(Number);
        let number = |pick: fn(&SamplingOptions) -> Number| first(pick).unwrap_or_default();
        let max_tokens = first(|sampling| sampling.max_completion_tokens)
            .or_else(|| first(|sampling| sampling.max_tokens))
            .or_else(|| first(|sampling| sampling.n_predict))
            .or_else(|| first(|sampling| sampling.num_predict))
            .unwrap_or_default();
        let penalty = first(|sampling| sampling.repetition_penalty)
            .or_else(|| first(|sampling| sampling.repeat_penalty))
            .unwrap_or_default();
        let seed = first(|sampling| sampling.seed)
            .or_else(|| first(|sampling| sampling.random_seed))
            .unwrap_or_default();
        let waits = [self.t_max_prompt_ms, self.t_max_predict_ms];
        // llama.vim's warm calls bound the time to 1 ms: that is for what is predicted, and they predict nothing.
        let reads_only = max_tokens.count() == Some(0);
        let deadline = self.t_max_predict_ms.count().filter(|&ms| ms > 0 && !reads_only);
        Options {
            max_tokens: max_tokens.count(),
            temperature: number(|sampling| sampling.temperature).0,
            // Several clients write 0 for "off".
            top_p: number(|sampling| sampling.top_p).0.filter(|&p| p > 0.0),
            top_k: number(|sampling| sampling.top_k).count().filter(|&k| k > 0),
            min_p: number(|sampling| sampling.min_p).0.filter(|&p| p > 0.0),
            repetition_penalty: penalty.0.filter(|&penalty| penalty > 0.0),
            seed: seed.seed(),
            n: number(|sampling| sampling.n).count().filter(|&n| n > 0),
            logprobs: number(|sampling| sampling.logprobs).count().map(|n| n as u64),
            deadline_ms: deadline.map(|_| waits.iter().filter_map(|wait| wait.count()).sum::<usize>() as u64),
            pad_tokens: None,
            stop: {
                let mut stops = std::mem::take(&mut top.stop.0);
                stops.append(&mut inner.stop.0);
                stops.retain(|stop| !stop.expose().is_empty());
                stops
            },
        }
    }

    /// How the answer is to look. `stream` is what the endpoint takes its absence for.
    pub(super) fn reply(&mut self, stream: bool) -> ReplyForm {
        ReplyForm {
            stream: self.stream.0.unwrap_or(stream),
            usage: self.stream_options.take().and_then(|options| options.include_usage.0).unwrap_or(false),
            echo: self.echo.0.unwrap_or(false),
            model: self.model.0.take().or_else(|| self.name.0.take()),
            fields: std::mem::take(&mut self.response_fields.0),
        }
    }

    /// The prompt, if there is one that can be used.
    pub(super) fn prompt(&mut self) -> Result<Option<Secret<String>>, BadBody> {
        match std::mem::take(&mut self.prompt) {
            Prompt::Absent => Ok(None),
            Prompt::One(text) => Ok(Some(text)),
            Prompt::Unusable(why) => Err(why),
        }
    }
}
