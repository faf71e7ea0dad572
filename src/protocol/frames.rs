//! Frames of a sealed stream: numbered, of one constant size, with a mandatory last one.
//!
//! A missing, repeated, reordered or foreign frame, and a stream that ends early, is an error on the client:
//! the operator of the network cannot cut or splice an answer unseen.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::envelope::RequestId;
use crate::secret::Secret;

/// The length of every frame's plaintext, in bytes.
const FRAME_BYTES: usize = 1024;
/// `{"id":"…","seq":…,"events":[…],"last":false}` without the events, at its longest.
const OVERHEAD_BYTES: usize = 96;
/// The longest event (as JSON) that a frame can hold.
pub const MAX_EVENT_BYTES: usize = FRAME_BYTES - OVERHEAD_BYTES;

/// One frame's content as the client reads it.
#[derive(Deserialize)]
pub struct Frame {
    id: RequestId,
    seq: u64,
    /// What an ordinary server would have sent as SSE `data:` lines.
    pub events: Vec<Box<RawValue>>,
    /// Nothing follows.
    pub last: bool,
}

/// Why a stream cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame follows the last one.
    #[error("the stream goes on after its last frame")]
    AfterLast,
    /// Not a frame, or not of the one size that frames have.
    #[error("a frame of the stream is malformed")]
    Malformed,
    /// A frame is missing, repeated or out of order.
    #[error("a frame of the stream is missing, repeated or out of order")]
    OutOfOrder,
    /// The stream ended before its last frame.
    #[error("the stream was cut before its last frame")]
    Truncated,
    /// The frame belongs to another request.
    #[error("a frame of the stream answers another request")]
    WrongRequest,
}

/// Makes the frames of one answer.
#[derive(Debug)]
pub struct FrameWriter {
    id: RequestId,
    seq: u64,
}

/// Checks the frames of one answer.
#[derive(Debug)]
pub struct FrameReader {
    id: RequestId,
    next_seq: u64,
    finished: bool,
}

#[derive(Serialize)]
struct FrameBody<'a> {
    id: RequestId,
    seq: u64,
    events: &'a [Box<RawValue>],
    last: bool,
}

impl FrameWriter {
    /// Frames for the request `id`, numbered from zero.
    pub fn new(id: RequestId) -> Self {
        Self { id, seq: 0 }
    }

    /// Puts as many leading `events` into a frame as fit and removes them; without any it is a filler.
    ///
    /// The frame is the last one if `last` is set and no event is left over.
    ///
    /// # Errors
    /// JSON that cannot be written, or an event longer than [`MAX_EVENT_BYTES`].
    pub fn next_frame(
        &mut self,
        events: &mut Vec<Box<RawValue>>,
        last: bool,
    ) -> Result<Secret<Vec<u8>>, serde_json::Error> {
        let mut room = MAX_EVENT_BYTES;
        let mut count = 0;
        for event in events.iter() {
            let Some(left) = room.checked_sub(event.get().len()) else { break };
            // The comma before the next event.
            room = left.saturating_sub(1);
            count += 1;
        }
        if count == 0 && !events.is_empty() {
            return Err(serde::ser::Error::custom("an event is longer than a frame"));
        }
        let last = last && count == events.len();
        let body =
            FrameBody { id: self.id, seq: self.seq, events: events.get(..count).unwrap_or_default(), last };
        let mut frame = Secret::new(Vec::with_capacity(FRAME_BYTES));
        serde_json::to_writer(frame.expose_mut(), &body)?;
        frame.expose_mut().resize(FRAME_BYTES, b' ');
        events.drain(..count);
        self.seq += 1;
        Ok(frame)
    }
}

impl FrameReader {
    /// Expects the answer of the request `id`.
    pub fn new(id: RequestId) -> Self {
        Self { id, next_seq: 0, finished: false }
    }

