//! `POST /v1/completions`: continuation, and fill-in-the-middle if there is a suffix.
//!
//! Must not touch: the seal, HTTP.

use serde::Serialize;

use super::dialect::{Dialect, Heading};
use super::error::ApiError;
use super::generation::Job;
use super::parameters::Parameters;
use crate::prompt;
use crate::protocol::ErrorCode;
use crate::protocol::openai::{Completion, CompletionChoice, CompletionRequest, FinishReason, Usage};
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
        text: &'a str,
        finish: FinishReason,
        usage: Usage,
    ) -> impl Serialize + 'a {
        completion(heading, text, Some(finish), Some(usage))
    }

    fn event<'a>(
        heading: &'a Heading,
        text: &'a str,
        end: Option<(FinishReason, Usage)>,
    ) -> impl Serialize + 'a {
        let (finish, usage) = end.unzip();
        completion(heading, text, finish, usage)
    }
}

fn completion<'a>(
    heading: &Heading,
    text: &'a str,
    finish_reason: Option<FinishReason>,
    usage: Option<Usage>,
) -> Completion<&'a str> {
    Completion {
        id: heading.id.clone(),
        object: "text_completion".to_owned(),
        created: heading.created,
        model: heading.model.clone(),
        choices: vec![CompletionChoice { index: 0, text, finish_reason }],
        usage,
    }
}
