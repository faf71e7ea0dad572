//! The ordinary completion request that travels under the seal.

use serde::Serialize;

use super::error::ClientError;
use super::input::Prompt;
use crate::secret::Secret;

/// How a completion is generated; what is `None` is the server's choice.
#[derive(Debug, Default)]
pub struct CompletionOptions {
    /// New tokens at most.
    pub max_tokens: Option<usize>,
    /// 0 is greedy.
    pub temperature: Option<f64>,
    /// Texts that end the completion and are not part of it.
    pub stop: Vec<Secret<String>>,
}

#[derive(Serialize)]
struct Body<'a> {
    prompt: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    suffix: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop: Vec<&'a str>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    /// Of a file around a cursor the server sends to the model what fits: only it can count tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    truncate: Option<&'static str>,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// The body of `POST /v1/completions` as JSON.
pub(super) fn body(
    prompt: &Prompt,
    options: &CompletionOptions,
    stream: bool,
) -> Result<Secret<String>, ClientError> {
    let body = Body {
        prompt: prompt.prefix.expose(),
        suffix: prompt.suffix.as_ref().map(|suffix| suffix.expose().as_str()),
        max_tokens: options.max_tokens,
        temperature: options.temperature,
        stop: options.stop.iter().map(|stop| stop.expose().as_str()).collect(),
        stream,
        stream_options: stream.then_some(StreamOptions { include_usage: true }),
        truncate: prompt.suffix.as_ref().map(|_| "lines"),
    };
    // Room for the usual share of escapes, so that growing does not leave unwiped copies behind.
    let texts = body.prompt.len() + body.suffix.map_or(0, str::len);
    let mut json = Secret::new(Vec::with_capacity(texts * 2 + 4096));
    serde_json::to_writer(json.expose_mut(), &body)
        .map_err(|_| ClientError::Internal("the request cannot be written"))?;
    json.into_text().ok_or(ClientError::Internal("the request cannot be written"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::openai::{CompletionRequest, Truncate};

    #[test]
    fn the_server_reads_what_the_client_writes() {
        let prompt = Prompt { prefix: "a\"\n".to_owned().into(), suffix: Some("가".to_owned().into()) };
        let options = CompletionOptions {
            max_tokens: Some(7),
            temperature: Some(0.5),
            stop: vec!["\n\n".to_owned().into()],
        };
        let json = body(&prompt, &options, true).unwrap();
        let request = CompletionRequest::parse(json.expose()).unwrap();
        assert_eq!(request.truncate, Some(Truncate::Lines));
        assert!(request.options.include_usage);
        assert_eq!(request.prompt.expose(), "a\"\n");
        assert_eq!(request.suffix.unwrap().expose(), "가");
        assert_eq!(request.options.max_tokens, Some(7));
        assert_eq!(request.options.temperature, Some(0.5));
        assert_eq!(request.options.stop.first().unwrap().expose(), "\n\n");
        assert!(request.options.stream);
    }

    #[test]
    fn what_is_not_asked_for_is_not_sent() {
        let prompt = Prompt { prefix: "a".to_owned().into(), suffix: None };
        let json = body(&prompt, &CompletionOptions::default(), false).unwrap();
        assert_eq!(json.expose(), r#"{"prompt":"a","stream":false}"#);
    }
}