    /// Checks the next frame's plaintext.
    ///
    /// # Errors
    /// [`FrameError`]; the stream must then be given up.
    pub fn accept(&mut self, plaintext: &[u8]) -> Result<Frame, FrameError> {
        if self.finished {
            return Err(FrameError::AfterLast);
        }
        if plaintext.len() != FRAME_BYTES {
            return Err(FrameError::Malformed);
        }
        let frame: Frame = serde_json::from_slice(plaintext).map_err(|_| FrameError::Malformed)?;
        if frame.id != self.id {
            return Err(FrameError::WrongRequest);
        }
        if frame.seq != self.next_seq {
            return Err(FrameError::OutOfOrder);
        }
        self.next_seq += 1;
        self.finished = frame.last;
        Ok(frame)
    }

    /// To be called when the connection ends.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] if the last frame has not come.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.finished { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Box<RawValue> {
        RawValue::from_string(serde_json::to_string(text).unwrap()).unwrap()
    }

    fn frames(count: usize) -> (RequestId, Vec<Secret<Vec<u8>>>) {
        let id = RequestId::generate().unwrap();
        let mut writer = FrameWriter::new(id);
        let frames =
            (1..=count).map(|n| writer.next_frame(&mut vec![event("x")], n == count).unwrap()).collect();
        (id, frames)
    }

    fn read<'a>(
        id: RequestId,
        frames: impl IntoIterator<Item = &'a Secret<Vec<u8>>>,
    ) -> Result<usize, FrameError> {
        let mut reader = FrameReader::new(id);
        let mut events = 0;
        for frame in frames {
            events += reader.accept(frame.expose())?.events.len();
        }
        reader.finish().map(|()| events)
    }

    #[test]
    fn every_frame_has_one_size_whatever_it_says() {
        let mut writer = FrameWriter::new(RequestId::generate().unwrap());
        writer.seq = u64::MAX - 4;
        for mut events in [
            vec![],
            vec![event("a")],
            vec![event("b"), event("c")],
            vec![event(&"d".repeat(MAX_EVENT_BYTES - 2))],
        ] {
            assert_eq!(writer.next_frame(&mut events, true).unwrap().expose().len(), FRAME_BYTES);
            assert!(events.is_empty());
        }
    }

    #[test]
    fn events_that_do_not_fit_wait_and_hold_the_last_mark_back() {
        let id = RequestId::generate().unwrap();
        let (mut writer, mut reader) = (FrameWriter::new(id), FrameReader::new(id));
        let mut events = vec![event(&"a".repeat(500)), event(&"b".repeat(500))];
        let first = reader.accept(writer.next_frame(&mut events, true).unwrap().expose()).unwrap();
        assert_eq!((first.events.len(), first.last, events.len()), (1, false, 1));
        let second = reader.accept(writer.next_frame(&mut events, true).unwrap().expose()).unwrap();
        assert_eq!((second.events.len(), second.last, events.len()), (1, true, 0));
    }

    #[test]
    fn an_event_longer_than_a_frame_is_an_error_not_a_loop() {
        let mut writer = FrameWriter::new(RequestId::generate().unwrap());
        assert!(writer.next_frame(&mut vec![event(&"a".repeat(FRAME_BYTES))], true).is_err());
    }

    #[test]
    fn whole_streams_are_accepted() {
        let (id, frames) = frames(3);
        assert_eq!(read(id, &frames), Ok(3));
    }

    #[test]
    fn any_cut_swap_repetition_or_foreign_frame_is_an_error() {
        let (id, f) = frames(3);
        let [a, b, c] = f.as_slice() else { unreachable!() };
        for cut in [vec![], vec![a], vec![a, b]] {
            assert_eq!(read(id, cut), Err(FrameError::Truncated));
        }
        for wrong in [vec![b, c], vec![a, c], vec![a, a, b, c], vec![b, a, c]] {
            assert_eq!(read(id, wrong), Err(FrameError::OutOfOrder));
        }
        assert_eq!(read(id, [a, b, c, c]), Err(FrameError::AfterLast));
        assert_eq!(read(RequestId::generate().unwrap(), [a, b, c]), Err(FrameError::WrongRequest));
        let short = Secret::new(a.expose().trim_ascii_end().to_vec());
        assert_eq!(read(id, [&short]), Err(FrameError::Malformed));
    }
}
