//! `POST /v1/completions`: continuation, and fill-in-the-middle if there is a suffix.

use serde::Serialize;

use super::choices::{FinishedChoice, Prepared};
use super::dialect::{Dialect, Heading, TokenLimits};
use super::logprobs;
use super::parameters::Parameters;
use crate::prompt::{self, Texts};
use crate::protocol::ErrorCode;
use crate::protocol::openai::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, FinishReason, Options, RequestError,
    Truncate, Usage,
};
use crate::server::error::ApiError;
use crate::telemetry::Endpoint;
use crate::tokenizer::Tokenizer;

/// Text in, text out.
#[derive(Debug)]
pub(crate) struct Completions;

impl Dialect for Completions {
    const ENDPOINT: Endpoint = Endpoint::Completions;
    const PATH: &'static str = "/v1/completions";
    const ID_PREFIX: &'static str = "cmpl-";

    type Request = CompletionRequest;

    fn parse(body: &str) -> Result<CompletionRequest, RequestError> {
        CompletionRequest::parse(body)
    }

    fn options(request: &mut CompletionRequest) -> &mut Options {
        &mut request.options
    }

    fn prepare(
        request: CompletionRequest,
        tokenizer: &Tokenizer,
        limits: TokenLimits,
    ) -> Result<Prepared, ApiError> {
        let parameters = Parameters::check(request.options, limits.default_new_tokens)?;
        let texts = Texts {
            context: &request.context,
            prefix: request.prompt.expose(),
            suffix: request.suffix.as_ref().map(|suffix| suffix.expose().as_str()),
            middle: request.middle.as_ref().map_or("", |middle| middle.expose()),
        };
        let room = request
            .truncate
            .map(|Truncate::Lines| limits.context_length.saturating_sub(parameters.max_new_tokens));
        let prompt = prompt::assemble(|text| tokenizer.encode(text), &texts, room);
        Ok(Prepared {
            prompt: prompt.map_err(|_| ErrorCode::Internal)?,
            lead: request.echo.then_some(request.prompt),
            parameters,
        })
    }

    fn answer<'a>(
        heading: &'a Heading,
        choices: &'a [FinishedChoice],
        tokenizer: &'a Tokenizer,
        usage: Usage,
    ) -> impl Serialize + 'a {
        let choices = choices.iter().enumerate().map(|(index, choice)| CompletionChoice {
            index,
            text: choice.text.expose().as_str(),
            logprobs: choice.scored.as_deref().map(|scored| logprobs::completion(scored, tokenizer)),
            finish_reason: Some(choice.finish),
        });
        completion(heading, choices.collect(), Some(usage))
    }

    fn opening(_: &Heading, _: usize) -> Option<impl Serialize> {
        None::<()>
    }

    fn event<'a>(
        heading: &'a Heading,
        index: usize,
        text: &'a str,
        finish_reason: Option<FinishReason>,
    ) -> impl Serialize + 'a {
        let choice = CompletionChoice { index, text, logprobs: None, finish_reason };
        completion(heading, vec![choice], None)
    }

    fn counts(heading: &Heading, usage: Usage) -> impl Serialize {
        completion(heading, Vec::new(), Some(usage))
    }
}

fn completion<'a>(
    heading: &Heading,
    choices: Vec<CompletionChoice<&'a str, CompletionLogprobs<'a>>>,
    usage: Option<Usage>,
) -> Completion<&'a str, CompletionLogprobs<'a>> {
    Completion {
        id: heading.id.clone(),
        object: "text_completion".to_owned(),
        created: heading.created,
        model: heading.model.clone(),
        choices,
        usage,
    }
}
