//! The JSON of a request to the server and of its answer, as they are sealed.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::dialect::{ContextFile, Options, StopMatcher, Task};
use crate::client::{ClientError, NotAuthentic};
use crate::protocol::SMALLEST_BUCKET_BODY;
use crate::protocol::openai::{FinishReason, MAX_STOPS, Role};
use crate::secret::Secret;

/// Stop texts that a server of the first version takes.
const FIRST_MAX_STOPS: usize = 16;
/// Files that a server takes as context.
const MAX_CONTEXT_FILES: usize = 64;
/// Characters of their names: no more than 1024 bytes.
const MAX_PATH_CHARS: usize = 256;

/// What the server can do beyond the first version of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// It takes `middle`, `context`, `max_tokens: 0` and `deadline_ms`.
    pub(crate) holes: bool,
}

/// A request that is ready to be sealed.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) path: &'static str,
    /// JSON.
    pub(super) body: Secret<String>,
    /// Stop texts beyond those that the server takes.
    stops: Vec<Secret<String>>,
}

/// A whole answer, or the next piece of one.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) id: String,
    /// The model's name, as the server has it.
    pub(super) model: String,
    pub(super) created: u64,
    pub(super) choices: Vec<Choice>,
    pub(super) counts: Option<Counts>,
}

/// One of the answers, or its next piece.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) index: usize,
    pub(super) text: Secret<String>,
    pub(super) finish: Option<FinishReason>,
    /// As the server wrote it.
    pub(super) logprobs: Option<Opaque>,
}

/// JSON that is passed on unread.
#[derive(Clone)]
pub(super) struct Opaque(pub(super) Box<RawValue>);

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    #[serde(rename = "prompt_tokens")]
    pub(super) prompt: u64,
    #[serde(rename = "completion_tokens")]
    pub(super) completion: u64,
    #[serde(rename = "prompt_tokens_details")]
    pub(super) details: Option<Details>,
}

/// More about the tokens of the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Details {
    pub(super) cached_tokens: u64,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suffix: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    middle: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    context: Vec<File<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pad_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncate: Option<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    echo: bool,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Serialize)]
struct File<'a> {
    path: String,
    text: &'a str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: Role,
    content: &'a str,
}

#[derive(Deserialize)]
struct WireAnswer {
    #[serde(default)]
    id: String,
    #[serde(default)]
    created: u64,
    #[serde(default)]
    model: String,
    choices: Vec<WireChoice>,
    #[serde(default)]
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct WireChoice {
    #[serde(default)]
    index: usize,
    #[serde(default)]
    text: Option<Secret<String>>,
    #[serde(default, alias = "delta")]
    message: Option<WireText>,
    #[serde(default)]
    logprobs: Option<Box<RawValue>>,
    #[serde(default)]
    finish_reason: Option<FinishReason>,
}

#[derive(Deserialize)]
struct WireText {
    #[serde(default)]
    content: Option<Secret<String>>,
}

impl Request {
    /// The body of a request for `task`, with the members that a server with `features` takes.
    ///
    /// # Errors
    /// [`ClientError::Internal`] if there is nothing to send.
    pub(super) fn new(
        task: &Task,
        options: &Options,
        echo: bool,
        stream: bool,
        features: Features,
    ) -> Result<Self, ClientError> {
        let joined;
        let mut body = Body::of(options, stream, features);
        let mut path = "/v1/completions";
        let mut markers: &[&str] = &[];
        match task {
            Task::Nothing => return Err(ClientError::Internal("there is nothing to ask for")),
            Task::Text(text) => {
                body.prompt = Some(text.expose());
                body.echo = echo;
            }
            Task::Hole(hole) => {
                body.suffix = Some(hole.suffix.expose());
                markers = hole.markers;
                if features.holes {
                    body.prompt = Some(hole.prefix.expose());
                    body.middle = Some(hole.middle.expose().as_str()).filter(|middle| !middle.is_empty());
                    // What does not fit is cut at a line, on the server, which has the tokenizer.
                    body.truncate = Some("lines");
                    let least = hole.context.len().saturating_sub(MAX_CONTEXT_FILES);
                    body.context = hole.context.iter().skip(least).map(File::of).collect();
                } else {
                    joined = Secret::new([hole.prefix.expose().as_str(), hole.middle.expose()].concat());
                    body.prompt = Some(joined.expose());
                }
            }
            Task::Chat(turns) => {
                path = "/v1/chat/completions";
                body.messages = turns
                    .iter()
                    .map(|turn| Message { role: turn.role, content: turn.content.expose() })
                    .collect();
            }
        }
        let taken = if features.holes { MAX_STOPS } else { FIRST_MAX_STOPS };
        let (sent, kept) = options.stop.split_at(options.stop.len().min(taken));
        body.stop = sent.iter().map(|stop| stop.expose().as_str()).collect();
        body.fit_context();
        let kept = kept.iter().map(|stop| stop.expose().as_str()).chain(markers.iter().copied());
        Ok(Self { path, stops: kept.map(|stop| Secret::new(stop.to_owned())).collect(), body: body.write()? })
    }

