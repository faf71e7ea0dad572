//! Reads a request's body within its limits, before anything in it is decoded.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use crate::protocol::ErrorCode;

/// How long the rest of a body that is too large is read and dropped: closing the connection at once would reset it before
/// the client has read the answer.
const LINGER: Duration = Duration::from_secs(5);

/// Reads all of `request`'s body: at most `limit` bytes, within `timeout` in all, however slowly they trickle.
///
/// # Errors
/// [`ErrorCode::PayloadTooLarge`], [`ErrorCode::RequestTimeout`], or [`ErrorCode::InvalidRequest`] if the
/// connection breaks off.
pub(crate) async fn read(
    request: http::Request<Body>,
    limit: usize,
    timeout: Duration,
) -> Result<Bytes, ErrorCode> {
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    // Reading the body is what tells such a client to send it.
    let waits = request.headers().contains_key(EXPECT) && request.version() != http::Version::HTTP_10;
    let mut body = request.into_body();
    if waits && declared.is_some_and(|declared| declared > limit) {
        return Err(ErrorCode::PayloadTooLarge);
    }
    let deadline = Instant::now() + timeout;
    let read = tokio::time::timeout_at(deadline, collect(&mut body, declared.unwrap_or(0), limit)).await;
    let read = read.unwrap_or(Err(ErrorCode::RequestTimeout));
    if matches!(read, Err(ErrorCode::PayloadTooLarge)) {
        discard(&mut body, deadline.min(Instant::now() + LINGER)).await;
    }
    read
}

async fn collect(body: &mut Body, declared: usize, limit: usize) -> Result<Bytes, ErrorCode> {
    if declared > limit {
        return Err(ErrorCode::PayloadTooLarge);
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ErrorCode::InvalidRequest)?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(ErrorCode::PayloadTooLarge);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

async fn discard(body: &mut Body, deadline: Instant) {
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    // Either it has ended or it has had its time.
    tokio::time::timeout_at(deadline, rest).await.ok();
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn request(body: Body) -> http::Request<Body> {
        http::Request::new(body)
    }

    fn chunks(count: usize, pause: Duration) -> Body {
        let chunks = stream::iter(0..count).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, std::convert::Infallible>(Bytes::from_static(b"x"))
        });
        Body::from_stream(chunks)
    }

    #[tokio::test]
    async fn a_body_up_to_the_limit_is_read() {
        let read = read(request(chunks(8, Duration::ZERO)), 8, TIMEOUT).await;
        assert_eq!(read.unwrap(), "xxxxxxxx");
    }

    #[tokio::test]
    async fn a_declared_length_over_the_limit_is_refused_before_a_byte_is_kept() {
        let mut request = request(chunks(3, Duration::ZERO));
        request.headers_mut().insert(CONTENT_LENGTH, 9.into());
        assert_eq!(read(request, 8, TIMEOUT).await, Err(ErrorCode::PayloadTooLarge));
    }

    #[tokio::test]
    async fn a_client_that_asks_first_is_not_told_to_send_what_is_refused() {
        let mut request = request(Body::from_stream(stream::poll_fn(
            |_| -> std::task::Poll<Option<Result<Bytes, std::convert::Infallible>>> {
                panic!("reading the body makes hyper answer 100")
            },
        )));
        request.headers_mut().insert(CONTENT_LENGTH, 9.into());
        request.headers_mut().insert(EXPECT, http::HeaderValue::from_static("100-continue"));
        assert_eq!(read(request, 8, TIMEOUT).await, Err(ErrorCode::PayloadTooLarge));
    }

    #[tokio::test]
    async fn an_undeclared_length_over_the_limit_is_refused_as_it_arrives() {
        let request = request(chunks(9, Duration::ZERO));
        assert_eq!(read(request, 8, TIMEOUT).await, Err(ErrorCode::PayloadTooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_a_second_runs_into_the_deadline_of_the_whole_body() {
        let started = Instant::now();
        let request = request(chunks(100, Duration::from_secs(1)));
        assert_eq!(read(request, 1000, TIMEOUT).await, Err(ErrorCode::RequestTimeout));
        assert_eq!(started.elapsed(), TIMEOUT);
    }
}
