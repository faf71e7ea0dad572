//! A sealed stream: server-sent events, each one frame of constant size, one per step of the model.
//!
//! A client that goes away drops the stream, and with it the generation and the slot.
//! Must not touch: ciphers other than through `Dek`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde_json::value::{RawValue, to_raw_value};

use super::choices::Choices;
use super::dialect::{Dialect, Heading};
use super::generation::Step;
use super::observation::Observation;
use super::split::json_pieces;
use super::state::Slot;
use crate::protocol::{Dek, ErrorCode, FrameWriter, MAX_EVENT_BYTES, RequestId};

/// What a stream needs until its last frame.
pub(super) struct EventStream {
    choices: Choices,
    heading: Heading,
    dek: Arc<Dek>,
    writer: FrameWriter,
    /// Events that did not fit the frames so far.
    events: Vec<Box<RawValue>>,
    /// The answer has ended: what is in `events` is the rest.
    ended: bool,
    finished: bool,
    observation: Observation,
    _slot: Slot,
}

/// Answers with the frames of `events`.
pub(super) fn respond<D: Dialect>(events: EventStream) -> Response {
    let frames = stream::unfold(events, |mut events| async move {
        let frame = events.next_frame::<D>().await?;
        Some((Ok::<_, Infallible>(frame), events))
    });
    let mut response = Response::new(Body::from_stream(frames));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

impl EventStream {
    /// The answers to the request `id`.
    pub(super) fn new(
        choices: Choices,
        heading: Heading,
        id: RequestId,
        dek: Arc<Dek>,
        slot: Slot,
        observation: Observation,
    ) -> Self {
        Self {
            choices,
            heading,
            dek,
            writer: FrameWriter::new(id),
            events: Vec::new(),
            ended: false,
            finished: false,
            observation,
            _slot: slot,
        }
    }

    /// The next `data:` line; `None` after the last frame, or if no frame can be made: the client sees a cut stream.
    async fn next_frame<D: Dialect>(&mut self) -> Option<Bytes> {
        if self.finished {
            return None;
        }
        // One step per frame, whether or not it made text, so that the frames do not tell words apart.
        if self.events.is_empty() && !self.ended && self.step::<D>().await.is_err() {
            self.observation.failed(ErrorCode::Internal);
            return None;
        }
        let Ok(frame) = self.writer.next_frame(&mut self.events, self.ended) else {
            self.observation.failed(ErrorCode::Internal);
            return None;
        };
        self.finished = self.ended && self.events.is_empty();
        Some(Bytes::from(format!("data: {}\n\n", self.dek.seal(frame.expose()))))
    }

    /// Turns the next step of the answer into events.
    async fn step<D: Dialect>(&mut self) -> Result<(), serde_json::Error> {
        match self.choices.next(&mut self.observation).await {
            Ok(Some((index, Step::Text(text)))) => {
                let empty = to_raw_value(&D::event(&self.heading, index, "", None, None))?;
                for piece in json_pieces(text.expose(), MAX_EVENT_BYTES.saturating_sub(empty.get().len())) {
                    let event = to_raw_value(&D::event(&self.heading, index, piece, None, None))?;
                    self.events.push(event);
                }
            }
            Ok(Some((index, Step::End(finish)))) => {
                self.choices.take(index);
                self.ended = self.choices.have_ended();
                let usage = self.ended.then(|| self.observation.usage());
                let event = to_raw_value(&D::event(&self.heading, index, "", Some(finish), usage))?;
                self.events.push(event);
                if self.ended {
                    self.observation.succeeded();
                }
            }
            // What ended last has said so.
            Ok(None) => self.ended = true,
            Err(error) => {
                self.ended = true;
                self.observation.failed(error.code());
                self.events.push(to_raw_value(&error.body())?);
            }
        }
        Ok(())
    }
}