    /// Looks for the stop texts that the server does not know of, in one of the answers.
    pub(super) fn stop_matcher(&self) -> StopMatcher {
        let stops = self.stops.iter().map(|stop| Secret::new(stop.expose().clone()));
        StopMatcher::new(stops.collect())
    }
}

impl<'a> Body<'a> {
    fn of(options: &Options, stream: bool, features: Features) -> Self {
        Self {
            prompt: None,
            suffix: None,
            middle: None,
            context: Vec::new(),
            messages: Vec::new(),
            max_tokens: options.max_tokens,
            temperature: options.temperature,
            top_p: options.top_p,
            top_k: options.top_k,
            min_p: options.min_p,
            repetition_penalty: options.repetition_penalty,
            seed: options.seed,
            n: options.n.filter(|&n| n > 1),
            logprobs: options.logprobs.filter(|_| !stream),
            deadline_ms: options.deadline_ms.filter(|_| features.holes),
            pad_tokens: options.pad_tokens,
            stop: Vec::new(),
            truncate: None,
            echo: false,
            stream,
            stream_options: (stream && features.holes).then_some(StreamOptions { include_usage: true }),
        }
    }

    /// Leaves out files that would take the request out of the smallest bucket, the first ones first: these matter least. A model of
    /// 8192 tokens has hardly room for more, and the size of the request then tells nothing about the files.
    fn fit_context(&mut self) {
        let files = std::mem::take(&mut self.context);
        let mut room = SMALLEST_BUCKET_BODY.saturating_sub(json_length(self) + r#","context":[]"#.len());
        let mut kept = Vec::with_capacity(files.len());
        for file in files.into_iter().rev() {
            // With the comma in front of the next one.
            if let Some(left) = room.checked_sub(json_length(&file) + 1) {
                room = left;
                kept.push(file);
            }
        }
        kept.reverse();
        self.context = kept;
    }

    fn write(&self) -> Result<Secret<String>, ClientError> {
        let texts = [self.prompt, self.suffix, self.middle].into_iter().flatten().map(str::len);
        let files = self.context.iter().map(|file| file.text.len() + file.path.len());
        let messages = self.messages.iter().map(|message| message.content.len());
        // Room for the usual share of escapes, so that growing does not leave unwiped copies behind.
        let room = texts.chain(files).chain(messages).sum::<usize>() * 2 + 4096;
        let mut json = Secret::new(Vec::with_capacity(room));
        let unwritable = ClientError::Internal("the request cannot be written");
        if serde_json::to_writer(json.expose_mut(), self).is_err() {
            return Err(unwritable);
        }
        json.into_text().ok_or(unwritable)
    }
}

impl<'a> File<'a> {
    /// A file with a name that the server takes: one line, not empty, and not too long.
    fn of(file: &'a ContextFile) -> Self {
        let plain = file.path.expose().chars().filter(|character| !character.is_control());
        let path: String = plain.take(MAX_PATH_CHARS).collect();
        let path = if path.trim().is_empty() { "snippet".to_owned() } else { path };
        Self { path, text: file.text.expose() }
    }
}

impl Answer {
    /// Reads a body, or an event, of the server's.
    ///
    /// # Errors
    /// [`NotAuthentic::Malformed`] if it is none of this protocol.
    pub(super) fn parse(json: &str) -> Result<Self, ClientError> {
        let wire: WireAnswer = serde_json::from_str(json).map_err(|_| NotAuthentic::Malformed)?;
        let choice = |choice: WireChoice| Choice {
            index: choice.index,
            text: choice.text.or_else(|| choice.message?.content).unwrap_or_default(),
            finish: choice.finish_reason,
            logprobs: choice.logprobs.map(Opaque),
        };
        let WireAnswer { id, model, created, usage: counts, choices } = wire;
        let choices = choices.into_iter().map(choice).collect();
        Ok(Self { id, model, created, choices, counts })
    }

