//! The options of a request, checked: what is out of range is refused rather than bent.

use super::error::ApiError;
use crate::engine::Sampling;
use crate::prompt::{PromptError, Stops};
use crate::protocol::ErrorCode;
use crate::protocol::openai::Options;

/// How an answer is generated.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) max_new_tokens: usize,
    pub(super) sampling: Sampling,
    pub(super) stops: Stops,
}

impl Parameters {
    /// Greedy, without stop texts.
    pub(super) fn greedy(max_new_tokens: usize) -> Self {
        Self { max_new_tokens, sampling: Sampling::GREEDY, stops: Stops::default() }
    }

    /// Checks `options`; `default_new_tokens` is for requests that do not say how many they want.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidParameter`] with the parameter and its range.
    pub(super) fn check(options: Options, default_new_tokens: usize) -> Result<Self, ApiError> {
        if options.n.is_some_and(|n| n != 1) {
            return Err(ApiError::parameter("n must be 1"));
        }
        if options.logprobs.is_some_and(|asked| asked != serde_json::Value::Bool(false)) {
            return Err(ApiError::parameter("logprobs are not supported: leave them out"));
        }
        let max_new_tokens = options.max_tokens.unwrap_or(default_new_tokens);
        if max_new_tokens == 0 {
            return Err(ApiError::parameter("max_tokens must be at least 1"));
        }
        let temperature = options.temperature.unwrap_or(0.0);
        if !(0.0..=2.0).contains(&temperature) {
            return Err(ApiError::parameter("temperature must be between 0 and 2"));
        }
        if options.top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
            return Err(ApiError::parameter("top_p must be above 0 and at most 1"));
        }
        if options.top_k == Some(0) {
            return Err(ApiError::parameter("top_k must be at least 1"));
        }
        if options.min_p.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            return Err(ApiError::parameter("min_p must be between 0 and 1"));
        }
        let repetition_penalty = options.repetition_penalty.unwrap_or(1.0);
        if !(0.1..=10.0).contains(&repetition_penalty) {
            return Err(ApiError::parameter("repetition_penalty must be between 0.1 and 10"));
        }
        let stops = Stops::new(options.stop)?;
        let seed = match options.seed {
            Some(seed) => seed,
            None => getrandom::u64().map_err(|_| ErrorCode::Internal)?,
        };
        let Options { top_k, top_p, min_p, .. } = options;
        let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed };
        Ok(Self { max_new_tokens, sampling, stops })
    }
}

impl From<PromptError> for ApiError {
    fn from(error: PromptError) -> Self {
        let code = match error {
            PromptError::TooLong { .. } => ErrorCode::ContextLengthExceeded,
            PromptError::EmptyStop | PromptError::Roles | PromptError::TooManyStops => {
                ErrorCode::InvalidParameter
            }
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<Parameters, ApiError> {
        Parameters::check(serde_json::from_str(json).unwrap(), 128)
    }

    #[test]
    fn nothing_asked_means_greedy_and_the_default_length() {
        let parameters = check("{}").unwrap();
        assert_eq!((parameters.max_new_tokens, parameters.sampling.temperature), (128, 0.0));
    }

    #[test]
    fn the_ends_of_each_range_are_inside() {
        for json in [
            r#"{"n":1}"#,
            r#"{"logprobs":null}"#,
            r#"{"logprobs":false}"#,
            r#"{"max_tokens":1}"#,
            r#"{"temperature":0}"#,
            r#"{"temperature":2}"#,
            r#"{"top_p":1}"#,
            r#"{"top_k":1}"#,
            r#"{"min_p":0}"#,
            r#"{"min_p":1}"#,
            r#"{"repetition_penalty":0.1}"#,
            r#"{"repeat_penalty":10}"#,
            r#"{"stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16"]}"#,
        ] {
            assert!(check(json).is_ok(), "{json}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        for (json, name) in [
            (r#"{"n":0}"#, "n "),
            (r#"{"n":2}"#, "n "),
            (r#"{"logprobs":1}"#, "logprobs"),
            (r#"{"logprobs":true}"#, "logprobs"),
            (r#"{"max_tokens":0}"#, "max_tokens"),
            (r#"{"temperature":-0.1}"#, "temperature"),
            (r#"{"temperature":2.1}"#, "temperature"),
            (r#"{"top_p":0}"#, "top_p"),
            (r#"{"top_p":1.1}"#, "top_p"),
            (r#"{"top_k":0}"#, "top_k"),
            (r#"{"min_p":-0.1}"#, "min_p"),
            (r#"{"min_p":1.1}"#, "min_p"),
            (r#"{"repetition_penalty":0}"#, "repetition_penalty"),
            (r#"{"repetition_penalty":10.1}"#, "repetition_penalty"),
            (r#"{"stop":""}"#, "stop"),
            (r#"{"stop":["","","","","","","","","","","","","","","","",""]}"#, "stop"),
        ] {
            let error = check(json).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidParameter, "{json}");
            assert!(error.body().error.message.contains(name), "{json}: {error:?}");
        }
    }
}
