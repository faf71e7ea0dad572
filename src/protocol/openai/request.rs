//! The requests, read member by member.

use super::logprobs::LogprobsOption;
use super::members::{Members, RequestError, Value};
use super::{ChatRequest, CompletionRequest, ContextFile, Message, Options, Role, Truncate};
use crate::secret::Secret;

/// The most files that a request may bring along as context.
pub const MAX_CONTEXT_FILES: usize = 64;
/// The longest path of such a file, in bytes.
const MAX_PATH_BYTES: usize = 1024;
/// The longest time limit that a request may set, in milliseconds.
pub const MAX_DEADLINE_MS: usize = 3_600_000;

impl CompletionRequest {
    /// Reads the body of `POST /v1/completions`.
    ///
    /// # Errors
    /// [`RequestError`], about the first member that is not what it may be.
    pub fn parse(body: &str) -> Result<Self, RequestError> {
        let members = Members::parse(body)?;
        let prompt = prompt(&members.require("prompt", "is missing: it is the text to continue")?)?;
        let suffix = optional_text(&members, "suffix")?;
        let middle = optional_text(&members, "middle")?;
        if middle.is_some() && suffix.is_none() {
            return Err(RequestError::member("middle", "needs a suffix, which may be empty"));
        }
        let context = match members.take("context")? {
            None => Vec::new(),
            Some(value) => context(&value)?,
        };
        let truncate = match members.take("truncate")? {
            None => None,
            Some(value) => Some(truncate(&value)?),
        };
        let echo = flag(&members, "echo")?;
        let options = Options::take(&members)?;
        if let Some(value) = members.take("best_of")? {
            let best_of = value.count()?;
            if best_of != options.n.unwrap_or(1) {
                return Err(value.refuse("must be the same as n: answers are not ranked"));
            }
        }
        Ok(Self { prompt, suffix, middle, context, truncate, echo, options })
    }
}

impl ChatRequest {
    /// Reads the body of `POST /v1/chat/completions`.
    ///
    /// # Errors
    /// As [`CompletionRequest::parse`].
    pub fn parse(body: &str) -> Result<Self, RequestError> {
        let members = Members::parse(body)?;
        let problem = "must be a list of messages, each with role and content";
        let messages = members.require("messages", problem)?.list(problem)?;
        let messages = messages.iter().map(message).collect::<Result<_, _>>()?;
        Ok(Self { messages, options: Options::take(&members)? })
    }
}

impl Options {
    /// Reads the body's members that are neither texts nor messages.
    ///
    /// # Errors
    /// As [`CompletionRequest::parse`].
    pub fn parse(body: &str) -> Result<Self, RequestError> {
        Self::take(&Members::parse(body)?)
    }

    fn take(members: &Members<'_>) -> Result<Self, RequestError> {
        refuse_what_is_not_there(members)?;
        let number = |name| members.take(name)?.map(|value| value.number()).transpose();
        let (temperature, top_p, min_p) = (number("temperature")?, number("top_p")?, number("min_p")?);
        let repetition_penalty =
            agreed("repetition_penalty", number("repetition_penalty")?, number("repeat_penalty")?)?;
        let count = |name| members.take(name)?.map(|value| value.count()).transpose();
        let max_tokens = agreed("max_tokens", count("max_tokens")?, count("max_completion_tokens")?)?;
        let (top_k, n, top_logprobs) = (count("top_k")?, count("n")?, count("top_logprobs")?);
        let (deadline_ms, pad_tokens) = (count("deadline_ms")?, count("pad_tokens")?);
        let logprobs = match members.take("logprobs")? {
            None => None,
            Some(value) => Some(match value.flag() {
                Ok(flag) => LogprobsOption::Flag(flag),
                Err(_) => LogprobsOption::Count(
                    value.count().map_err(|_| value.refuse("must be true, false, or a whole number"))?,
                ),
            }),
        };
        let seed = members.take("seed")?.map(|value| value.bits()).transpose()?;
        let stop = match members.take("stop")? {
            None => Vec::new(),
            Some(value) => stop(&value)?,
        };
        let stream = flag(members, "stream")?;
        let include_usage = match members.take("stream_options")? {
            None => false,
            Some(value) => flag(&value.members("must be an object")?, "include_usage")?,
        };
        Ok(Self {
            max_tokens,
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            seed,
            stop,
            stream,
            include_usage,
            n,
            logprobs,
            top_logprobs,
            deadline_ms,
            pad_tokens,
        })
    }
}

