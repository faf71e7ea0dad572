//! `POST /generate`: the codelab's contract, byte for byte.
//!
//! The answer's plaintext is the prompt followed by its continuation, greedy, without special tokens. Errors are not
//! sealed: the codelab's client knows no other.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::choices::{Choices, Prepared};
use super::parameters::Parameters;
use crate::prompt;
use crate::protocol::{Envelope, ErrorCode, GenerateReply};
use crate::secret::Secret;
use crate::server::admit::open::{Admitted, open};
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
    let (admitted, plaintext) = open(app, request, observation.deadline(), Envelope::parse_generate).await?;
    let prompt = admitted.read(plaintext, read).await?;
    observation.authenticated();
    match complete(app, &admitted, prompt, observation).await {
        Ok(text) => GenerateReply::seal(&admitted.dek, &text).map_err(|_| ErrorCode::Internal.into()),
        Err(error) => {
            admitted.give_up(&error);
            Err(error)
        }
    }
}

/// The text of a request, and its prompt in tokens.
type Prompt = Result<(Secret<String>, Result<Vec<TokenId>, TokenizerError>), ErrorCode>;

fn read(plaintext: Secret<Vec<u8>>, tokenizer: &Tokenizer) -> Prompt {
    // Not text at all: as much a fault of the envelope as a forged one.
    let lead = plaintext.into_text().ok_or(ErrorCode::EnvelopeRejected)?;
    let prompt = prompt::completion(|text| tokenizer.encode(text), lead.expose());
    Ok((lead, prompt))
}

async fn complete(
    app: &App,
    admitted: &Admitted<'_>,
    prompt: Prompt,
    observation: &mut Observation,
) -> Result<Secret<String>, ApiError> {
    let (lead, prompt) = prompt?;
    let prepared = Prepared {
        prompt: prompt.map_err(|_| ErrorCode::Internal)?,
        lead: Some(lead),
        parameters: Parameters::greedy(app.limits.max_new_tokens),
    };
    let choices = Choices::start(admitted.loaded, prepared, admitted.dek.namespace(), observation)?;
    let mut choices = choices.collect(observation).await?;
    Ok(choices.pop().ok_or(ErrorCode::Internal)?.text)
}
