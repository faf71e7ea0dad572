//! `POST /v1/chat/completions`: a conversation in Gemma's turns.
//!
//! Must not touch: the seal, HTTP.

use serde::Serialize;

use super::dialect::{Dialect, Heading};
use super::error::ApiError;
use super::generation::Job;
use super::parameters::Parameters;
use crate::prompt::{self, ChatError};
use crate::protocol::ErrorCode;
use crate::protocol::openai::{
    ChatChoice, ChatChunk, ChatCompletion, ChatDelta, ChatRequest, ChatText, FinishReason, Role, Usage,
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
        text: &'a str,
        finish: FinishReason,
        usage: Usage,
    ) -> impl Serialize + 'a {
        ChatCompletion {
            id: heading.id.clone(),
            object: "chat.completion".to_owned(),
            created: heading.created,
            model: heading.model.clone(),
            choices: vec![ChatChoice { index: 0, message: said(text), finish_reason: Some(finish) }],
            usage,
        }
    }

    fn event<'a>(
        heading: &'a Heading,
        text: &'a str,
        end: Option<(FinishReason, Usage)>,
    ) -> impl Serialize + 'a {
        let (finish_reason, usage) = end.unzip();
        ChatChunk {
            id: heading.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: heading.created,
            model: heading.model.clone(),
            choices: vec![ChatDelta { index: 0, delta: said(text), finish_reason }],
            usage,
        }
    }
}

fn said(content: &str) -> ChatText<&str> {
    ChatText { role: Role::Assistant, content }
}
