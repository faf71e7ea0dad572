//! `POST /generate`: the codelab's contract, byte for byte.
//!
//! The answer's plaintext is the prompt followed by its continuation, greedy, without special tokens. Errors are not
//! sealed: the codelab's client knows no other. Must not touch: ciphers other than through `Envelope`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::choices::{Choices, Job};
use super::parameters::Parameters;
use crate::prompt;
use crate::protocol::{Envelope, ErrorCode, GenerateReply};
use crate::secret::Secret;
use crate::server::admit::open::Opened;
use crate::server::error::ApiError;
use crate::server::observation::Observation;
use crate::server::state::App;
use crate::telemetry::Endpoint;
use crate::tokenizer::{TokenId, Tokenizer, TokenizerError};

/// The handler.
pub(crate) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut observation = Observation::start(&app, Endpoint::Generate);
    match answer(&app, request, &mut observation).await {
        Ok(reply) => {
            observation.succeeded();
            Json(reply).into_response()
        }
        Err(error) => {
            observation.failed(error.code());
            error.into_response()
        }
    }
}

async fn answer(
    app: &App,
    request: Request,
    observation: &mut Observation,
) -> Result<GenerateReply, ApiError> {
    let (opened, read) = app.receive(request, observation.deadline(), Envelope::parse_generate, read).await?;
    observation.authenticated();
    let text = continue_prompt(app, &opened, read, observation).await;
    match text {
        Ok(text) => GenerateReply::seal(&opened.dek, &text).map_err(|_| ErrorCode::Internal.into()),
        Err(error) => {
            opened.give_up(&error);
            Err(error)
        }
    }
}

/// The text of a request, and its prompt in tokens.
type Read = Result<(Secret<String>, Result<Vec<TokenId>, TokenizerError>), ErrorCode>;

fn read(plaintext: Secret<Vec<u8>>, tokenizer: &Tokenizer) -> Read {
    // Not text at all: as much a fault of the envelope as a forged one.
    let lead = plaintext.into_text().ok_or(ErrorCode::EnvelopeRejected)?;
    let prompt = prompt::completion(|text| tokenizer.encode(text), lead.expose());
    Ok((lead, prompt))
}

async fn continue_prompt(
    app: &App,
    opened: &Opened<'_>,
    read: Read,
    observation: &mut Observation,
) -> Result<Secret<String>, ApiError> {
    let (lead, prompt) = read?;
    let job = Job {
        prompt: prompt.map_err(|_| ErrorCode::Internal)?,
        lead: Some(lead),
        parameters: Parameters::greedy(app.limits.max_new_tokens),
    };
    let choices = Choices::start(opened.loaded, job, opened.dek.namespace(), observation)?;
    let mut choices = choices.collect(observation).await?;
    Ok(choices.pop().ok_or(ErrorCode::Internal)?.text)
}
