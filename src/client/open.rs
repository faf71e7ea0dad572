//! Opens answers and holds them against what was pending: nothing that fails a check is passed on.

use serde_json::value::RawValue;

use super::error::{ClientError, NotAuthentic, Refusal};
use super::exchange;
use super::session::PendingCall;
use crate::protocol::openai::{Completion, FinishReason, Usage};
use crate::protocol::{ErrorBody, FrameReader};
use crate::secret::Secret;

/// A completion.
#[derive(Debug)]
pub struct TextCompletion {
    /// The generated text, without the prompt.
    pub text: Secret<String>,
    /// Why it ends.
    pub finish: FinishReason,
    /// Counts, if the server gave them.
    pub usage: Option<Usage>,
}

/// Opens the answer to a call that was not streamed.
pub(super) fn reply(pending: &PendingCall, body: &[u8]) -> Result<TextCompletion, ClientError> {
    let body = exchange::whole(pending, body)?;
    let completion: Completion<Secret<String>> =
        serde_json::from_str(body.expose()).map_err(|_| NotAuthentic::Malformed)?;
    let mut choices = completion.choices.into_iter();
    match (choices.next(), choices.next()) {
        (Some(choice), None) => {
            let finish = choice.finish_reason.ok_or(NotAuthentic::Malformed)?;
            Ok(TextCompletion { text: choice.text, finish, usage: completion.usage })
        }
        _ => Err(NotAuthentic::Malformed.into()),
    }
}

/// Opens the frames of a streamed answer, in order.
pub(super) struct Frames<'a> {
    pending: &'a PendingCall,
    reader: FrameReader,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
}

/// What a whole stream ends with.
#[derive(Debug)]
pub(super) struct StreamEnd {
    /// Why the text ends.
    pub finish: FinishReason,
    /// Counts, if the server gave them.
    pub usage: Option<Usage>,
}

impl<'a> Frames<'a> {
    /// Expects the answer to a call.
    pub(super) fn new(pending: &'a PendingCall) -> Self {
        Self { pending, reader: FrameReader::new(pending.id), finish: None, usage: None }
    }

    /// Opens one frame: its pieces of text, and whether it is the last.
    pub(super) fn accept(&mut self, token: &str) -> Result<(Vec<Secret<String>>, bool), ClientError> {
        let plaintext = self.pending.open(token)?;
        let frame = self.reader.accept(plaintext.expose()).map_err(NotAuthentic::from)?;
        let mut pieces = Vec::new();
        for event in &frame.events {
            let completion = match serde_json::from_str::<Completion<Secret<String>>>(event.get()) {
                Ok(completion) => completion,
                Err(_) => return Err(refusal(event)),
            };
            self.usage = completion.usage.or(self.usage);
            for choice in completion.choices {
                self.finish = choice.finish_reason.or(self.finish);
                pieces.push(choice.text);
            }
        }
        Ok((pieces, frame.last))
    }

    /// Whether the text has ended: what follows are fillers and counts.
    pub(super) fn text_has_ended(&self) -> bool {
        self.finish.is_some()
    }

    /// To be called when the last frame has come, or the connection has ended.
    pub(super) fn finish(self) -> Result<StreamEnd, NotAuthentic> {
        self.reader.finish()?;
        let finish = self.finish.ok_or(NotAuthentic::Malformed)?;
        Ok(StreamEnd { finish, usage: self.usage })
    }
}

