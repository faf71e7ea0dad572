//! `POST /v1/chat/completions`: a conversation in Gemma's turns.

use serde::Serialize;

use super::choices::{FinishedChoice, Prepared};
use super::dialect::{Dialect, Heading, TokenLimits};
use super::logprobs;
use super::parameters::Parameters;
use crate::prompt::{self, ChatError};
use crate::protocol::ErrorCode;
use crate::protocol::openai::{
    ChatChoice, ChatChunk, ChatCompletion, ChatDelta, ChatRequest, ChatText, Delta, FinishReason, Options,
    RequestError, Role, Usage,
};
use crate::server::error::ApiError;
use crate::telemetry::Endpoint;
use crate::tokenizer::Tokenizer;

/// Messages in, one message out.
#[derive(Debug)]
pub(crate) struct Chat;

impl Dialect for Chat {
    const ENDPOINT: Endpoint = Endpoint::ChatCompletions;
    const PATH: &'static str = "/v1/chat/completions";
    const ID_PREFIX: &'static str = "chatcmpl-";

    type Request = ChatRequest;

    fn parse(body: &str) -> Result<ChatRequest, RequestError> {
        ChatRequest::parse(body)
    }

    fn options(request: &mut ChatRequest) -> &mut Options {
        &mut request.options
    }

    fn prepare(
        request: ChatRequest,
        tokenizer: &Tokenizer,
        limits: TokenLimits,
    ) -> Result<Prepared, ApiError> {
        let parameters = Parameters::check(request.options, limits.default_new_tokens)?;
        let prompt = prompt::chat(|text| tokenizer.encode(text), &request.messages);
        let prompt = prompt.map_err(|error| match error {
            ChatError::Encode(_) => ErrorCode::Internal.into(),
            ChatError::Prompt(error) => ApiError::from(error),
        })?;
        Ok(Prepared { prompt, lead: None, parameters })
    }

    fn answer<'a>(
        heading: &'a Heading,
        choices: &'a [FinishedChoice],
        tokenizer: &'a Tokenizer,
        usage: Usage,
    ) -> impl Serialize + 'a {
        let choices = choices.iter().enumerate().map(|(index, choice)| ChatChoice {
            index,
            message: ChatText { role: Role::Assistant, content: choice.text.expose().as_str() },
            logprobs: choice.scored.as_deref().map(|scored| logprobs::chat(scored, tokenizer)),
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

    fn opening(heading: &Heading, index: usize) -> Option<impl Serialize> {
        let delta = Delta { role: Some(Role::Assistant), content: Some("") };
        Some(chunk(heading, vec![ChatDelta { index, delta, finish_reason: None }], None))
    }

    fn event<'a>(
        heading: &'a Heading,
        index: usize,
        text: &'a str,
        finish_reason: Option<FinishReason>,
    ) -> impl Serialize + 'a {
        let delta = Delta { role: None, content: finish_reason.is_none().then_some(text) };
        chunk(heading, vec![ChatDelta { index, delta, finish_reason }], None)
    }

    fn counts(heading: &Heading, usage: Usage) -> impl Serialize {
        chunk(heading, Vec::new(), Some(usage))
    }
}

fn chunk<'a>(
    heading: &Heading,
    choices: Vec<ChatDelta<&'a str>>,
    usage: Option<Usage>,
) -> ChatChunk<&'a str> {
    ChatChunk {
        id: heading.id.clone(),
        object: "chat.completion.chunk".to_owned(),
        created: heading.created,
        model: heading.model.clone(),
        choices,
        usage,
    }
}
