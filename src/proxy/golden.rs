//! The golden request: a hole that each new session fills once, before any editor's text is sent under it.
//!
//! It shows that the server can use the session's key, what else it can do, and that the model answers, with text, and
//! without the names of control tokens. Which text is right depends on weights and quantization, so it is compared only if
//! the user says what it must be.
//!
//! It asks for a stream: a server that shapes its traffic keeps whole answers back.

use crate::client::ClientError;
use crate::proxy::dialect::{Hole, Options, Task};
use crate::proxy::server_api::{Answer, Features, Request};
use crate::secret::Secret;

/// New tokens of the usual request: enough for some text, and soon there.
const TOKENS: usize = 8;
/// The most that a request whose text is compared may ask for.
const MAX_TOKENS: usize = 256;
/// The longest text of the setting, in bytes.
const MAX_BYTES: usize = 4096;

/// What a model writes as text only if its control tokens are not converted.
const CONTROL_TEXTS: [&str; 8] =
    ["<|fim_", "<|file_separator|>", "<|file_sep|>", "<fim_", "<eos>", "<bos>", "<start_of_turn>", "<unused"];

/// The golden request.
#[derive(Clone, Debug)]
pub struct Golden {
    prefix: String,
    suffix: String,
    /// What the answer must begin with.
    expected: Option<String>,
}

/// A text of the setting is missing or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("needs `prefix` and `expected` that are not empty, and texts of at most {MAX_BYTES} bytes")]
pub struct BadGolden;

/// What is wrong with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// There is no text.
    #[error("it fills a hole in plain code with nothing: the model may not be one for code completion")]
    Empty,
    /// The names of control tokens are in it.
    #[error("it writes the names of control tokens as text: its tokenizer does not fit")]
    ControlText,
    /// It is not the text that the user expects.
    #[error("its answer to the golden request is not the expected text: compare `golden` in config.toml")]
    Differs,
}

impl Default for Golden {
    fn default() -> Self {
        Self { prefix: "def add(a, b):\n    return ".to_owned(), suffix: "\n".to_owned(), expected: None }
    }
}

impl Golden {
    /// A request whose answer must begin with `expected`.
    ///
    /// # Errors
    /// [`BadGolden`]
    pub fn new(prefix: String, suffix: String, expected: String) -> Result<Self, BadGolden> {
        let long = [&prefix, &suffix, &expected].iter().any(|text| text.len() > MAX_BYTES);
        if long || prefix.is_empty() || expected.trim().is_empty() {
            return Err(BadGolden);
        }
        Ok(Self { prefix, suffix, expected: Some(expected) })
    }

    /// The request, as any server takes it: a server of the first version ignores the members that it does not know.
    pub(super) fn request(&self) -> Result<Request, ClientError> {
        let secret = |text: &str| Secret::new(text.to_owned());
        let hole = Hole::new(secret(&self.prefix), secret(&self.suffix));
        // A token has at least one byte.
        let tokens = self.expected.as_ref().map_or(TOKENS, |text| text.len().clamp(TOKENS, MAX_TOKENS));
        let options = Options { max_tokens: Some(tokens), temperature: Some(0.0), ..Options::default() };
        Request::new(&Task::Hole(hole), &options, false, true, Features { holes: true })
    }

    /// What the server that gave this answer can do: one of the first version tells no counts in a stream.
    pub(super) fn features(answer: &Answer) -> Features {
        Features { holes: answer.counts.is_some() }
    }

    /// Holds the answer against what it must be.
    pub(super) fn check(&self, answer: &Answer) -> Result<(), BadAnswer> {
        let [choice] = answer.choices.as_slice() else { return Err(BadAnswer::Empty) };
        let text = choice.text.expose();
        if text.trim().is_empty() {
            return Err(BadAnswer::Empty);
        }
        if CONTROL_TEXTS.iter().any(|control| text.contains(control)) {
            return Err(BadAnswer::ControlText);
        }
        match &self.expected {
            Some(expected) if !text.starts_with(expected.trim_end()) => Err(BadAnswer::Differs),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(golden: &Golden, text: &str) -> Result<(), BadAnswer> {
        let body =
            serde_json::json!({ "choices": [{ "index": 0, "text": text, "finish_reason": "length" }] });
        let request = golden.request().unwrap();
        golden.check(&Answer::whole(&body.to_string(), &request).unwrap())
    }

    #[test]
    fn an_answer_without_text_or_with_control_text_is_not_good() {
        let golden = Golden::default();
        assert_eq!(check(&golden, "a + b"), Ok(()));
        for empty in ["", " ", "\n\n", "\t"] {
            assert_eq!(check(&golden, empty), Err(BadAnswer::Empty), "{empty:?}");
        }
        for text in ["<|fim_middle|>", "a + b<|file_separator|>", "<eos><eos>", "x<unused99>"] {
            assert_eq!(check(&golden, text), Err(BadAnswer::ControlText), "{text}");
        }
    }

    #[test]
    fn a_stream_without_counts_is_of_the_first_version() {
        let request = Golden::default().request().unwrap();
        let choice = serde_json::json!({ "index": 0, "text": "a + b", "finish_reason": "length" });
        for (usage, holes) in
            [(serde_json::json!({ "prompt_tokens": 7 }), true), (serde_json::Value::Null, false)]
        {
            let body = serde_json::json!({ "choices": [choice], "usage": usage }).to_string();
            assert_eq!(Golden::features(&Answer::whole(&body, &request).unwrap()), Features { holes });
        }
    }

    #[test]
    fn an_expected_text_is_the_beginning_of_the_answer() {
        let golden = |expected: &str| Golden::new("x".to_owned(), String::new(), expected.to_owned());
        let known = golden("a + b\n").unwrap();
        assert_eq!(check(&known, "a + b"), Ok(()));
        assert_eq!(check(&known, "a + b\n\ndef"), Ok(()));
        assert_eq!(check(&known, "a - b"), Err(BadAnswer::Differs));
        assert_eq!(golden(" \n").unwrap_err(), BadGolden);
        assert_eq!(golden(&"x".repeat(MAX_BYTES + 1)).unwrap_err(), BadGolden);
    }
}
