//! The sealed endpoints: once an envelope has opened, every answer is sealed, errors included.
//!
//! Must not touch: ciphers other than through `Envelope` and `PathKey`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::ACCEPT;
use serde::Serialize;

use super::choices::{Choices, Job};
use super::dialect::{Dialect, Heading, Room};
use super::sse::{self, EventStream};
use crate::protocol::{
    Call, Envelope, ErrorCode, PathKey, Rejected, Reply, RequestId, SealedReply, ServerId,
};
use crate::secret::Secret;
use crate::server::admit::open::Opened;
use crate::server::error::ApiError;
use crate::server::observation::Observation;
use crate::server::state::App;
use crate::tokenizer::Tokenizer;

/// The handler of a sealed endpoint.
pub(crate) async fn handle<D: Dialect>(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut observation = Observation::start(&app, D::ENDPOINT);
    let accepts_events = accepts_events(request.headers());
    // Without a model the request is refused all the same.
    let context = app.loaded().map_or(usize::MAX, |loaded| loaded.engine.context_length());
    let room = Room { new_tokens: app.limits.max_new_tokens, context };
    let server = app.attestor.server();
    let parse = |body: &[u8]| Envelope::parse(body, D::PATH);
    let read = app.receive(request, observation.deadline(), parse, move |plaintext, tokenizer| {
        Question::read::<D>(&plaintext, server, tokenizer, room, accepts_events)
    });
    let read = async {
        let (opened, question) = read.await?;
        Ok((opened, question?))
    };
    match read.await {
        Ok((opened, question)) => {
            observation.authenticated();
            answer::<D>(&app, opened, question, observation).await
        }
        Err(error) => {
            let error: ApiError = error;
            observation.failed(error.code());
            error.into_response()
        }
    }
}

/// A call that was meant for this path. What is wrong with its body is answered under the seal.
struct Question {
    id: RequestId,
    asked: Result<Asked, ApiError>,
}

struct Asked {
    job: Job,
    stream: bool,
}

impl Question {
    /// Reads the plaintext of a call; `server` is the id of this process.
    fn read<D: Dialect>(
        plaintext: &Secret<Vec<u8>>,
        server: ServerId,
        tokenizer: &Tokenizer,
        room: Room,
        accepts_events: bool,
    ) -> Result<Self, Rejected> {
        let call = Call::decode(plaintext.expose())?;
        if call.path != D::PATH {
            return Err(Rejected);
        }
        // The header says the same, but only what is sealed cannot have been changed on the way.
        let asked = if call.server.is_none_or(|named| named == server) {
            ask::<D>(call.body.get(), tokenizer, room, accepts_events)
        } else {
            Err(ErrorCode::ServerChanged.into())
        };
        Ok(Self { id: call.id, asked })
    }
}

fn ask<D: Dialect>(
    body: &str,
    tokenizer: &Tokenizer,
    room: Room,
    accepts_events: bool,
) -> Result<Asked, ApiError> {
    let mut request = D::parse(body)?;
    let options = D::options(&mut request);
    options.stream |= accepts_events;
    let stream = options.stream;
    D::job(request, tokenizer, room).map(|job| Asked { job, stream })
}

async fn answer<D: Dialect>(
    app: &App,
    opened: Opened<'_>,
    question: Question,
    mut observation: Observation,
) -> Response {
    let Question { id, asked } = question;
    let key = opened.dek.for_answers(D::PATH);
    let reply = async {
        let Asked { job, stream } = asked?;
        let choices = Choices::start(opened.loaded, job, opened.dek.namespace(), &mut observation)?;
        let heading = Heading::new::<D>(id, opened.loaded.engine.model_name());
        if stream {
            return Ok(Begun::Stream(Box::new(choices), heading));
        }
        let choices = choices.collect(&mut observation).await?;
        let body = D::answer(&heading, &choices, &opened.loaded.tokenizer, observation.usage());
        seal(&key, id, 200, body).map(Begun::Whole)
    };
    match reply.await {
        Ok(Begun::Stream(choices, heading)) => {
            let events = EventStream::new(*choices, heading, id, key, opened.slot, observation, app.shaping);
            sse::respond::<D>(events)
        }
        Ok(Begun::Whole(reply)) => {
            observation.succeeded();
            Json(reply).into_response()
        }
        Err(error) => {
            observation.failed(error.code());
            opened.give_up(&error);
            match seal(&key, id, error.code().status(), error.body()) {
                Ok(reply) => Json(reply).into_response(),
                Err(unsealed) => unsealed.into_response(),
            }
        }
    }
}

enum Begun {
    Stream(Box<Choices>, Heading),
    Whole(SealedReply),
}

fn seal(key: &PathKey, id: RequestId, status: u16, body: impl Serialize) -> Result<SealedReply, ApiError> {
    Reply { id, status, body }.seal(key).map_err(|_| ErrorCode::Internal.into())
}

fn accepts_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|kind| {
        kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_may_be_asked_for_by_header() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("*/*", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            assert_eq!(accepts_events(&headers), expected, "{accept}");
        }
    }
}