/// Two names of one value: both may be given if they agree.
fn agreed<T: PartialEq>(
    name: &'static str,
    value: Option<T>,
    alias: Option<T>,
) -> Result<Option<T>, RequestError> {
    match (value, alias) {
        (Some(value), Some(alias)) if value != alias => {
            let problem = match name {
                "max_tokens" => "and max_completion_tokens differ: give one of them",
                _ => "and repeat_penalty differ: give one of them",
            };
            Err(RequestError::member(name, problem))
        }
        (value, alias) => Ok(value.or(alias)),
    }
}

fn flag(members: &Members<'_>, name: &'static str) -> Result<bool, RequestError> {
    members.take(name)?.map_or(Ok(false), |value| value.flag())
}

fn optional_text(members: &Members<'_>, name: &'static str) -> Result<Option<Secret<String>>, RequestError> {
    members.take(name)?.map(|value| value.text("must be a text")).transpose()
}

/// A text, or a list of one text.
fn prompt(value: &Value<'_>) -> Result<Secret<String>, RequestError> {
    const PROBLEM: &str = "must be a text or a list of one text: token ids and several prompts are not taken";
    if !value.is_list() {
        return value.text(PROBLEM);
    }
    match value.list(PROBLEM)?.as_slice() {
        [text] if text.is_text() => text.text(PROBLEM),
        _ => Err(value.refuse(PROBLEM)),
    }
}

/// A text or a list of texts. An empty text stands for no stop at all, as some clients send it; in a list it is an error.
fn stop(value: &Value<'_>) -> Result<Vec<Secret<String>>, RequestError> {
    const PROBLEM: &str = "must be a text or a list of texts";
    if !value.is_list() {
        let text = value.text(PROBLEM)?;
        return Ok(if text.expose().is_empty() { Vec::new() } else { vec![text] });
    }
    value.list(PROBLEM)?.iter().map(|text| text.text("must be a text")).collect()
}

fn truncate(value: &Value<'_>) -> Result<Truncate, RequestError> {
    const PROBLEM: &str = "must be \"lines\", or be left out";
    match value.text(PROBLEM)?.expose().as_str() {
        "lines" => Ok(Truncate::Lines),
        _ => Err(value.refuse(PROBLEM)),
    }
}

fn context(value: &Value<'_>) -> Result<Vec<ContextFile>, RequestError> {
    let files = value.list("must be a list of objects with path and text")?;
    if files.len() > MAX_CONTEXT_FILES {
        return Err(value.refuse("must have at most 64 files"));
    }
    let file = |file: &Value<'_>| {
        let members = file.members("must be an object with path and text")?;
        let path_value = members.require("path", "is missing")?;
        let path = path_value.text("must be a text")?;
        let length = path.expose().len();
        // The format tells path and text apart by the first line end.
        if length == 0 || length > MAX_PATH_BYTES || path.expose().chars().any(char::is_control) {
            return Err(path_value.refuse("must have 1 to 1024 bytes and no control characters"));
        }
        Ok(ContextFile { path, text: members.require("text", "is missing")?.text("must be a text")? })
    };
    files.iter().map(file).collect()
}

fn message(value: &Value<'_>) -> Result<Message, RequestError> {
    const ROLES: &str = "must be one of system, developer, user and assistant: this model calls no tools";
    const CONTENT: &str = "must be a text or a list of parts of type text";
    let members = value.members("must be an object with role and content")?;
    let role_value = members.require("role", ROLES)?;
    let role = match role_value.text(ROLES)?.expose().as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => return Err(role_value.refuse(ROLES)),
    };
    let content = members.require("content", CONTENT)?;
    let content = if content.is_list() {
        let parts = content.list(CONTENT)?;
        join(&parts.iter().map(part).collect::<Result<Vec<_>, _>>()?)
    } else {
        content.text(CONTENT)?
    };
    Ok(Message { role, content })
}