    /// The same of a whole answer, cut at the stop texts of `request`.
    ///
    /// # Errors
    /// As [`Answer::parse`]; an answer that does not say why it ends is not whole.
    pub(super) fn whole(json: &str, request: &Request) -> Result<Self, ClientError> {
        let mut answer = Self::parse(json)?;
        if answer.choices.is_empty() || answer.choices.iter().any(|choice| choice.finish.is_none()) {
            return Err(NotAuthentic::Malformed.into());
        }
        for choice in &mut answer.choices {
            let mut matcher = request.stop_matcher();
            let text = matcher.push(choice.text.expose());
            if matcher.stopped() {
                *choice =
                    Choice { text, finish: Some(FinishReason::Stop), index: choice.index, logprobs: None };
            }
        }
        Ok(answer)
    }
}

impl Counts {
    /// Tokens of the prompt that the server's prefix cache had.
    pub(super) fn cached(&self) -> u64 {
        self.details.unwrap_or_default().cached_tokens
    }
}

impl std::fmt::Debug for Opaque {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// How long the JSON of `value` is, without a copy of it.
fn json_length(value: &impl Serialize) -> usize {
    struct Length(usize);

    impl io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut length = Length(0);
    // Nothing fails that can be written afterwards.
    if serde_json::to_writer(&mut length, value).is_err() { usize::MAX / 2 } else { length.0 }
}

/// `serde` wants a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::proxy::dialect::Hole;

    fn request(before: &str, files: &[(&str, usize)]) -> Value {
        let secret = |text: &str| Secret::new(text.to_owned());
        let mut hole = Hole::new(secret(before), secret("\n"));
        let file = |&(path, length): &(&str, usize)| ContextFile {
            path: secret(path),
            text: Secret::new("\"x\"\n".repeat(length / 4)),
        };
        hole.context = files.iter().map(file).collect();
        let features = Features { holes: true };
        let request = Request::new(&Task::Hole(hole), &Options::default(), false, true, features).unwrap();
        assert!(request.body.expose().len() <= SMALLEST_BUCKET_BODY, "{}", request.body.expose().len());
        serde_json::from_str(request.body.expose()).unwrap()
    }

    fn names(body: &Value) -> Vec<String> {
        let files = body["context"].as_array().cloned().unwrap_or_default();
        files.iter().map(|file| file["path"].as_str().unwrap().to_owned()).collect()
    }

    /// The sizes are those of llama.vim: 256 lines above the cursor, and chunks of 64 lines.
    #[test]
    fn files_are_left_out_that_the_smallest_bucket_has_no_room_for() {
        let window = "    value = compute(value, 17, \"x\")\n".repeat(256);
        assert_eq!(names(&request(&window, &[("a", 2000), ("b", 2000)])), ["a", "b"]);
        let chunks: Vec<String> = (0..16).map(|chunk| format!("chunk-{chunk:02}")).collect();
        let files: Vec<(&str, usize)> = chunks.iter().map(|name| (name.as_str(), 2560)).collect();
        let kept = names(&request(&window, &files));
        assert!(!kept.is_empty() && chunks.ends_with(&kept), "{kept:?}");
        // One that is too long by itself does not take the place of the others.
        assert_eq!(names(&request(&window, &[("a", 2000), ("long", 60_000), ("b", 2000)])), ["a", "b"]);
        assert_eq!(names(&request(&window, &[("long", 60_000)])), Vec::<String>::new());
    }
}
