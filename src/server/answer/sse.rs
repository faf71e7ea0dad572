//! A sealed stream: server-sent events, each one frame of constant size, which leave when [`Pacer`] says.
//!
//! A client that goes away drops the stream, and with it the generation and the slot. A stream whose text is complete has no slot
//! any more; it keeps its connection, and a drain waits for it.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::sleep_until;

use super::choices::Choices;
use super::dialect::{Dialect, Heading};
use super::generation::{ChoiceEvent, concat};
use super::shaping::{Departure, Pacer};
use super::split::json_pieces;
use crate::protocol::{ErrorCode, FrameWriter, MAX_EVENT_BYTES, PathKey, RequestId};
use crate::secret::Secret;
use crate::server::error::ApiError;
use crate::server::observation::Observation;
use crate::server::state::Slot;

/// What a stream needs until its last frame.
pub(crate) struct EventStream {
    choices: Choices,
    heading: Heading,
    key: PathKey,
    writer: FrameWriter,
    pacer: Pacer,
    /// Text that is in no event yet, per answer.
    texts: Vec<(usize, Vec<Secret<String>>)>,
    /// Which answers have had an event.
    opened: Vec<usize>,
    /// The last events of answers, which follow all text.
    ends: Vec<Box<RawValue>>,
    /// Events that did not fit the frames so far.
    events: Vec<Box<RawValue>>,
    /// The answers have ended: no further events are added.
    ended: bool,
    finished: bool,
    observation: Observation,
    /// Released with the last text: fillers need no model.
    slot: Slot,
}

/// Answers with the frames of `events`. The head leaves together with the first frame: alone it would show how long the
/// request took to open and to tokenize.
pub(crate) async fn respond<D: Dialect>(mut events: EventStream) -> Response {
    let first = events.next_frame::<D>().await;
    let rest = stream::unfold(events, |mut events| async move {
        let frame = events.next_frame::<D>().await?;
        Some((frame, events))
    });
    let frames = stream::iter(first).chain(rest).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(frames));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

impl EventStream {
    /// The answers to the request `id`, sealed under `key`.
    pub(crate) fn new(
        choices: Choices,
        heading: Heading,
        id: RequestId,
        key: PathKey,
        slot: Slot,
        observation: Observation,
        pacer: Pacer,
    ) -> Self {
        Self {
            choices,
            heading,
            key,
            writer: FrameWriter::new(id),
            pacer,
            texts: Vec::new(),
            opened: Vec::new(),
            ends: Vec::new(),
            events: Vec::new(),
            ended: false,
            finished: false,
            observation,
            slot,
        }
    }

    /// The next `data:` line, at its time; `None` after the last frame, or if no frame can be made: the client sees a cut
    /// stream.
    async fn next_frame<D: Dialect>(&mut self) -> Option<Bytes> {
        if self.finished {
            return None;
        }
        let Ok(departure) = self.pacer.next_departure() else {
            return self.fail();
        };
        if departure.is_some() {
            // hyper writes what it has when the body is pending. A frame that is ready without that, because it has nothing to
            // say or because it leaves soon after the one before, would delay that one or leave together with it.
            tokio::task::yield_now().await;
        }
        let Ok(frame) = self.make_frame::<D>(departure).await else {
            return self.fail();
        };
        let line = Bytes::from(format!("data: {}\n\n", self.key.seal(frame.expose())));
        if let Some(Departure { at, .. }) = departure
            && self.pacer.wait_until(at).await.is_err()
        {
            return self.fail();
        }
        Some(line)
    }

    fn fail(&mut self) -> Option<Bytes> {
        self.finished = true;
        self.observation.failed(ErrorCode::Internal);
        None
    }

    async fn make_frame<D: Dialect>(
        &mut self,
        departure: Option<Departure>,
    ) -> Result<Secret<Vec<u8>>, serde_json::Error> {
        self.gather::<D>(departure).await?;
        self.write_texts::<D>()?;
        self.events.append(&mut self.ends);
        let may_end = self.pacer.count(self.observation.is_draining()) && self.ended;
        let frame = self.writer.next_frame(&mut self.events, may_end)?;
        if self.ended && self.events.is_empty() {
            self.pacer.text_ended();
            self.finished = may_end;
        }
        Ok(frame)
    }

    /// Waits for what the next frame says, or until it has to be sealed.
    async fn gather<D: Dialect>(&mut self, departure: Option<Departure>) -> Result<(), serde_json::Error> {
        let Some(Departure { seal, .. }) = departure else {
            // One step per frame, whether or not it made text, so that the frames do not tell words apart.
            if !self.ended && self.events.is_empty() {
                let event = self.choices.next(&mut self.observation).await;
                self.take::<D>(event)?;
            }
            return Ok(());
        };
        // Nothing more will be known: the thread need not wake to seal a filler.
        while !self.ended {
            let event = tokio::select! {
                biased;
                () = sleep_until(seal) => break,
                event = self.choices.next(&mut self.observation) => event,
            };
            self.take::<D>(event)?;
        }
        Ok(())
    }

    /// Handles an event of an answer.
    fn take<D: Dialect>(
        &mut self,
        event: Result<Option<(usize, ChoiceEvent)>, ApiError>,
    ) -> Result<(), serde_json::Error> {
        if let Ok(Some((index, _))) = &event
            && !self.opened.contains(index)
        {
            self.opened.push(*index);
            if let Some(opening) = D::opening(&self.heading, *index) {
                self.events.push(to_raw_value(&opening)?);
            }
        }
        match event {
            Ok(Some((index, ChoiceEvent::Text(text)))) => {
                match self.texts.iter_mut().find(|(other, _)| *other == index) {
                    Some((_, texts)) => texts.push(text),
                    None => self.texts.push((index, vec![text])),
                }
            }
            Ok(Some((index, ChoiceEvent::End(finish)))) => {
                self.choices.take(index);
                self.ended = self.choices.have_ended();
                self.ends.push(to_raw_value(&D::event(&self.heading, index, "", Some(finish)))?);
                if self.ended {
                    if self.choices.include_usage() {
                        let counts = D::counts(&self.heading, self.observation.usage());
                        self.ends.push(to_raw_value(&counts)?);
                    }
                    self.observation.succeeded();
                }
            }
            // The last answer to end has had its event.
            Ok(None) => self.ended = true,
            Err(error) => {
                self.ended = true;
                // Fillers may follow for a while, and the other answers need not be made meanwhile.
                self.choices.stop();
                self.observation.failed(error.code());
                self.ends.push(to_raw_value(&error.body())?);
            }
        }
        if self.ended {
            self.slot.release();
        }
        Ok(())
    }

    /// Makes events of the texts so far.
    fn write_texts<D: Dialect>(&mut self) -> Result<(), serde_json::Error> {
        for (index, texts) in self.texts.drain(..) {
            let text = concat(&texts);
            let empty = to_raw_value(&D::event(&self.heading, index, "", None))?;
            for piece in json_pieces(text.expose(), MAX_EVENT_BYTES.saturating_sub(empty.get().len())) {
                self.events.push(to_raw_value(&D::event(&self.heading, index, piece, None))?);
            }
        }
        Ok(())
    }
}
