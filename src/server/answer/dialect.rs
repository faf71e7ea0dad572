//! The two ways in which OpenAI's API asks and answers, as the sealed handler sees them.

use serde::Serialize;

use super::choices::{FinishedChoice, Prepared};
use crate::protocol::RequestId;
use crate::protocol::openai::{FinishReason, Options, RequestError, Usage};
use crate::server::error::ApiError;
use crate::server::state::unix_time;
use crate::telemetry::Endpoint;
use crate::tokenizer::Tokenizer;

/// The longest model name that is shown, in characters: an event must fit a frame.
const MAX_NAME_CHARS: usize = 96;

/// One of the two.
pub(crate) trait Dialect: Send + Sync + 'static {
    /// For metrics and events.
    const ENDPOINT: Endpoint;
    /// The URL's path, and what a sealed call must name.
    const PATH: &'static str;
    /// What the identifier of an answer begins with.
    const ID_PREFIX: &'static str;

    /// The body of a request.
    type Request: Send;

    /// Reads the body of a request.
    ///
    /// # Errors
    /// About the first member that is not what it may be.
    fn parse(body: &str) -> Result<Self::Request, RequestError>;

    /// How it is generated.
    fn options(request: &mut Self::Request) -> &mut Options;

    /// Checks a request and assembles its prompt.
    ///
    /// # Errors
    /// A parameter is out of range, or the texts make no prompt.
    fn prepare(
        request: Self::Request,
        tokenizer: &Tokenizer,
        limits: TokenLimits,
    ) -> Result<Prepared, ApiError>;

    /// The body of a whole answer.
    fn answer<'a>(
        heading: &'a Heading,
        choices: &'a [FinishedChoice],
        tokenizer: &'a Tokenizer,
        usage: Usage,
    ) -> impl Serialize + 'a;

    /// The event of a stream that comes before all others about the answer number `index`, if there is one.
    fn opening(heading: &Heading, index: usize) -> Option<impl Serialize>;

    /// An event of a stream, about the answer number `index`: its next piece, or its end.
    fn event<'a>(
        heading: &'a Heading,
        index: usize,
        text: &'a str,
        finish: Option<FinishReason>,
    ) -> impl Serialize + 'a;

    /// The event that has the counts, after all others.
    fn counts(heading: &Heading, usage: Usage) -> impl Serialize;
}

/// Bounds on a request, in tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenLimits {
    /// New tokens, unless the request says how many.
    pub(crate) default_new_tokens: usize,
    /// The longest prompt and answer together.
    pub(crate) context_length: usize,
}

/// What stands at the top of every answer and every event.
#[derive(Debug)]
pub(crate) struct Heading {
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
}

impl Heading {
    /// For the answer to the request `id`.
    pub(crate) fn new<D: Dialect>(id: RequestId, model: &str) -> Self {
        Self {
            id: format!("{}{id}", D::ID_PREFIX),
            created: unix_time(),
            model: model.chars().take(MAX_NAME_CHARS).collect(),
        }
    }
}