/// An event that is no piece of a completion: an error, or nothing of this protocol.
fn refusal(event: &RawValue) -> ClientError {
    match serde_json::from_str::<ErrorBody>(event.get()) {
        Ok(error) => Refusal::sealed(200, error).into(),
        Err(_) => NotAuthentic::Malformed.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::exit_code;
    use crate::client::session::Session;
    use crate::protocol::{Dek, ErrorCode, FrameWriter, PathKey, Reply, RequestId, WrappedDek};

    const PATH: &str = "/v1/completions";

    const BODY: &str = r#"{"id":"cmpl-1","object":"text_completion","created":1,"model":"m",
        "choices":[{"index":0,"text":"ok","finish_reason":"stop"}]}"#;

    /// A call, its body, and the key of its answers as the server has it.
    fn call() -> (PendingCall, Vec<u8>, PathKey) {
        let dek = Dek::generate().unwrap();
        let answers = dek.for_answers(PATH);
        let session = Session::new(dek, WrappedDek::new(vec![1]).unwrap());
        let (pending, request) = session.seal(PATH, r#"{"prompt":"x"}"#).unwrap();
        (pending, request, answers)
    }

    fn sealed(key: &PathKey, id: RequestId, status: u16, body: &str) -> Vec<u8> {
        let body: Box<RawValue> = serde_json::from_str(body).unwrap();
        serde_json::to_vec(&Reply { id, status, body }.seal(key, 0).unwrap()).unwrap()
    }

    fn code(result: Result<TextCompletion, ClientError>) -> u8 {
        exit_code(&result.unwrap_err())
    }

    fn piece(text: &str, finish: &str) -> Box<RawValue> {
        let json = format!(
            r#"{{"id":"cmpl-1","object":"text_completion","created":1,"model":"m",
            "choices":[{{"index":0,"text":"{text}","finish_reason":{finish}}}]}}"#
        );
        RawValue::from_string(json).unwrap()
    }

    #[test]
    fn an_answer_is_opened() {
        let (pending, _, key) = call();
        let answer = reply(&pending, &sealed(&key, pending.id, 200, BODY)).unwrap();
        assert_eq!((answer.text.expose().as_str(), answer.finish), ("ok", FinishReason::Stop));
    }

    #[test]
    fn an_answer_under_another_key_or_to_another_request_is_not_authentic() {
        let (pending, _, key) = call();
        let other = Dek::generate().unwrap().for_answers(PATH);
        assert_eq!(code(reply(&pending, &sealed(&other, pending.id, 200, BODY))), 4);
        let other = RequestId::generate().unwrap();
        assert_eq!(code(reply(&pending, &sealed(&key, other, 200, BODY))), 4);
        for junk in [&b""[..], b"{}", b"<html>", br#"{"ciphertext":"junk"}"#] {
            assert_eq!(code(reply(&pending, junk)), 4);
        }
    }

    #[test]
    fn the_request_itself_sent_back_is_no_answer() {
        let (pending, request, _) = call();
        assert!(matches!(reply(&pending, &request), Err(ClientError::NotAuthentic(NotAuthentic::NotSealed))));
    }

    #[test]
    fn an_answer_of_another_path_is_not_authentic() {
        let dek = Dek::generate().unwrap();
        let others = [dek.for_answers("/v1/chat/completions"), dek.for_requests(PATH)];
        let session = Session::new(dek, WrappedDek::new(vec![1]).unwrap());
        let (pending, _) = session.seal(PATH, "{}").unwrap();
        for other in others {
            assert_eq!(code(reply(&pending, &sealed(&other, pending.id, 200, BODY))), 4);
        }
    }

    #[test]
    fn a_refusal_under_the_seal_says_when_to_come_back() {
        let (pending, _, key) = call();
        let body = serde_json::to_string(&ErrorCode::ServerBusy.body("try later")).unwrap();
        let error = reply(&pending, &sealed(&key, pending.id, 429, &body)).unwrap_err();
        let ClientError::Refused(refusal) = error else { panic!("{error}") };
        assert!(refusal.sealed);
        assert_eq!(refusal.retry_after.unwrap().as_secs(), 1);
        assert_eq!(refusal.to_string(), "the server refused with status 429 (server_busy): try later");
    }

    #[test]
    fn frames_are_opened_in_order_and_to_the_end() {
        let (pending, _, key) = call();
        let mut writer = FrameWriter::new(pending.id);
        let mut tokens = Vec::new();
        for (text, finish, last) in [("a", "null", false), ("b", "\"length\"", true)] {
            let frame = writer.next_frame(&mut vec![piece(text, finish)], last).unwrap();
            tokens.push(key.seal(frame.expose()));
        }
        let mut frames = Frames::new(&pending);
        let texts: Vec<String> = tokens
            .iter()
            .flat_map(|token| frames.accept(token).unwrap().0)
            .map(|text| text.expose().clone())
            .collect();
        assert_eq!((texts.concat().as_str(), frames.finish().unwrap().finish), ("ab", FinishReason::Length));

        let mut cut = Frames::new(&pending);
        cut.accept(tokens.first().unwrap()).unwrap();
        assert!(matches!(cut.finish(), Err(NotAuthentic::Frame(_))));
        let mut swapped = Frames::new(&pending);
        assert_eq!(exit_code(&swapped.accept(tokens.last().unwrap()).unwrap_err()), 4);
    }

    #[test]
    fn an_error_in_a_stream_is_a_refusal_with_its_own_status() {
        let (pending, _, key) = call();
        let body =
            serde_json::value::to_raw_value(&ErrorCode::DeadlineExceeded.body("ask for less")).unwrap();
        let frame = FrameWriter::new(pending.id).next_frame(&mut vec![body], true).unwrap();
        let error = Frames::new(&pending).accept(&key.seal(frame.expose())).unwrap_err();
        let ClientError::Refused(refusal) = error else { panic!("{error}") };
        assert_eq!((refusal.status, refusal.retry_after), (504, None));
    }

    #[test]
    fn a_stream_that_does_not_say_why_it_ends_is_not_whole() {
        let (pending, _, key) = call();
        let frame = FrameWriter::new(pending.id).next_frame(&mut vec![piece("a", "null")], true).unwrap();
        let mut frames = Frames::new(&pending);
        frames.accept(&key.seal(frame.expose())).unwrap();
        assert_eq!(frames.finish().unwrap_err(), NotAuthentic::Malformed);
    }
}
