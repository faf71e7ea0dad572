//! `POST /v1/completions`: continuation, and fill-in-the-middle if there is a suffix.
//!
//! Must not touch: the seal, HTTP.

use serde::Serialize;

use super::choices::{Choice, Job};
use super::dialect::{Dialect, Heading};
use super::error::ApiError;
use super::generation::ScoredToken;
use super::parameters::Parameters;
use crate::prompt;
use crate::protocol::ErrorCode;
use crate::protocol::openai::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, FinishReason, Usage,
};
use crate::telemetry::Endpoint;
use crate::tokenizer::Tokenizer;

/// Text in, text out.
#[derive(Debug)]
pub(super) struct Completions;

impl Dialect for Completions {
    const ENDPOINT: Endpoint = Endpoint::Completions;
    const PATH: &'static str = "/v1/completions";
    const ID_PREFIX: &'static str = "cmpl-";

    type Request = CompletionRequest;

    fn streams(request: &CompletionRequest) -> bool {
        request.options.stream
    }

    fn job(
        request: CompletionRequest,
        tokenizer: &Tokenizer,
        default_new_tokens: usize,
    ) -> Result<Job, ApiError> {
        let parameters = Parameters::check(request.options, default_new_tokens)?;
        let encode = |text: &str| tokenizer.encode(text);
        let text = request.prompt.expose();
        let prompt = match &request.suffix {
            Some(suffix) => prompt::infill(encode, text, suffix.expose()),
            None => prompt::completion(encode, text),
        };
        Ok(Job {
            prompt: prompt.map_err(|_| ErrorCode::Internal)?,
            lead: request.echo.then_some(request.prompt),
            parameters,
        })
    }

    fn answer<'a>(
        heading: &'a Heading,
        choices: &'a [Choice],
        tokenizer: &'a Tokenizer,
        usage: Usage,
    ) -> impl Serialize + 'a {
        let choices = choices.iter().enumerate().map(|(index, choice)| CompletionChoice {
            index,
            text: choice.text.expose().as_str(),
            logprobs: choice.scored.as_deref().map(|scored| logprobs(scored, tokenizer)),
            finish_reason: Some(choice.finish),
        });
        completion(heading, choices.collect(), Some(usage))
    }

    fn event<'a>(
        heading: &'a Heading,
        index: usize,
        text: &'a str,
        finish_reason: Option<FinishReason>,
        usage: Option<Usage>,
    ) -> impl Serialize + 'a {
        let choice = CompletionChoice { index, text, logprobs: None, finish_reason };
        completion(heading, vec![choice], usage)
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

fn logprobs<'a>(scored: &[ScoredToken], tokenizer: &'a Tokenizer) -> CompletionLogprobs<'a> {
    let text = |id| String::from_utf8_lossy(tokenizer.bytes(id));
    let likeliest = |token: &ScoredToken| {
        // Of several that read the same, the likeliest.
        token.logprobs.likeliest.iter().rev().map(|&(id, logprob)| (text(id), logprob)).collect()
    };
    CompletionLogprobs {
        tokens: scored.iter().map(|token| text(token.id)).collect(),
        token_logprobs: scored.iter().map(|token| token.logprobs.chosen).collect(),
        top_logprobs: scored.iter().map(likeliest).collect(),
        text_offset: scored.iter().map(|token| token.offset).collect(),
    }
}
