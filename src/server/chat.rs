//! `POST /v1/chat/completions`: a conversation in Gemma's turns.
//!
//! Must not touch: the seal, HTTP.

use serde::Serialize;

use super::choices::{Choice, Job};
use super::dialect::{Dialect, Heading};
use super::error::ApiError;
use super::generation::ScoredToken;
use super::parameters::Parameters;
use crate::prompt::{self, ChatError};
use crate::protocol::ErrorCode;
use crate::protocol::openai::{
    ChatChoice, ChatChunk, ChatCompletion, ChatDelta, ChatLogprobs, ChatRequest, ChatText, ChatToken,
    FinishReason, Role, TokenLogprob, Usage,
};
use crate::telemetry::Endpoint;
use crate::tokenizer::Tokenizer;

/// Messages in, one message out.
#[derive(Debug)]
pub(super) struct Chat;

impl Dialect for Chat {
    const ENDPOINT: Endpoint = Endpoint::ChatCompletions;
    const PATH: &'static str = "/v1/chat/completions";
    const ID_PREFIX: &'static str = "chatcmpl-";

    type Request = ChatRequest;

    fn streams(request: &ChatRequest) -> bool {
        request.options.stream
    }

    fn job(request: ChatRequest, tokenizer: &Tokenizer, default_new_tokens: usize) -> Result<Job, ApiError> {
        let parameters = Parameters::check(request.options, default_new_tokens)?;
        let prompt = prompt::chat(|text| tokenizer.encode(text), &request.messages);
        let prompt = prompt.map_err(|error| match error {
            ChatError::Encode(_) => ErrorCode::Internal.into(),
            ChatError::Prompt(error) => ApiError::from(error),
        })?;
        Ok(Job { prompt, lead: None, parameters })
    }

    fn answer<'a>(
        heading: &'a Heading,
        choices: &'a [Choice],
        tokenizer: &'a Tokenizer,
        usage: Usage,
    ) -> impl Serialize + 'a {
        let choices = choices.iter().enumerate().map(|(index, choice)| ChatChoice {
            index,
            message: said(choice.text.expose()),
            logprobs: choice.scored.as_deref().map(|scored| logprobs(scored, tokenizer)),
            finish_reason: Some(choice.finish),
        });
        ChatCompletion {
            id: heading.id.clone(),
            object: "chat.completion".to_owned(),
            created: heading.created,
            model: heading.model.clone(),
            choices: choices.collect(),
            usage,
        }
    }

    fn event<'a>(
        heading: &'a Heading,
        index: usize,
        text: &'a str,
        finish_reason: Option<FinishReason>,
        usage: Option<Usage>,
    ) -> impl Serialize + 'a {
        ChatChunk {
            id: heading.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: heading.created,
            model: heading.model.clone(),
            choices: vec![ChatDelta { index, delta: said(text), finish_reason }],
            usage,
        }
    }
}

fn said(content: &str) -> ChatText<&str> {
    ChatText { role: Role::Assistant, content }
}

fn logprobs<'a>(scored: &[ScoredToken], tokenizer: &'a Tokenizer) -> ChatLogprobs<'a> {
    let token = |id, logprob| TokenLogprob::new(tokenizer.bytes(id), logprob);
    let content = scored.iter().map(|scored| ChatToken {
        token: token(scored.id, scored.logprobs.chosen),
        top_logprobs: scored.logprobs.likeliest.iter().map(|&(id, logprob)| token(id, logprob)).collect(),
    });
    ChatLogprobs { content: content.collect() }
}
