//! The options of a request, checked: values out of range are refused, not clamped.

use std::time::Duration;

use crate::engine::Sampling;
use crate::prompt::{PromptError, Stops};
use crate::protocol::ErrorCode;
use crate::protocol::openai::{LogprobsOption, MAX_CHOICES, MAX_DEADLINE_MS, MAX_TOP_LOGPROBS, Options};
use crate::server::error::ApiError;

/// How an answer is generated.
#[derive(Debug)]
pub(crate) struct Parameters {
    /// 0 reads the prompt only.
    pub(crate) max_new_tokens: usize,
    /// How many answers; the seed of each is one more than that of the one before.
    pub(crate) choices: usize,
    /// Number of alternatives with each token (`top_logprobs`); none for no log probabilities.
    pub(crate) logprobs: Option<usize>,
    pub(crate) sampling: Sampling,
    pub(crate) stops: Stops,
    /// Whether a stream says the counts.
    pub(crate) include_usage: bool,
    /// After how long, from the receipt of the request on, the answers end as they are.
    pub(crate) time_limit: Option<Duration>,
    /// Number of tokens that the size and the frames of the answer are derived from, if more than it may have.
    pub(crate) pad_tokens: usize,
}

impl Parameters {
    /// Greedy, without stop texts.
    pub(crate) fn greedy(max_new_tokens: usize) -> Self {
        Self {
            max_new_tokens,
            choices: 1,
            logprobs: None,
            sampling: Sampling::GREEDY,
            stops: Stops::default(),
            include_usage: false,
            time_limit: None,
            pad_tokens: 0,
        }
    }

    /// Checks `options`; `default_new_tokens` is for requests that do not say how many they want.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidParameter`] with the parameter and its range.
    pub(crate) fn check(options: Options, default_new_tokens: usize) -> Result<Self, ApiError> {
        let choices = options.n.unwrap_or(1);
        if !(1..=MAX_CHOICES).contains(&choices) {
            return Err(ApiError::member("n", "must be between 1 and 16"));
        }
        let logprobs = alternatives(&options)?;
        let max_new_tokens = options.max_tokens.unwrap_or(default_new_tokens);
        let temperature = options.temperature.unwrap_or(0.0);
        if !(0.0..=2.0).contains(&temperature) {
            return Err(ApiError::member("temperature", "must be between 0 and 2"));
        }
        if options.top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
            return Err(ApiError::member("top_p", "must be above 0 and at most 1"));
        }
        if options.top_k == Some(0) {
            return Err(ApiError::member("top_k", "must be at least 1"));
        }
        if options.min_p.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            return Err(ApiError::member("min_p", "must be between 0 and 1"));
        }
        let repetition_penalty = options.repetition_penalty.unwrap_or(1.0);
        if !(0.1..=10.0).contains(&repetition_penalty) {
            return Err(ApiError::member("repetition_penalty", "must be between 0.1 and 10"));
        }
        if options.deadline_ms.is_some_and(|ms| !(1..=MAX_DEADLINE_MS).contains(&ms)) {
            return Err(ApiError::member("deadline_ms", "must be between 1 and 3600000"));
        }
        let time_limit = options.deadline_ms.map(|ms| Duration::from_millis(ms as u64));
        let stops = Stops::new(options.stop)?;
        let seed = match options.seed {
            Some(seed) => seed,
            None => getrandom::u64().map_err(|_| ErrorCode::Internal)?,
        };
        let Options { top_k, top_p, min_p, include_usage, pad_tokens, .. } = options;
        let pad_tokens = pad_tokens.unwrap_or(0);
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed };
        Ok(Self { max_new_tokens, choices, logprobs, sampling, stops, include_usage, time_limit, pad_tokens })
    }
}

/// The number of alternatives with each token; none if no log probabilities are requested.
fn alternatives(options: &Options) -> Result<Option<usize>, ApiError> {
    let count = match options.logprobs {
        None | Some(LogprobsOption::Flag(false)) if options.top_logprobs.unwrap_or(0) > 0 => {
            return Err(ApiError::member("top_logprobs", "needs logprobs to be asked for"));
        }
        None | Some(LogprobsOption::Flag(false)) => return Ok(None),
        Some(LogprobsOption::Flag(true)) => options.top_logprobs.unwrap_or(0),
        Some(LogprobsOption::Count(count)) => count.max(options.top_logprobs.unwrap_or(0)),
    };
    if count > MAX_TOP_LOGPROBS {
        let by_top = options.top_logprobs.is_some_and(|top| top > MAX_TOP_LOGPROBS);
        return Err(ApiError::member(if by_top { "top_logprobs" } else { "logprobs" }, "must be at most 20"));
    }
    // An event of a stream has to fit a frame whose size is the same for all.
    if options.stream {
        return Err(ApiError::member("logprobs", "come with whole answers only: leave out stream"));
    }
    Ok(Some(count))
}