fn part(value: &Value<'_>) -> Result<Secret<String>, RequestError> {
    const PROBLEM: &str = "must be text: this model reads no images, sounds or files";
    let members = value.members("must be an object with type and text")?;
    let kind = members.require("type", PROBLEM)?;
    if kind.text(PROBLEM)?.expose() != "text" {
        return Err(kind.refuse(PROBLEM));
    }
    members.require("text", "is missing")?.text("must be a text")
}

/// In its final capacity at once: growing would leave unwiped copies behind.
fn join(parts: &[Secret<String>]) -> Secret<String> {
    let mut text = String::with_capacity(parts.iter().map(|part| part.expose().len()).sum());
    for part in parts {
        text.push_str(part.expose());
    }
    Secret::new(text)
}

/// Members of OpenAI's API that would change the answer in a way that this server has not: refused, unless they ask for
/// what happens anyway.
fn refuse_what_is_not_there(members: &Members<'_>) -> Result<(), RequestError> {
    for name in ["frequency_penalty", "presence_penalty"] {
        if let Some(value) = members.take(name)?
            && value.number()? != 0.0
        {
            return Err(value.refuse("must be 0: this server has repetition_penalty instead"));
        }
    }
    if let Some(value) = members.take("logit_bias")?
        && !(value.is_object() && value.members("")?.is_empty())
    {
        return Err(value.refuse("must be empty: the likelihood of single tokens cannot be changed"));
    }
    if let Some(value) = members.take("response_format")? {
        let problem = "must be {\"type\": \"text\"}: the form of the answer cannot be forced";
        let kind = value.members(problem)?.require("type", problem)?;
        if kind.text(problem)?.expose() != "text" {
            return Err(value.refuse(problem));
        }
    }
    // A model may answer without any tool that it is offered, but not if it is told to call one.
    for name in ["tool_choice", "function_call"] {
        let problem = "must be \"none\" or \"auto\": this model calls no tools";
        if let Some(value) = members.take(name)?
            && !matches!(value.text(problem)?.expose().as_str(), "none" | "auto")
        {
            return Err(value.refuse(problem));
        }
    }
    if let Some(value) = members.take("modalities")? {
        let problem = "must be [\"text\"]: this model writes nothing else";
        for kind in value.list(problem)? {
            if kind.text(problem)?.expose() != "text" {
                return Err(value.refuse(problem));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(json: &str) -> Result<CompletionRequest, String> {
        CompletionRequest::parse(json).map_err(|error| error.to_string())
    }

    fn chat(json: &str) -> Result<ChatRequest, String> {
        ChatRequest::parse(json).map_err(|error| error.to_string())
    }

    #[test]
    fn every_optional_member_may_be_null() {
        let names = [
            "suffix",
            "middle",
            "context",
            "truncate",
            "echo",
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repetition_penalty",
            "repeat_penalty",
            "seed",
            "stop",
            "stream",
            "stream_options",
            "n",
            "logprobs",
            "top_logprobs",
            "deadline_ms",
            "pad_tokens",
            "best_of",
            "logit_bias",
            "frequency_penalty",
            "presence_penalty",
            "response_format",
            "tools",
            "tool_choice",
            "functions",
            "function_call",
            "modalities",
            "audio",
            "user",
            "model",
            "metadata",
            "store",
            "unknown",
        ];
        let nulls: String = names.iter().map(|name| format!(r#","{name}":null"#)).collect();
        let request = completion(&format!(r#"{{"prompt":"x"{nulls}}}"#)).unwrap();
        assert!(request.suffix.is_none() && request.options.max_tokens.is_none() && !request.echo);
        chat(&format!(r#"{{"messages":[{{"role":"user","content":"x","name":null}}]{nulls}}}"#)).unwrap();
    }

    #[test]
    fn a_prompt_is_a_text_or_a_list_of_one() {
        for json in [r#"{"prompt":"x"}"#, r#"{"prompt":["x"]}"#, r#"{"prompt": [ "x" ] }"#] {
            assert_eq!(completion(json).unwrap().prompt.expose(), "x", "{json}");
        }
        for json in ["[]", "[1,2]", "[[1,2]]", r#"["a","b"]"#, "7", "{}", "[null]", "true"] {
            let error = completion(&format!(r#"{{"prompt":{json}}}"#)).unwrap_err();
            assert!(error.starts_with("prompt must be a text or a list of one text"), "{json}: {error}");
        }
        for json in ["{}", r#"{"prompt":null}"#] {
            assert!(completion(json).unwrap_err().starts_with("prompt is missing"), "{json}");
        }
    }

    #[test]
    fn stop_is_a_text_or_a_list_or_nothing() {
        for (json, count) in [("null", 0), (r#""""#, 0), (r#""a""#, 1), ("[]", 0), (r#"["a","b"]"#, 2)] {
            let request = completion(&format!(r#"{{"prompt":"","stop":{json}}}"#)).unwrap();
            assert_eq!(request.options.stop.len(), count, "{json}");
        }
        let error = completion(r#"{"prompt":"","stop":["a",7]}"#).unwrap_err();
        assert_eq!(error, "stop[1] must be a text");
    }

    #[test]
    fn two_names_of_one_value_must_agree() {
        for json in [
            r#""max_tokens":4"#,
            r#""max_completion_tokens":4"#,
            r#""max_tokens":null,"max_completion_tokens":4"#,
            r#""max_tokens":4.0,"max_completion_tokens":4"#,
        ] {
            let request = completion(&format!(r#"{{"prompt":"",{json}}}"#)).unwrap();
            assert_eq!(request.options.max_tokens, Some(4), "{json}");
        }
        let error = completion(r#"{"prompt":"","max_tokens":4,"max_completion_tokens":5}"#).unwrap_err();
        assert_eq!(error, "max_tokens and max_completion_tokens differ: give one of them");
        let error = completion(r#"{"prompt":"","repetition_penalty":1,"repeat_penalty":2}"#).unwrap_err();
        assert_eq!(error, "repetition_penalty and repeat_penalty differ: give one of them");
    }

    #[test]
    fn a_refusal_names_the_member() {
        for (json, name) in [
            (r#""suffix":["x"]"#, "suffix "),
            (r#""middle":"x""#, "middle needs a suffix"),
            (r#""suffix":"","middle":1"#, "middle "),
            (r#""context":{}"#, "context "),
            (r#""context":[{"path":"a"}]"#, "context[0].text "),
            (r#""context":[{"path":"a\nb","text":""}]"#, "context[0].path "),
            (r#""context":[{"path":"","text":""}]"#, "context[0].path "),
            (r#""truncate":true"#, "truncate "),
            (r#""truncate":"middle""#, "truncate "),
            (r#""echo":1"#, "echo "),
            (r#""max_tokens":"16""#, "max_tokens "),
            (r#""max_tokens":-1"#, "max_tokens "),
            (r#""max_tokens":1.5"#, "max_tokens "),
            (r#""temperature":"0""#, "temperature "),
            (r#""top_p":[]"#, "top_p "),
            (r#""top_k":-1"#, "top_k "),
            (r#""min_p":{}"#, "min_p "),
            (r#""repeat_penalty":"1""#, "repeat_penalty "),
            (r#""seed":"7""#, "seed "),
            (r#""stop":7"#, "stop "),
            (r#""stream":"yes""#, "stream "),
            (r#""stream_options":true"#, "stream_options "),
            (r#""stream_options":{"include_usage":1}"#, "stream_options.include_usage "),
            (r#""n":"1""#, "n "),
            (r#""logprobs":"5""#, "logprobs "),
            (r#""logprobs":-1"#, "logprobs "),
            (r#""top_logprobs":true"#, "top_logprobs "),
            (r#""deadline_ms":-1"#, "deadline_ms "),
            (r#""pad_tokens":"64""#, "pad_tokens "),
            (r#""best_of":2"#, "best_of "),
            (r#""frequency_penalty":0.5"#, "frequency_penalty "),
            (r#""presence_penalty":-1"#, "presence_penalty "),
            (r#""logit_bias":{"5":1}"#, "logit_bias "),
            (r#""logit_bias":[]"#, "logit_bias "),
            (r#""response_format":{"type":"json_object"}"#, "response_format "),
            (r#""response_format":"json""#, "response_format "),
            (r#""tool_choice":"required""#, "tool_choice "),
            (r#""tool_choice":{"type":"function"}"#, "tool_choice "),
            (r#""function_call":{"name":"f"}"#, "function_call "),
            (r#""modalities":["text","audio"]"#, "modalities "),
            (r#""stream":true,"stream":true"#, "stream is given twice"),
        ] {
            let error = completion(&format!(r#"{{"prompt":"",{json}}}"#)).map(|_| ()).unwrap_err();
            assert!(error.starts_with(name), "{json}: {error}");
        }
    }

    #[test]
    fn what_asks_for_nothing_special_is_taken() {
        for json in [
            r#""frequency_penalty":0,"presence_penalty":0.0"#,
            r#""logit_bias":{}"#,
            r#""response_format":{"type":"text"}"#,
            r#""tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"auto""#,
            r#""tool_choice":"none""#,
            r#""best_of":3,"n":3"#,
            r#""modalities":["text"]"#,
            r#""stream_options":{}"#,
            r#""model":7,"user":["anything"]"#,
        ] {
            assert!(completion(&format!(r#"{{"prompt":"",{json}}}"#)).is_ok(), "{json}");
        }
    }

    #[test]
    fn content_is_a_text_or_parts_of_text() {
        let request = chat(
            r#"{"messages":[{"role":"developer","content":"a"},
                {"role":"user","content":[{"type":"text","text":"b"},{"type":"text","text":"c"}]}]}"#,
        );
        let messages = request.unwrap().messages;
        let texts: Vec<_> =
            messages.iter().map(|message| (message.role, message.content.expose().as_str())).collect();
        assert_eq!(texts, [(Role::System, "a"), (Role::User, "bc")]);
        for (message, name) in [
            (r#"{"content":"x"}"#, "messages[0].role "),
            (r#"{"role":"tool","content":"x"}"#, "messages[0].role "),
            (r#"{"role":7,"content":"x"}"#, "messages[0].role "),
            (r#"{"role":"user"}"#, "messages[0].content "),
            (r#"{"role":"user","content":null}"#, "messages[0].content "),
            (r#"{"role":"user","content":{}}"#, "messages[0].content "),
            (r#"{"role":"user","content":[{"type":"image_url"}]}"#, "messages[0].content[0].type "),
            (r#"{"role":"user","content":[{"type":"text"}]}"#, "messages[0].content[0].text "),
            (r#"{"role":"user","content":["x"]}"#, "messages[0].content[0] "),
            (r#""x""#, "messages[0] "),
        ] {
            let error = chat(&format!(r#"{{"messages":[{message}]}}"#)).map(|_| ()).unwrap_err();
            assert!(error.starts_with(name), "{message}: {error}");
        }
        for json in ["{}", r#"{"messages":null}"#, r#"{"messages":"x"}"#, r#"{"messages":{}}"#] {
            assert!(chat(json).map(|_| ()).unwrap_err().starts_with("messages must be"), "{json}");
        }
    }

    #[test]
    fn requests_do_not_print_their_texts() {
        let json = r#"{"prompt":"canary","suffix":"canary","middle":"canary","stop":["canary"],"user":"canary",
            "context":[{"path":"canary","text":"canary"}]}"#;
        assert!(!format!("{:?}", completion(json).unwrap()).contains("canary"));
    }
}
