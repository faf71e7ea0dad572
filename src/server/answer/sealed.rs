//! The sealed endpoints: once an envelope has opened, every answer is sealed, errors included.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::ACCEPT;
use serde::Serialize;
use tokio::time::Instant;

use super::choices::{Choices, Prepared};
use super::dialect::{Dialect, Heading, TokenLimits};
use super::shaping::{Facts, Pacer};
use super::sse::{self, EventStream};
use crate::protocol::{
    Call, Envelope, ErrorCode, PathKey, Rejected, Reply, RequestId, SealedReply, ServerId,
};
use crate::secret::Secret;
use crate::server::admit::open::{Admitted, open};
use crate::server::error::ApiError;
use crate::server::observation::Observation;
use crate::server::state::App;
use crate::tokenizer::Tokenizer;

/// An answer that is held checks this often whether the server drains.
const DRAIN_CHECK: Duration = Duration::from_millis(250);

/// The handler of a sealed endpoint.
pub(crate) async fn handle<D: Dialect>(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut observation = Observation::start(&app, D::ENDPOINT);
    match receive::<D>(&app, request, observation.deadline()).await {
        Ok((admitted, call)) => {
            observation.authenticated();
            answer::<D>(&app, admitted, call, observation).await
        }
        Err(error) => {
            observation.failed(error.code());
            error.into_response()
        }
    }
}

/// Opens a request and reads its call.
///
/// # Errors
/// Everything that is answered outside the seal.
async fn receive<D: Dialect>(
    app: &App,
    request: Request,
    deadline: Instant,
) -> Result<(Admitted<'_>, OpenedCall), ApiError> {
    let accepts_events = accepts_events(request.headers());
    let parse = |body: &[u8]| Envelope::parse(body, D::PATH);
    let (admitted, plaintext) = open(app, request, deadline, parse).await?;
    let server = app.attestor.server();
    let limits = TokenLimits {
        default_new_tokens: app.limits.max_new_tokens,
        context_length: admitted.loaded.engine.context_length(),
    };
    let call = admitted.read(plaintext, move |plaintext, tokenizer| {
        OpenedCall::read::<D>(&plaintext, server, tokenizer, limits, accepts_events)
    });
    let call = call.await??;
    Ok((admitted, call))
}

/// A call that was meant for this path. What is wrong with its body is answered under the seal.
struct OpenedCall {
    id: RequestId,
    request: Result<ParsedRequest, ApiError>,
}

struct ParsedRequest {
    prepared: Prepared,
    stream: bool,
}

impl OpenedCall {
    /// Reads the plaintext of a call; `server` is the id of this process.
    fn read<D: Dialect>(
        plaintext: &Secret<Vec<u8>>,
        server: ServerId,
        tokenizer: &Tokenizer,
        limits: TokenLimits,
        accepts_events: bool,
    ) -> Result<Self, Rejected> {
        let call = Call::decode(plaintext.expose())?;
        if call.path != D::PATH {
            return Err(Rejected);
        }
        // The header says the same, but only what is sealed cannot have been changed on the way.
        let request = if call.server.is_none_or(|named| named == server) {
            parse::<D>(call.body.get(), tokenizer, limits, accepts_events)
        } else {
            Err(ErrorCode::ServerChanged.into())
        };
        Ok(Self { id: call.id, request })
    }
}

fn parse<D: Dialect>(
    body: &str,
    tokenizer: &Tokenizer,
    limits: TokenLimits,
    accepts_events: bool,
) -> Result<ParsedRequest, ApiError> {
    let mut request = D::parse(body)?;
    let options = D::options(&mut request);
    options.stream |= accepts_events;
    let stream = options.stream;
    D::prepare(request, tokenizer, limits).map(|prepared| ParsedRequest { prepared, stream })
}

async fn answer<D: Dialect>(
    app: &App,
    mut admitted: Admitted<'_>,
    call: OpenedCall,
    mut observation: Observation,
) -> Response {
    let OpenedCall { id, request } = call;
    let key = admitted.dek.for_answers(D::PATH);
    let started = async {
        let ParsedRequest { prepared, stream } = request?;
        let facts =
            Facts { arrived: admitted.arrived, bytes: admitted.bytes, tokens: prepared.shaped_tokens() };
        let pacer = Pacer::new(app.shaper.as_ref(), facts).map_err(|_| ErrorCode::Internal)?;
        let least = if app.shaper.is_none() { 0 } else { prepared.answer_bytes() };
        let choices = Choices::start(admitted.loaded, prepared, admitted.dek.namespace(), &mut observation)?;
        let heading = Heading::new::<D>(id, admitted.loaded.engine.model_name());
        if stream {
            return Ok::<_, ApiError>(Started::Stream(Box::new(choices), heading, pacer));
        }
        let choices = choices.collect(&mut observation).await?;
        let body = D::answer(&heading, &choices, &admitted.loaded.tokenizer, observation.usage());
        let reply = seal(&key, id, 200, body, least)?;
        admitted.slot.release();
        hold(&pacer, &observation).await?;
        Ok(Started::Whole(reply))
    };
    match started.await {
        Ok(Started::Stream(choices, heading, pacer)) => {
            let events = EventStream::new(*choices, heading, id, key, admitted.slot, observation, pacer);
            sse::respond::<D>(events).await
        }
        Ok(Started::Whole(reply)) => {
            observation.succeeded();
            Json(reply).into_response()
        }
        Err(error) => {
            observation.failed(error.code());
            admitted.give_up(&error);
            match seal(&key, id, error.code().status(), error.body(), 0) {
                Ok(reply) => Json(reply).into_response(),
                Err(unsealed) => unsealed.into_response(),
            }
        }
    }
}

/// An answer without an error so far: a stream that begins, or a whole reply.
enum Started {
    Stream(Box<Choices>, Heading, Pacer),
    Whole(SealedReply),
}

/// Keeps a whole answer until its release time. A server that drains does not wait, nor does a request past its deadline.
async fn hold(pacer: &Pacer, observation: &Observation) -> Result<(), ApiError> {
    let Some(release) = pacer.release().map_err(|_| ErrorCode::Internal)? else { return Ok(()) };
    let release = release.min(observation.deadline());
    while Instant::now() + DRAIN_CHECK < release {
        tokio::time::sleep(DRAIN_CHECK).await;
        if observation.is_draining() {
            return Ok(());
        }
    }
    pacer.wait_until(release).await.map_err(|_| ErrorCode::Internal.into())
}

/// Seals an answer, padded as if it had at least `least` bytes.
fn seal(
    key: &PathKey,
    id: RequestId,
    status: u16,
    body: impl Serialize,
    least: usize,
) -> Result<SealedReply, ApiError> {
    Reply { id, status, body }.seal(key, least).map_err(|_| ErrorCode::Internal.into())
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