impl From<PromptError> for ApiError {
    fn from(error: PromptError) -> Self {
        match error {
            PromptError::TooLong { .. } => Self::new(ErrorCode::ContextLengthExceeded, error.to_string()),
            PromptError::EmptyStop | PromptError::TooManyStops => Self::member("stop", &error.to_string()),
            PromptError::Roles => Self::member("messages", &error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<Parameters, ApiError> {
        Parameters::check(Options::parse(json)?, 128)
    }

    #[test]
    fn nothing_asked_means_greedy_and_the_default_length() {
        let parameters = check("{}").unwrap();
        assert_eq!((parameters.max_new_tokens, parameters.sampling.temperature), (128, 0.0));
    }

    #[test]
    fn both_ways_to_ask_for_probabilities_are_understood() {
        for (json, expected) in [
            ("{}", None),
            (r#"{"logprobs":false}"#, None),
            (r#"{"logprobs":0}"#, Some(0)),
            (r#"{"logprobs":5}"#, Some(5)),
            (r#"{"logprobs":true}"#, Some(0)),
            (r#"{"logprobs":true,"top_logprobs":3}"#, Some(3)),
        ] {
            assert_eq!(check(json).unwrap().logprobs, expected, "{json}");
        }
    }

    #[test]
    fn the_ends_of_each_range_are_inside() {
        for json in [
            r#"{"n":1}"#,
            r#"{"n":16}"#,
            r#"{"logprobs":null}"#,
            r#"{"logprobs":false}"#,
            r#"{"logprobs":0}"#,
            r#"{"logprobs":20}"#,
            r#"{"logprobs":true,"top_logprobs":20}"#,
            r#"{"max_tokens":0}"#,
            r#"{"top_logprobs":0}"#,
            r#"{"deadline_ms":1}"#,
            r#"{"pad_tokens":0}"#,
            r#"{"deadline_ms":3600000}"#,
            r#"{"temperature":0}"#,
            r#"{"temperature":2}"#,
            r#"{"top_p":1}"#,
            r#"{"top_k":1}"#,
            r#"{"min_p":0}"#,
            r#"{"min_p":1}"#,
            r#"{"repetition_penalty":0.1}"#,
            r#"{"repeat_penalty":10}"#,
            r#"{"stop":""}"#,
            &format!(r#"{{"stop":[{}"x"]}}"#, r#""x","#.repeat(63)),
        ] {
            assert!(check(json).is_ok(), "{json}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        for (json, name) in [
            (r#"{"n":0}"#, "n"),
            (r#"{"n":17}"#, "n"),
            (r#"{"logprobs":21}"#, "logprobs"),
            (r#"{"logprobs":true,"top_logprobs":21}"#, "top_logprobs"),
            (r#"{"top_logprobs":1}"#, "top_logprobs"),
            (r#"{"logprobs":1,"stream":true}"#, "logprobs"),
            (r#"{"deadline_ms":0}"#, "deadline_ms"),
            (r#"{"deadline_ms":3600001}"#, "deadline_ms"),
            (r#"{"temperature":-0.1}"#, "temperature"),
            (r#"{"temperature":2.1}"#, "temperature"),
            (r#"{"top_p":0}"#, "top_p"),
            (r#"{"top_p":1.1}"#, "top_p"),
            (r#"{"top_k":0}"#, "top_k"),
            (r#"{"min_p":-0.1}"#, "min_p"),
            (r#"{"min_p":1.1}"#, "min_p"),
            (r#"{"repetition_penalty":0}"#, "repetition_penalty"),
            (r#"{"repetition_penalty":10.1}"#, "repetition_penalty"),
            (r#"{"stop":[""]}"#, "stop"),
            (&format!(r#"{{"stop":[{}"x"]}}"#, r#""x","#.repeat(64)), "stop"),
            (r#"{"temperature":1e999}"#, "temperature"),
            (r#"{"top_k":1.5}"#, "top_k"),
        ] {
            let error = check(json).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidParameter, "{json}");
            let error = error.body().error;
            assert_eq!(error.param.as_deref(), Some(name), "{json}");
            assert!(error.message.starts_with(&format!("{name} ")), "{json}: {error:?}");
        }
    }
}
