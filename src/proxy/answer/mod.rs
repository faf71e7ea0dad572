//! How an answer looks to each kind of client: whole, or piece by piece.
//!
//! Pure.

mod llama;
mod ollama;
mod openai;
mod time;

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::dialect::{Endpoint, ReplyForm};
use super::error::{ErrorShape, Failure};
use super::server_api::{Answer, Choice, Counts};
use crate::protocol::openai::FinishReason;

pub(super) use self::ollama::loaded;
pub(super) use self::time::rfc3339;

/// What an answer says besides its text.
#[derive(Clone, Debug)]
pub(super) struct Heading {
    pub(super) endpoint: Endpoint,
    pub(super) id: String,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// The model's name, as the client has it.
    pub(super) model: String,
    /// Whether a stream ends with a chunk of counts.
    pub(super) usage: bool,
    /// The members that llama.cpp's client wants; all if empty.
    pub(super) fields: Vec<String>,
}

/// Writes the pieces of a stream.
#[derive(Debug)]
pub(super) struct Pieces {
    heading: Heading,
    /// How many answers have begun, for the shapes that tell the role first.
    begun: Vec<usize>,
}

impl Heading {
    /// For an answer of `endpoint`, whose form was asked for with `form`.
    pub(super) fn new(endpoint: Endpoint, form: &ReplyForm, served: &str, answer: &Answer) -> Self {
        let kind = match endpoint {
            Endpoint::ChatCompletions | Endpoint::FimCompletions => "chatcmpl",
            _ => "cmpl",
        };
        let unique = answer.id.rsplit('-').next().unwrap_or_default();
        Self {
            endpoint,
            id: format!("{kind}-{unique}"),
            created: answer.created,
            model: form.model.clone().unwrap_or_else(|| served.to_owned()),
            usage: form.usage,
            fields: form.fields.clone(),
        }
    }

    /// A whole answer as JSON.
    pub(super) fn whole(&self, choices: &[Choice], counts: Counts, took: Duration) -> Value {
        match self.endpoint {
            Endpoint::Completions => openai::completion(self, choices, counts),
            Endpoint::ChatCompletions | Endpoint::FimCompletions => openai::chat(self, choices, counts),
            Endpoint::LlamaCompletion | Endpoint::Infill => llama::whole(self, choices, counts, took),
            Endpoint::OllamaGenerate | Endpoint::OllamaChat => ollama::whole(self, choices, counts, took),
        }
    }
}

impl Endpoint {
    /// The shape of its errors.
    pub(super) fn error_shape(self) -> ErrorShape {
        match self {
            Self::Completions | Self::ChatCompletions | Self::FimCompletions => ErrorShape::OpenAi,
            Self::LlamaCompletion | Self::Infill => ErrorShape::Llama,
            Self::OllamaGenerate | Self::OllamaChat => ErrorShape::Ollama,
        }
    }

    /// The content type of its streams.
    pub(super) fn stream_type(self) -> &'static str {
        match self.error_shape() {
            ErrorShape::Ollama => "application/x-ndjson",
            ErrorShape::OpenAi | ErrorShape::Llama => "text/event-stream",
        }
    }
}

impl Pieces {
    /// Pieces of the answer with `heading`.
    pub(super) fn new(heading: Heading) -> Self {
        Self { heading, begun: Vec::new() }
    }

    /// The next piece of the answer number `index`.
    pub(super) fn text(&mut self, index: usize, text: &str) -> Bytes {
        let first = self.begins(index);
        let heading = &self.heading;
        self.event(&match heading.endpoint {
            Endpoint::Completions => openai::completion_piece(heading, index, text, None),
            Endpoint::ChatCompletions | Endpoint::FimCompletions => {
                openai::chat_piece(heading, index, text, first, None)
            }
            Endpoint::LlamaCompletion | Endpoint::Infill => llama::piece(index, text),
            Endpoint::OllamaGenerate | Endpoint::OllamaChat => ollama::piece(heading, text),
        })
    }

    /// The end of the answer number `index`.
    pub(super) fn end(&mut self, index: usize, finish: FinishReason) -> Option<Bytes> {
        let first = self.begins(index);
        let heading = &self.heading;
        match heading.endpoint {
            Endpoint::Completions => {
                Some(self.event(&openai::completion_piece(heading, index, "", Some(finish))))
            }
            Endpoint::ChatCompletions | Endpoint::FimCompletions => {
                Some(self.event(&openai::chat_piece(heading, index, "", first, Some(finish))))
            }
            // Theirs is the last line, with the counts.
            _ => None,
        }
    }

    /// What comes last.
    pub(super) fn close(&self, finish: FinishReason, counts: Counts, took: Duration) -> Bytes {
        let heading = &self.heading;
        match heading.endpoint {
            Endpoint::Completions | Endpoint::ChatCompletions | Endpoint::FimCompletions => {
                let usage = heading.usage.then(|| self.event(&openai::usage_piece(heading, counts)));
                let mut last = usage.unwrap_or_default().to_vec();
                last.extend_from_slice(b"data: [DONE]\n\n");
                Bytes::from(last)
            }
            Endpoint::LlamaCompletion | Endpoint::Infill => {
                self.event(&llama::last(heading, finish, counts, took))
            }
            Endpoint::OllamaGenerate | Endpoint::OllamaChat => {
                self.event(&ollama::last(heading, "", finish, counts, took))
            }
        }
    }

    /// Whether [`Pieces::close`] says how many tokens there were.
    pub(super) fn tell_counts(&self) -> bool {
        self.heading.usage || self.heading.endpoint.error_shape() != ErrorShape::OpenAi
    }

    /// What tells the client that the stream has failed; no end follows it.
    pub(super) fn failure(&self, failure: &Failure, page: &str) -> Bytes {
        self.event(&failure.json(self.heading.endpoint.error_shape(), page))
    }

    /// What keeps the connection alive while there is nothing to say, where the shape has such a thing.
    pub(super) fn comment(&self) -> Option<Bytes> {
        let is_sse = self.heading.endpoint.error_shape() != ErrorShape::Ollama;
        is_sse.then(|| Bytes::from_static(b": still working\n\n"))
    }

    fn begins(&mut self, index: usize) -> bool {
        let first = !self.begun.contains(&index);
        if first {
            self.begun.push(index);
        }
        first
    }

    fn event(&self, json: &Value) -> Bytes {
        match self.heading.endpoint.error_shape() {
            ErrorShape::Ollama => Bytes::from(format!("{json}\n")),
            ErrorShape::OpenAi | ErrorShape::Llama => Bytes::from(format!("data: {json}\n\n")),
        }
    }
}

#[cfg(test)]
mod tests;
